"""`fsgen study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fsgen.cli.options import (
    Address,
    Engine,
    Gpus,
    Limit,
    Workers,
    cluster,
    going_on,
    new_folder,
    silence_libraries,
)
from fsgen.cli.output import console


def study(
    config: Annotated[
        Path | None, typer.Argument(help="What to run, as YAML.  [default: the study of the bundled models]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(callback=new_folder, help="Where results are kept.  [default: runs/NAME]")
    ] = None,
    limit: Limit = None,
    plan: Annotated[
        Path | None,
        typer.Option(metavar="FILE", exists=True, dir_okay=False, help="The pair and the method of a plan, instead."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again what has been run before.")] = False,
    engine: Engine = "local",
    address: Address = None,
    workers: Workers = None,
    gpus: Gpus = None,
) -> None:
    """Measure how much of the large model texts need.

    It writes a report, and prints where that is.

    \b
    Example:
      fsgen study my-study.yaml --out runs/my-study

    A study that was interrupted goes on where it stopped. The exit status is 1 where runs of it failed.
    """
    silence_libraries()
    from rich.console import Console

    from fsgen.analysis.study import analyze
    from fsgen.analysis.tables import print_short
    from fsgen.report import write
    from fsgen.study import run_study

    given: Any = config
    if plan is not None:
        from fsgen.planner.file import planned_study, read_plan

        given = planned_study(config, read_plan(plan))
    folder = out or Path("runs") / (config.stem if config else "bundled")
    where = cluster(engine, address, workers, gpus)
    with going_on():
        result = run_study(given, folder, limit=limit, fresh=fresh, console=Console(stderr=True), cluster=where)
        analysis = analyze(folder) if result.rows else None
        path = write(folder, analysis=analysis)
    if analysis is not None:
        print_short(console(), analysis.short)
    print(f"report: {path}")
    if result.failed:
        raise typer.Exit(1)
