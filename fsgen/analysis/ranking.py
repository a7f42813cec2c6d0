"""How well scores rank positions: the first should be those where System 2 differs. With intervals over examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fsgen.analysis.intervals import FEWER_RESAMPLES, Estimate, Floats, Measure, grouped, resampled
from fsgen.analysis.uncertainty import auroc

RESAMPLES = FEWER_RESAMPLES
_BINS = 1000


@dataclass(frozen=True, eq=False)
class Ranking:
    """Counts of positions in bins of a score, the highest score first.

    Attributes:
        matches, mismatches: by group of examples and bin, [groups, bins].
    """

    matches: Floats
    mismatches: Floats

    @classmethod
    def of(cls, score: Floats, differs: NDArray[np.bool_], example: NDArray[np.int64]) -> Ranking:
        """The ranking by a score.

        Args:
            score: of each position; a router consults where it is high, [n].
            differs: System 2's greedy token is another one, [n].
            example: the number of the example, from 0, [n].
        """
        edges = np.unique(np.quantile(score, np.linspace(0, 1, _BINS + 1)[1:-1]))
        place = len(edges) - np.searchsorted(edges, score, side="right")
        counts = np.zeros((2, int(example.max()) + 1, len(edges) + 1))
        np.add.at(counts, (differs.astype(np.intp), example, place), 1.0)
        return cls(grouped(counts[0]), grouped(counts[1]))

    @property
    def groups(self) -> int:
        """How many groups are resampled."""
        return len(self.matches)

    def sums(self, drawn: Floats) -> tuple[Floats, Floats]:
        """Matches and mismatches by bin, [resamples, bins]; `drawn` as in `missed`."""
        return drawn @ self.matches, drawn @ self.mismatches

    def auroc(self) -> Estimate:
        """The area under the ROC curve."""
        return self.estimate(lambda drawn: auroc(*self.sums(drawn)))

    def estimate(self, measure: Measure) -> Estimate:
        """A number with its interval over the groups."""
        return resampled(measure, self.groups, resamples=RESAMPLES)

    def missed(self, calls: Floats, drawn: Floats) -> Floats:
        """The mismatches that are missed, over all positions, at some consulted rates, [resamples].

        Args:
            calls: the consulted rate of each resample, [resamples].
            drawn: how often each group is drawn, [resamples, groups].
        """
        consulted, caught = self._curve(drawn)
        found = [np.interp(share, x, y) for share, x, y in zip(calls, consulted, caught, strict=True)]
        left: Floats = caught[:, -1] - np.array(found)
        return left

    def gain(self, drawn: Floats) -> Floats:
        """The area between its curve and chance, over that between a perfect router and chance, [resamples]."""
        consulted, caught = self._curve(drawn)
        missed = caught[:, -1:] - caught
        area = ((missed[:, 1:] + missed[:, :-1]) / 2 * np.diff(consulted)).sum(1)
        frequency = missed[:, 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            gain: Floats = (frequency / 2 - area) / (frequency / 2 - frequency**2 / 2)
        return gain

    def gain_over(self, other: Ranking) -> Estimate:
        """Its gain less that of another score of the same positions."""
        return self.estimate(lambda drawn: self.gain(drawn) - other.gain(drawn))

    def _curve(self, drawn: Floats) -> tuple[Floats, Floats]:
        """At each threshold the consulted positions, and the mismatches among them, over all, [resamples, bins]."""
        matches, mismatches = self.sums(drawn)
        total = (matches + mismatches).sum(1)[:, None]
        return _from_zero((matches + mismatches).cumsum(1)) / total, _from_zero(mismatches.cumsum(1)) / total


def _from_zero(sums: Floats) -> Floats:
    return np.concatenate([np.zeros((len(sums), 1)), sums], axis=1)
