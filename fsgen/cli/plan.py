"""`fsgen plan`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fsgen.cli.options import TARGET, Device, Dtype, Weights, new_file, silence_libraries
from fsgen.cli.output import console, print_json

if TYPE_CHECKING:
    from fsgen.planner.choose import Judged
    from fsgen.planner.result import Answer

WHERE, WHAT, OUT = "Acceptance", "What is wanted", "Results"


Large = Annotated[
    str,
    typer.Option(
        help="The large model: bundled, a folder, a name on the hub; with --hardware NAME its config.json is enough."
    ),
]
Drafts = Annotated[list[str] | None, typer.Option(help="A small model, or ngram; several times for several.")]
Texts = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        exists=True,
        dir_okay=False,
        rich_help_panel=WHERE,
        help="What the target wrote, as JSON lines: prompts with completions, logged requests of an "
        "OpenAI-compatible API, or results of fsgen generate.",
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        exists=True,
        dir_okay=False,
        rich_help_panel=WHERE,
        help="For results of fsgen generate: what was its --input.",
    ),
]
Study = Annotated[
    Path | None, typer.Option(metavar="DIR", rich_help_panel=WHERE, help="A study that has texts of the target.")
]
Task = Annotated[str, typer.Option(rich_help_panel=WHERE, help="Whose prompts the target goes on from, without texts.")]
Acceptance = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=WHERE,
        help="Instead of texts: the chance that a token is accepted, or a file, a speculation_profile.json.",
    ),
]
Limit = Annotated[int, typer.Option(min=2, rich_help_panel=WHERE, help="The most texts.")]
MaxTokens = Annotated[
    int, typer.Option(min=2, rich_help_panel=WHERE, help="Tokens of each text that is written now, at most.")
]
Hardware = Annotated[
    str, typer.Option(rich_help_panel=WHAT, help="measured (this machine), or a name such as H100, A100-80GB, L4.")
]
Batch = Annotated[str, typer.Option(rich_help_panel=WHAT, help="How many texts are written at a time: 1, or 1,8,32.")]
Context = Annotated[
    int | None, typer.Option(min=1, rich_help_panel=WHAT, help="Tokens of a text, for memory.  [default: as found]")
]
Objective = Annotated[str, typer.Option(rich_help_panel=WHAT, help="latency, throughput or price.")]
MaxAccuracyLoss = Annotated[
    float | None,
    typer.Option(rich_help_panel=WHAT, help="Judge routers that trust the draft too, up to this loss of accuracy."),
]
Price = Annotated[float | None, typer.Option(min=0, rich_help_panel=WHAT, help="What an hour of the machine costs.")]
Write = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", callback=new_file, rich_help_panel=OUT, help="Write the choice to a file, for --plan."
    ),
]
Export = Annotated[
    str | None,
    typer.Option(rich_help_panel=OUT, help="Print the choice for vllm, sglang or llama.cpp, or as a profile."),
]
Report = Annotated[
    Path | None,
    typer.Option(metavar="FILE", callback=new_file, rich_help_panel=OUT, help="Write a page with all of it, as HTML."),
]
AsJson = Annotated[bool, typer.Option("--json", rich_help_panel=OUT, help="Print one JSON object.")]


def plan(
    target: Large = TARGET,
    draft: Drafts = None,
    texts: Texts = None,
    prompts: Prompts = None,
    study: Study = None,
    task: Task = "gsm8k",
    acceptance: Acceptance = None,
    limit: Limit = 128,
    max_tokens: MaxTokens = 64,
    hardware: Hardware = "measured",
    batch: Batch = "1",
    context: Context = None,
    objective: Objective = "latency",
    max_accuracy_loss: MaxAccuracyLoss = None,
    price: Price = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    weights: Weights = "auto",
    write: Write = None,
    export: Export = None,
    report: Report = None,
    as_json: AsJson = False,
) -> None:
    """Say whether a draft pays off, and which one.

    Also how far it should write, and what it will bring.

    Acceptance is counted from texts that the target wrote, times are measured here or computed for other hardware. The
    answer is "plain" unless the lower end of a speed-up's interval is above 1.

    \b
    Examples:
      fsgen plan --target pocket-4m --draft pocket-0.6m --draft ngram --batch 1,8
      fsgen plan --target Qwen/Qwen2.5-7B --draft Qwen/Qwen2.5-0.5B --texts logs.jsonl --hardware H100
    """
    from fsgen.cli.output import numbers

    if write is not None and report is not None and write.resolve() == report.resolve():
        raise ValueError(f"--write and --report both name {str(write)!r}: the page would replace the plan")
    drafts = draft or ["pocket-0.6m"] * (target == TARGET)
    batches = sorted(set(numbers("--batch", batch, int, 1, 4096)))
    silence_libraries(target, *drafts)
    from fsgen.planner.export import check_kind, exported, read_acceptance
    from fsgen.planner.file import write_plan
    from fsgen.planner.work import Question, run

    assumed = None if acceptance is None else read_acceptance(acceptance)
    question = Question(
        target, drafts, texts, prompts, study, task, assumed, limit, hardware, batches, context, objective,
        max_accuracy_loss, price, max_tokens, dtype, device, weights,
    )  # fmt: skip
    if export is not None:
        check_kind(export)
    found = run(question, _note)
    if write is not None:
        write_plan(write, found, question)
    if report is not None:
        from fsgen.report.plan import write as write_page

        write_page(found.as_dict(), report, target, hardware, objective)
    if export is not None:
        print(exported(export, found, question))
    elif as_json:
        print_json(found.as_dict())
    else:
        _show(found, price is not None)
        for what, path in (("plan", write), ("report", report)):
            if path is not None:
                print(f"{what}: {path}")


def _note(text: str) -> None:
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


def _show(found: Answer, priced: bool) -> None:
    from rich.table import Table

    out = console()
    out.print(f"{found.verdict}: {found.choice.candidate}, at batch {found.choice.batch}")
    if found.verdict != "plain":
        out.print(f"{found.choice.speedup:.2f} times as fast as plain decoding")
    table = Table(box=None, pad_edge=False)
    names = ["batch", "draft", "tokens", "router", "x plain", "tokens/s", "GB", *["price of 1 M"] * priced, "why"]
    for name in names:
        table.add_column(name, overflow="fold")
    for batch, chosen in found.by_batch.items():
        for one in _worth_showing([each for each in found.ranked if each.batch == batch], chosen):
            table.add_row(*_cells(one, priced))
    out.print(table)
    if found.stops_paying is not None:
        out.print(f"from batch {found.stops_paying} on, no draft is surely worth it")
    for line in found.assumptions:
        out.print(f"- {line}")


def _worth_showing(here: list[Judged], chosen: Judged) -> list[Judged]:
    """The chosen one, the runner-up, the best of every other draft, and plain decoding."""
    shown, drafts = [chosen], set[str | None]()
    for one in (each for each in here if each is not chosen):
        kind = str(one.candidate.method.ngram) if one.candidate.method.ngram else one.candidate.draft
        if len(shown) == 1 or kind not in drafts:
            shown.append(one)
        drafts.add(kind)
    return shown


def _cells(one: Judged, priced: bool) -> list[str]:
    candidate = one.candidate
    draft = f"ngram:{candidate.method.ngram}" if candidate.method.ngram else candidate.draft or "plain"
    router = "" if candidate.router == "always" else candidate.router
    if not one.lossless:
        router += f", trusting; {one.accuracy_loss.high or 0:.0%} of the texts may change"
    cells = [str(one.batch), draft, str(candidate.draft_tokens) * candidate.method.drafts, router]
    cells += [f"{one.speedup:.2f}", f"{one.tokens_per_second:,.0f}", f"{one.memory_bytes / 1e9:.2f}"]
    return [*cells, *([f"{one.price:.3g}" if one.price is not None else ""] * priced), one.reason]
