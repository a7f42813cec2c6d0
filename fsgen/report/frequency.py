"""Collaboration frequency over the sizes of draft and target: as lines, and as a table in shades with its levels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fsgen.analysis.frequency import SummaryRow
from fsgen.analysis.intervals import Estimate
from fsgen.analysis.labels import decimal, listed, method_label, names_by_size, short_name, task_label
from fsgen.analysis.pairs import measured, oracles
from fsgen.report.chart import (
    SYMBOLS,
    Axis,
    Chart,
    Data,
    Figure,
    Key,
    Layer,
    Row,
    Series,
    Shade,
    coloured,
    estimated,
    size,
)

LEVELS = {0.05: "line", 0.10: "dash", 0.20: "dots"}
"""The levels of 2406.12295, and how their lines look."""
_CELL = 44


def tasks_of(rows: Iterable[SummaryRow]) -> list[str]:
    """The tasks of some rows, in their order."""
    return list(dict.fromkeys(map(task_label, rows)))


# ---- lines


def by_draft(rows: Sequence[SummaryRow]) -> Figure | None:
    """For each task, the frequency by the draft's size, with intervals, a colour for each target."""
    chosen = measured(rows)
    if not chosen:
        return None
    table: list[Row] = [
        {
            "task": task_label(row),
            "method": method_label(row),
            "draft": short_name(row.draft),
            "parameters": row.draft_parameters,
            "target": short_name(row.target),
            **estimated("frequency", row.estimate("collaboration_frequency")),
            "texts": row.examples,
        }
        for row in chosen
    ]
    return Figure(
        name="frequency",
        title="By the size of the draft",
        finding=_by_size(oracles(rows)),
        note="Collaboration frequency with 95 % intervals over examples, in runs in which every position was compared. "
        "Lines join the drafts of one target.",
        data=Data.of(table),
        chart=_lines(chosen, table),
    )


def size_axis(known: bool = True) -> Axis:
    """The draft's size along x, or its name where not all sizes are known."""
    return Axis("parameters", "parameters of the draft", log=True, format="~s") if known else Axis("draft", "draft")


def _lines(chosen: Sequence[SummaryRow], table: Sequence[Row]) -> Chart:
    targets = names_by_size((row.target, row.target_parameters) for row in chosen)
    methods = sorted({method_label(row) for row in chosen}, key=lambda name: (not name.startswith("oracle"), name))
    symbols = list(SYMBOLS)
    series = (
        Series("target", coloured(targets)),
        Series("method", tuple(Key(name, mark=symbols[i % len(symbols)]) for i, name in enumerate(methods))),
    )
    return Chart(
        x=size_axis(all(row.draft_parameters for row in chosen)),
        y=Axis("frequency", "collaboration frequency", low=0, high=min(1.0, 1.05 * max(map(_reach, chosen)))),
        layers=(
            Layer("line", [row for row in table if str(row["method"]).startswith("oracle")], shown=()),
            Layer("point", table, size=60),
        ),
        series=series if len(methods) > 1 else series[:1],
    )


def _reach(row: SummaryRow) -> float:
    return row.ci_high or row.collaboration_frequency or 0.0


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
    table = [
        {
            "task": task_label(row),
            "draft": short_name(row.draft),
            "target": short_name(row.target),
            "parameters of the draft": row.draft_parameters,
            "of the target": row.target_parameters,
            "frequency": row.collaboration_frequency,
        }
        for row in chosen
    ]
    return Figure(
        name="frequency-sizes",
        title="Over the sizes of draft and target",
        finding=_reaching(chosen),
        note="Each cell is a pair, its number the collaboration frequency. The lines show where, in each row, the "
        "frequency falls to 5, 10 and 20 %, between two measured drafts and straight in the logarithm of their size. "
        "Where a row has no line, its smallest draft is below the level already, or its largest is still above it.",
        data=Data.of(table),
        chart=_Grid(chosen).chart(),
    )


def reached(rows: Sequence[SummaryRow], level: float) -> float | None:
    """The draft size, in parameters, from which on the frequency with one target stays below a level.

    Between two measured drafts the frequency is taken as straight in the logarithm of the size. Nothing is said beyond
    them: that a model would agree with another one of its own size was not measured.

    Args:
        rows: the pairs of one target on one task.
        level: a frequency.

    Returns:
        None where the smallest draft is below the level already; infinite where the largest one is not.
    """
    ladder = sorted((float(row.draft_parameters or 0), row.collaboration_frequency or 0.0) for row in rows)
    above = [i for i, (_, frequency) in enumerate(ladder) if frequency > level]
    if not above:
        return None
    if above[-1] == len(ladder) - 1:
        return math.inf
    (small, high), (large, low) = ladder[above[-1]], ladder[above[-1] + 1]
    share = (high - level) / (high - low)
    return math.exp(math.log(small) + share * (math.log(large) - math.log(small)))


def _reaching(rows: Sequence[SummaryRow]) -> str:
    """From which size on the drafts of each task's largest target stay below the levels."""
    ladders = {task: _of_largest(row for row in rows if task_label(row) == task) for task in tasks_of(rows)}
    return " ".join(_reached_on(task, ladder) for task, ladder in ladders.items() if ladder)


def _reached_on(task: str, ladder: Sequence[SummaryRow]) -> str:
    """The same for one task: of levels that every draft or none stays below, the one that says most."""
    found = {level: reached(ladder, level) for level in sorted(LEVELS, reverse=True)}
    every = [level for level, least in found.items() if least is None]
    never = [level for level, least in found.items() if least == math.inf]
    parts = [f"every draft differs at no more than {every[-1]:.0%} of the positions"] if every else []
    parts += [
        f"drafts of {size(least)} parameters or more differ at no more than {level:.0%}"
        for level, least in found.items()
        if least is not None and math.isfinite(least)
    ]
    parts += [f"no measured draft differs at {never[0]:.0%} or fewer"] if never else []
    whole = listed(parts)
    whole = whole if "positions" in whole else whole.replace("%", "% of the positions", 1)
    return f"On {task}, with the target {short_name(ladder[0].target)}, {whole}.".replace("%", " %")


class _Grid:
    """Drafts from left to right and targets upwards, by size: where each pair is, and each row reaches the levels."""

    def __init__(self, rows: Sequence[SummaryRow]) -> None:
        self._rows = rows
        sizes = {row.draft: row.draft_parameters or 0 for row in rows}
        sizes |= {row.target: row.target_parameters or 0 for row in rows}
        models = sorted(sizes, key=lambda name: (sizes[name], name or ""))
        self._sizes = [sizes[name] for name in models]
        self._place = {name: i for i, name in enumerate(models)}

    def chart(self) -> Chart:
        pairs = [self._cell(row, row.draft, row.estimate("collaboration_frequency")) for row in self._rows]
        numbers = [{**cell, "x": cell["x"] + 0.5, "y": cell["y"] + 0.5} for cell in pairs]
        first, end = min(self._place[row.target] for row in self._rows) - 0.5, len(self._sizes) - 0.5
        shown: dict[str, Any] = {
            "ticks": range(len(self._sizes)),
            "labels": list(map(size, self._sizes)),
            "grid": False,
        }
        return Chart(
            x=Axis("x", "parameters of the draft", low=-0.5, high=end, end="x2", **shown),
            y=Axis("y", "of the target", low=first, high=end, end="y2", **shown),
            layers=(
                Layer("cell", pairs, shown=("draft", "target", "frequency", "low", "high")),
                Layer("line", self._levels(), along="y", shown=()),
                Layer("text", numbers, text="frequency", shown=()),
            ),
            series=(Series("level", tuple(Key(f"{level:.0%}", mark=mark) for level, mark in LEVELS.items())),),
            shade=Shade("frequency"),
            height=round(_CELL * (end - first)) + 8,
        )

    def _cell(self, row: SummaryRow, draft: str | None, frequency: Estimate | None) -> Row:
        x, y = self._place[draft], self._place[row.target]
        names = {"task": task_label(row), "draft": short_name(draft), "target": short_name(row.target)}
        return {**names, **estimated("frequency", frequency), "x": x - 0.5, "x2": x + 0.5, "y": y - 0.5, "y2": y + 0.5}

    def _levels(self) -> list[Row]:
        """The ends of each level's line in each row of cells."""
        ladders: dict[tuple[str, str], list[SummaryRow]] = {}
        for row in self._rows:
            ladders.setdefault((task_label(row), row.target), []).append(row)
        logs = np.log(self._sizes)
        ends: list[Row] = []
        for (task, target), ladder in sorted(ladders.items(), key=lambda item: self._place[item[0][1]]):
            for level in LEVELS:
                if (draft := reached(ladder, level)) is not None and math.isfinite(draft):
                    at = {
                        "task": task,
                        "level": f"{level:.0%}",
                        "x": float(np.interp(math.log(draft), logs, range(len(logs)))),
                    }
                    ends += [at | {"y": self._place[target] + side} for side in (-0.5, 0.5)]
        return ends
