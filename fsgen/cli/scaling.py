"""`fsgen scaling`."""

from __future__ import annotations

from typing import Annotated

import typer

from fsgen.cli.output import console, print_json


def scaling(
    source: Annotated[
        str, typer.Argument(help="The folder of a study, a CSV file, or `published`: the values of arXiv 2406.12295.")
    ],
    predict: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TARGET:DRAFT",
            help="Predict a pair by sizes (70B:7B, 70e9:7e9) or by names of models; may be given several times.",
        ),
    ] = None,
    sizes: Annotated[
        str, typer.Option(help="What a size counts: total, or non-embedding (without the embeddings).")
    ] = "total",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, one object a method and task.")] = False,
) -> None:
    """Compare scaling laws over the sizes of models.

    \b
    Example:
      fsgen scaling published --predict 70B:7B
    """
    from fsgen.analysis.scaling import compare_laws, parse_pair, read_points, show, too_small
    from fsgen.models.bundled import bundled

    def sizes_of_bundled() -> dict[str, float]:
        whole = sizes == "total"
        return {info.name: info.parameters if whole else info.non_embedding_parameters for info in bundled()}

    points = read_points(source, sizes)
    pairs = [parse_pair(text, points.frame, sizes_of_bundled) for text in predict or []]
    compared = compare_laws(points.frame, pairs)
    notes = [*points.notes, *(f"left out, too few pairs: {m} on {t} ({n})" for m, t, n in too_small(points.frame))]
    if as_json:
        print_json([one.as_dict() for one in compared], indent=2)
    else:
        show(compared, notes, console())
