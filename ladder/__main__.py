"""`python -m ladder`: the recipe of the pocket ladder, step by step; a step that is done is skipped."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

STEPS = ("corpus", "tokenizer", "train", "language", "overlap")
GRADED_STEPS = ("queue", "table", "keep", "switch")  # of the second stage


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ladder", description=__doc__)
    parser.add_argument("step", choices=(*STEPS, *GRADED_STEPS, "all"))
    parser.add_argument("--size", default="all", help="the name of one size, for train and language")
    parser.add_argument(
        "--tokens", type=int, default=25, help="millions of tokens that each model reads in the second stage"
    )
    parser.add_argument("--threads", type=int, default=None, help="threads of torch; by default all cores")
    return parser


def run_graded(step: str, millions: int) -> None:
    """Run one step of the second stage."""
    if step == "queue":
        from ladder import queue

        queue.work(millions)
    elif step == "table":
        from ladder import gates

        gates.table(millions)
    else:
        from ladder import package

        {"keep": package.keep, "switch": package.switch}[step](millions)


def run(step: str, size_name: str) -> None:
    """Run one step of the first stage."""
    # Only what the step needs is imported: the corpus needs no torch, and training no reasoning-gym.
    if step == "corpus":
        from ladder import corpus

        corpus.build()
    elif step == "tokenizer":
        from ladder import stream, tokenizer

        tokenizer.build()
        stream.build()
    elif step == "overlap":
        from ladder import overlap

        overlap.report()
    else:
        from ladder import families, first_stage, made_language
        from ladder.sizes import SIZES

        makers: dict[str, tuple[Callable[[Any], None], Sequence[Any]]] = {
            "train": (first_stage.train, (*families.SIZES, *SIZES)),
            "language": (made_language.build, made_language.SIZES),
        }
        make, sizes = makers[step]
        if size_name != "all" and size_name not in (size.name for size in sizes):
            raise ValueError(f"no {step} for {size_name}; choose one of {', '.join(size.name for size in sizes)}")
        for size in reversed(sizes):
            if size_name in ("all", size.name):
                make(size)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments and run the steps in order; `all` are those of the first stage."""
    options = _parser().parse_args(arguments)
    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    if options.step in GRADED_STEPS:
        run_graded(options.step, options.tokens)
        return
    for step in STEPS if options.step == "all" else (options.step,):
        run(step, options.size)


if __name__ == "__main__":
    main()
