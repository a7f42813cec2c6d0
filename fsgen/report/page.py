"""The page: what was run, what came out, what the words mean."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
import yaml

from fsgen.analysis.frequency import SummaryRow, read_run, read_study, read_summary
from fsgen.analysis.labels import (
    by_task,
    decimal,
    interval,
    method_label,
    millions,
    short_name,
    task_label,
    texts_label,
)
from fsgen.report.charts import frequency_by_draft, measured


@dataclass(frozen=True)
class Column:
    """A column of the table: what stands over it, and what it means."""

    title: str
    meaning: str
    numeric: bool = True


COLUMNS = (
    Column("task", "The benchmark task.", numeric=False),
    Column("draft", "System 1, the small model that writes.", numeric=False),
    Column("target", "The large model.", numeric=False),
    Column(
        "method",
        "How they wrote together; with its router where that is not always, and k, the most tokens drafted in a round.",
        numeric=False,
    ),
    Column("texts", "Examples of the task; failed ones are left out of every other column."),
    Column("tokens", "Tokens written, n."),
    Column(
        "frequency",
        "Collaboration frequency: of the positions where the greedy choices of both systems are known, the share where "
        "they differ. With the router always it is what a perfect router would need. When sampling, the mean total "
        "variation of the two distributions, which is the expected rate of rejections.",
    ),
    Column("95 % interval", "Of the frequency, by bootstrap over examples: tokens of one text are not independent."),
    Column("consulted", "Positions at which System 2 was asked, over n."),
    Column("acceptance", "Drafted tokens that stood, over those that System 2 verified."),
    Column("calls / token", "Forward calls of the target, over n."),
    Column("tokens / token", "Tokens run through the target, over n; catching up on trusted tokens is included."),
    Column("draft alone", "Mean score of the draft's own texts: accuracy, or the rating where a judge rates."),
    Column("target alone", "Mean score of the target's own texts."),
    Column("together", "Mean score of the texts that they wrote together."),
    Column("seconds", "Wall clock of the run. Of a replay (see the engine in the run's record) that of the passes."),
)


def write(out_dir: str | Path) -> Path:
    """Write `report.html` of a finished study, whole or not at all.

    Args:
        out_dir: the folder of the study.

    Returns:
        the file.

    Raises:
        ValueError: the folder is not that of a finished study.
    """
    folder = Path(out_dir)
    study, rows = read_study(folder), read_summary(folder)
    records = [read_run(folder, row.run) for row in rows]
    charts = frequency_by_draft(rows)
    specs = {f"chart-{number}": chart.to_dict() for number, chart in enumerate(charts.values())}
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True).from_string(
        (resources.files("fsgen.report") / "templates" / "report.html.j2").read_text(encoding="utf-8")
    )
    page = template.render(
        name=study["name"],
        facts=_facts(rows, records),
        findings=findings(rows),
        charts=dict(zip(specs, charts, strict=True)),
        specs=_inline(json.dumps(specs)),
        bundle=_inline(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")) if specs else "",
        columns=COLUMNS,
        rows=[_cells(row) for row in by_task(rows)],
        models=_models(records),
        config=yaml.safe_dump(study["config"], sort_keys=False, allow_unicode=True),
        versions=_versions(records),
    )
    path, unfinished = folder / "report.html", folder / ".report.html.part"
    unfinished.write_text(page, encoding="utf-8")
    with unfinished.open("rb") as stream:
        os.fsync(stream.fileno())
    return unfinished.replace(path)


def _inline(script: str) -> str:
    """A script that stands inside a page: no text of it may end the element."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _cells(row: SummaryRow) -> list[str]:
    return [
        task_label(row),
        short_name(row.draft),
        short_name(row.target),
        method_label(row),
        texts_label(row),
        f"{row.tokens:,}",
        decimal(row.collaboration_frequency, 3),
        interval(row) or "-",
        decimal(row.consulted_rate, 2),
        decimal(row.acceptance_rate, 2),
        decimal(row.target_calls_per_token, 2),
        decimal(row.target_tokens_per_token, 2),
        decimal(row.draft_accuracy, 3),
        decimal(row.target_accuracy, 3),
        decimal(row.accuracy, 3),
        decimal(row.seconds, 1),
    ]


def findings(rows: Sequence[SummaryRow]) -> list[str]:
    """What the numbers say, in sentences."""
    said = []
    greedy = [row for row in measured(rows) if row.sampling == "greedy" and row.method.startswith("oracle")]
    if greedy:
        low = min(greedy, key=lambda row: row.collaboration_frequency or 0.0)
        high = max(greedy, key=lambda row: row.collaboration_frequency or 0.0)
        if low is high:
            said.append(f"The large model would have chosen another token at {_percent(low)} of the positions.")
        else:
            said.append(
                f"The large model would have chosen another token than the small one at {_percent(low)} of the "
                f"positions at the least ({_pair(low)} on {task_label(low)}) and at {_percent(high)} at the most "
                f"({_pair(high)} on {task_label(high)})."
            )
        said += _by_size(greedy)
    said += [_routed(row) for row in rows if row.method.startswith("route") and row.consulted_rate is not None][:3]
    return said


def _by_size(rows: Sequence[SummaryRow]) -> list[str]:
    """How the frequency goes with the draft's size, for the largest target of each task."""
    parts = []
    for task in dict.fromkeys(map(task_label, rows)):
        of_task = [row for row in rows if task_label(row) == task and row.draft_parameters]
        largest = max((row.target_parameters or 0 for row in of_task), default=0)
        ladder = sorted(
            (row for row in of_task if row.target_parameters == largest), key=lambda row: row.draft_parameters or 0
        )
        if len(ladder) > 1:
            first, last = ladder[0], ladder[-1]
            parts.append(
                f"from {decimal(first.collaboration_frequency, 2)} with {short_name(first.draft)} to "
                f"{decimal(last.collaboration_frequency, 2)} with {short_name(last.draft)} on {task}"
            )
    return [f"By the size of the draft, the frequency goes {'; '.join(parts)}."] if parts else []


def _routed(row: SummaryRow) -> str:
    scores = ""
    if None not in (row.accuracy, row.draft_accuracy, row.target_accuracy):
        scores = (
            f"; the score is {decimal(row.accuracy, 2)}, of the draft alone {decimal(row.draft_accuracy, 2)}, of the "
            f"target alone {decimal(row.target_accuracy, 2)}"
        )
    return (
        f"On {task_label(row)}, {_pair(row)} with the router {row.router} asked the large model at "
        f"{100 * (row.consulted_rate or 0.0):.0f} % of the positions, with "
        f"{decimal(row.target_tokens_per_token, 2)} tokens run through it for each token written{scores}."
    )


def _percent(row: SummaryRow) -> str:
    return f"{100 * (row.collaboration_frequency or 0.0):.1f} %"


def _pair(row: SummaryRow) -> str:
    return f"{short_name(row.draft)} drafting for {short_name(row.target)}"


def _facts(rows: Sequence[SummaryRow], records: Sequence[dict[str, Any]]) -> str:
    tasks = dict.fromkeys(task_label(row) for row in rows)
    pairs = {(row.draft, row.target, row.base) for row in rows}
    models = {member["name"] for record in records for member in record["members"].values()}
    methods = {row.method for row in rows}
    counts = ((len(rows), "run"), (len(tasks), "task"), (len(pairs), "pair"), (len(models), "model"))
    shown = [f"{count} {word}{'s' * (count != 1)}" for count, word in (*counts, (len(methods), "method"))]
    return ", ".join(shown) + f"; {sum(row.tokens for row in rows):,} tokens in traces"


def _models(records: Sequence[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Name, parameters, parameters without embeddings, and what it was tuned from; the smallest first."""
    found = {member["name"]: member for record in records for member in record["members"].values()}
    ordered = sorted(found.values(), key=lambda member: (member["parameters"], member["name"]))
    return [
        (
            short_name(member["name"]),
            millions(member["parameters"]),
            millions(member["non_embedding_parameters"]),
            member["tuned_from"] or "-",
        )
        for member in ordered
    ]


def _versions(records: Sequence[dict[str, Any]]) -> list[str]:
    """Versions and hardware, one line each that the runs were made with."""
    lines = []
    for record in records:
        hardware = record["hardware"]
        machine = [hardware["processor"], f"{hardware['cores']} cores", *hardware["gpus"]]
        lines.append(", ".join([*(f"{name} {value}" for name, value in record["versions"].items()), *machine]))
    return list(dict.fromkeys(lines))
