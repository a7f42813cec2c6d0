"""`fsgen experiment`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

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


def experiment(
    name: Annotated[str | None, typer.Argument(help="Which; --list names them.")] = None,
    config: Annotated[Path | None, typer.Option(help="What to run, as YAML.  [default: on the bundled models]")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            callback=new_folder,
            help="Where results are kept; experiments may share a folder.  [default: runs/experiments/NAME]",
        ),
    ] = None,
    limit: Limit = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove all that is in the folder, and run it again.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Name the experiments and their questions.")] = False,
    engine: Engine = "local",
    address: Address = None,
    workers: Workers = None,
    gpus: Gpus = None,
    show: Annotated[bool, typer.Option("--show", help="Print the configuration that NAME has by default.")] = False,
) -> None:
    """Answer an open question of the field for your models.

    \b
    Example:
      fsgen experiment strategies --limit 16

    An experiment that was interrupted goes on where it stopped.
    """
    from fsgen.experiments.config import configured, default_text, names

    if listed:
        for known in names():
            print(f"{known:<15} {configured(known).question}")
        return
    if name is None:
        raise ValueError(f"name an experiment: {', '.join(names())}; --list shows their questions")
    if show:
        print(default_text(name), end="")
        return
    chosen = configured(name, config)
    silence_libraries()
    from rich.console import Console

    from fsgen.experiments import run_experiment
    from fsgen.report import write

    folder = out or Path("runs") / "experiments" / name
    where = cluster(engine, address, workers, gpus)
    try:
        with going_on():
            shown = Console(stderr=True)
            answer = run_experiment(name, chosen, folder, limit=limit, fresh=fresh, console=shown, cluster=where)
    except typer.Exit:
        raise
    except RuntimeError as error:
        print("error:", error, file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"{answer.statement}\n\nWhat would overturn it: {answer.overturn}\n")
    print(f"report: {write(folder)}")
