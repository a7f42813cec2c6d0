"""The scaling laws against the measured pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from fsgen.analysis.frequency import SummaryRow
from fsgen.analysis.labels import method_label, set_label, short_name, task_label
from fsgen.analysis.scaling import LAWS, Parameter, Scaling, findings
from fsgen.report.figure import COLOURS, Data, Figure, Key, intervals, listed
from fsgen.report.frequency import measured

PAPER = "ratio-power-law"
_STEPS = 40


def laws(sets: Sequence[Scaling], rows: Sequence[SummaryRow]) -> Figure | None:
    """For each method and task: the pairs, the law that was chosen, and the paper's.

    Args:
        sets: the comparisons.
        rows: the runs of these pairs, where they are known, for their intervals.
    """
    if not sets:
        return None
    chosen = {(method_label(row), task_label(row), row.target, row.draft): row for row in measured(rows)}
    targets = list(
        dict.fromkeys(
            name
            for _, name in sorted(
                {(size, name) for one in sets for size, name in one.pairs.select("target_parameters", "target").rows()}
            )
        )
    )
    shown = [short_name(name) for name in targets]
    several = len({one.method for one in sets}) > 1
    names = [set_label(one.task, one.method, several) for one in sets]
    panels = {name: _panel(one, chosen, targets, shown) for name, one in zip(names, sets, strict=True)}
    legend = [Key(name, COLOURS[i % len(COLOURS)]) for i, name in enumerate(shown)]
    legend += [Key("the law that was chosen", mark="line"), Key(f"{PAPER}, the paper's", mark="dash")]
    return Figure(
        name="scaling",
        title="The laws against the measured pairs",
        finding=_finding(names, sets),
        note="Points are pairs with 95 % intervals over examples; lines are what a law fitted to all pairs of a "
        "panel gives for each target. The law with the least error is chosen, when each model in turn is left out of "
        "the fit and its pairs are foretold. S and L are the parameters of draft and target in billions, R = L / S.",
        panels=panels,
        legend=tuple(legend),
        remarks=tuple(
            f"{name}: {sentence}" for name, one in zip(names, sets, strict=True) for sentence in findings(one)
        ),
        data=Data(
            ("set", "law", "formula", "chosen", "R²", "AICc", "held-out error", "parameters, with 95 % intervals"),
            tuple(
                (
                    name,
                    law.law,
                    LAWS[law.law].formula,
                    "yes" if law.law == one.best else "",
                    law.r2,
                    law.aicc,
                    law.leave_one_model_out_rmse,
                    "; ".join(f"{key} {_shown(parameter)}" for key, parameter in law.parameters.items()),
                )
                for name, one in zip(names, sets, strict=True)
                for law in one.laws
            ),
        ),
    )


def _panel(
    one: Scaling, rows: dict[tuple[str, str, Any, Any], SummaryRow], targets: list[str], shown: list[str]
) -> alt.LayerChart:
    points: list[dict[str, Any]] = []
    for pair in one.pairs.iter_rows(named=True):
        row = rows.get((one.method, one.task, pair["target"], pair["draft"]))
        points.append(
            {
                "draft": short_name(pair["draft"]),
                "target": short_name(pair["target"]),
                "parameters": pair["draft_parameters"],
                "frequency": pair["collaboration_frequency"],
                "low": row and row.ci_low,
                "high": row and row.ci_high,
            }
        )
    curves: list[dict[str, Any]] = []
    smallest = float(one.pairs["draft_parameters"].min())  # type: ignore[arg-type]  # a column of floats
    largest = float(one.pairs["draft_parameters"].max())  # type: ignore[arg-type]
    for target in targets:
        of_target = one.pairs.filter(one.pairs["target"] == target)
        if of_target.is_empty():
            continue
        size = float(of_target["target_parameters"][0])
        for law, kind in ((one.best, "chosen"), (PAPER, "paper")):
            if kind == "chosen" or law != one.best:
                curves += [
                    {
                        "target": short_name(target),
                        "kind": kind,
                        "parameters": draft,
                        "frequency": one[law].frequency(size, draft),
                    }
                    for draft in np.geomspace(smallest, min(size, largest), _STEPS).tolist()
                ]
    axis = alt.Axis(format="~s", tickCount=4, grid=False)
    x = alt.X("parameters:Q", title="parameters of the draft", axis=axis).scale(type="log", nice=False, padding=12)
    y = alt.Y("frequency:Q", title="collaboration frequency")
    colour = alt.Color("target:N", title="target", sort=None).scale(domain=shown, range=list(COLOURS))
    lines = (
        alt.Chart(alt.Data(values=curves))
        .mark_line(strokeWidth=1.5, clip=True)
        .encode(
            x=x,
            y=y,
            color=colour,
            strokeDash=alt.StrokeDash("kind:N", title="law").scale(domain=["chosen", "paper"], range=[[1, 0], [4, 3]]),
            opacity=alt.condition("datum.kind == 'chosen'", alt.value(1.0), alt.value(0.6)),
        )
    )
    base = alt.Chart(alt.Data(values=points)).encode(x=x, color=colour)
    tooltip = [
        alt.Tooltip("draft:N"),
        alt.Tooltip("target:N"),
        alt.Tooltip("frequency:Q", format=".3f"),
        alt.Tooltip("low:Q", format=".3f", title="95 % from"),
        alt.Tooltip("high:Q", format=".3f", title="to"),
    ]
    marks = base.mark_point(filled=True, size=50, opacity=1).encode(y=y, tooltip=tooltip)
    return alt.layer(lines, *intervals(base, points, y="low:Q", y2="high:Q"), marks).properties(height=240)


def _finding(names: list[str], sets: Sequence[Scaling]) -> str:
    """Which law was chosen where, and how the paper's does."""
    where: dict[str, list[str]] = {}
    for name, one in zip(names, sets, strict=True):
        error = one[one.best].leave_one_model_out_rmse
        where.setdefault(one.best, []).append(f"{name}" + (f" (error {error:.3f})" if error is not None else ""))
    parts = [f"{law} on {listed(places)}" for law, places in where.items()]
    said = f"Of {len(LAWS)} laws the pairs of a held-out model are foretold best by {listed(parts)}."
    others = [
        f"{error:.3f} on {name}"
        for name, one in zip(names, sets, strict=True)
        if one.best != PAPER and (error := one[PAPER].leave_one_model_out_rmse) is not None
    ]
    if others:
        said += f" The error of the paper's {PAPER} is {listed(others)}."
    lost: dict[str, list[str]] = {}
    for name, one in zip(names, sets, strict=True):
        keys = [key for key, parameter in one[PAPER].parameters.items() if not parameter.identified]
        if keys:
            lost.setdefault(listed(keys), []).append(name)
    if lost:
        parts = [f"{keys} on {listed(places)}" for keys, places in lost.items()]
        said += f" Not identified in it: {'; '.join(parts)}."
    return said


def _shown(parameter: Parameter) -> str:
    if parameter.value is None:
        return "not determined"
    low = "-∞" if parameter.low is None else f"{parameter.low:.3g}"
    high = "∞" if parameter.high is None else f"{parameter.high:.3g}"
    why = f" (not identified: {parameter.why_not})" if parameter.why_not else ""
    return f"{parameter.value:.3g} [{low}, {high}]{why}"
