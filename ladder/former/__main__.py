"""`python -m ladder.former`: the steps of the former ladder after its first stage; a step that is done is skipped."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

STEPS = ("distill", "tune", "export", "page")


def run(step: str, size_name: str) -> None:
    """Run one step."""
    from ladder.former import distill, export, table, tune

    if step == "export":
        export.export(size_name)
    elif step == "page":
        table.table()
    else:
        make, sizes = (distill.train, distill.DISTILLED) if step == "distill" else (tune.train, tune.TUNED)
        if size_name != "all" and size_name not in (size.name for size in sizes):
            raise ValueError(f"no {step} for {size_name}; choose one of {', '.join(size.name for size in sizes)}")
        for size in reversed(sizes):
            if size_name in ("all", size.name):
                make(size)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments and run the steps in order."""
    parser = argparse.ArgumentParser(prog="python -m ladder.former", description=__doc__)
    parser.add_argument("step", choices=(*STEPS, "all"))
    parser.add_argument("--size", default="all", help="the name of one size, for distill, tune and export")
    options = parser.parse_args(arguments)
    for step in STEPS if options.step == "all" else (options.step,):
        run(step, options.size)


if __name__ == "__main__":
    main()
