"""How well the draft's own uncertainty predicts where System 2 would choose another token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fsgen.analysis.histograms import Histogram, Measure, histograms
from fsgen.analysis.intervals import FEWER_RESAMPLES, Estimate, Floats, draws, percentiles
from fsgen.analysis.traces import Frame, collect, prepared

_RESAMPLED_BINS = 256
_RELIABILITY_BINS = 20
_RANKS = 10


@dataclass(frozen=True)
class Bar:
    """One bar of a distribution: how many matches and mismatches lie from `low` to `high`."""

    low: float
    high: float
    matches: int
    mismatches: int


@dataclass(frozen=True)
class MeasureResult:
    """One measure of uncertainty as a predictor of mismatches, which are the positive class.

    Attributes:
        name, unit: `max-prob`, `margin`, `entropy`, `top-k mass` (the probability of the draft's k most likely tokens)
            or `top-k entropy` (that of these k, renormalised); the unit is empty or `nats`.
        low_is_uncertain: a low value means uncertainty, not a high one.
        auroc: the probability that the draft is less certain at a mismatch than at a match; ties count half.
        auroc_resolution: how far it can be off because values in one bin count as tied.
        average_precision: the mean precision over the mismatches, from the most uncertain token on.
        mean_match, mean_mismatch: the mean of the measure on both.
        bars: its distributions.
    """

    name: str
    unit: str
    low_is_uncertain: bool
    auroc: Estimate
    auroc_resolution: float
    average_precision: Estimate
    mean_match: float
    mean_mismatch: float
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Reliability:
    """Tokens whose draft probability lies from `low` to `high`: its mean, and how often System 2 agreed."""

    low: float
    high: float
    tokens: int
    confidence: float
    agreement: float


@dataclass(frozen=True)
class UncertaintyResult:
    """What the draft's uncertainty predicts in a run.

    Attributes:
        tokens, mismatches: positions where both greedy choices are known, and those of them where they differ.
        candidates: k of the top-k measures, as many as the store keeps; 0 where it keeps none.
        measures: those that the trace has; empty where all positions match, or none.
        calibration_error: expected calibration error of the draft's largest probability as the probability that System
            2 agrees, over 20 bins of equal width (Naeini 2015, Guo 1706.04599).
        reliability: the bins of it that hold tokens.
        ranks: of the mismatches, the share in which System 2's token is the draft's second choice, third choice, and so
            on up to `candidates`, ten at most; the rest to 1 ranks lower.
        finding: the same in a sentence.
    """

    tokens: int
    mismatches: int
    candidates: int
    measures: tuple[MeasureResult, ...]
    calibration_error: Estimate | None
    reliability: tuple[Reliability, ...]
    ranks: tuple[float, ...]
    finding: str

    @property
    def best(self) -> MeasureResult:
        """The measure with the largest AUROC, of those that there are."""
        return max(self.measures, key=lambda measure: measure.auroc.value)


def uncertainty(traces: Frame, counted: Mapping[str, Histogram] | None = None) -> UncertaintyResult:
    """Measure how well the draft's uncertainty predicts mismatches.

    Args:
        traces: of one run that consulted System 2 everywhere; columns as in `docs/study.md`.
        counted: its histograms, where they are known already.
    """
    frame = prepared(traces)
    counted = histograms(frame) if counted is None else counted
    known = next(iter(counted.values()), None)
    tokens = known.tokens if known else 0
    mismatches = int(known.counts[..., 1].sum()) if known else 0
    candidates, ranks = _ranks(frame)
    measures: tuple[MeasureResult, ...] = ()
    if 0 < mismatches < tokens:
        measures = tuple(_measured(histogram) for histogram in counted.values() if _both(histogram))
    error, reliability = _calibration(counted["max-prob"]) if "max-prob" in counted else (None, ())
    return UncertaintyResult(
        tokens=tokens,
        mismatches=mismatches,
        candidates=candidates,
        measures=measures,
        calibration_error=error,
        reliability=reliability,
        ranks=ranks,
        finding=_finding(measures, error, reliability, ranks),
    )


def _both(histogram: Histogram) -> bool:
    matches, mismatches = histogram.counts.sum(0).sum(0)
    return bool(matches and mismatches)


# ---- areas


def auroc(matches: Floats, mismatches: Floats) -> Floats:
    """The area under the ROC curve of counts by bin, the most uncertain first, [..., bins]; ties count half."""
    below = matches.sum(-1, keepdims=True) - matches.cumsum(-1) + matches / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        area: Floats = (mismatches * below).sum(-1) / (matches.sum(-1) * mismatches.sum(-1))
    return area


def average_precision(matches: Floats, mismatches: Floats) -> Floats:
    """The mean precision over the mismatches of counts by bin, the most uncertain first, [..., bins]."""
    found, reached = mismatches.cumsum(-1), (matches + mismatches).cumsum(-1)
    precision = np.divide(found, reached, out=np.zeros_like(found), where=reached > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Floats = (mismatches * precision).sum(-1) / mismatches.sum(-1)
    return mean


def _areas(histogram: Histogram) -> tuple[Estimate, Estimate]:
    """The AUROC and the average precision, with their intervals over resampled groups."""
    matches, mismatches = histogram.ordered()
    values = [float(area(matches.sum(0), mismatches.sum(0))) for area in (auroc, average_precision)]
    groups = matches.any(1) | mismatches.any(1)
    if groups.sum() < 2:
        return Estimate(values[0]), Estimate(values[1])
    # For the width of the interval fewer bins, of about as many tokens each, are enough.
    reached = (matches + mismatches).sum(0).cumsum()
    marks = np.linspace(0, reached[-1], _RESAMPLED_BINS, endpoint=False)
    starts = np.unique(np.searchsorted(reached, marks, side="right"))
    drawn = draws(int(groups.sum()), FEWER_RESAMPLES)
    wide = [drawn @ np.add.reduceat(counts[groups], starts, axis=1) for counts in (matches, mismatches)]
    return Estimate(values[0], *percentiles(auroc(*wide))), Estimate(values[1], *percentiles(average_precision(*wide)))


def _measured(histogram: Histogram) -> MeasureResult:
    total, sums = histogram.counts.sum(0), histogram.sums.sum(0).sum(0)
    matches, mismatches = total.sum(0)
    area, precision = _areas(histogram)
    return MeasureResult(
        name=histogram.measure.name,
        unit="" if histogram.measure.probability else "nats",
        low_is_uncertain=histogram.measure.low,
        auroc=area,
        auroc_resolution=float((total[:, 0] * total[:, 1]).sum() / 2 / (matches * mismatches)),
        average_precision=precision,
        mean_match=float(sums[0] / matches),
        mean_mismatch=float(sums[1] / mismatches),
        bars=_bars(histogram.measure, total),
    )


def _bars(measure: Measure, total: Floats) -> tuple[Bar, ...]:
    """Fifty bars of a probability; bars of a fifth of a nat as far as there are tokens."""
    marks = np.arange(51) / (50 if measure.probability else 5)
    counts = np.zeros((50, 2), dtype=np.int64)
    np.add.at(counts, _wide(measure, marks[:-1]), total)
    last = 50 if measure.probability else 1 + int(np.flatnonzero(counts.any(1)).max())
    return tuple(Bar(float(marks[i]), float(marks[i + 1]), int(counts[i, 0]), int(counts[i, 1])) for i in range(last))


def _wide(measure: Measure, starts: Floats) -> NDArray[np.int64]:
    """The wide bin that each fine bin falls into, [bins]; a wide bin reaches to the start of the next one."""
    lows = np.concatenate([np.array([-np.inf], dtype=np.float32), measure.edges])
    return np.maximum(np.searchsorted(starts.astype(np.float32), lows, side="right") - 1, 0)


# ---- calibration


def _calibration(histogram: Histogram) -> tuple[Estimate | None, tuple[Reliability, ...]]:
    wide = _wide(histogram.measure, np.arange(_RELIABILITY_BINS) / _RELIABILITY_BINS)
    member = (wide == np.arange(_RELIABILITY_BINS)[:, None]).astype(float)  # [wide bins, bins]
    counts, sums = member @ histogram.counts, member @ histogram.sums  # [groups, wide bins, 2]
    tokens, agreeing, confidence = counts.sum(-1), counts[..., 0], sums.sum(-1)
    if not tokens.sum():
        return None, ()

    def error(tokens: Floats, agreeing: Floats, confidence: Floats) -> Floats:
        gap: Floats = np.abs(confidence - agreeing).sum(-1) / tokens.sum(-1)
        return gap

    value = float(error(tokens.sum(0), agreeing.sum(0), confidence.sum(0)))
    groups = tokens.any(1)
    low, high = None, None
    if groups.sum() >= 2:
        drawn = draws(int(groups.sum()), FEWER_RESAMPLES)
        low, high = percentiles(error(drawn @ tokens[groups], drawn @ agreeing[groups], drawn @ confidence[groups]))
    total, agreed, confident = tokens.sum(0), agreeing.sum(0), confidence.sum(0)
    return Estimate(value, low, high), tuple(
        Reliability(
            i / _RELIABILITY_BINS,
            (i + 1) / _RELIABILITY_BINS,
            int(total[i]),
            float(confident[i] / total[i]),
            float(agreed[i] / total[i]),
        )
        for i in np.flatnonzero(total)
    )


# ---- ranks


def _ranks(frame: pl.LazyFrame) -> tuple[int, tuple[float, ...]]:
    """How many candidates are kept, and the rank of System 2's token among them at the mismatches."""
    if "draft_top_ids" not in frame.collect_schema().names():
        return 0, ()
    kept = collect(frame.select(pl.col("draft_top_ids").list.len().max())).item() or 0
    if not kept:
        return 0, ()
    tops = pl.col("draft_top_ids")
    shares = [
        (tops.list.get(rank, null_on_oob=True) == pl.col("target_token")).fill_null(False).mean().alias(str(rank))
        for rank in range(1, min(kept, _RANKS))
    ]
    row = collect(frame.filter(pl.col("differs") & tops.is_not_null()).select(shares)).row(0)
    return kept, tuple(row) if None not in row else ()


def _finding(
    measures: tuple[MeasureResult, ...],
    error: Estimate | None,
    reliability: tuple[Reliability, ...],
    ranks: tuple[float, ...],
) -> str:
    if not measures:
        return "There are not both matches and mismatches, so that uncertainty can predict nothing."
    best = max(measures, key=lambda measure: measure.auroc.value)
    parts = [
        f"{best.name} predicts mismatches best: of a mismatch and a match the draft is less certain at the mismatch "
        f"{best.auroc.shown('.1f', 100, ' %')} of the time (AUROC; 50 % is chance)"
    ]
    if error is not None:
        tokens = sum(bin.tokens for bin in reliability)
        bias = sum(bin.tokens * (bin.confidence - bin.agreement) for bin in reliability) / tokens
        word = "overconfident" if bias > 0 else "underconfident"
        parts.append(
            f"the draft's probability is off by {100 * error.value:.1f} points on average as the probability that the "
            f"two agree, and the draft is {word} by {100 * abs(bias):.1f} points overall"
        )
    if ranks:
        parts.append(f"in {100 * ranks[0]:.0f} % of the mismatches System 2 takes the draft's second choice")
    return "; ".join(parts) + "."
