"""`fsgen router train` and `fsgen router show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fsgen.cli.options import StudyFolder, new_file
from fsgen.cli.output import console, print_json

app = typer.Typer(help="Learn routers from the traces of a study.")


@app.command()
def train(
    folder: StudyFolder,
    kind: Annotated[str, typer.Option(help="svm, logistic or trees.")] = "logistic",
    run: Annotated[
        list[str] | None,
        typer.Option(
            help="Train on this run alone: its key, or the beginning of it; may be given several times.  "
            "[default: all that consulted System 2 everywhere]"
        ),
    ] = None,
    draft: Annotated[str | None, typer.Option(help="Of a study of several drafts: learn for this one.")] = None,
    target: Annotated[str | None, typer.Option(help="Of a study of several targets: learn for this one.")] = None,
    calls: Annotated[
        float | None, typer.Option(help="Consult at no more than this share of the positions.  [default: 0.2]")
    ] = None,
    misses: Annotated[
        float | None, typer.Option(help="Instead: miss no more mismatches than this share of the positions.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The random seed of the training.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", callback=new_file, help="[default: DIR/routers/DRAFT-KIND.npz]")
    ] = None,
) -> None:
    """Train a router on the traces of a study, and test it on examples that it has not seen.

    \b
    Examples:
      fsgen router train runs/my-study
      fsgen router train runs/bundled --draft pocket-0.6m --target pocket-4m --kind trees
    """
    from fsgen.analysis.labels import short_name
    from fsgen.analysis.learning import train as train_router
    from fsgen.analysis.tables import show_training

    trained = train_router(folder, kind, run, calls, misses, seed, draft, target)
    file = out or folder / "routers" / f"{short_name(trained.model.draft['name'])}-{kind}.npz"
    trained.write(file)
    show_training(trained, console())
    print(f"router: learned:{file}")


@app.command()
def show(file: Annotated[Path, typer.Argument(metavar="FILE", help="As `train` wrote it.")]) -> None:
    """Print what a learned router is, and how it was trained, as JSON."""
    from fsgen.methods.learned.file import read

    print_json(read(file).header, indent=2)
