"""Ratios of sums over the same examples under several conditions, and what is measured of them on drawn examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeAlias

import numpy as np
import polars as pl

from fsgen.analysis.intervals import RESAMPLES, Estimate, Floats, Measure, grouped, ratio, resampled
from fsgen.analysis.trainings import Groups, reach, widened

Cell: TypeAlias = tuple[Any, ...]
CELL = ("task", "draft", "target")


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums of columns over the texts of the same examples under several conditions.

    Attributes:
        conditions: their names, tuples of what distinguishes them.
        sums: by column, [examples or groups of them, conditions].
        resamples: how often examples are drawn for an interval.
    """

    conditions: Sequence[tuple[Any, ...]]
    sums: dict[str, Floats]
    resamples: int = RESAMPLES

    @classmethod
    def of(
        cls, texts: pl.DataFrame, by: Sequence[str], columns: Sequence[str],
        conditions: Sequence[tuple[Any, ...]] | None = None, example: Sequence[str] = ("example",),
        resamples: int = RESAMPLES,
    ) -> Self:  # fmt: skip
        """The sums of a table.

        Args:
            texts: a row a text, or a part of one.
            by: columns that tell the conditions.
            columns: what is summed; `texts` counts the rows.
            conditions: in their order; None for that of the rows.
            example: columns that tell the examples.
            resamples: as above.
        """
        texts = texts.with_columns(texts=pl.lit(1), number=pl.struct(example).rank("dense") - 1)
        found = texts.select(by).rows()
        conditions = list(dict.fromkeys(found)) if conditions is None else conditions
        place = {condition: number for number, condition in enumerate(conditions)}
        where = texts["number"].to_numpy(), np.array([place[row] for row in found])
        sums = {}
        for column in (*columns, "texts"):
            total = np.zeros((int(where[0].max()) + 1, len(conditions)), order="F")  # a condition's examples together
            np.add.at(total, where, texts[column].cast(pl.Float64).to_numpy())
            sums[column] = grouped(total)
        return cls(conditions, sums, resamples)

    def __len__(self) -> int:
        return len(self.sums["texts"])

    @property
    def once(self) -> Floats:
        """Every example drawn once, [1, examples]."""
        return np.ones((1, len(self)))

    def ratio(self, part: str, whole: str, weights: Floats, at: Sequence[int] | slice = slice(None)) -> Floats:
        """The ratio of two columns under each condition, or under some, [resamples, conditions]."""
        found: Floats = (weights @ self.sums[part][:, at]) / (weights @ self.sums[whole][:, at])
        return found

    def estimate(self, measure: Measure, comparisons: int = 1) -> Estimate:
        """A number with its interval over the examples; `comparisons` as in `resampled`."""
        return resampled(measure, len(self), comparisons, self.resamples)

    def each(self, part: str, whole: str) -> list[Estimate]:
        """The ratio of two columns under each condition."""

        def of(place: int) -> Estimate:
            return self.estimate(lambda weights: self.ratio(part, whole, weights)[:, place])

        return [of(place) for place in range(len(self.conditions))]


class Rates:
    """Ratios of two sums under several conditions, on the same examples; each is the mean over pairs and tasks.

    Args:
        frame: one row for each example, pair, task and condition.
        condition, part, whole: its columns; of several that tell a condition, its name is the tuple.
        trainings: drafts or targets that are trainings of one size: intervals contain what others would change.
    """

    def __init__(
        self,
        frame: pl.DataFrame,
        condition: str | Sequence[str],
        part: str,
        whole: str = "tokens",
        trainings: Groups = (),
    ) -> None:
        by = [condition] if isinstance(condition, str) else [*condition]
        self._sums = Sums.of(frame, (*by, *CELL), (part, whole), example=("task", "example"))
        self._part, self._whole = part, whole
        self._names = [name[0] if len(by) == 1 else name[: len(by)] for name in self._sums.conditions]
        self._cells = [name[len(by) :] for name in self._sums.conditions]
        self._trainings = trainings
        self._left_out: str | None = None

    @property
    def cells(self) -> list[Cell]:
        """All tasks and pairs."""
        return list(dict.fromkeys(self._cells))

    def of(self, name: object) -> Measure:
        """The ratio under a condition as a function of how often each example is drawn."""
        mine = [i for i, known in enumerate(self._names) if known == name]

        def measured(weights: Floats) -> Floats:
            at = [i for i in mine if self._left_out is None or self._left_out not in self._cells[i][1:]]
            each = self._sums.ratio(self._part, self._whole, weights, at)
            known = ~np.isnan(each)  # a cell may have nothing in this resample
            mean: Floats = np.where(known, each, 0.0).sum(1) / known.sum(1)
            return mean

        return measured

    def measured(self, measure: Measure, comparisons: int = 1) -> Estimate:
        """Anything that is made of what `of` gives."""
        found = self._sums.estimate(measure, comparisons)
        return widened(found, reach(partial(self._without, measure), self._trainings)) if self._trainings else found

    def _without(self, measure: Measure, model: str | None) -> float:
        """A number without the pairs of a model."""
        self._left_out = model
        try:
            with np.errstate(invalid="ignore", divide="ignore"):
                return float(measure(self._sums.once)[0])
        finally:
            self._left_out = None

    def estimate(self, name: object, comparisons: int = 1) -> Estimate:
        """The ratio under a condition; `comparisons` as in `resampled`."""
        return self.measured(self.of(name), comparisons)

    def minus(self, name: object, other: Measure, comparisons: int = 1) -> Estimate:
        """The ratio under a condition minus another one on the same examples."""
        mine = self.of(name)
        return self.measured(lambda weights: mine(weights) - other(weights), comparisons)

    def each(self, name: object) -> Iterator[tuple[Cell, Estimate]]:
        """The ratio under a condition in each cell."""
        for i, (mine, cell) in enumerate(zip(self._names, self._cells, strict=True)):
            if mine == name:
                found = ratio(self._sums.sums[self._part][:, i], self._sums.sums[self._whole][:, i])
                if found is not None:
                    yield cell, found
