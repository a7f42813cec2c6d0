"""One law of the sizes for all families of models against one for each: a test of nested fits, and left-out models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fsgen.analysis.answers import Value
from fsgen.analysis.intervals import Floats
from fsgen.analysis.scaling.bootstrap import Texts, determined_frequencies
from fsgen.analysis.scaling.compare import aicc
from fsgen.analysis.scaling.fit import Fits, fit, slopes
from fsgen.analysis.scaling.laws import Law, Sizes
from fsgen.analysis.scaling.results import sizes_of

SIMULATED = 999  # under one law for all
_RESAMPLES = 200  # of the examples; each fits the law without every model
_MODEL_SHARES = (0.0, 0.5)  # of the errors' variance that is of models, not of pairs
_SEVERAL = 3  # residual degrees of freedom from which a family's errors have a size of their own


@dataclass(frozen=True)
class Pairs:
    """The pairs of all families with one method on one task.

    Attributes:
        points: n pairs, as `read_points` gives them, with `family`.
        deviations: what drawing examples anew changes, [resamples, n]; 0 for pairs whose texts are not at hand.
    """

    points: pl.DataFrame
    deviations: Floats

    @cached_property
    def sizes(self) -> Sizes:
        return sizes_of(self.points)

    @cached_property
    def frequencies(self) -> Floats:
        return self.points["collaboration_frequency"].to_numpy().astype(float)

    @cached_property
    def models(self) -> list[tuple[tuple[str, str], tuple[str, str]]]:
        """Draft and target of each pair, with their family, so that none is in two."""
        return [
            ((f, draft), (f, target)) for f, draft, target in self.points.select("family", "draft", "target").rows()
        ]

    @property
    def names(self) -> list[str]:
        return self.points["family"].unique(maintain_order=True).to_list()

    @property
    def place(self) -> dict[str, str]:
        return {"task": self.points["task"][0], "method": self.points["method"][0]}

    def of(self, *families: str) -> NDArray[np.bool_]:
        return self.points["family"].is_in(families).to_numpy()

    def only(self, families: Sequence[str]) -> Pairs:
        """Those of some families."""
        kept = self.of(*families)
        return Pairs(self.points.filter(kept), self.deviations[:, kept])


def sets_of(points: pl.DataFrame) -> list[Pairs]:
    """The pairs of each method and task that two families have at least."""
    found = []
    for _, rows in points.group_by("method", "task", maintain_order=True):
        if rows["family"].n_unique() > 1:
            there = rows["part"].is_not_null()
            texts = Texts.of(rows.filter(there))
            deviations = np.zeros((SIMULATED if texts else 0, len(rows)))
            if texts:
                deviations[:, there.to_numpy()] = texts.deviations(SIMULATED, seed=0)
            found.append(Pairs(rows, deviations))
    return found


@dataclass(frozen=True)
class Comparison:
    """One law for all against one for each, on one task.

    Attributes:
        f: how much less the squared residuals are with a law for each, by parameter, over what is left by degree of
            freedom; None where nothing is left.
        p: how often it is as large under one law; the largest over what part of the errors is of models. None where
            it was not simulated.
        aicc_one, aicc_each: None with too few pairs.
        one, each: the errors for left-out models, of what was measured and of each resample; empty where too few.
    """

    pairs: Pairs
    law: str
    f: float | None
    p: float | None
    aicc_one: float | None
    aicc_each: float | None
    one: Floats
    each: Floats

    @property
    def errors(self) -> dict[str, Value]:
        """The errors for left-out models as a table has them."""
        sides = {"error, one": self.one, "error, each": self.each}
        return {name: float(found[0]) if len(found) else None for name, found in sides.items()}


def compare(pairs: Pairs, law: Law, simulated: bool = True, seed: int = 0) -> Comparison:
    """Test one law for all families against one for each; both are fitted by least squares.

    Without `simulated` there is no p, and nothing of resampled examples, which takes most of the time.
    """
    one, each = _fits(pairs, law, pairs.frequencies[None])
    n, k = len(pairs.sizes), len(law.parameters)
    found = _f(one, each)
    f = None if found is None else float(found[0])
    p = None
    if f is not None and simulated:
        p = max(_simulated(pairs, law, one, each, f, share, seed) for share in _MODEL_SHARES)
    squares = float((one.residuals**2).sum()), float(sum((own.residuals**2).sum() for own in each))
    errors = _held_out(pairs, law, pairs.deviations[: _RESAMPLES if simulated else 0])
    return Comparison(pairs, law.name, f, p, aicc(squares[0], n, k), aicc(squares[1], n, k * len(each)), *errors)


def _fits(pairs: Pairs, law: Law, frequencies: Floats) -> tuple[Fits, list[Fits]]:
    """The fits to sets of frequencies [m, n]: of all pairs, and of those of each family."""
    each = [fit(law, pairs.sizes[mine], frequencies[:, mine]) for mine in map(pairs.of, pairs.names)]
    return fit(law, pairs.sizes, frequencies), each


def _f(one: Fits, families: list[Fits]) -> Floats | None:
    """The statistic for each set of frequencies, [m]; None without residual degrees of freedom."""
    k = len(one.law.parameters)
    left = one.residuals.shape[1] - k * len(families)
    if left < 1:
        return None
    whole = (one.residuals**2).sum(axis=1)
    each = np.sum([(own.residuals**2).sum(axis=1) for own in families], axis=0)
    ratio: Floats = (whole - each) / (k * (len(families) - 1)) / np.maximum(each / left, np.finfo(float).tiny)
    return ratio


def _simulated(pairs: Pairs, law: Law, one: Fits, each: list[Fits], f: float, share: float, seed: int) -> float:
    """How often frequencies made by one law for all, with errors as large as those of each family, give such an F."""
    rng = np.random.default_rng([seed, int(100 * share)])
    models = list(dict.fromkeys(model for pair in pairs.models for model in pair))
    parts = np.array([[model in pair for model in models] for pair in pairs.models]) / np.sqrt(2)
    errors = np.sqrt(1 - share) * rng.standard_normal((SIMULATED, len(pairs.sizes)))
    errors += np.sqrt(share) * rng.standard_normal((SIMULATED, len(models))) @ parts.T
    spread = (1 - share) * np.eye(len(pairs.sizes)) + share * parts @ parts.T
    squares, expected, several = [], [], []
    for name, own in zip(pairs.names, each, strict=True):
        mine = pairs.of(name)
        directions = slopes(law, pairs.sizes[mine], own.weights[0], own.shape[0])
        left = np.eye(mine.sum()) - directions @ np.linalg.pinv(directions)
        squares.append(float((own.residuals**2).sum()))
        expected.append(float(np.trace(left @ spread[np.ix_(mine, mine)])))
        several.append(mine.sum() - len(law.parameters) >= _SEVERAL)
    for name, total, unit, alone in zip(pairs.names, squares, expected, several, strict=True):
        # The squared residuals, over what errors of unit size would leave of them; of small families all together.
        variance = total / unit if alone else sum(squares) / sum(expected)
        errors[:, pairs.of(name)] *= np.sqrt(variance)
    if len(pairs.deviations):
        errors += pairs.deviations[rng.integers(len(pairs.deviations), size=SIMULATED)]
    found = _f(*_fits(pairs, law, one.predict(pairs.sizes) + errors))
    assert found is not None
    return float(1 + (found >= f).sum()) / (1 + SIMULATED)


def _held_out(pairs: Pairs, law: Law, deviations: Floats) -> tuple[Floats, Floats]:
    """The errors for the pairs of each model, predicted from all others, and from the others of its family.

    Both of what was measured and of each resample, and of the same models: those without which their family still
    determines the law. Empty where there are none.
    """
    measured = pairs.frequencies + np.concatenate([np.zeros((1, len(pairs.sizes))), deviations])
    errors: tuple[list[Floats], list[Floats]] = [], []
    for name in pairs.names:
        mine = pairs.of(name)
        for model in dict.fromkeys(model for i in np.flatnonzero(mine) for model in pairs.models[i]):
            held = np.array([model in pair for pair in pairs.models])
            others, own = ~held, mine & ~held
            if own.sum() < len(law.parameters):
                continue
            alone = fit(law, pairs.sizes[own], measured[:1, own])
            if determined_frequencies(alone, pairs.sizes[own], pairs.sizes[held]).all():
                for found, known in zip(errors, (others, own), strict=True):
                    made = fit(law, pairs.sizes[known], measured[:, known])
                    found.append(measured[:, held] - made.predict(pairs.sizes[held]))
    if not errors[0]:
        return np.empty(0), np.empty(0)
    one, each = (np.sqrt(np.mean(np.concatenate(found, axis=1) ** 2, axis=1)) for found in errors)
    return one, each
