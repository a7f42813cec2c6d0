"""`fsgen simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fsgen.cli.options import silence_libraries
from fsgen.cli.output import console, print_json

if TYPE_CHECKING:
    from fsgen.planner.simulate import Served
    from fsgen.planner.times import Times


def simulate(
    target: Annotated[
        str, typer.Option(help="The large model: a name, a folder with its config.json, or random:7B, a shape.")
    ],
    draft: Annotated[str | None, typer.Option(help="The small model, likewise.")] = None,
    draft_tokens: Annotated[int, typer.Option(min=1, max=64, help="Tokens that it drafts in a round.")] = 4,
    acceptance: Annotated[
        str, typer.Option(help="The chance that a drafted token is accepted, or a speculation_profile.json.")
    ] = "0.7",
    hardware: Annotated[
        str, typer.Option(help="Of each machine: measured (as fsgen profile has kept it), or a name such as H100.")
    ] = "measured",
    rate: Annotated[float, typer.Option(help="Requests that arrive in a second.")] = 1.0,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", exists=True, dir_okay=False,
            help="Lengths, as JSON lines with prompt_tokens and completion_tokens, or logged responses.",
        ),
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Without a trace: tokens of each prompt.")] = 256,
    max_tokens: Annotated[int, typer.Option(min=1, help="Without a trace: tokens of each completion.")] = 128,
    requests: Annotated[int, typer.Option(min=1, help="How many requests.")] = 500,
    rows: Annotated[int, typer.Option(min=1, help="Requests that a machine writes for at a time.")] = 16,
    machines: Annotated[int, typer.Option(min=1, help="How many machines.")] = 1,
    dtype: Annotated[str, typer.Option(help="Of the weights, for computed times.")] = "bfloat16",
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:  # fmt: skip
    """Simulate the latency and throughput of a server.

    Requests arrive at a rate, and are served with a draft and without.

    \b
    Example:
      fsgen simulate --target random:7B --draft random:0.5B --hardware H100 --rate 20 --acceptance 0.8
    """
    silence_libraries(target, draft)
    from fsgen.planner.export import read_acceptance
    from fsgen.planner.simulate import Fleet, Load, read_trace, require_simpy
    from fsgen.planner.simulate import simulate as run

    require_simpy()
    chance = read_acceptance(acceptance)
    lengths = [(prompt_tokens, max_tokens)] if trace is None else read_trace(trace)
    load = Load(rate, lengths, requests, seed)
    fleets = {"plain": Fleet(_times(target, hardware, dtype), rows=rows, machines=machines)}
    if draft is not None:
        times = _times(draft, hardware, dtype)
        fleets["drafting"] = Fleet(fleets["plain"].target, times, draft_tokens, chance, rows, machines)
    found = {name: run(fleet, load) for name, fleet in fleets.items()}
    if as_json:
        print_json({name: one.as_dict() for name, one in found.items()})
    else:
        _show(found)


def _times(name: str, hardware: str, dtype: str) -> Times:
    from fsgen.planner import hardware as machines
    from fsgen.planner.times import kept_profile

    if hardware == "measured":
        return kept_profile(name)
    return machines.roofline(machines.shape_of(name), machines.hardware(hardware), dtype)


def _show(found: dict[str, Served]) -> None:
    from rich.table import Table

    names = ("", "latency, s: 50 %", "90 %", "99 %", "first tokens, s: 50 %", "99 %", "tokens/s", "busy", "rows")
    table = Table(*names, box=None, pad_edge=False)
    for name, one in found.items():
        times = [one.latency[50], one.latency[90], one.latency[99], one.first_token[50], one.first_token[99]]
        shown = [f"{each:.3g}" for each in times]
        table.add_row(name, *shown, f"{one.tokens_per_second:,.0f}", f"{one.busy:.0%}", f"{one.rows:.1f}")
    console().print(table)
