"""`python -m ladder`: the recipe of the pocket ladder, step by step; a step that is done is skipped."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

STEPS = ("corpus", "tokenizer", "train", "distill", "tune", "export", "overlap", "table")


def _parser() -> argparse.ArgumentParser:
    from ladder.sizes import SIZES

    parser = argparse.ArgumentParser(prog="python -m ladder", description=__doc__)
    parser.add_argument("step", choices=(*STEPS, "all"))
    parser.add_argument(
        "--size",
        default="all",
        choices=("all", *(size.name for size in SIZES)),
        help="one size, for train, distill and tune",
    )
    parser.add_argument("--threads", type=int, default=None, help="threads of torch; by default all cores")
    return parser


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
    elif step in ("train", "distill", "tune"):
        from ladder import distill, train, tune
        from ladder.sizes import SIZES, size_named

        make, sizes = {
            "train": (train.train, SIZES),
            "distill": (distill.distill, distill.DISTILLED),
            "tune": (tune.tune, tune.TUNED),
        }[step]
        if size_name != "all" and size_named(size_name) not in sizes:
            raise ValueError(f"no {step} for {size_name}; choose one of {', '.join(size.name for size in sizes)}")
        for size in reversed(sizes):
            if size_name in ("all", size.name):
                make(size)
    elif step == "export":
        from ladder import export

        export.export()
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
    for step in STEPS if options.step == "all" else (options.step,):
        run(step, options.size)


if __name__ == "__main__":
    main()
