"""`prediction`: the frequency of a pair from what each model says alone, for models and tasks left out of the fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fsgen.analysis.answers import Answer, Point, Row, below
from fsgen.analysis.intervals import RESAMPLES, Estimate, Floats, resampled
from fsgen.analysis.labels import short_name
from fsgen.analysis.prediction import (
    FEATURES,
    SIZES,
    PairTexts,
    Predict,
    Predictor,
    fit,
    held_out,
    read_pairs,
    shipped,
)
from fsgen.experiments.base import Experiment, NoOptions
from fsgen.experiments.cells import oracle_cells
from fsgen.experiments.config import words
from fsgen.experiments.lab import Lab

OWN, BY_SIZE, CONSTANT, ELSEWHERE = "own texts", "sizes alone", "one constant", "the same pair on other tasks"
OF_TASK = "sizes, fitted to the task"
LEFT_OUT = {"task": "a task", "model": "a model", "both": "a task and a model"}


def check(lab: Lab, options: NoOptions) -> None:
    """Refuse other methods, sampled texts, and traces without the target's second choice."""
    oracle_cells(lab.plan())
    if lab.varied().candidates < 2:
        raise ValueError(
            "the study keeps fewer than 2 candidates: the gap between two is what predicts (candidates: 2)"
        )


def measure(lab: Lab, options: NoOptions) -> tuple[list[PairTexts], Predictor]:
    """The pairs of the study with what each of their models says alone, and the predictor that ships."""
    study = lab.study()
    return read_pairs(lab.folder, [row.run for row in study.rows]), shipped()


def estimate(pairs: list[PairTexts], predictor: Predictor) -> Answer:
    """The answer.

    Args:
        pairs: that ran.
        predictor: a fixed one, which is judged on the pairs of which it knows no model.

    Raises:
        ValueError: too few pairs for one to be left out with all that shares a model or a task with it.
    """
    found = {by: _predicted(pairs, by) for by in LEFT_OUT}
    unknown = [by for by, each in found.items() if np.isnan(each[OWN]).all()]
    if unknown:
        raise ValueError(f"there are too few pairs to leave out {LEFT_OUT[unknown[0]]}: more models, or more tasks")
    errors = {by: _Errors(pairs, each) for by, each in found.items()}
    numbers = {
        f"error of {way}, {LEFT_OUT[by]} left out": errors[by].mean(way)
        for by in LEFT_OUT
        for way in (OWN, BY_SIZE, CONSTANT)
    }
    numbers[f"error of {ELSEWHERE}"] = errors["task"].mean(ELSEWHERE)
    if errors["model"].known(OF_TASK).any():
        numbers[f"error of {OF_TASK}, a model left out"] = errors["model"].mean(OF_TASK)
    gain = numbers["error of own texts less that of sizes alone, both left out"] = errors["both"].less(OWN, BY_SIZE)
    new = [pair for pair in pairs if not predictor.knows(pair)]
    judged = None
    if new:
        fixed = {OWN: np.array([predictor.frequency(pair) for pair in new])}
        judged = numbers["error of the predictor that ships, on models that it does not know"] = _Errors(
            new, fixed
        ).mean(OWN)
    return Answer.of(
        words("prediction"),
        holds=below(gain, 0.0) if (apart := _sizes_differ(pairs)) else None,
        numbers=numbers,
        charts={"predicted": _points(pairs, found["both"][OWN])},
        tables={"errors": _rows(errors), "pairs": _pair_rows(pairs, found, predictor)},
        error=numbers["error of own texts, a task and a model left out"],
        sizes=numbers["error of sizes alone, a task and a model left out"],
        task=numbers["error of own texts, a task left out"],
        elsewhere=numbers[f"error of {ELSEWHERE}"],
        judged=f"{judged} ({len(new)} pairs)" if judged else "not judged: it was fitted on models of this study",
        apart=apart,
        models=len({name for pair in pairs for name in pair.models}),
    )


def _sizes_differ(pairs: Sequence[PairTexts]) -> bool:
    """Whether a law of the sizes can be told from a constant, for every pair that is left out with task and models."""

    def differ(left: Sequence[PairTexts], pair: PairTexts) -> float:
        drafts, targets = {one.draft_parameters for one in left}, {one.target_parameters for one in left}
        return float(len(drafts) > 1 or len(targets) > 1)

    known = held_out(pairs, "both", differ)
    return bool((known[~np.isnan(known)] > 0).all())


def _predicted(pairs: Sequence[PairTexts], by: str) -> dict[str, Floats]:
    """The frequency of each pair as predicted in each way, [pairs]; NaN where nothing is left to predict it from."""

    def fitted(reads: Sequence[int], left: Sequence[PairTexts], pair: PairTexts) -> float | None:
        return fit(left, reads).frequency(pair) if len(left) > 1 else None

    def mean(left: Sequence[PairTexts], pair: PairTexts) -> float:
        return float(np.mean([other.frequency for other in left]))

    def elsewhere(left: Sequence[PairTexts], pair: PairTexts) -> float | None:
        same = [other.frequency for other in left if (other.draft, other.target) == (pair.draft, pair.target)]
        return float(np.mean(same)) if same else None

    def of_task(left: Sequence[PairTexts], pair: PairTexts) -> float | None:
        return fitted(SIZES, [other for other in left if other.task == pair.task], pair)

    ways: dict[str, Predict] = {
        OWN: partial(fitted, range(len(FEATURES))), BY_SIZE: partial(fitted, SIZES), CONSTANT: mean
    }  # fmt: skip
    if by == "task":
        ways[ELSEWHERE] = elsewhere
    if by == "model":
        ways[OF_TASK] = of_task
    return {way: held_out(pairs, by, predict) for way, predict in ways.items()}


class _Errors:
    """How far predictions are off, with intervals over the models that were left out with their pairs.

    A pair counts half for each of its two models, so that an interval has as many parts as there are models.
    """

    def __init__(self, pairs: Sequence[PairTexts], predicted: Mapping[str, Floats]) -> None:
        true = np.array([pair.frequency for pair in pairs])
        self.off = {way: np.abs(values - true) for way, values in predicted.items()}
        models = sorted({name for pair in pairs for name in pair.models})
        self._of = np.array([[name in pair.models for pair in pairs] for name in models], dtype=np.float64)

    def known(self, way: str) -> NDArray[np.bool_]:
        """Which pairs were predicted, [pairs]."""
        found: NDArray[np.bool_] = ~np.isnan(self.off[way])
        return found

    def mean(self, way: str) -> Estimate:
        """The mean error over the pairs that were predicted, of which there has to be one."""
        return self._estimate(self.off[way])

    def less(self, way: str, other: str) -> Estimate:
        """The mean error of one way less that of another on the same pairs."""
        return self._estimate(self.off[way] - self.off[other])

    def _estimate(self, values: Floats) -> Estimate:
        known = ~np.isnan(values)
        sums, counts = self._of[:, known] @ values[known], self._of[:, known].sum(1)
        return resampled(lambda weights: (weights @ sums) / (weights @ counts), len(counts), resamples=RESAMPLES)


def _points(pairs: Sequence[PairTexts], predicted: Floats) -> Iterator[Point]:
    for pair, value in zip(pairs, predicted, strict=True):
        if not np.isnan(value):
            yield Point(float(value), pair.frequency, series=pair.task)


def _rows(errors: Mapping[str, _Errors]) -> Iterator[Row]:
    for by, each in errors.items():
        for way, off in each.off.items():
            if (known := each.known(way)).any():
                nine = float(np.quantile(off[known], 0.9))
                yield {"left out": LEFT_OUT[by], "from": way, "mean error": each.mean(way), "nine in ten within": nine}


def _pair_rows(
    pairs: Sequence[PairTexts], found: Mapping[str, Mapping[str, Floats]], fixed: Predictor
) -> Iterator[Row]:
    for place, pair in enumerate(pairs):
        left_out = float(found["both"][OWN][place])
        yield {
            "task": pair.task,
            "draft": short_name(pair.draft),
            "target": short_name(pair.target),
            "frequency": pair.frequency,
            "predicted": None if np.isnan(left_out) else left_out,
            "by the predictor that ships": fixed.frequency(pair),
            "which knows its models": "yes" if fixed.knows(pair) else "no",
        }


EXPERIMENT = Experiment(NoOptions, measure, estimate, check)
