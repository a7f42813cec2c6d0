"""`fsgen experiment`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from fsgen.experiments.config import ExperimentConfig
    from fsgen.study.cluster import Cluster

ALL = "all"


def experiment(
    name: Annotated[str | None, typer.Argument(help="Which; --list names them; `all` runs every one.")] = None,
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

    An experiment that was interrupted goes on where it stopped. `all` runs every experiment in one folder, where each
    run that several of them need is made once.
    """
    from fsgen.experiments.config import configured, default_text, names

    if listed:
        for known in names():
            print(f"{known:<15} {configured(known).question}")
        return
    if name is None:
        raise ValueError(f"name an experiment: {', '.join(names())}; --list shows their questions")
    if show:
        print("---\n".join(map(default_text, names())) if name == ALL else default_text(name), end="")
        return
    if name == ALL and config is not None:
        raise ValueError("a configuration is of one experiment: name it instead of all")
    chosen = [configured(each, config) for each in (names() if name == ALL else [name])]
    silence_libraries()
    from fsgen.report import write

    folder = out or Path("runs") / "experiments" / ("" if name == ALL else name)
    failed = _run(chosen, folder, limit, fresh, cluster(engine, address, workers, gpus))
    if failed and len(chosen) == 1:
        raise typer.Exit(1)
    print(f"report: {write(folder)}")
    if failed:
        raise typer.Exit(1)


def _run(
    chosen: Sequence[ExperimentConfig], folder: Path, limit: int | None, fresh: bool, where: Cluster | None
) -> bool:
    """Run experiments in one folder, and print their answers; of several, one that cannot run does not stop the others.

    Returns:
        whether one failed.
    """
    from rich.console import Console

    from fsgen.experiments import run_experiment

    failed = False
    stops = typer.Exit if len(chosen) > 1 else (typer.Exit, ValueError)
    for number, each in enumerate(chosen):
        first = fresh and number == 0
        try:
            with going_on():
                answer = run_experiment(
                    each.experiment, each, folder, limit=limit, fresh=first, console=Console(stderr=True), cluster=where
                )
        except stops:
            raise
        except (RuntimeError, ValueError) as error:
            print("error:", error, file=sys.stderr)
            failed = True
            continue
        heading = f"{answer.title} ({each.experiment}): " if len(chosen) > 1 else ""
        print(f"{heading}{answer.statement}\n\nWhat would overturn it: {answer.overturn}\n")
    return failed
