"""What another training of the same models would change, where there are several of a size.

Intervals over examples say how far other texts would move a number; a model trained again, from another seed, moves it
too. Where a size has several trainings, each is left out in turn (a jackknife stratified by size, Efron & Tibshirani
1993, chapter 11), and the interval grows by what that shows. With two or three trainings a spread is hardly known:
Student's t says so, with the degrees of freedom of Satterthwaite (1946) where sizes differ in their spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import polars as pl
from scipy import stats

from fsgen.analysis.intervals import Estimate, Floats, of_draws

Groups: TypeAlias = Sequence[Sequence[str]]
"""The names of the models of each size that has several trainings."""


def of_one_size(parameters: Mapping[str, float]) -> list[list[str]]:
    """The models of equal size, where there are several, sorted by name.

    Args:
        parameters: of each model; those of one size in one family are trainings of it.
    """
    found: dict[float, list[str]] = {}
    for name in sorted(parameters):
        found.setdefault(parameters[name], []).append(name)
    return [names for names in found.values() if len(names) > 1]


def untuned(points: pl.DataFrame) -> pl.DataFrame:
    """The pairs without tuned or distilled models: such a model is another one, not another training of its size.

    Args:
        points: as `fsgen.analysis.scaling.read_points` gives them.
    """
    return points.filter(*(pl.col(f"{role}_tuned").fill_null(False).not_() for role in ("draft", "target")))


def of_points(points: pl.DataFrame) -> list[list[str]]:
    """The models of pairs that are trainings of one size, as `of_one_size`; tuned or distilled ones are none."""
    sizes: dict[str, float] = {}
    for role in ("draft", "target"):
        trained = points.filter(pl.col(f"{role}_tuned").fill_null(False).not_())
        sizes |= dict(trained.select(role, f"{role}_parameters").rows())
    return of_one_size(sizes)


def reach(measure: Callable[[str | None], float], groups: Groups) -> float:
    """Half of the 95 % interval of a number by what other trainings would change; 0 without several of a size.

    Args:
        measure: the number without one of the models, which it is given (None for all of them); nan where nothing is
            left of it.
        groups: the models that are trainings of one size.
    """
    variances, freedom = [], []
    for names in groups:
        values = np.array([measure(name) for name in names])
        values = values[~np.isnan(values)]
        if len(values) > 1:
            variances.append((len(values) - 1) / len(values) * float(((values - values.mean()) ** 2).sum()))
            freedom.append(len(values) - 1)
    variance = sum(variances)
    if not variance:
        return 0.0
    known = variance**2 / sum(one**2 / n for one, n in zip(variances, freedom, strict=True))
    return float(stats.t.ppf(0.975, max(known, 1.0))) * math.sqrt(variance)


def widened(estimate: Estimate, by: float) -> Estimate:
    """An estimate whose interval over examples also contains what other trainings would change, `reach` of it."""
    if not by:
        return estimate
    value = estimate.value
    low, high = (0.0 if end is None else abs(value - end) for end in (estimate.low, estimate.high))
    return Estimate(value, value - math.hypot(low, by), value + math.hypot(high, by))


def over_trainings(drawn: Floats) -> Estimate:
    """The mean over trainings, with an interval over examples and trainings.

    Args:
        drawn: of each training what was measured, then what resamples of the same examples give, [trainings, 1 + n].
    """
    if len(drawn) == 1:
        return of_draws(drawn[0])
    names = [str(number) for number in range(len(drawn))]

    def without(name: str | None) -> float:
        return float(np.mean([row[0] for number, row in zip(names, drawn, strict=True) if number != name]))

    return widened(of_draws(drawn.mean(axis=0)), reach(without, [names]))
