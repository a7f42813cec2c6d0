"""Where in a text the two systems differ, and whether position still matters once the draft's uncertainty is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import stats

from fsgen.analysis.intervals import Estimate, Floats, ratio, resampled
from fsgen.analysis.logistic import Fit, clustered, fit, influence
from fsgen.analysis.traces import Frame, collect, prepared

TENTHS = 10
FIRST = 32
"""Positions from the start that have a place of their own; those after them are put into ranges that double."""
_LEVEL = 0.05


@dataclass(frozen=True)
class Place:
    """The tokens of one place.

    Attributes:
        start, stop: from where to where, `stop` excluded: shares of the text, or positions in it.
        tokens: positions where both greedy choices are known.
        frequency: how often they differ, with its interval over examples; of a sampled run the mean total variation.
        entropy: the draft's mean entropy there, in nats.
        uncertainty: one minus the draft's largest probability, the mean.
    """

    start: float
    stop: float
    tokens: int
    frequency: Estimate
    entropy: float
    uncertainty: float


@dataclass(frozen=True)
class Effect:
    """What position does to the odds of a mismatch, in a logistic model.

    Attributes:
        log_odds, standard_error: the coefficient, and its standard error clustered by example.
        odds_ratio, low, high: its exponential, with the 95 % interval.
        p_value: of no effect, by Student's t with one degree of freedom less than there are examples.
    """

    log_odds: float
    standard_error: float
    odds_ratio: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class PositionModel:
    """The effect of position before and after uncertainty is known.

    Attributes:
        scale: `relative`, from the first token of a text (0) to its end (1), or `absolute`, each doubling of the
            position (log2 of 1 + position).
        alone: of position by itself.
        given_uncertainty: of position beside the draft's largest probability and entropy.
        explained_alone, explained_by_uncertainty, explained_by_both: the share of the deviance that each explains.
    """

    scale: str
    alone: Effect
    given_uncertainty: Effect
    explained_alone: float
    explained_by_uncertainty: float
    explained_by_both: float


@dataclass(frozen=True)
class PositionResult:
    """Where a run's mismatches are.

    Attributes:
        relative: ten places from the start to the end of the texts.
        absolute: each of the first 32 tokens, then ranges that double.
        models: by the relative and by the absolute position; empty where they cannot be fitted.
        matters: position predicts what uncertainty does not: one of the two effects given uncertainty is significant
            at 5 % (Bonferroni); None where there is no model.
        finding: the same in a sentence.
        first_tenth: how much higher the frequency is in the first tenth of the texts than in the rest of them.
    """

    relative: tuple[Place, ...]
    absolute: tuple[Place, ...]
    models: tuple[PositionModel, ...]
    matters: bool | None
    finding: str
    first_tenth: Estimate | None = None


def position(traces: Frame, sampled: bool = False) -> PositionResult:
    """Profiles of the mismatches over the text, and the models of them.

    Args:
        traces: of one run that consulted System 2 everywhere; columns as in `docs/study.md`.
        sampled: it was sampled, not greedy: the profiles are of the total variation. The models are of greedy choices
            in either case.
    """
    frame = prepared(traces).filter(pl.col("differs").is_not_null())
    relative = (TENTHS * pl.col("position").cast(pl.UInt64)) // pl.col("length")
    beyond = (pl.col("position").cast(pl.Float64) / FIRST).log(2).floor().cast(pl.Int64)
    absolute = pl.when(pl.col("position") < FIRST).then(pl.col("position").cast(pl.Int64)).otherwise(FIRST + beyond)
    tables = pl.collect_all([_sums(frame, place, sampled) for place in (relative, absolute)], engine="streaming")
    tenths = _places(tables[0], lambda i: (i / TENTHS, (i + 1) / TENTHS))
    tokens = _places(
        tables[1],
        lambda i: (i, i + 1) if i < FIRST else (FIRST * 2.0 ** (i - FIRST), FIRST * 2.0 ** (i - FIRST + 1)),
    )
    models = tuple(model for scale in _SCALES if (model := _model(frame, scale)) is not None)
    matters = min(m.given_uncertainty.p_value for m in models) < _LEVEL / len(models) if models else None
    first = _first_tenth(tables[0])
    return PositionResult(tenths, tokens, models, matters, _finding(first, models, matters), first)


# ---- profiles


def _sums(frame: pl.LazyFrame, place: pl.Expr, sampled: bool) -> pl.LazyFrame:
    """What is summed over the tokens of a place, by group of examples."""
    differing = pl.col("total_variation") if sampled else pl.col("differs")
    return frame.group_by("group", place=place).agg(
        tokens=pl.len(),
        differing=differing.cast(pl.Float64).sum(),
        entropy=pl.col("draft_entropy").cast(pl.Float64).sum(),
        prob=pl.col("draft_prob").cast(pl.Float64).sum(),
    )


def _places(table: pl.DataFrame, ends: Callable[[int], tuple[float, float]]) -> tuple[Place, ...]:
    found = []
    for (place,), rows in table.sort("place", "group").group_by("place", maintain_order=True):
        tokens = rows["tokens"].to_numpy().astype(float)
        frequency = ratio(rows["differing"].to_numpy(), tokens)
        assert frequency is not None, "a place is made of tokens"
        start, stop = ends(int(place))
        found.append(
            Place(
                start=float(start),
                stop=float(stop),
                tokens=int(tokens.sum()),
                frequency=frequency,
                entropy=float(rows["entropy"].sum() / tokens.sum()),
                uncertainty=float(1 - rows["prob"].sum() / tokens.sum()),
            )
        )
    return tuple(found)


def _first_tenth(table: pl.DataFrame) -> Estimate | None:
    """The frequency in the first tenth minus that in the rest; None where there are not both."""
    counts = (
        table.group_by("group", first=pl.col("place") == 0)
        .agg(pl.col("differing", "tokens").cast(pl.Float64).sum())
        .pivot("first", index="group", values=["differing", "tokens"])
        .fill_null(0.0)
        .sort("group")
    )
    if len(counts.columns) < 5:
        return None
    parts = [
        (counts[f"differing_{side}"].to_numpy(), counts[f"tokens_{side}"].to_numpy()) for side in ("true", "false")
    ]

    def difference(weights: Floats) -> Floats:
        (first, of_first), (rest, of_rest) = parts
        change: Floats = (weights @ first) / (weights @ of_first) - (weights @ rest) / (weights @ of_rest)
        return change

    return resampled(difference, len(counts))


# ---- models


@dataclass(frozen=True)
class _Scale:
    """A measure of where a token is: the covariate, and the number of its levels."""

    name: str
    covariate: pl.Expr
    levels: int


_CERTAIN = (pl.col("draft_prob").cast(pl.Float64)).clip(1e-7, 1 - 1e-7)
_LOGIT = (_CERTAIN / (1 - _CERTAIN)).log()
_NATS = pl.col("draft_entropy").cast(pl.Float64).clip(1e-4, 16.0)
_SCALES = (
    _Scale("relative", (pl.col("position") + 0.5) / pl.col("length"), 20),
    _Scale("absolute", (pl.col("position") + 1).log(2), 16),
)


def _model(frame: pl.LazyFrame, scale: _Scale) -> PositionModel | None:
    """The models of one scale, from the counts in cells of similar probability, entropy and position.

    The largest probability enters as its log-odds, piecewise linear with knots at its quartiles, the entropy as it is:
    where the draft is calibrated, the log-odds of a mismatch are linear in the first. A cell's covariates are the means
    of its tokens.
    """
    cell = (((_LOGIT + 17) * 4).floor() * 128 + ((_NATS.log() + 10) * 2).floor()) * 1024
    cell = (cell + (scale.covariate * scale.levels).floor()).cast(pl.Int64)
    placed = frame.select("number", "differs", cell=cell, logit=_LOGIT, nats=_NATS, place=scale.covariate)
    cells = collect(
        placed.group_by("cell")
        .agg(pl.len().alias("tokens"), pl.col("differs").sum(), pl.col("logit", "nats", "place").mean())
        .sort("cell")
    )
    tokens, events = cells["tokens"].to_numpy().astype(float), cells["differs"].to_numpy().astype(float)
    if not 0 < events.sum() < tokens.sum():
        return None
    ones, place = np.ones(len(cells)), cells["place"].to_numpy()
    uncertainty = _basis(cells["logit"].to_numpy(), cells["nats"].to_numpy(), tokens)
    designs = [
        np.column_stack([ones]),
        np.column_stack([ones, place]),
        np.column_stack([ones, *uncertainty]),
        np.column_stack([ones, *uncertainty, place]),
    ]
    try:
        null, alone, uncertain, both = (fit(design, tokens, events) for design in designs)
    except ValueError:  # all tokens have one position
        return None
    without, with_ = _effects(placed, cells["cell"], [(alone, designs[1]), (both, designs[3])])
    if without is None or with_ is None:
        return None
    return PositionModel(
        scale=scale.name,
        alone=without,
        given_uncertainty=with_,
        explained_alone=1 - alone.deviance / null.deviance,
        explained_by_uncertainty=1 - uncertain.deviance / null.deviance,
        explained_by_both=1 - both.deviance / null.deviance,
    )


def _basis(logit: Floats, nats: Floats, tokens: Floats) -> list[Floats]:
    """The columns of uncertainty that vary."""
    order = np.argsort(logit)
    below = tokens[order].cumsum() / tokens.sum()
    knots = np.unique(logit[order][np.searchsorted(below, [0.25, 0.5, 0.75])])
    columns = [logit, *(np.maximum(logit - knot, 0.0) for knot in knots), nats]
    return [column for column in columns if np.ptp(column) > 1e-6]


def _effects(placed: pl.LazyFrame, cells: pl.Series, models: list[tuple[Fit, Floats]]) -> list[Effect | None]:
    """The effect of the last column of each model, its error clustered by example."""
    added = [influence(model, design, design.shape[1] - 1) for model, design in models]
    looked_up = pl.DataFrame(
        {"cell": cells, **{f"{i}{int(y)}": pair[y] for i, pair in enumerate(added) for y in (False, True)}}
    )
    chosen = [
        pl.when("differs").then(pl.col(f"{i}1")).otherwise(pl.col(f"{i}0")).sum().alias(str(i))
        for i in range(len(models))
    ]
    sums = collect(placed.join(looked_up.lazy(), on="cell").group_by("number").agg(chosen))
    if len(sums) < 2:
        return [None] * len(models)
    return [
        _effect(float(model.coefficients[-1]), clustered(sums[str(i)].to_numpy()), len(sums))
        for i, (model, _) in enumerate(models)
    ]


def _effect(log_odds: float, error: float, examples: int) -> Effect:
    reach = float(stats.t.ppf(0.975, examples - 1)) * error
    ratio_, low, high = (float(np.exp(np.clip(x, -700, 700))) for x in (log_odds, log_odds - reach, log_odds + reach))
    p_value = 2 * float(stats.t.sf(abs(log_odds) / error, examples - 1)) if error > 0 else 1.0
    return Effect(log_odds, error, ratio_, low, high, p_value)


# ---- words


def _finding(first: Estimate | None, models: tuple[PositionModel, ...], matters: bool | None) -> str:
    said = []
    if first is not None:
        said.append(f"The frequency in the first tenth of a text is {more_or_less(first)} than in the rest.")
    if matters is None:
        said.append("These traces cannot tell whether position matters beside uncertainty.")
        return " ".join(said)
    verb = "still matters" if matters else "no longer matters"
    said.append(f"Position {verb} once the draft's uncertainty is known: {'; '.join(map(_said, models))}.")
    return " ".join(said)


def more_or_less(change: Estimate) -> str:
    """A difference of two frequencies in words, by its sign: `3.1 points [1.0, 5.2] higher`."""
    return f"{change.magnitude().shown('.1f', 100, ' points')} {'higher' if change.value >= 0 else 'lower'}"


_OVER = {"relative": "from a text's start to its end", "absolute": "with each doubling of the position"}


def _said(model: PositionModel) -> str:
    given, alone = model.given_uncertainty, model.alone
    more = 100 * (model.explained_by_both - model.explained_by_uncertainty)
    return (
        f"{_OVER[model.scale]} the odds of a mismatch change by a factor of {alone.odds_ratio:.2f} "
        f"[{alone.low:.2f}, {alone.high:.2f}], and at equal uncertainty by {given.odds_ratio:.2f} "
        f"[{given.low:.2f}, {given.high:.2f}] (p = {given.p_value:.2g}), which adds {more:.1f} points to the "
        f"{100 * model.explained_by_uncertainty:.0f} % of the deviance that uncertainty explains"
    )
