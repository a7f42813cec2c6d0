"""`fsgen report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fsgen.cli.options import new_file, new_folder


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a finished study.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", callback=new_file, help="The page.  [default: DIR/report.html]")
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", callback=new_folder, help="Write the figures there, too, as SVG, PNG and PDF."),
    ] = None,
) -> None:
    """Write the report of a study, one HTML file.

    \b
    Example:
      fsgen report runs/my-study
    """
    from fsgen.report import write

    print(f"report: {write(folder, out, figures)}")
    if figures is not None:
        print(f"figures: {figures}")
