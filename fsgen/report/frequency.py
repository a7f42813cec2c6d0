"""Collaboration frequency over the sizes of draft and target: as lines, and as a table in shades with its levels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt
import numpy as np

from fsgen.analysis.frequency import SummaryRow
from fsgen.analysis.labels import decimal, method_label, short_name, task_label
from fsgen.report.figure import COLOURS, MISMATCH, Data, Figure, Key, intervals, listed, size

SHAPES = {"circle": "●", "square": "■", "diamond": "◆", "triangle-up": "▲", "cross": "✚", "triangle-down": "▼"}
LEVELS = {0.05: [1, 0], 0.10: [6, 3], 0.20: [2, 2]}
"""The levels of 2406.12295, and the dashes of their lines."""
_CELL = 44


def measured(rows: Iterable[SummaryRow]) -> list[SummaryRow]:
    """Runs whose frequency is over all positions: a router that skips some shows those that it chose."""
    return [row for row in rows if row.collaboration_frequency is not None and row.router == "always"]


def oracles(rows: Iterable[SummaryRow]) -> list[SummaryRow]:
    """Of these the greedy ones of the target alone: the measurement that the laws and profiles are of."""
    return [row for row in measured(rows) if row.sampling == "greedy" and row.method.startswith("oracle")]


def tasks_of(rows: Iterable[SummaryRow]) -> list[str]:
    """The tasks of some rows, in their order."""
    return list(dict.fromkeys(map(task_label, rows)))


# ---- lines


def by_draft(rows: Sequence[SummaryRow]) -> Figure | None:
    """For each task, the frequency by the draft's size, with intervals, a colour for each target."""
    chosen = measured(rows)
    if not chosen:
        return None
    targets = [name for _, name in sorted({(row.target_parameters or 0, short_name(row.target)) for row in chosen})]
    methods = sorted({method_label(row) for row in chosen}, key=lambda name: (not name.startswith("oracle"), name))
    top = min(1.0, 1.05 * max(row.ci_high or row.collaboration_frequency or 0.0 for row in chosen))
    panels = {
        task: _lines([row for row in chosen if task_label(row) == task], targets, methods, top)
        for task in tasks_of(chosen)
    }
    legend = [Key(name, COLOURS[i % len(COLOURS)]) for i, name in enumerate(targets)]
    if len(methods) > 1:
        symbols = list(SHAPES.values())
        legend += [Key(name, mark=symbols[i % len(symbols)]) for i, name in enumerate(methods)]
    return Figure(
        name="frequency",
        title="By the size of the draft",
        finding=_by_size(oracles(rows)),
        note="Collaboration frequency with 95 % intervals over examples, in runs in which every position was compared. "
        "Lines join the drafts of one target.",
        panels=panels,
        legend=tuple(legend),
        data=Data(
            ("task", "method", "draft", "parameters", "target", "frequency", "95 % from", "to", "texts"),
            tuple(
                (
                    task_label(row),
                    method_label(row),
                    short_name(row.draft),
                    row.draft_parameters,
                    short_name(row.target),
                    row.collaboration_frequency,
                    row.ci_low,
                    row.ci_high,
                    row.examples,
                )
                for row in chosen
            ),
        ),
    )


def _lines(rows: Sequence[SummaryRow], targets: list[str], methods: list[str], top: float) -> alt.LayerChart:
    sized = all(row.draft_parameters for row in rows)
    values: list[dict[str, Any]] = [
        {
            "draft": short_name(row.draft),
            "target": short_name(row.target),
            "method": method_label(row),
            "parameters": row.draft_parameters,
            "frequency": row.collaboration_frequency,
            "low": row.ci_low,
            "high": row.ci_high,
        }
        for row in rows
    ]
    x = alt.X("draft:N", title="draft", sort=None)
    if sized:
        axis = alt.Axis(format="~s", tickCount=4, grid=False)
        x = alt.X("parameters:Q", title="parameters of the draft", axis=axis)
        x = x.scale(type="log", nice=False, padding=12)
    colour = alt.Color("target:N", title="target", sort=None).scale(domain=targets, range=list(COLOURS))
    base = alt.Chart(alt.Data(values=values)).encode(x=x, color=colour)
    shape = alt.Shape("method:N", title="method", sort=None).scale(domain=methods, range=list(SHAPES))
    y = alt.Y("frequency:Q", title="collaboration frequency").scale(domain=[0, top])
    tooltip = [
        alt.Tooltip("draft:N"),
        alt.Tooltip("target:N"),
        alt.Tooltip("method:N"),
        alt.Tooltip("frequency:Q", format=".3f"),
        alt.Tooltip("low:Q", format=".3f", title="95 % from"),
        alt.Tooltip("high:Q", format=".3f", title="to"),
    ]
    lines = (
        base.mark_line(strokeWidth=1.5)
        .encode(y=y, detail="method:N")
        .transform_filter("indexof(datum.method, 'oracle') == 0")
    )
    points = base.mark_point(filled=True, size=60, opacity=1).encode(y=y, shape=shape, tooltip=tooltip)
    return alt.layer(*intervals(base, values, y="low:Q", y2="high:Q"), lines, points).properties(height=240)


def _by_size(rows: Sequence[SummaryRow]) -> str:
    """How the frequency goes with the draft's size, for the largest target of each task."""
    parts = []
    for task in tasks_of(rows):
        ladder = _of_largest(row for row in rows if task_label(row) == task)
        if len(ladder) > 1:
            first, last = ladder[0], ladder[-1]
            parts.append(
                f"from {decimal(first.collaboration_frequency, 2)} with {short_name(first.draft)} to "
                f"{decimal(last.collaboration_frequency, 2)} with {short_name(last.draft)} on {task}"
            )
    return f"By the size of the draft, the frequency goes {'; '.join(parts)}." if parts else ""


def _of_largest(rows: Iterable[SummaryRow]) -> list[SummaryRow]:
    """The rows of the largest target, by the draft's size."""
    sized = [row for row in rows if row.draft_parameters and row.target_parameters]
    largest = max((row.target_parameters or 0 for row in sized), default=0)
    chosen = [row for row in sized if row.target_parameters == largest]
    return sorted(chosen, key=lambda row: row.draft_parameters or 0)


# ---- shades


def by_sizes(rows: Sequence[SummaryRow]) -> Figure | None:
    """For each task, the frequency of each pair, with the draft sizes at which it reaches the levels."""
    chosen = [row for row in oracles(rows) if row.draft_parameters and row.target_parameters]
    if len(chosen) < 2:
        return None
    tasks = tasks_of(chosen)
    panels = {task: _shades([row for row in chosen if task_label(row) == task]) for task in tasks}
    legend = (
        Key("0 to 1", MISMATCH, "ramp"),
        *(Key(f"{level:.0%}", mark=mark) for level, mark in zip(LEVELS, ("line", "dash", "dots"), strict=True)),
    )
    return Figure(
        name="frequency-sizes",
        title="Over the sizes of draft and target",
        finding=_reaching(chosen),
        note="Each cell is a pair, its number the collaboration frequency, which is 0 where a model drafts for "
        "itself. The lines stand where, in each row, the frequency falls to 5, 10 and 20 %, read off linearly in the "
        "logarithm of the draft's size between neighbours; where a row has no line, its smallest draft is below the "
        "level already.",
        panels=panels,
        legend=legend,
        data=Data(
            ("task", "draft", "target", "parameters of the draft", "of the target", "frequency"),
            tuple(
                (
                    task_label(row),
                    short_name(row.draft),
                    short_name(row.target),
                    row.draft_parameters,
                    row.target_parameters,
                    row.collaboration_frequency,
                )
                for row in chosen
            ),
        ),
    )


def reached(rows: Sequence[SummaryRow], level: float) -> float | None:
    """The draft size, in parameters, from which on the frequency with one target stays below a level.

    Between two sizes the frequency is taken as straight in the logarithm of the size; at the target's own size it is 0.

    Args:
        rows: the pairs of one target on one task.
        level: a frequency.

    Returns:
        None where the smallest draft is below the level already.
    """
    ladder = sorted((float(row.draft_parameters or 0), row.collaboration_frequency or 0.0) for row in rows)
    ladder.append((float(rows[0].target_parameters or 0), 0.0))
    above = [i for i, (_, frequency) in enumerate(ladder) if frequency > level]
    if not above:
        return None
    (small, high), (large, low) = ladder[above[-1]], ladder[above[-1] + 1]
    share = (high - level) / (high - low)
    return math.exp(math.log(small) + share * (math.log(large) - math.log(small)))


def _reaching(rows: Sequence[SummaryRow]) -> str:
    """At which sizes the drafts of each task's largest target reach the levels."""
    levels = sorted(LEVELS, reverse=True)
    parts = []
    for task in tasks_of(rows):
        ladder = _of_largest(row for row in rows if task_label(row) == task)
        sizes = [reached(ladder, level) for level in levels]
        if any(sizes):
            shown = ", ".join("less than any measured" if each is None else size(each) for each in sizes)
            parts.append(f"{shown} parameters on {task} (target {short_name(ladder[0].target)})")
    if not parts:
        return "Every draft differs at less than 5 % of the positions."
    shown = listed([f"{100 * level:.0f}" for level in levels])
    return f"To differ at no more than {shown} % of the positions a draft needs about {'; '.join(parts)}."


def _shades(rows: Sequence[SummaryRow]) -> alt.LayerChart:
    sizes = {row.draft: row.draft_parameters or 0 for row in rows} | {
        row.target: row.target_parameters or 0 for row in rows
    }
    models = sorted(sizes, key=lambda name: (sizes[name], name or ""))
    place = {name: i for i, name in enumerate(models)}
    cells: list[dict[str, Any]] = [
        {
            "x": place[row.draft] - 0.5,
            "x2": place[row.draft] + 0.5,
            "y": place[row.target] - 0.5,
            "y2": place[row.target] + 0.5,
            "draft": short_name(row.draft),
            "target": short_name(row.target),
            "frequency": row.collaboration_frequency,
            "low": row.ci_low,
            "high": row.ci_high,
        }
        for row in rows
    ]
    targets = [name for name in models if any(row.target == name for row in rows)]
    # Where a model drafts for itself, the two never differ.
    cells += [
        {
            "x": place[name] - 0.5,
            "x2": place[name] + 0.5,
            "y": place[name] - 0.5,
            "y2": place[name] + 0.5,
            "draft": short_name(name),
            "target": short_name(name),
            "frequency": 0.0,
        }
        for name in targets
    ]
    names = "[" + ", ".join(f"'{size(sizes[name])}'" for name in models) + "]"

    def axis(first: int) -> alt.Axis:
        return alt.Axis(
            values=list(range(first, len(models))), labelExpr=f"{names}[datum.value]", grid=False, ticks=False
        )

    base = alt.Chart(alt.Data(values=cells))
    x = alt.X("x:Q", title="parameters of the draft", axis=axis(0)).scale(domain=[-0.5, len(models) - 0.5], nice=False)
    y = alt.Y("y:Q", title="of the target", axis=axis(0)).scale(
        domain=[min(place[name] for name in targets) - 0.5, len(models) - 0.5], nice=False, zero=False
    )
    opacity = alt.FillOpacity("frequency:Q", legend=None).scale(domain=[0, 1], range=[0.03, 0.75])
    shades = base.mark_rect(fill=MISMATCH, stroke=None).encode(
        x=x,
        x2="x2:Q",
        y=y,
        y2="y2:Q",
        fillOpacity=opacity,
        tooltip=[
            alt.Tooltip("draft:N"),
            alt.Tooltip("target:N"),
            alt.Tooltip("frequency:Q", format=".3f"),
            alt.Tooltip("low:Q", format=".3f", title="95 % from"),
            alt.Tooltip("high:Q", format=".3f", title="to"),
        ],
    )
    lines: list[alt.Chart] = []
    logs = np.log([float(sizes[name]) for name in models])
    for level, dash in LEVELS.items():
        line = []
        for name in targets:
            at_level = reached([row for row in rows if row.target == name], level)
            if at_level is not None:
                at = float(np.interp(math.log(at_level), logs, range(len(models))))
                line += [{"x": at, "y": place[name] + side, "level": f"{level:.0%}"} for side in (-0.5, 0.5)]
        if line:
            lines.append(
                alt.Chart(alt.Data(values=line))
                .mark_line(strokeWidth=1.5, strokeDash=dash, style="level")
                .encode(x="x:Q", y="y:Q", order="y:Q", tooltip="level:N")
            )
    written = (
        base.transform_filter("datum.draft != datum.target")
        .transform_calculate(middle="datum.x + 0.5", centre="datum.y + 0.5")
        .encode(x="middle:Q", y="centre:Q", text=alt.Text("frequency:Q", format=".2f"))
    )
    # The lines end around the numbers.
    numbers = [written.mark_text(fontSize=11, strokeWidth=3, style="halo"), written.mark_text(fontSize=11)]
    return alt.layer(shades, *lines, *numbers).properties(height=_CELL * len(targets) + 8)
