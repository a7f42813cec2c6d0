"""What each method brings, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from fsgen.analysis.frequency import SummaryRow
from fsgen.analysis.labels import method_label, short_name, task_label
from fsgen.report.figure import COLOURS, NEUTRAL, Data, Figure, Key, intervals
from fsgen.report.frequency import SHAPES, tasks_of
from fsgen.report.profiles import pair_label

DRAFT, TARGET = "draft alone", "target alone"


def accuracy_and_cost(rows: Sequence[SummaryRow]) -> Figure | None:
    """For each task, the score of each method by the target's calls a token, between draft and target alone."""
    # An oracle writes what the target writes, token by token: it measures, and saves nothing.
    chosen = [row for row in rows if row.accuracy is not None and row.draft and not row.method.startswith("oracle")]
    chosen = [row for row in chosen if row.target_calls_per_token is not None]
    if not chosen:
        return None
    methods = list(dict.fromkeys(map(method_label, chosen)))
    tasks = tasks_of(chosen)
    kinds = [DRAFT, TARGET, *methods]
    colours = [NEUTRAL, NEUTRAL, *(COLOURS[i % len(COLOURS)] for i in range(len(methods)))]
    names = list(SHAPES)
    shapes = ["triangle-down", "cross", *(names[i % 4] for i in range(len(methods)))]
    symbols = [SHAPES[shape] for shape in shapes]
    return Figure(
        name="methods",
        title="Score and cost of each method",
        finding=" ".join(_best([row for row in chosen if task_label(row) == task]) for task in tasks),
        note="The mean score of the texts, with 95 % intervals over examples, by the forward calls of the target for "
        "each token written. Grey: the draft alone, which makes none, and the target alone, which makes one a token. "
        "Calls are not all alike: the table has the tokens that ran through the target, and the seconds.",
        panels={
            task: _panel([row for row in chosen if task_label(row) == task], kinds, colours, shapes) for task in tasks
        },
        legend=tuple(Key(kind, colour, symbol) for kind, colour, symbol in zip(kinds, colours, symbols, strict=True)),
        data=Data(
            (
                "task",
                "method",
                "draft",
                "target",
                "score",
                "95 % from",
                "to",
                "draft alone",
                "target alone",
                "calls / token",
                "tokens / token",
                "consulted",
                "seconds",
                "tokens",
            ),
            tuple(
                (
                    task_label(row),
                    method_label(row),
                    short_name(row.draft),
                    short_name(row.target),
                    row.accuracy,
                    *row.intervals.get("accuracy", (None, None)),
                    row.draft_accuracy,
                    row.target_accuracy,
                    row.target_calls_per_token,
                    row.target_tokens_per_token,
                    row.consulted_rate,
                    row.seconds,
                    row.tokens,
                )
                for row in chosen
            ),
        ),
    )


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
        f"(draft alone {_shown(row.draft_accuracy)}, target alone {_shown(row.target_accuracy)})."
    )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _panel(rows: Sequence[SummaryRow], kinds: list[str], colours: list[str], shapes: list[str]) -> alt.LayerChart:
    values: list[dict[str, Any]] = [
        {
            "kind": method_label(row),
            "pair": pair_label(row),
            "calls": row.target_calls_per_token,
            "score": row.accuracy,
            **dict(zip(("low", "high"), row.intervals.get("accuracy", (None, None)), strict=True)),
        }
        for row in rows
    ]
    alone: dict[tuple[str, str | None], dict[str, Any]] = {}
    for row in rows:
        for kind, name, calls, score, key in (
            (DRAFT, row.draft, 0.0, row.draft_accuracy, "draft_accuracy"),
            (TARGET, row.target, 1.0, row.target_accuracy, "target_accuracy"),
        ):
            if score is not None:
                low, high = row.intervals.get(key, (None, None))
                alone[kind, name] = {
                    "kind": kind,
                    "pair": short_name(name),
                    "calls": calls,
                    "score": score,
                    "low": low,
                    "high": high,
                }
    values += alone.values()
    x = alt.X("calls:Q", title="calls of the target a token", axis=alt.Axis(tickCount=5, grid=False)).scale(
        domainMin=0, nice=False, padding=10
    )
    colour = alt.Color("kind:N", title=None, sort=None).scale(domain=kinds, range=colours)
    base = alt.Chart(alt.Data(values=values)).encode(x=x, color=colour)
    points = base.mark_point(filled=True, size=64, opacity=1).encode(
        y=alt.Y("score:Q", title="mean score"),
        shape=alt.Shape("kind:N", title=None, sort=None).scale(domain=kinds, range=shapes),
        tooltip=[
            alt.Tooltip("kind:N", title="method"),
            alt.Tooltip("pair:N"),
            alt.Tooltip("score:Q", format=".3f"),
            alt.Tooltip("low:Q", format=".3f", title="95 % from"),
            alt.Tooltip("high:Q", format=".3f", title="to"),
            alt.Tooltip("calls:Q", format=".3f", title="calls a token"),
        ],
    )
    return alt.layer(*intervals(base, values, y="low:Q", y2="high:Q"), points).properties(height=240)
