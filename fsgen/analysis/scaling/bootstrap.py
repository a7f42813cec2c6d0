"""Which parameters of a fit the pairs determine, and bootstrap intervals of these.

A resample adds normal errors to the fitted frequencies and fits again (a parametric bootstrap, Efron & Tibshirani 1993,
chapter 6): ten or twenty residuals are too few to draw from. With so few the size of errors is itself uncertain, so
their scale is drawn for each resample, as s sqrt(d / chi-squared(d)) with d = pairs - parameters; for a linear law this
makes the percentile interval the t interval. For a study, whose texts are known, examples are resampled too, the same
for every pair, since all pairs answer the same questions; the errors then are only what this leaves unexplained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from fsgen.analysis.intervals import RESAMPLES, TAILS, Floats, draws, grouped
from fsgen.analysis.scaling.fit import NOTHING, Fits, fit, slopes
from fsgen.analysis.scaling.laws import Sizes


@dataclass(frozen=True)
class Texts:
    """What each example adds to the two counts whose ratio is the frequency: [pairs, examples], 0 where it failed."""

    part: Floats
    whole: Floats

    @classmethod
    def of(cls, points: pl.DataFrame) -> Texts | None:
        """Those of some points; None where a pair has none."""
        if points.is_empty() or points["part"].null_count() or points["whole"].null_count():
            return None
        return cls(np.array(points["part"].to_list()), np.array(points["whole"].to_list()))

    def deviations(self, resamples: int, seed: int) -> Floats:
        """How far the frequencies of drawn examples are from those of all, [resamples, pairs]."""
        part, whole = grouped(self.part.T), grouped(self.whole.T)
        drawn = draws(len(whole), resamples, seed)
        measured: Floats = np.tile(part.sum(axis=0) / whole.sum(axis=0), (resamples, 1))
        found = drawn @ whole
        # A pair of which no text was drawn keeps its frequency.
        ratios: Floats = np.divide(drawn @ part, found, out=measured.copy(), where=found > 0)
        deviations: Floats = ratios - measured
        return deviations


@dataclass(frozen=True)
class Resamples:
    """A law fitted to resampled frequencies.

    Attributes:
        fits: one a resample.
        noise: [resamples], an error of one frequency, drawn for each.
    """

    fits: Fits
    noise: Floats

    def parameters(self) -> tuple[Floats, Floats]:
        """The ends of each parameter's interval, [p]; infinite where the shape's bound cuts it off."""
        return percentiles(self.fits.law.limits(self.fits.values, self.fits.shape))

    def predictions(self, sizes: Sizes) -> tuple[Floats, Floats]:
        """The ends of the interval for a new measurement of each pair, [n]."""
        return percentiles(self.fits.predict(sizes) + self.noise[:, None])


def percentiles(values: Floats) -> tuple[Floats, Floats]:
    """The ends of the interval over the first axis; they are values, since nothing can be interpolated to infinity."""
    low, high = TAILS
    return np.percentile(values, low, axis=0, method="lower"), np.percentile(values, high, axis=0, method="higher")


def resample(
    best: Fits, sizes: Sizes, texts: Texts | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Resamples:
    """Fit a law to resampled frequencies: those that could have been measured if the fit is right.

    Args:
        best: the fit, of one set of frequencies; there are more of them than parameters.
        sizes: of its pairs.
        texts: the counts of each example, where they are known.
        resamples: how often.
        seed: the random seed.
    """
    rng = np.random.default_rng([seed, 1])  # independent of the examples' draws
    squares, n = float((best.residuals**2).sum()), len(sizes)
    freedom = n - len(best.law.parameters)
    scale = np.sqrt(squares / rng.chisquare(freedom, size=(resamples, 1)))
    errors = scale * rng.standard_normal((resamples, n))
    noise = scale[:, 0] * rng.standard_normal(resamples)
    if texts is not None:
        measured = texts.deviations(resamples, seed)
        directions = _directions(slopes(best.law, sizes, best.weights[0], best.shape[0]))
        explained = float(((measured - measured @ directions @ directions.T) ** 2).sum(axis=1).mean())
        errors = measured + math.sqrt(max(0.0, 1 - explained / squares) if squares else 0.0) * errors
    return Resamples(fit(best.law, sizes, best.predict(sizes) + errors), noise)


def determined_parameters(best: Fits, sizes: Sizes) -> npt.NDArray[np.bool_]:
    """Which of the parameters [p] of a single fit the sizes of its pairs determine."""
    law, weights, shape = best.law, best.weights[0], best.shape[0]
    inside = np.concatenate([weights, shape])
    k = len(weights)
    changes = np.empty((len(law.parameters), len(inside)))
    for number, value in enumerate(inside):
        step = np.zeros_like(inside)
        step[number] = 1e-5 * (0.1 + abs(value))
        above, below = inside + step, inside - step
        changes[:, number] = (law.values(above[:k], above[k:]) - law.values(below[:k], below[k:])) / (2 * step[number])
    return _unmoved(changes, slopes(law, sizes, weights, shape))


def determined_frequencies(best: Fits, sizes: Sizes, others: Sizes) -> npt.NDArray[np.bool_]:
    """Of which of the other pairs the pairs of a single fit determine the law's frequency."""
    law, weights, shape = best.law, best.weights[0], best.shape[0]
    return _unmoved(slopes(law, others, weights, shape), slopes(law, sizes, weights, shape))


def _unmoved(changes: Floats, slopes: Floats) -> npt.NDArray[np.bool_]:
    """Which rows of `changes` [r, c] no direction of the c numbers changes that leaves the fit [n, c] as it is."""
    lengths = np.linalg.norm(slopes, axis=0)
    lengths = np.where(lengths > 0, lengths, 1.0)
    changes = changes / lengths
    _, strengths, directions = np.linalg.svd(slopes / lengths)
    strengths = np.pad(strengths, (0, len(directions) - len(strengths)))
    free = directions[strengths <= NOTHING * strengths.max()].T  # [c, directions]
    moved = np.linalg.norm(changes @ free, axis=1)
    return np.asarray(moved <= 1e-5 * np.linalg.norm(changes, axis=1))


def _directions(slopes: Floats) -> Floats:
    """Orthonormal directions in which a fit can move its n frequencies, [n, at most c]."""
    lengths = np.linalg.norm(slopes, axis=0)
    directions, strengths, _ = np.linalg.svd(slopes / np.where(lengths > 0, lengths, 1.0), full_matrices=False)
    kept: Floats = directions[:, strengths > NOTHING * strengths.max()]
    return kept
