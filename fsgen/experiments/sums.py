"""Sums over texts by example and condition, and what is measured of them when the examples are drawn anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from fsgen.analysis.intervals import RESAMPLES, Estimate, Floats, grouped, percentiles, resampled

Measure: TypeAlias = Callable[[Floats], Floats]
"""From how often each example is drawn, [resamples, examples], to a number, [resamples]."""


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums of columns over the texts of the same examples under several conditions.

    Attributes:
        conditions: their names, tuples of what distinguishes them.
        sums: by column, [examples or groups of them, conditions].
    """

    conditions: Sequence[tuple[Any, ...]]
    sums: dict[str, Floats]

    @classmethod
    def of(cls, texts: pl.DataFrame, by: Sequence[str], conditions: Sequence[tuple[Any, ...]], *columns: str) -> Sums:
        """The sums of texts with an `example`, by the conditions in some columns; `texts` counts them."""
        texts = texts.with_columns(texts=pl.lit(1), number=pl.col("example").rank("dense") - 1)
        place = {condition: number for number, condition in enumerate(conditions)}
        where = texts["number"].to_numpy(), np.array([place[row] for row in texts.select(by).rows()])
        sums = {}
        for column in (*columns, "texts"):
            total = np.zeros((int(where[0].max()) + 1, len(conditions)), order="F")  # a condition's examples together
            np.add.at(total, where, texts[column].cast(pl.Float64).to_numpy())
            sums[column] = grouped(total)
        return cls(conditions, sums)

    def __len__(self) -> int:
        return len(self.sums["texts"])

    @property
    def once(self) -> Floats:
        """Every example drawn once, [1, examples]."""
        return np.ones((1, len(self)))

    def ratio(self, part: str, whole: str, weights: Floats) -> Floats:
        """The ratio of two columns under each condition, [resamples, conditions]."""
        ratio: Floats = (weights @ self.sums[part]) / (weights @ self.sums[whole])
        return ratio

    def estimate(self, measure: Measure, resamples: int = RESAMPLES) -> Estimate:
        """A number with its interval over the examples."""
        return resampled(measure, len(self), resamples=resamples)

    def each(self, part: str, whole: str, resamples: int = RESAMPLES) -> list[Estimate]:
        """The ratio of two columns under each condition."""

        def of(place: int) -> Estimate:
            return self.estimate(lambda weights: self.ratio(part, whole, weights)[:, place], resamples)

        return [of(place) for place in range(len(self.conditions))]


def of_draws(values: Floats) -> Estimate:
    """The number whose first value was measured, and whose others are of resamples."""
    return Estimate(float(values[0]), *(percentiles(values[1:]) if len(values) > 1 else (None, None)))


def mean_of(measures: Sequence[tuple[Measure, int]], resamples: int) -> Estimate:
    """The mean of several measures, each of so many examples; equal numbers of examples are drawn alike."""

    def mean(weights: Floats) -> Floats:
        found: Floats = np.mean([measure(weights[:, :count]) for measure, count in measures], axis=0)
        return found

    return resampled(mean, max(count for _, count in measures), resamples=resamples)
