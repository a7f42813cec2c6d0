"""`fsgen models`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from fsgen.cli.output import console, print_json


def models(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False) -> None:
    """List the bundled models, the smallest first."""
    from fsgen.models.bundled import bundled

    listed = [asdict(info) for info in bundled()]
    if as_json:
        print_json(listed, indent=2)
    else:
        _show(listed)


def _show(listed: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("name", "family", "parameters", "non_embedding_parameters", "tuned_from", "path"):
        numeric = name.endswith("parameters")
        table.add_column(name.removesuffix("_parameters"), justify="right" if numeric else "left", no_wrap=True)
    for row in listed:
        table.add_row(
            row["name"],
            row["family"],
            f"{row['parameters']:,}",
            f"{row['non_embedding_parameters']:,}",
            row["tuned_from"] or "-",
            row["path"],
        )
    # A path is copied, never read: it may run over the terminal's edge, but not be cut.
    width = max((len(row["path"]) for row in listed), default=0) + 120
    console(width).print(table, crop=False)
