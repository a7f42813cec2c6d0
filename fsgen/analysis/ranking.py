"""How well scores rank positions: those asked first should be where System 2 differs. With intervals over examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fsgen.analysis.intervals import Estimate, Floats, grouped, resampled
from fsgen.analysis.uncertainty import auroc

RESAMPLES = 500
_BINS = 1000


@dataclass(frozen=True, eq=False)
class Ranking:
    """Counts of positions in bins of a score, the bin asked first in front.

    Attributes:
        matches, mismatches: by group of examples and bin, [groups, bins].
    """

    matches: Floats
    mismatches: Floats

    @classmethod
    def of(cls, score: Floats, differs: NDArray[np.bool_], example: NDArray[np.int64]) -> Ranking:
        """The ranking by a score.

        Args:
            score: of each position; where it is high, a router asks first, [n].
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
        """How many groups can be drawn anew."""
        return len(self.matches)

    def sums(self, drawn: Floats) -> tuple[Floats, Floats]:
        """Matches and mismatches by bin, [resamples, bins]; `drawn` as in `missed`."""
        return drawn @ self.matches, drawn @ self.mismatches

    def auroc(self) -> Estimate:
        """The area under the ROC curve."""
        return resampled(lambda drawn: auroc(*self.sums(drawn)), self.groups, resamples=RESAMPLES)

    def missed(self, calls: Floats, drawn: Floats) -> Floats:
        """Mismatches it passes over, as a share of all positions, where it asks at a share of them, [resamples].

        Args:
            calls: this share, for each resample, [resamples].
            drawn: how often each group is drawn, [resamples, groups].
        """
        matches, mismatches = self.sums(drawn)
        total = (matches + mismatches).sum(1)
        asked = _from_zero((matches + mismatches).cumsum(1)) / total[:, None]
        caught = _from_zero(mismatches.cumsum(1)) / total[:, None]
        found = [np.interp(share, x, y) for share, x, y in zip(calls, asked, caught, strict=True)]
        left: Floats = caught[:, -1] - np.array(found)
        return left

    def gain(self, drawn: Floats) -> Floats:
        """The area between its curve of misses and chance, over that between a perfect router and chance."""
        matches, mismatches = self.sums(drawn)
        total = (matches + mismatches).sum(1)
        asked = _from_zero((matches + mismatches).cumsum(1)) / total[:, None]
        missed = (mismatches.sum(1)[:, None] - _from_zero(mismatches.cumsum(1))) / total[:, None]
        area = ((missed[:, 1:] + missed[:, :-1]) / 2 * np.diff(asked)).sum(1)
        frequency = missed[:, 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            gain: Floats = (frequency / 2 - area) / (frequency / 2 - frequency**2 / 2)
        return gain


def _from_zero(sums: Floats) -> Floats:
    return np.concatenate([np.zeros((len(sums), 1)), sums], axis=1)
