"""`python -m ladder`: the recipe of the pocket ladder, step by step; a step that is done is skipped."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

STEPS = ("corpus", "tokenizer", "train", "distill", "tune", "families", "language", "export", "overlap", "page")
GRADED_STEPS = ("queue", "table", "keep")  # of the graded ladder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ladder", description=__doc__)
    parser.add_argument("step", choices=(*STEPS, *GRADED_STEPS, "all"))
    parser.add_argument(
        "--size", default="all", help="the name of one size, for train, distill, tune, families and language"
    )
    parser.add_argument(
        "--tokens", type=int, default=40, help="millions of tokens that each model of the graded ladder reads"
    )
    parser.add_argument("--threads", type=int, default=None, help="threads of torch; by default all cores")
    return parser


def run_graded(step: str, millions: int) -> None:
    """Run one step of the graded ladder."""
    if step == "queue":
        from ladder import plan

        plan.work(millions)
    elif step == "keep":
        from ladder import plan

        plan.keep(millions)
    else:
        from ladder import gates

        gates.table(millions)


def run(step: str, size_name: str) -> None:
    """Run one step."""
    # Only what the step needs is imported: the corpus needs no torch, and training no reasoning-gym.
    if step == "corpus":
        from ladder import corpus

        corpus.build()
    elif step == "tokenizer":
        from ladder import stream, tokenizer

        tokenizer.build()
        stream.build()
    elif step in ("train", "distill", "tune", "families", "language"):
        from ladder import distill, families, made_language, train, tune
        from ladder.sizes import SIZES

        makers: dict[str, tuple[Callable[[Any], None], Sequence[Any]]] = {
            "train": (train.train, SIZES),
            "distill": (distill.distill, distill.DISTILLED),
            "tune": (tune.tune, tune.TUNED),
            "families": (families.train, families.SIZES),
            "language": (made_language.build, made_language.SIZES),
        }
        make, sizes = makers[step]
        if size_name != "all" and size_name not in (size.name for size in sizes):
            raise ValueError(f"no {step} for {size_name}; choose one of {', '.join(size.name for size in sizes)}")
        for size in reversed(sizes):
            if size_name in ("all", size.name):
                make(size)
    elif step == "export":
        from ladder import export

        export.export(size_name)
    elif step == "overlap":
        from ladder import overlap

        overlap.report()
    else:
        from ladder import table

        table.table()


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments and run the steps in order."""
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
