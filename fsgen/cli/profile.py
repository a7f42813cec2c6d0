"""`fsgen profile`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fsgen.cli.options import Device, Dtype, Weights, silence_libraries
from fsgen.cli.output import console, print_json


def profile(
    model: Annotated[
        str, typer.Argument(help="Bundled, a folder, a name on the hub, or random:0.5B, a shape with random weights.")
    ],
    batch: Annotated[int, typer.Option(min=1, max=4096, help="The largest number of texts at a time.")] = 16,
    seconds: Annotated[float, typer.Option(min=1, max=10**6, help="About how long it may take.")] = 60.0,
    dtype: Dtype = "auto",
    device: Device = "auto",
    weights: Weights = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure how long a model's calls take here.

    The times are kept, and fsgen plan finds them.

    \b
    Example:
      fsgen profile pocket-4m --batch 8
    """
    silence_libraries(model)
    from fsgen.planner.opening import open_model
    from fsgen.planner.times import keep, measure

    def note(text: str) -> None:
        if sys.stderr.isatty():
            print(text, file=sys.stderr)

    found = measure(open_model(model, dtype, device, weights), batch, seconds, note)
    path = keep(found)
    if as_json:
        print_json(found.as_dict() | {"file": str(path)})
        return
    from rich.table import Table

    out = console()
    out.print(f"{found.model}, {found.dtype or 'its own type'}, on {found.machine}")
    table = Table("rows", *(f"{count} tokens, ms" for count in found.tokens), box=None, pad_edge=False)
    for rows, line in zip(found.rows, found.seconds, strict=True):
        table.add_row(str(rows), *(f"{1e3 * each:.2f}" for each in line))
    out.print(table)
    out.print(f"{1e9 * found.context_seconds:.1f} us more for each row and thousand tokens of context", end="; ")
    out.print(f"{1e3 * found.overhead:.2f} ms beside each call; off by {found.spread:.0%} from time to time")
    print(f"kept: {path}")
