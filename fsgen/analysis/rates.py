"""Rates of the same examples under several conditions, and their differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import polars as pl

from fsgen.analysis.intervals import Estimate, Floats, grouped, ratio, resampled


class Rates:
    """Ratios of two sums under several conditions, on the same examples; each is the mean over pairs and tasks.

    Args:
        frame: one row for each example, pair, task and condition.
        condition, part, whole: its columns.
    """

    def __init__(self, frame: pl.DataFrame, condition: str, part: str, whole: str = "tokens") -> None:
        placed = frame.with_columns(
            unit=pl.struct("task", "example").rank("dense") - 1, cell=pl.struct("task", "draft", "target")
        )
        self.cells = [
            (str(c["task"]), str(c["draft"]), str(c["target"])) for c in placed["cell"].unique(maintain_order=True)
        ]
        units = int(placed["unit"].max()) + 1  # type: ignore[arg-type]
        names = placed[condition].unique(maintain_order=True).to_list()
        sums = np.zeros((units, len(names), len(self.cells), 2))
        index = {cell: i for i, cell in enumerate(self.cells)}
        where = (
            placed["unit"].to_numpy(),
            np.array([names.index(name) for name in placed[condition].to_list()]),
            np.array([index[str(c["task"]), str(c["draft"]), str(c["target"])] for c in placed["cell"].to_list()]),
        )
        np.add.at(sums, where, placed.select(part, whole).cast(pl.Float64).to_numpy())
        self._names, self._sums = names, grouped(sums)

    def of(self, name: object) -> Callable[[Floats], Floats]:
        """The ratio under a condition as a function of how often each example is drawn."""
        sums = self._sums[:, self._names.index(name)]

        def measured(weights: Floats) -> Floats:
            each = (weights @ sums[..., 0]) / (weights @ sums[..., 1])
            known = ~np.isnan(each)  # a cell may have nothing under this condition, or nothing in this resample
            mean: Floats = np.where(known, each, 0.0).sum(1) / known.sum(1)
            return mean

        return measured

    @property
    def examples(self) -> int:
        """How many are drawn: examples, or groups of them."""
        return len(self._sums)

    def estimate(self, name: object, comparisons: int = 1) -> Estimate:
        """The ratio under a condition; `comparisons` as in `resampled`."""
        return resampled(self.of(name), len(self._sums), comparisons)

    def minus(self, name: object, other: Callable[[Floats], Floats], comparisons: int = 1) -> Estimate:
        """The ratio under a condition minus another one on the same examples."""
        mine = self.of(name)
        return resampled(lambda weights: mine(weights) - other(weights), len(self._sums), comparisons)

    def each(self, name: object) -> Iterator[tuple[tuple[str, str, str], Estimate]]:
        """The ratio under a condition in each cell: (task, draft, target) and the estimate."""
        sums = self._sums[:, self._names.index(name)]
        for i, cell in enumerate(self.cells):
            if sums[:, i, 1].any():
                found = ratio(sums[:, i, 0], sums[:, i, 1])
                assert found is not None, "the denominator is not 0"
                yield cell, found


def in_points(estimate: Estimate) -> str:
    """A difference of two rates in percentage points, signed, with its interval."""
    return estimate.shown("+.1f", 100)
