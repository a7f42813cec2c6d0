"""`scaling`: the oracle's frequency over all pairs of a ladder, the laws compared, and held-out models foretold."""

from __future__ import annotations

import numpy as np
import polars as pl

from fsgen.analysis.answers import Answer, Chart, Point, Table
from fsgen.analysis.intervals import Estimate, Floats, percentiles
from fsgen.analysis.labels import set_label, short_name
from fsgen.analysis.scaling import LAWS, Scaling, compare_laws, read_points
from fsgen.analysis.scaling.bootstrap import Texts
from fsgen.analysis.scaling.compare import held_out_errors
from fsgen.analysis.scaling.laws import CONSTANT, RATIO
from fsgen.analysis.scaling.results import as_sizes
from fsgen.experiments.base import Experiment, NoOptions
from fsgen.experiments.lab import Lab

_RESAMPLES = 200  # each fits every law without every model


def run(lab: Lab, options: NoOptions) -> Answer:
    """Measure all pairs of the study, and compare the laws."""
    study = lab.study()
    return conclude(read_points(lab.folder, runs=[row.run for row in study.rows]).frame)


def conclude(points: pl.DataFrame) -> Answer:
    """The answer from the pairs, as `read_points` gives them.

    Raises:
        ValueError: no method and task has enough pairs for a fit.
    """
    sets = compare_laws(points)
    errors = {law: [_held_out(one, law) for one in sets] for law in LAWS}
    known = {law: np.mean(found, axis=0) for law, found in errors.items() if all(len(one) for one in found)}
    if len(known) < 2:
        raise ValueError("there are too few models to hold one out and compare the laws by that")
    best = min((law for law in known if law != CONSTANT.name), key=lambda law: float(known[law][0]))
    numbers = {f"held-out error of {law}": _estimate(drawn) for law, drawn in known.items()}
    gain = _estimate(known[best] / known[CONSTANT.name])
    numbers["best over constant"] = gain
    worse = gain.above(1.0)
    holds = None if worse is None else not worse
    beside = ""
    if best != RATIO.name and RATIO.name in known:
        ratio = numbers["paper's law over best"] = _estimate(known[RATIO.name] / known[best])
        beside = f"; the paper's {RATIO.name} errs {ratio} times as much"
    explained = [f"{one.task} {r2:.3f}" for one in sets if (r2 := one[best].r2) is not None]
    verb = {True: "foretells", False: "does not foretell", None: "may or may not foretell"}[holds]
    error = numbers[f"held-out error of {best}"]
    return Answer(
        statement=f"{best} {verb} the pairs of a model left out of the fit: its error is {error}, {gain} of that of "
        f"one constant for all pairs{beside}. R² of it: {', '.join(explained)}.",
        holds=holds,
        overturn="Models between or beyond these sizes whose frequencies the law misses by more than a constant does; "
        "a ladder of another recipe or family for which another law errs less; a target so large that its gain over "
        "the next one ends.",
        numbers=numbers,
        charts=(_chart(points),),
        tables=(_table(sets),),
        remarks=(
            "Sizes count all parameters. The intervals draw the examples anew, the same for all pairs, and fit every "
            "law again; they do not contain what other trainings of the same sizes would give.",
        ),
    )


def _held_out(one: Scaling, law: str) -> Floats:
    """The held-out error of a law on one set: of what was measured, then of each resample of the examples."""
    pairs = one.pairs
    measured = pairs["collaboration_frequency"].to_numpy().astype(float)[None]
    if pairs["part"].null_count() == pairs["whole"].null_count() == 0:
        texts = Texts(np.array(pairs["part"].to_list()), np.array(pairs["whole"].to_list()))
        measured = np.concatenate([measured, measured + texts.deviations(_RESAMPLES, seed=0)])
    sizes = as_sizes(pairs["draft_parameters"].to_list(), pairs["target_parameters"].to_list())
    found = held_out_errors(LAWS[law], sizes, measured, pairs["target"].to_list(), pairs["draft"].to_list())
    return np.empty(0) if found is None else found


def _estimate(drawn: Floats) -> Estimate:
    """The first value is what was measured, the others are resamples."""
    return Estimate(float(drawn[0]), *(percentiles(drawn[1:]) if len(drawn) > 1 else (None, None)))


def _chart(points: pl.DataFrame) -> Chart:
    rows = points.sort("target_parameters", "draft_parameters").iter_rows(named=True)
    several = points["method"].n_unique() > 1
    return Chart(
        name="ratios",
        title="Frequency by the ratio of the sizes",
        finding="If the ratio alone decided, the points of all targets would lie on one line.",
        note="A point is a pair; each line has one target.",
        x="parameters of the target / of the draft",
        y="collaboration frequency",
        log_x=True,
        series="target",
        points=tuple(
            Point(
                x=row["target_parameters"] / row["draft_parameters"],
                y=row["collaboration_frequency"],
                series=short_name(row["target"]),
                panel=set_label(row["task"], row["method"], several),
            )
            for row in rows
        ),
    )


def _table(sets: list[Scaling]) -> Table:
    return Table(
        name="laws",
        title="The laws on each task",
        note="S and L are the parameters of draft and target in billions, R = L / S.",
        columns=("task", "method", "law", "formula", "parameters", "R²", "AICc", "held-out error"),
        rows=tuple(
            (
                one.task,
                one.method,
                law.law,
                LAWS[law.law].formula,
                "; ".join(
                    f"{name} "
                    + ("not identified" if it.value is None or it.why_not else f"{Estimate(it.value, it.low, it.high)}")
                    for name, it in law.parameters.items()
                ),
                law.r2,
                law.aicc,
                law.leave_one_model_out_rmse,
            )
            for one in sets
            for law in one.laws
        ),
    )


EXPERIMENT = Experiment(NoOptions, run)
