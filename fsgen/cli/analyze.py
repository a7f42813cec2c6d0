"""`fsgen analyze`."""

from __future__ import annotations

from typing import Annotated

import typer

from fsgen.cli.options import StudyFolder
from fsgen.cli.output import console, print_json


def analyze(
    folder: StudyFolder,
    run: Annotated[
        list[str] | None,
        typer.Option(help="Show all about this run instead of a line about each: its key, or the beginning of it."),
    ] = None,
    calls: Annotated[
        list[float] | None,
        typer.Option(help="A budget of consultations, as a share of the positions, for the thresholds of routers."),
    ] = None,
    misses: Annotated[
        list[float] | None, typer.Option(help="A budget of missed mismatches, as a share of the positions.")
    ] = None,
    pictures: Annotated[bool, typer.Option(help="Project the draft's probabilities; this takes some seconds.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with everything.")] = False,
) -> None:
    """Show in numbers what the traces of a study say.

    About frequency, positions, uncertainty, routers and signs of failure.

    \b
    Example:
      fsgen analyze runs/my-study
    """
    from fsgen.analysis.study import analyze as analyze_study

    budgets = {"calls": calls, "misses": misses}
    given = {name: tuple(budget) for name, budget in budgets.items() if budget is not None}
    result = analyze_study(folder, runs=run, projections=pictures, **given)
    if as_json:
        print_json(result.as_dict())
        return
    from fsgen.analysis.tables import show

    show(result, console(), details=run is not None)
