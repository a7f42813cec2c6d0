"""The scaling laws against the measured pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from fsgen.analysis.frequency import SummaryRow
from fsgen.analysis.intervals import Estimate
from fsgen.analysis.labels import listed, method_label, names_by_size, set_label, short_name, task_label
from fsgen.analysis.pairs import measured
from fsgen.analysis.scaling import LAWS, Parameter, Scaling, findings
from fsgen.report.chart import Axis, Chart, Data, Figure, Key, Layer, Row, Series, coloured, estimated
from fsgen.report.frequency import size_axis

PAPER = "ratio-power-law"
_BEST, _PAPERS = "the best law", f"{PAPER}, the paper's"
_STEPS = 40
_Pair: TypeAlias = tuple[str, str, str, str | None]


def laws(sets: Sequence[Scaling], rows: Sequence[SummaryRow]) -> Figure | None:
    """For each method and task: the pairs, the best law, and the paper's.

    Args:
        sets: the comparisons.
        rows: the runs of these pairs, where they are known, for their intervals.
    """
    if not sets:
        return None
    several = len({one.method for one in sets}) > 1
    named = {set_label(one.task, one.method, several): one for one in sets}
    table = [
        {
            "set": name,
            "law": law.law,
            "formula": LAWS[law.law].formula,
            "best": "yes" if law.law == one.best else "",
            "R²": law.r2,
            "AICc": law.aicc,
            "held-out error": law.leave_one_model_out_rmse,
            "parameters, with 95 % intervals": "; ".join(map(_worded, law.parameters.items())),
        }
        for name, one in named.items()
        for law in one.laws
    ]
    return Figure(
        name="scaling",
        title="The laws against the measured pairs",
        finding=_finding(named),
        note="Points are pairs with 95 % intervals over examples; lines are what a law fitted to all pairs of a "
        "panel gives for each target. The best law has the least error when each model in turn is left out of the fit "
        "and its pairs are predicted. S and L are the parameters of draft and target in billions, R = L / S.",
        remarks=tuple(f"{name}: {sentence}" for name, one in named.items() for sentence in findings(one)),
        data=Data.of(table),
        chart=_chart(named, rows),
    )


def _chart(named: dict[str, Scaling], rows: Sequence[SummaryRow]) -> Chart:
    runs = {(method_label(row), task_label(row), row.target, row.draft): row for row in measured(rows)}
    targets = (model for one in named.values() for model in one.pairs.select("target", "target_parameters").rows())
    best, papers = ([row for name in named for row in _curves(name, named[name], law)] for law in (_BEST, _PAPERS))
    return Chart(
        x=size_axis(),
        y=Axis("frequency", "collaboration frequency", low=0),
        layers=(
            Layer("line", best, shown=()),
            Layer("line", papers, opacity=0.6, shown=()),
            Layer("point", [row for name, one in named.items() for row in _points(name, one, runs)]),
        ),
        series=(
            Series("target", coloured(names_by_size(targets))),
            Series("law", (Key(_BEST, mark="line"), Key(_PAPERS, mark="dash"))),
        ),
        facets=("set",),
    )


def _points(name: str, one: Scaling, runs: dict[_Pair, SummaryRow]) -> list[Row]:
    points: list[Row] = []
    for pair in one.pairs.iter_rows(named=True):
        run = runs.get((one.method, one.task, pair["target"], pair["draft"]))
        ends = (run.ci_low, run.ci_high) if run else ()
        points.append(
            {
                "set": name,
                "draft": short_name(pair["draft"]),
                "target": short_name(pair["target"]),
                "parameters": pair["draft_parameters"],
                **estimated("frequency", Estimate(pair["collaboration_frequency"], *ends)),
            }
        )
    return points


def _curves(name: str, one: Scaling, which: str) -> list[Row]:
    """What the best law or the paper's gives for each target, over the drafts that were measured.

    Not up to its own size: two different models of one size differ, and some laws say that they do not.
    """
    if which == _PAPERS and one.best == PAPER:
        return []
    law, drafts = one[one.best if which == _BEST else PAPER], one.pairs["draft_parameters"].to_numpy()
    return [
        {
            "set": name,
            "target": short_name(target),
            "law": which,
            "parameters": draft,
            "frequency": law.frequency(size, draft),
        }
        for target, size in one.pairs.select("target", "target_parameters").unique(maintain_order=True).rows()
        for draft in np.geomspace(drafts.min(), drafts[drafts < size].max(), _STEPS).tolist()
    ]


def _worded(named: tuple[str, Parameter]) -> str:
    name, parameter = named
    return f"{name} {parameter}" + (f" (not identified: {parameter.why_not})" if parameter.why_not else "")


def _finding(named: dict[str, Scaling]) -> str:
    """Which law is the best where, and how the paper's does."""
    where: dict[str, list[str]] = {}
    lost: dict[str, list[str]] = {}
    best: dict[str, list[str]] = {}
    others = []
    for name, one in named.items():
        error, papers = one[one.best].leave_one_model_out_rmse, one[PAPER].leave_one_model_out_rmse
        where.setdefault(one.best, []).append(name if error is None else f"{name} (error {error:.3f})")
        if one.best != PAPER and papers is not None:
            others.append(f"{papers:.3f} on {name}")
        for law, unclear in ((PAPER, lost), (one.best, best)):
            if keys := one[law].not_identified:
                unclear.setdefault(listed(keys), []).append(name)
    parts = [f"{law} on {listed(places)}" for law, places in where.items()]
    said = f"{_unclear(best, 'the best law')}Of {len(LAWS)} laws the pairs of a held-out model are predicted best by "
    said += f"{listed(parts)}."
    papers_law = f"the paper's {PAPER}"
    if others:
        said += f" {_unclear(lost, papers_law)}The error of {papers_law} is {listed(others)}."
    return said


def _unclear(lost: dict[str, list[str]], law: str) -> str:
    """Which parameters are not identified: what is said of a law begins with it."""
    parts = [f"{keys} on {listed(places)}" for keys, places in lost.items()]
    return f"Not identified in {law}: {'; '.join(parts)}. " if parts else ""
