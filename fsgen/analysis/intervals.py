"""Bootstrap intervals over examples: one way to draw them, for every analysis.

The tokens of one text are not independent, so examples are drawn anew, with replacement, and whatever is measured is
measured again (Efron & Tibshirani 1993, chapter 13: percentile intervals). With more than `GROUPS` examples these are
put into so many groups, example i into group i modulo `GROUPS`, and groups are drawn: the sums that must be kept no
longer grow with the study, and the width of an interval is then itself known to about 5 %.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

GROUPS = 256
RESAMPLES = 2000
_TAILS = (2.5, 97.5)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % bootstrap interval, None where there are fewer than two examples or all are alike."""

    value: float
    low: float | None = None
    high: float | None = None

    def above(self, value: float) -> bool | None:
        """Whether the interval lies above some value; None where it does not tell."""
        if self.low is None or self.high is None:
            return None
        return True if self.low > value else False if self.high < value else None

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.value:.3f}{interval}"


@lru_cache(maxsize=16)
def draws(groups: int, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """How often each of some groups is drawn, [resamples, groups]; not to be written to."""
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

    Where one of several `comparisons` is to be found at all, it is wider, so that all hold together (Bonferroni).

    Where every resample gives the same (all examples right, say) there is none: a width of 0 would be no honest one.
    """
    values = values[~np.isnan(values)]
    if not len(values) or np.isclose(values.min(), values.max(), rtol=1e-12, atol=0.0):
        return None, None
    with np.errstate(invalid="ignore"):  # of two neighbours of which one is infinite, no finite value comes
        tails = (_TAILS[0] / comparisons, 100 - (100 - _TAILS[1]) / comparisons)
        low, high = (float(end) if np.isfinite(end) else None for end in np.percentile(values, tails))
    return low, high


def ratio(parts: Floats, wholes: Floats, resamples: int = RESAMPLES, seed: int = 0) -> Estimate | None:
    """The ratio of two sums over examples, None where there is nothing below the line.

    Args:
        parts, wholes: by example or group, [examples]; those that have neither part nor whole are not drawn.
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
    with np.errstate(invalid="ignore", divide="ignore"):  # what was drawn may have nothing below the line
        return Estimate(value, *percentiles((drawn @ parts) / (drawn @ wholes)))


def resampled(
    measured: Callable[[Floats], Floats], examples: int, comparisons: int = 1, resamples: int = RESAMPLES
) -> Estimate:
    """Whatever is measured of examples, with its interval: a difference of ratios, say, of the same examples.

    Args:
        measured: from how often each example is drawn, [resamples, examples], to what is measured, [resamples].
        examples: how many there are, or groups (`grouped`).
        comparisons: as in `percentiles`.
        resamples: how often they are drawn anew.
    """
    with np.errstate(invalid="ignore", divide="ignore"):  # what was drawn may lack what is divided by
        value = float(measured(np.ones((1, examples)))[0])
        if examples < 2:
            return Estimate(value)
        return Estimate(value, *percentiles(measured(draws(examples, resamples)), comparisons))
