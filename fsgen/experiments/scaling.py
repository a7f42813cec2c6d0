"""`scaling`: the oracle's frequency over all pairs of a ladder, the laws compared, and left-out models predicted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from fsgen.analysis.answers import Answer, Point, Row, below
from fsgen.analysis.intervals import Estimate, of_draws
from fsgen.analysis.labels import set_label, short_name
from fsgen.analysis.scaling import LAWS, Scaling, compare_laws, read_points
from fsgen.analysis.scaling.compare import held_out
from fsgen.analysis.scaling.laws import CONSTANT, RATIO
from fsgen.analysis.scaling.results import Parameter
from fsgen.experiments.base import Experiment, NoOptions
from fsgen.experiments.config import words
from fsgen.experiments.lab import Lab


def measure(lab: Lab, options: NoOptions) -> tuple[pl.DataFrame]:
    """The pairs of the study, as `read_points` gives them."""
    study = lab.study()
    return (read_points(lab.folder, runs=[row.run for row in study.rows]).frame,)


def estimate(points: pl.DataFrame) -> Answer:
    """The answer from the pairs, as `read_points` gives them.

    Raises:
        ValueError: no method and task has enough pairs for a fit.
    """
    sets = compare_laws(points)
    errors = {law: [held_out(one, law) for one in sets] for law in LAWS}
    known = {law: np.mean(found, axis=0) for law, found in errors.items() if all(len(one) for one in found)}
    if len(known) < 2:
        raise ValueError("there are too few models to hold one out and compare the laws by that")
    best = min((law for law in known if law != CONSTANT.name), key=lambda law: float(known[law][0]))
    numbers = {f"held-out error of {law}": of_draws(drawn) for law, drawn in known.items()}
    gain = numbers["best over constant"] = of_draws(known[best] / known[CONSTANT.name])
    beside = best != RATIO.name and RATIO.name in known
    if beside:
        numbers["paper's law over best"] = of_draws(known[RATIO.name] / known[best])
    return Answer.of(
        words("scaling"),
        holds=below(gain, 1.0),
        numbers=numbers,
        charts={"ratios": by_ratio(points.sort("target_parameters", "draft_parameters"), "target")},
        tables={"laws": _laws(sets)},
        law=best,
        error=numbers[f"held-out error of {best}"],
        gain=gain,
        beside=beside,
        ratio=numbers.get("paper's law over best"),
        explained=", ".join(f"{one.task} {r2:.3f}" for one in sets if (r2 := one[best].r2) is not None),
    )


def by_ratio(points: pl.DataFrame, series: str) -> Iterator[Point]:
    """The frequency by the ratio of the sizes, of pairs as `read_points` gives them; a column names the series."""
    several = points["method"].n_unique() > 1
    for row in points.iter_rows(named=True):
        ratio = row["target_parameters"] / row["draft_parameters"]
        panel = set_label(row["task"], row["method"], several)
        yield Point(ratio, row["collaboration_frequency"], series=short_name(row[series]), panel=panel)


def _laws(sets: list[Scaling]) -> Iterator[Row]:
    def shown(it: Parameter) -> str:
        return "not identified" if it.value is None or it.why_not else str(Estimate(it.value, it.low, it.high))

    for one in sets:
        for law in one.laws:
            yield {
                "task": one.task,
                "method": one.method,
                "law": law.law,
                "formula": LAWS[law.law].formula,
                "parameters": "; ".join(f"{name} {shown(it)}" for name, it in law.parameters.items()),
                "R²": law.r2,
                "AICc": law.aicc,
                "held-out error": law.leave_one_model_out_rmse,
            }


EXPERIMENT = Experiment(NoOptions, measure, estimate)
