"""Counts of matches and mismatches in fine bins of each measure of uncertainty.

Curves, areas and thresholds are computed from these counts, so that memory does not grow with the trace. They are exact
at the edges of the bins; within a bin the order of the tokens is lost. There is an edge at every thousandth of a
probability and every hundredth of a nat, and finer ones close to 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fsgen.analysis.intervals import Floats
from fsgen.analysis.traces import Frame, prepared

BINS = 4000
Edges = NDArray[np.float32]


@dataclass(frozen=True)
class Measure:
    """A measure of the draft's uncertainty.

    Attributes:
        name: that of its router, where there is one.
        column: of the trace, from which it is computed.
        low: a low value means uncertainty, not a high one.
        probability: it lies between 0 and 1; otherwise it is in nats.
        router: the decode loop has a router of this name.
    """

    name: str
    column: str
    low: bool
    probability: bool
    router: bool = False

    @property
    def edges(self) -> Edges:
        """The inner edges of the bins, ascending, [bins - 1], fewer than BINS; in float32, as routers compare."""
        return _probability_edges() if self.probability else _entropy_edges()

    @property
    def expression(self) -> pl.Expr:
        """Its value, from a trace's columns."""
        if self.name == "top-k mass":
            return pl.col(self.column).list.sum()
        if self.name == "top-k entropy":
            # renormalised over k: H = ln m - sum(p ln p) / m; a p that was rounded to 0 adds nothing
            log = pl.element().clip(lower_bound=1e-37).log()
            mass = pl.col(self.column).list.sum()
            return (mass.log() - pl.col(self.column).list.eval(pl.element() * log).list.sum() / mass).clip(0.0)
        return pl.col(self.column)

    def bins(self, values: Edges) -> NDArray[np.int16]:
        """The bin of each value. At a threshold that is an edge, `value < edge` or `value > edge` is exact."""
        return np.searchsorted(self.edges, values, side="right" if self.low else "left").astype(np.int16)


MEASURES = (
    Measure("max-prob", "draft_prob", low=True, probability=True, router=True),
    Measure("margin", "draft_margin", low=True, probability=True, router=True),
    Measure("entropy", "draft_entropy", low=False, probability=False, router=True),
    Measure("top-k mass", "draft_top_probs", low=True, probability=True),
    Measure("top-k entropy", "draft_top_probs", low=False, probability=False),
)


@cache
def _probability_edges() -> Edges:
    even = np.arange(1001) / 1000
    odds = np.linspace(-16.0, 16.0, BINS - len(even))
    return np.unique(np.concatenate([even, 1 / (1 + np.exp(-odds))]).astype(np.float32))


@cache
def _entropy_edges() -> Edges:
    even = np.arange(1001) / 100
    fine = np.geomspace(1e-7, 16.0, BINS - len(even))
    return np.unique(np.concatenate([even, fine]).astype(np.float32))


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of a measure over a trace.

    Attributes:
        measure: what was counted.
        counts: tokens by group of examples, bin and whether the greedy choices differ, [groups, bins, 2].
        sums: the sum of the measure over these tokens, of the same shape.
    """

    measure: Measure
    counts: NDArray[np.int64]
    sums: Floats

    @property
    def tokens(self) -> int:
        return int(self.counts.sum())

    def ordered(self) -> tuple[Floats, Floats]:
        """Matches and mismatches by group and bin, the most uncertain bin first, [groups, bins] both."""
        counts = self.counts.astype(np.float64)[:, :: 1 if self.measure.low else -1]
        return counts[..., 0], counts[..., 1]


def histograms(traces: Frame, measures: Sequence[Measure] = MEASURES) -> dict[str, Histogram]:
    """The histogram of each measure that a trace has, by its name; tokens with an unknown choice are left out.

    Args:
        traces: of one run; columns as in `docs/study.md`.
        measures: those wanted.
    """
    frame = prepared(traces)
    names = frame.collect_schema().names()
    wanted = [measure for measure in measures if measure.column in names]
    queries = [_query(frame, measure) for measure in wanted]
    found = {}
    for measure, table in zip(wanted, pl.collect_all(queries, engine="streaming"), strict=True):
        if table.is_empty():
            continue
        place = table["group"].to_numpy(), table["bin"].to_numpy(), table["differs"].to_numpy().astype(np.intp)
        shape = (1 + int(place[0].max()), len(measure.edges) + 1, 2)
        counts, sums = np.zeros(shape, dtype=np.int64), np.zeros(shape)
        counts[place] = table["tokens"].to_numpy()
        sums[place] = table["sum"].to_numpy()
        found[measure.name] = Histogram(measure, counts, sums)
    return found


def _query(frame: pl.LazyFrame, measure: Measure) -> pl.LazyFrame:
    def bins(values: pl.Series) -> pl.Series:
        return pl.Series(measure.bins(values.to_numpy()))

    return (
        frame.select("group", "differs", value=measure.expression.cast(pl.Float32))
        .filter(pl.col("differs").is_not_null() & pl.col("value").is_not_null())
        .with_columns(bin=pl.col("value").map_batches(bins, return_dtype=pl.Int16, is_elementwise=True))
        .group_by("group", "bin", "differs")
        .agg(tokens=pl.len(), sum=pl.col("value").cast(pl.Float64).sum())
    )
