"""`fsgen findings`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def findings(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of experiments, or of answers.  [default: runs/experiments]", show_default=False),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The page, as Markdown.  [default: standard output]")] = None,
    keep: Annotated[
        Path | None, typer.Option(help="A folder named answers, into which the answers are written, without charts.")
    ] = None,
) -> None:
    """Write the page of findings from stored answers.

    \b
    Example:
      fsgen findings runs/experiments --keep docs/answers --out docs/findings.md
    """
    from fsgen.analysis.answers import FOLDER
    from fsgen.experiments.config import names
    from fsgen.report.findings import keep as write_answers
    from fsgen.report.findings import page, read_answers, write

    if keep is not None and keep.name != FOLDER:
        raise ValueError(f"--keep {keep}: the folder must be named {FOLDER}, by which it is found again")
    answers = read_answers(folders or [Path("runs") / "experiments"])
    if keep is not None:
        write_answers(answers, keep)
        answers = read_answers([keep])  # those that were there already stay
    text = page(answers, names())
    if out is None:
        print(text, end="")
    else:
        write(out, text)
        print(f"findings of {len(answers)} experiments: {out}")
