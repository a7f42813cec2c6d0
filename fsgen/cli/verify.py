"""`fsgen verify`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fsgen.cli.options import (
    Base,
    Device,
    Draft,
    Dtype,
    MaxTokens,
    Target,
    Weights,
    models_by_role,
    silence_libraries,
)
from fsgen.cli.output import console, print_json, progress_bar

if TYPE_CHECKING:
    from rich.table import Table

    from fsgen.backends import Plan
    from fsgen.tasks.prompts import Prompts
    from fsgen.verify import Verdict

PROMPTS = 200  # where no number is given
FAULTS_SHOWN = 50  # at most, on a screen

Method = Annotated[
    str, typer.Option(help="speculative, oracle, contrastive, proxy, ensemble or mixture, with parameters.")
]
Router = Annotated[str | None, typer.Option(help="Where a draft ends early.  [default: the method's own]")]
DraftTokens = Annotated[
    str | None,
    typer.Option(
        help="How many tokens are drafted in a round at most; auto: chosen adaptively, which another run may do "
        "otherwise.  [default: the method's own number]"
    ),
]
PromptCount = Annotated[
    int | None,
    typer.Option(
        help="How many, all different. Where the task has fewer: those of the other tasks, then all of them cut off "
        f"earlier.  [default: {PROMPTS}, or the whole file]"
    ),
]
EveryToken = Annotated[
    bool,
    typer.Option(
        "--every-token",
        help="Also read each text once without a cache and check all of its tokens: this finds an error that both ways "
        "of writing have in common.",
    ),
]


def verify(
    draft: Draft = None,
    target: Target = None,
    base: Base = None,
    method: Method = "speculative",
    router: Router = None,
    draft_tokens: DraftTokens = None,
    prompts: PromptCount = None,
    task: Annotated[str, typer.Option(help="Whose prompts come first.")] = "gsm8k",
    prompts_file: Annotated[
        Path | None, typer.Option(help="Prompts of your own instead: one a line, as plain text or as a JSON string.")
    ] = None,
    max_tokens: MaxTokens = 64,
    batch_size: Annotated[int, typer.Option(min=1, help="How many texts are written at a time.")] = 16,
    every_token: EveryToken = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    weights: Weights = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a pair against what its System 2 writes.

    \b
    Example:
      fsgen verify --draft Qwen/Qwen2.5-0.5B --target Qwen/Qwen2.5-7B --prompts 50

    Greedy texts are compared token by token, and each first difference is explained: a tie within rounding, or a fault.
    The exit status is 1 where there are faults. Sampled texts cannot be compared like this; that they have the right
    distribution is what the tests in tests/engine show.
    """
    from fsgen.types import SamplingParams

    sampling = SamplingParams(max_tokens)

    silence_libraries(draft, target, base)
    from fsgen.api import method_for
    from fsgen.backends import plan
    from fsgen.methods.check import check
    from fsgen.prompts import encode
    from fsgen.verify import verify as verify_texts
    from fsgen.verify import ways

    chosen, _ = ways(method, router, draft_tokens)
    names = models_by_role(chosen, draft, target, base)
    planned = plan(**names, dtype=dtype, device=device, weights=weights)
    chosen, _ = ways(method_for(planned, chosen))
    found = _prompts(planned, max_tokens, task, prompts_file, prompts)
    check(planned, chosen, [encode(planned, found.texts[0])], [sampling])
    members = planned.load(chosen.roles)
    with progress_bar("verifying", len(found.texts)) as advance:
        verdict = verify_texts(
            members, found.texts, method, router, draft_tokens, max_tokens, batch_size, every_token, advance
        )
    if as_json:
        record = {"members": members.names(), "prompts": found.sources, "left_out": found.left_out}
        print_json(record | verdict.as_dict())
    else:
        _show(verdict, found, members.tokenizer)
    if verdict.faults:
        raise typer.Exit(1)


def _prompts(planned: Plan, max_tokens: int, task: str, file: Path | None, count: int | None) -> Prompts:
    """The prompts of a file or of the tasks, those that leave room for so many tokens."""
    from fsgen.prompts import fits
    from fsgen.tasks.prompts import from_file, from_tasks

    able = partial(fits, planned, more=max_tokens)
    return from_file(file, count, able) if file else from_tasks(task, PROMPTS if count is None else count, able)


def _show(verdict: Verdict, prompts: Prompts, tokenizer: Any) -> None:
    from rich.table import Table

    out, faults = console(), verdict.faults
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in _summary(verdict, prompts):
        table.add_row(name, value, style="bold red" if name == "faults" and faults else None)
    out.print(table)
    if faults:
        out.print(_fault_table(verdict, tokenizer))
    if len(faults) > FAULTS_SHOWN:
        out.print(f"and {len(faults) - FAULTS_SHOWN:,} more; --json lists all")


def _summary(verdict: Verdict, prompts: Prompts) -> list[tuple[str, str]]:
    ties = verdict.ties
    rows = [
        ("compared", f"{verdict.method} with {verdict.reference}, in {verdict.dtype}"),
        ("prompts", ", ".join(f"{count:,} {name}" for name, count in prompts.sources.items())),
    ]
    if prompts.left_out:
        rows.append(("left out", ", ".join(f"{count:,} {reason}" for reason, count in prompts.left_out.items())))
    rows += [
        ("texts", f"{verdict.texts:,}, of {verdict.tokens:,} tokens, {verdict.accepted:,} of them drafted"),
        ("equal", f"{verdict.equal:,}"),
        ("ties within rounding", f"{len(ties):,}"),
    ]
    if ties:
        gap, bound = max((max(tie.gap, tie.expected_gap), tie.bound) for tie in ties)
        how = f"measured in {verdict.measured_in}" if verdict.measured_in else "rounding estimated"
        rows.append(
            (
                "largest gap of a tie",
                f"{gap:.2g}, of {bound:.2g} that rounding allows; {how}",
            )
        )
    if nearby := sum(tie.measured_positions > 1 for tie in ties):
        rows.append(("by rounding nearby", f"{nearby:,} of the ties, measured at several positions"))
    seconds = (
        f"{verdict.seconds:.1f}: {verdict.method_seconds:.1f} {verdict.method}, {verdict.reference_seconds:.1f} "
        f"{verdict.reference}, {verdict.check_seconds:.1f} explaining"
    )
    return [*rows, ("faults", f"{len(verdict.faults):,}"), ("seconds", seconds)]


def _fault_table(verdict: Verdict, tokenizer: Any) -> Table:
    from rich.table import Table

    def text_of(token: int | None) -> str:
        return "(the text had ended)" if token is None else repr(tokenizer.decode([token]))

    table = Table(title="faults", title_justify="left")
    for name in ("prompt", "position", "written", "expected", "gap", "expected gap", "bound"):
        table.add_column(name, justify="left" if name in ("written", "expected") else "right")
    for fault in verdict.faults[:FAULTS_SHOWN]:
        gaps = [f"{value:.3g}" for value in (fault.gap, fault.expected_gap, fault.bound)]
        table.add_row(str(fault.prompt), str(fault.position), text_of(fault.token), text_of(fault.expected), *gaps)
    return table
