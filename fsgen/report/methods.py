"""What each method brings, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fsgen.analysis.frequency import SummaryRow
from fsgen.analysis.labels import decimal, listed, method_label, short_name, task_label
from fsgen.analysis.suspects import comparable
from fsgen.report.chart import NEUTRAL, SYMBOLS, Axis, Chart, Data, Figure, Key, Layer, Row, Series, coloured, estimated
from fsgen.report.frequency import tasks_of
from fsgen.report.profiles import pair_label

DRAFT, TARGET = "draft alone", "target alone"


def accuracy_and_cost(rows: Sequence[SummaryRow], levels: Mapping[str, float]) -> Figure | None:
    """For each task, the score of each method by the target's calls a token, between draft and target alone.

    Args:
        rows: the runs of a study.
        levels: what the target's own score must lie above, by task; below it scores are told, and not compared.
    """
    # An oracle writes what the target writes, token by token: it measures, and saves nothing.
    chosen = [row for row in rows if row.accuracy is not None and row.draft and not row.method.startswith("oracle")]
    chosen = [row for row in chosen if row.target_calls_per_token is not None]
    if not chosen:
        return None
    table = [
        {
            "task": task_label(row),
            "method": method_label(row),
            "draft": short_name(row.draft),
            "target": short_name(row.target),
            **estimated("score", row.estimate("accuracy")),
            DRAFT: row.draft_accuracy,
            TARGET: row.target_accuracy,
            "calls / token": row.target_calls_per_token,
            "tokens / token": row.target_tokens_per_token,
            "consulted": row.consulted_rate,
            "seconds": row.seconds,
            "tokens": row.tokens,
        }
        for row in chosen
    ]
    compared = [row for row in chosen if comparable(row, levels)]
    tasks = list(dict.fromkeys([*tasks_of(compared), *tasks_of(chosen)]))
    said = [_best([row for row in compared if task_label(row) == task]) for task in tasks_of(compared)]
    return Figure(
        name="methods",
        title="Score and cost of each method",
        finding=" ".join(filter(None, [*said, _not_compared(tasks[len(said) :])])),
        note="The mean score of the texts, with 95 % intervals over examples, by the forward calls of the target for "
        "each token written. Grey: the draft alone, which makes none, and the target alone, which makes one a token. "
        "Calls are not all alike: the table has the tokens that ran through the target, and the seconds.",
        data=Data.of(table),
        chart=_chart(compared) if compared else None,
    )


def _not_compared(tasks: Sequence[str]) -> str:
    if not tasks:
        return ""
    return f"On {listed(tasks)} nothing is compared: the target's own score is at the floor, or at chance."


def _best(rows: Sequence[SummaryRow]) -> str:
    """The cheapest of the methods whose score is not clearly below the target's, or the best one."""
    task = task_label(rows[0])

    def keeps(row: SummaryRow) -> bool:
        high = row.intervals.get("accuracy", (row.accuracy, row.accuracy))[1]
        return row.target_accuracy is not None and high is not None and high >= row.target_accuracy

    def calls(row: SummaryRow) -> float:
        return row.target_calls_per_token or 0.0

    kept = [row for row in rows if keeps(row)]
    if kept:
        row = min(kept, key=calls)
        start = f"On {task} the fewest calls of the target at a score not clearly below its own are those of"
    else:
        row = max(rows, key=lambda row: row.accuracy or 0.0)
        start = f"On {task} every method scores clearly below the target, the best being"
    return (
        f"{start} {method_label(row)} with {pair_label(row)}: {calls(row):.2f} a token, score {row.accuracy:.2f} "
        f"(draft alone {decimal(row.draft_accuracy, 2)}, target alone {decimal(row.target_accuracy, 2)})."
    )


def _chart(chosen: Sequence[SummaryRow]) -> Chart:
    methods = list(dict.fromkeys(map(method_label, chosen)))
    points: list[Row] = [
        _point(row, method_label(row), pair_label(row), row.target_calls_per_token, "accuracy") for row in chosen
    ]
    for row in chosen:
        alone = (
            _point(row, DRAFT, short_name(row.draft), 0.0, "draft_accuracy"),
            _point(row, TARGET, short_name(row.target), 1.0, "target_accuracy"),
        )
        points += [point for point in alone if point["score"] is not None and point not in points]
    symbols = list(SYMBOLS)
    keys = [replace(key, mark=symbols[i % 4]) for i, key in enumerate(coloured(methods))]
    return Chart(
        x=Axis("calls", "calls of the target a token", low=0),
        y=Axis("score", "mean score", low=0),
        layers=(Layer("point", points, size=64),),
        series=(Series("method", (Key(DRAFT, NEUTRAL, "▼"), Key(TARGET, NEUTRAL, "✚"), *keys)),),
    )


def _point(row: SummaryRow, method: str, pair: str, calls: float | None, score: str) -> Row:
    point = {"task": task_label(row), "method": method, "pair": pair, "calls": calls}
    return point | estimated("score", row.estimate(score))
