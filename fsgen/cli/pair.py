"""`fsgen pair`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fsgen.cli.options import Device, Dtype, silence_libraries
from fsgen.cli.output import console, print_json

if TYPE_CHECKING:
    from fsgen.backends.overlap import Mass
    from fsgen.pair import Pair


def pair(
    draft: Annotated[
        str, typer.Argument(help="The small model: bundled, a folder, a GGUF file, or a name on the hub.")
    ],
    target: Annotated[str, typer.Argument(help="The large model.")],
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts of your own: one a line, as plain text or as a JSON string.")
    ] = None,
    task: Annotated[str, typer.Option(help="Whose prompts are read otherwise.")] = "gsm8k",
    count: Annotated[int, typer.Option(min=1, help="How many prompts, at most.")] = 20,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what two models share, and what they can write.

    Their tokenizer, their tokens, the probability of these, and the methods that they can write with.

    \b
    Example:
      fsgen pair Qwen/Qwen2.5-0.5B Qwen/Qwen2.5-7B
    """
    from fsgen.tasks.prompts import from_file, from_tasks

    silence_libraries(draft, target)
    from fsgen.backends import plan
    from fsgen.pair import compare
    from fsgen.prompts import fits

    planned = plan(draft, target, dtype=dtype, device=device)
    if planned.draft is None:
        raise ValueError(f"{draft!r} is no model, and shares whatever the target has")

    able = partial(fits, planned)
    texts = (from_file(prompts, None, able) if prompts else from_tasks(task, count, able)).texts[:count]
    found = compare(planned.load(), texts)
    if as_json:
        print_json(found.as_dict())
    else:
        _show(found, len(texts))


def _show(found: Pair, prompts: int) -> None:
    from rich.table import Table

    def probability(mass: Mass | None) -> str:
        if mass is None:
            return "1"
        return f"{mass.mean:.3f}; {mass.lowest:.3f} at the worst of 20 positions"

    out, table = console(), Table(box=None, pad_edge=False, show_header=False)
    rows = [("draft", found.draft), ("target", found.target), ("tokenizer", found.tokenizer)]
    if found.difference is not None:
        rows.append(("difference", found.difference))
    shares = (found.shared_tokens / max(1, n) for n in (found.draft_tokens, found.target_tokens))
    rows += [
        ("tokens", f"{found.draft_tokens:,} of the draft, {found.target_tokens:,} of the target"),
        ("in both", f"{found.shared_tokens:,}: {' and '.join(f'{share:.1%}' for share in shares)} of them"),
        ("draft's probability of these", probability(found.draft_mass)),
        ("target's probability of these", probability(found.target_mass)),
    ]
    if found.draft_mass is not None and found.target_mass is not None:
        counts = f"{found.draft_mass.positions:,} and {found.target_mass.positions:,} positions"
        rows.append(("measured at", f"{counts} of {prompts} prompts"))
    for row in rows:
        table.add_row(*row)
    out.print(table)
    methods = Table(box=None, pad_edge=False)
    for name in ("method", "possible", "how, or why not"):
        methods.add_column(name, overflow="fold", no_wrap=name == "method")
    alike: dict[tuple[bool, str], list[str]] = {}
    for one in found.methods:
        alike.setdefault((one.possible, one.note), []).append(one.method)
    for (possible, note), names in alike.items():
        methods.add_row(", ".join(names), "yes" if possible else "no", note)
    out.print()
    out.print(methods)
