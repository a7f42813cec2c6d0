"""The frequencies that arXiv 2406.12295 published, beside those of a study."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from fsgen.analysis.frequency import SummaryRow
from fsgen.analysis.labels import short_name, task_label
from fsgen.analysis.pairs import oracles
from fsgen.analysis.scaling import PUBLISHED, read_points
from fsgen.report.chart import COLOURS, NEUTRAL, Axis, Chart, Data, Figure, Key, Layer, Row, Series, estimated

_OURS, _THEIRS = "this study", "published, Qwen1.5"


def beside_published(rows: Sequence[SummaryRow]) -> Figure | None:
    """For each task that both have, the frequency by the ratio of the sizes."""
    published = read_points(PUBLISHED).frame.filter(pl.col("method") == "oracle")
    tasks = set(published["task"])
    ours = [row for row in oracles(rows) if row.task in tasks and row.draft_parameters and row.target_parameters]
    if not ours:
        return None
    points = [_ours(row) for row in ours]
    labels = dict.fromkeys((row.task, task_label(row)) for row in ours)
    points += [
        {
            "task": label,
            "study": _THEIRS,
            "draft": str(pair["draft"]),
            "target": str(pair["target"]),
            "ratio": pair["target_parameters"] / pair["draft_parameters"],
            "frequency": pair["collaboration_frequency"],
            "low": None,
            "high": None,
        }
        for task, label in labels
        for pair in published.filter(pl.col("task") == task).iter_rows(named=True)
    ]
    return Figure(
        name="published-values",
        title="Beside the published values",
        finding="; ".join(_compared(points, label) for _, label in labels) + ".",
        note="Each point is a pair: the collaboration frequency by the ratio of the parameters of target and draft. "
        "Published: the values of arXiv 2406.12295, of Qwen1.5 from 0.5 to 72 billion parameters. Models, prompts and "
        "budgets differ, so what can be compared is how the frequency goes with the ratio, not its height.",
        data=Data.of(points),
        chart=Chart(
            x=Axis("ratio", "parameters of the target over those of the draft", log=True),
            y=Axis("frequency", "collaboration frequency", low=0),
            layers=(Layer("point", points, size=36),),
            series=(Series("study", (Key(_OURS, COLOURS[0], "●"), Key(_THEIRS, NEUTRAL, "◆"))),),
            height=200,
        ),
    )


def _ours(row: SummaryRow) -> Row:
    assert row.draft_parameters
    assert row.target_parameters
    return {
        "task": task_label(row),
        "study": _OURS,
        "draft": short_name(row.draft),
        "target": short_name(row.target),
        "ratio": row.target_parameters / row.draft_parameters,
        **estimated("frequency", row.estimate("collaboration_frequency")),
    }


def _compared(points: Sequence[Row], task: str) -> str:
    def span(study: str) -> str:
        values = [
            float(point["frequency"] or 0.0) for point in points if (point["task"], point["study"]) == (task, study)
        ]
        return f"from {min(values):.2f} to {max(values):.2f}"

    return f"{task}: the frequency is {span(_OURS)} here, and {span(_THEIRS)} as published"
