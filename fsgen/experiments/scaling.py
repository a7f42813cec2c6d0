"""`scaling`: the oracle's frequency over all pairs of a ladder; the laws compared, and what of it is size at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import polars as pl

from fsgen.analysis.answers import Answer, Point, Row, below
from fsgen.analysis.intervals import Estimate, Floats
from fsgen.analysis.labels import set_label, short_name
from fsgen.analysis.scaling import LAWS, Scaling, compare_laws, read_points
from fsgen.analysis.scaling.compare import smaller_drafts
from fsgen.analysis.scaling.controls import BOTH_WAYS, SHARE, controls, split
from fsgen.analysis.scaling.judging import Judged, by_size, judge, ladders
from fsgen.analysis.scaling.laws import CONSTANT, DRAFT_ONLY, RATIO
from fsgen.analysis.scaling.results import Parameter
from fsgen.analysis.trainings import over_trainings
from fsgen.experiments.base import Experiment, NoOptions
from fsgen.experiments.config import words
from fsgen.experiments.lab import Lab


def measure(lab: Lab, options: NoOptions) -> tuple[pl.DataFrame]:
    """The pairs of the study, as `read_points` gives them."""
    study = lab.study()
    return (read_points(lab.folder, runs=[row.run for row in study.rows]).frame,)


def estimate(points: pl.DataFrame) -> Answer:
    """The answer from the pairs, as `read_points` gives them.

    The rule: sizes predict a model that a law has not seen where a law that was chosen on other models errs less, for
    pairs of models that are left out of the fit, than one constant for all pairs. All errors are compared on the same
    pairs. Where no law in both sizes errs less than the draft's size alone, the answer says so.

    Raises:
        ValueError: no method and task has enough pairs for a fit, or no model can be left out.
    """
    forward = smaller_drafts(points)
    sets, judged = compare_laws(by_size(forward)), judge(forward)
    if len(judged.laws) < 2 or CONSTANT.name not in judged.laws:
        raise ValueError("there are too few models to hold one out and compare the laws by that")
    errors = {law: over_trainings(drawn) for law, drawn in judged.laws.items()}
    numbers = {f"held-out error of {law}": error for law, error in errors.items()}
    law = min((name for name in errors if name != CONSTANT.name), key=lambda name: errors[name].value)
    error = judged.laws[law] if judged.chosen is None else judged.chosen
    gain = over_trainings(error - judged.laws[CONSTANT.name])
    numbers |= {"held-out error of the chosen law": over_trainings(error), "the same, less that of a constant": gain}
    numbers |= {f"the same, less that of {name}": less for name, less in _beside(judged, error)}
    draft = numbers.get(f"the same, less that of {DRAFT_ONLY.name}")
    papers = numbers.get(f"the same, less that of {RATIO.name}")
    several, control = len(ladders(forward)), controls(points)
    swapped, share = (control.get(name) for name in (BOTH_WAYS, SHARE))
    return Answer.of(
        words("scaling"),
        holds=None if judged.chosen is None else below(gain, 0.0),
        numbers=numbers | control,
        charts={"ratios": by_ratio(forward.sort("target_parameters", "draft_parameters"), "target")},
        tables={"laws": _laws(sets), "variance": split(points)},
        law=law,
        choices=_counted(judged.choices),
        judged=judged.chosen is not None,
        error=over_trainings(error),
        gain=gain,
        draft=draft,
        both=None if draft is None or judged.chosen is None else below(draft, 0.0) is True,
        beside=papers is not None,
        papers=papers,
        swaps=swapped is not None,
        swapped=swapped,
        equals=share is not None,
        share=share,
        trainings=several,
        several=several > 1,
        explained=", ".join(f"{one.task} {r2:.3f}" for one in sets if (r2 := one[law].r2) is not None),
    )


def _beside(judged: Judged, error: Floats) -> Iterator[tuple[str, Estimate]]:
    """The error less that of the draft's size alone and of the paper's law, on the same pairs."""
    for name in (DRAFT_ONLY.name, RATIO.name):
        if name in judged.laws:
            yield name, over_trainings(error - judged.laws[name])


def _counted(choices: Iterable[str]) -> str:
    found = Counter(choices)
    return ", ".join(f"{law} ({count} of {found.total()})" for law, count in found.most_common())


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
