"""`fsgen merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fsgen.cli.options import silence_libraries


def merge(
    folders: Annotated[list[Path], typer.Argument(help="Folders of studies, two or more.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
) -> None:
    """Make one study of those of several machines.

    They must have the same settings; tasks, pairs and methods may differ. Runs that two of them have must be equal.

    \b
    Example:
      fsgen merge runs/machine-1 runs/machine-2 --out runs/all
    """
    silence_libraries()
    from fsgen.report import write
    from fsgen.study.merge import merge as merge_studies

    found = merge_studies(folders, out)
    said = f"{found.runs:,} runs are finished, {found.unfinished:,} are not"
    print(said + (f"; {found.twice:,} were there more than once, and equal" if found.twice else ""))
    print(f"report: {write(out)}")
