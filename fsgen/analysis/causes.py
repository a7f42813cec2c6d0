"""What goes with mismatches, and what causes them: one column changes, and the others are held fixed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from fsgen.analysis.intervals import FEWER_RESAMPLES, Estimate, Floats, grouped, ratio, resampled
from fsgen.analysis.logistic import clustered, fit, influence
from fsgen.analysis.uncertainty import auroc

_BINS = 64  # of a measure, so that a resample is a small table

# Frames have one row an observation: `differs`, `cluster` (the number of the text; texts are resampled), and the
# columns that are named in a call.


def rate(frame: pl.DataFrame, column: str = "differs") -> Estimate:
    """The mean of a column, with its interval. Raises ValueError for an empty frame."""
    sums = frame.group_by("cluster").agg(pl.col(column).cast(pl.Float64).sum(), count=pl.len()).sort("cluster")
    found = ratio(sums[column].to_numpy(), sums["count"].to_numpy().astype(float), FEWER_RESAMPLES)
    if found is None:
        raise ValueError(f"there are no observations of {column!r}")
    return found


def mean(frame: pl.DataFrame, column: str) -> float:
    """The mean of a column."""
    return float(frame[column].to_numpy().astype(float).mean())


def counted(frame: pl.DataFrame, columns: Sequence[str]) -> tuple[pl.DataFrame, Floats, Floats]:
    """The distinct values of some columns, sorted, and how many observations and mismatches each group has of them.

    Returns:
        the cells [cells, columns], observations and mismatches [groups, cells].
    """
    cells = frame.select(columns).unique().sort(columns)
    placed = frame.select(*columns, "differs", cluster=pl.col("cluster").rank("dense") - 1).join(
        cells.with_row_index("cell"), on=list(columns)
    )
    where = placed["cluster"].to_numpy(), placed["cell"].to_numpy()
    shape = (placed["cluster"].n_unique(), len(cells))
    observed, events = np.zeros(shape), np.zeros(shape)
    np.add.at(observed, where, 1.0)
    np.add.at(events, where, placed["differs"].to_numpy().astype(float))
    return cells, grouped(observed), grouped(events)


def contrast(frame: pl.DataFrame, cause: str, low: float, high: float, held: Sequence[str]) -> Estimate | None:
    """How much more often the two differ at the high value of a cause than at the low one, other columns held fixed.

    The mean of the differences over all values of the held columns at which both were observed; None without any.
    """
    cells, observed, events = counted(frame.filter(pl.col(cause).is_in([low, high])), [*held, cause])
    placed = cells.with_row_index("cell")
    ends = [placed.filter(pl.col(cause) == end).rename({"cell": name}) for end, name in ((low, "low"), (high, "high"))]
    both = ends[0].join(ends[1], on=list(held), suffix="_high", maintain_order="left")
    if both.is_empty():
        return None
    start, end = both["low"].to_numpy(), both["high"].to_numpy()

    def measured(weights: Floats) -> Floats:
        rates = (weights @ events) / (weights @ observed)
        change = rates[:, end] - rates[:, start]
        there = ~np.isnan(change)  # a resample may lack a cell; the mean is then over the others
        mean: Floats = np.where(there, change, 0.0).sum(1) / np.maximum(there.sum(1), 1)
        return mean

    return resampled(measured, len(observed), resamples=FEWER_RESAMPLES)


def odds_ratios(frame: pl.DataFrame, columns: Sequence[str]) -> dict[str, Estimate]:
    """By what factor each column's unit multiplies the odds of a mismatch, in one logistic model of all columns.

    The intervals are from errors clustered by text (`logistic.clustered`); a bootstrap would fit again each time.

    Raises:
        ValueError: a column that does not vary.
    """
    cells, observed, events = counted(frame, columns)
    design = np.column_stack([np.ones(len(cells)), cells.cast(pl.Float64).to_numpy()])
    model = fit(design, observed.sum(0), events.sum(0))
    found = {}
    for number, column in enumerate(columns, 1):
        value = model.coefficients[number]
        without, with_ = influence(model, design, number)
        sums = (observed - events) @ without + events @ with_
        reach = float(stats.t.ppf(0.975, len(sums) - 1)) * clustered(sums) if len(sums) > 1 else np.nan
        ends = [None if np.isnan(reach) else float(np.exp(value + side * reach)) for side in (-1, 1)]
        found[column] = Estimate(float(np.exp(value)), *ends)
    return found


def separation(frame: pl.DataFrame, column: str, low_is_uncertain: bool = False) -> Estimate | None:
    """How well a measure separates mismatches: AUROC, mismatches being the positive class.

    None where there are not both. Values go into at most 64 bins of about as many observations each; ties count half.

    Args:
        frame: see above.
        column: the measure.
        low_is_uncertain: a low value means uncertainty, not a high one.
    """
    values = frame[column].to_numpy().astype(float)
    values = values if low_is_uncertain else -values
    binned = frame.select("differs", "cluster", bin=pl.Series(_binned(values, values)))
    _, observed, events = counted(binned, ["bin"])
    if not 0 < events.sum() < observed.sum():
        return None
    matches = observed - events
    return resampled(lambda drawn: auroc(drawn @ matches, drawn @ events), len(observed), resamples=FEWER_RESAMPLES)


def predicted_rise(before: pl.DataFrame, after: pl.DataFrame, column: str) -> tuple[Estimate, Estimate, Estimate]:
    """What a change that raised a measure did to mismatches, beside what the measure predicts.

    Before the change mismatches go with the measure in some way. If the change only moves observations along that
    relation, mismatches rise as it predicts.

    Args:
        before, after: the same observations of the same clusters, without and with the change.
        column: the measure.

    Returns:
        the rise of the share of mismatches, the predicted rise, and the first minus the second. Values beyond those
        from before the change get the prediction of the largest of these.

    Raises:
        ValueError: there are no observations.
    """
    if before.is_empty() or after.is_empty():
        raise ValueError("there are no observations to compare")
    reference = before[column].to_numpy().astype(float)
    frames = [
        frame.select(
            "differs",
            "cluster",
            after=pl.lit(float(i)),
            bin=pl.Series(_binned(frame[column].to_numpy().astype(float), reference)),
        )
        for i, frame in enumerate((before, after))
    ]
    cells, observed, events = counted(pl.concat(frames), ["after", "bin"])
    is_after, bins = cells["after"].to_numpy() == 1, cells["bin"].to_numpy()
    known = {int(b): i for i, b in enumerate(bins[~is_after])}
    same_bin = np.array([known[int(b)] for b in bins[is_after]])

    def share(weights: Floats, chosen: NDArray[np.bool_]) -> Floats:
        found: Floats = (weights @ events[:, chosen]).sum(1) / (weights @ observed[:, chosen]).sum(1)
        return found

    def rise(weights: Floats) -> Floats:
        return share(weights, is_after) - share(weights, ~is_after)

    def predicted(weights: Floats) -> Floats:
        rates = (weights @ events[:, ~is_after]) / (weights @ observed[:, ~is_after])
        moved = weights @ observed[:, is_after]
        expected: Floats = np.nansum(rates[:, same_bin] * moved, axis=1) / moved.sum(1)
        return expected - share(weights, ~is_after)

    def rest(weights: Floats) -> Floats:
        return rise(weights) - predicted(weights)

    first, second, third = (
        resampled(measured, len(observed), resamples=FEWER_RESAMPLES) for measured in (rise, predicted, rest)
    )
    return first, second, third


def _binned(values: Floats, reference: Floats) -> NDArray[np.int64]:
    """Bins that hold about as many of the reference values each, and only such as hold some; [values]."""
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, _BINS + 1)[1:-1], method="lower"))
    held = np.unique(np.searchsorted(edges, reference, side="left"))
    found = np.searchsorted(edges, values, side="left")
    bins: NDArray[np.int64] = np.minimum(np.searchsorted(held, found, side="left"), len(held) - 1)
    return bins
