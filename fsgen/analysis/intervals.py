"""Bootstrap intervals over examples, drawn in one way for every analysis.

The tokens of one text are not independent, so examples are resampled with replacement, and whatever is measured is
measured again (Efron & Tibshirani 1993, chapter 13: percentile intervals). More than `GROUPS` examples are put into so
many groups, example i into group i modulo `GROUPS`, and groups are resampled. So the sums that are kept do not grow
with the study; the width of an interval is then known to about 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

GROUPS = 256
RESAMPLES = 2000
FEWER_RESAMPLES = 500
"""Where each resample is a whole curve or table."""
TAILS = (2.5, 97.5)

Floats = NDArray[np.float64]
Measure: TypeAlias = Callable[[Floats], Floats]
"""From how often each example is drawn, [resamples, examples], to what is measured on them, [resamples]."""


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; None with fewer than two examples, or where all are the same.

    It is a bootstrap interval over examples; that of a time is over repetitions (`fsgen.analysis.times`).
    """

    value: float
    low: float | None = None
    high: float | None = None

    def above(self, value: float) -> bool | None:
        """Whether the interval lies above a value; None where it holds the value, or is not known."""
        if self.low is None or self.high is None:
            return None
        return True if self.low > value else False if self.high < value else None

    def magnitude(self) -> Estimate:
        """A change without its sign, for a sentence that says which way it goes."""
        if self.value >= 0:
            return self
        return Estimate(-self.value, None if self.high is None else -self.high, None if self.low is None else -self.low)

    def shown(self, form: str = ".3f", scale: float = 1.0, unit: str = "") -> str:
        """In words, `0.250 [0.200, 0.300]`.

        Args:
            form: of each number, as in a format string.
            scale: what each number is multiplied by: 100 for a percentage.
            unit: behind the first number.
        """
        interval = ""
        if self.low is not None and self.high is not None:
            interval = f" [{scale * self.low:{form}}, {scale * self.high:{form}}]"
        return f"{scale * self.value:{form}}{unit}{interval}"

    def __str__(self) -> str:
        return self.shown()

    def __format__(self, form: str) -> str:
        """As `shown` in a format, `+.1f`; `+.1%` is the same of a hundred times the numbers, without a sign."""
        return self.shown(form.replace("%", "f") or ".3f", 100 if form.endswith("%") else 1.0)


@lru_cache(maxsize=16)
def draws(groups: int, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """How often each group is drawn, [resamples, groups]; read-only."""
    drawn = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=resamples)
    return drawn.astype(np.float64)


def grouped(sums: Floats) -> Floats:
    """Sums by example [examples, ...] as sums by group, [at most GROUPS, ...]."""
    if len(sums) <= GROUPS:
        return sums
    result = np.zeros((GROUPS, *sums.shape[1:]))
    np.add.at(result, np.arange(len(sums)) % GROUPS, sums)
    return result


def percentiles(values: Floats, comparisons: int = 1) -> tuple[float | None, float | None]:
    """The 95 % interval of what the resamples gave, None for an end that is not finite; nan is left out.

    With several `comparisons` it is wider, so that all of them hold together (Bonferroni). Where every resample gives
    the same (all examples are right, say) there is none: a width of 0 would be wrong.
    """
    values = values[~np.isnan(values)]
    if not len(values) or np.isclose(values.min(), values.max(), rtol=1e-12, atol=0.0):
        return None, None
    with np.errstate(invalid="ignore"):  # between a finite and an infinite value
        tails = (TAILS[0] / comparisons, 100 - (100 - TAILS[1]) / comparisons)
        low, high = (float(end) if np.isfinite(end) else None for end in np.percentile(values, tails))
    return low, high


def ratio(parts: Floats, wholes: Floats, resamples: int = RESAMPLES, seed: int = 0) -> Estimate | None:
    """The ratio of two sums over examples; None where the second one is 0.

    Args:
        parts, wholes: by example or group, [examples]; those with neither part nor whole are not drawn.
    """
    there = (parts != 0) | (wholes != 0)
    parts, wholes = parts[there], wholes[there]
    if not wholes.sum():
        return None
    value = float(parts.sum() / wholes.sum())
    parts, wholes = grouped(parts), grouped(wholes)
    if len(wholes) < 2:
        return Estimate(value)
    drawn = draws(len(wholes), resamples, seed)
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample may divide by 0
        return Estimate(value, *percentiles((drawn @ parts) / (drawn @ wholes)))


def wilson(count: int, of: int) -> Estimate:
    """A share of independent things, such as right answers, with Wilson's interval (1927): 0 of 64 has one, too."""
    z = 1.959964
    share, weight = count / of, 1 + z * z / of
    middle, reach = share + z * z / (2 * of), z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return Estimate(share, max((middle - reach) / weight, 0.0), min((middle + reach) / weight, 1.0))


def mean_change(changes: Floats) -> Estimate | None:
    """The mean of the differences of two scores, one an example, with its interval; None without any.

    Where no example changed, the interval reaches as far as changes one way that Wilson's of none does not exclude.
    """
    found = ratio(changes, np.ones(len(changes)))
    if found is not None and found.low is None and not changes.any():
        high = wilson(0, len(changes)).high
        return Estimate(0.0, None if high is None else -high, high)
    return found


def of_draws(values: Floats) -> Estimate:
    """The number whose first value was measured, and whose others are of resamples."""
    return Estimate(float(values[0]), *(percentiles(values[1:]) if len(values) > 1 else (None, None)))


def resampled(measured: Measure, examples: int, comparisons: int = 1, resamples: int = RESAMPLES) -> Estimate:
    """Anything that is measured on examples, with its interval: a difference of two ratios, say.

    Args:
        measured: from how often each example is drawn to a number.
        examples: how many there are, or groups (`grouped`).
        comparisons: as in `percentiles`.
        resamples: how often they are drawn.
    """
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample may divide by 0
        value = float(measured(np.ones((1, examples)))[0])
        if examples < 2:
            return Estimate(value)
        return Estimate(value, *percentiles(measured(draws(examples, resamples)), comparisons))


def mean_of(measures: Sequence[tuple[Measure, int]], resamples: int = RESAMPLES) -> Estimate:
    """The mean of several measures, each of so many examples; equal numbers of examples are drawn alike."""

    def mean(weights: Floats) -> Floats:
        found: Floats = np.mean([measure(weights[:, :count]) for measure, count in measures], axis=0)
        return found

    return resampled(mean, max(count for _, count in measures), resamples=resamples)
