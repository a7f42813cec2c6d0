"""The laws of `laws.py` compared on equal terms: the same pairs, the same loss, the same held-out models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from fsgen.analysis.intervals import RESAMPLES, Floats
from fsgen.analysis.scaling.bootstrap import (
    Resamples,
    Texts,
    determined_frequencies,
    determined_parameters,
    resample,
)
from fsgen.analysis.scaling.fit import Fits, fit
from fsgen.analysis.scaling.laws import LAWS, Law, Sizes
from fsgen.analysis.scaling.results import LawFit, Model, Parameter, Prediction, Scaling, as_sizes, sizes_of

MIN_PAIRS = 4  # one more than a law has parameters
HELD_OUT_RESAMPLES = 200  # each fits a law without every model
SET = ["family", "method", "task"]


def compare_laws(
    points: pl.DataFrame, predict: Sequence[tuple[Model, Model]] = (), resamples: int = RESAMPLES
) -> list[Scaling]:
    """Fit and compare all laws on each set of pairs: each family, method and task.

    Args:
        points: as `read_points` gives them; `family`, `part` and `whole` may be missing. The laws are of drafts that
            are smaller than their targets: other pairs are left out, and so is a set of fewer than `MIN_PAIRS` (see
            `too_small`).
        predict: pairs (target, draft) whose frequency is predicted in every set.
        resamples: of the bootstrap.

    Raises:
        ValueError: no set has enough pairs.
    """
    missing = [name for name in ("family", "part", "whole") if name not in points.columns]
    points = points.with_columns([pl.lit("" if name == "family" else None).alias(name) for name in missing])
    points = smaller_drafts(points)
    several = points["family"].n_unique() > 1
    sets = [
        _compare(pairs, (family if several else "", method, task), predict, resamples)
        for (family, method, task), pairs in points.group_by(SET, maintain_order=True)
        if len(pairs) >= MIN_PAIRS
    ]
    if not sets:
        most = max((size for _, _, size in too_small(points)), default=0)
        raise ValueError(f"no method and task has the {MIN_PAIRS} pairs that a fit needs; the most are {most}")
    return sets


def smaller_drafts(points: pl.DataFrame) -> pl.DataFrame:
    """The pairs whose draft is smaller than the target."""
    return points.filter(pl.col("draft_parameters") < pl.col("target_parameters"))


def too_small(points: pl.DataFrame) -> list[tuple[str, str, int]]:
    """Method, task and number of pairs of the sets that `compare_laws` leaves out."""
    counts = (
        smaller_drafts(points).group_by([name for name in SET if name in points.columns], maintain_order=True).len()
    )
    return [(row["method"], row["task"], row["len"]) for row in counts.rows(named=True) if row["len"] < MIN_PAIRS]


def _compare(
    pairs: pl.DataFrame, names: tuple[str, str, str], predict: Sequence[tuple[Model, Model]], resamples: int
) -> Scaling:
    sizes, texts = sizes_of(pairs), Texts.of(pairs)
    frequencies = pairs["collaboration_frequency"].to_numpy().astype(float)
    laws, drawn = [], {}
    for law in LAWS.values():
        best = fit(law, sizes, frequencies[None])
        drawn[law.name] = resample(best, sizes, texts, resamples)
        errors = held_out_errors(law, sizes, frequencies[None], pairs["target"].to_list(), pairs["draft"].to_list())
        error = None if errors is None else float(errors[0])
        parameters = _parameters(best, sizes, drawn[law.name])
        laws.append(LawFit(law.name, *_quality(best, frequencies), error, parameters, best))
    chosen = min(laws, key=_preference)
    expected = tuple(_predict(chosen, drawn[chosen.law], sizes, *pair) for pair in predict)
    return Scaling(*names, pairs, chosen.law, tuple(laws), expected)


def _preference(one: LawFit) -> tuple[float, int]:
    """The least error first; errors that differ only by rounding are equal."""
    error = math.inf if one.leave_one_model_out_rmse is None else round(one.leave_one_model_out_rmse, 9)
    return error, len(one.parameters)


def _quality(best: Fits, frequencies: Floats) -> tuple[float | None, float | None]:
    """R2 and AICc."""
    n = len(frequencies)
    # Residuals below the rounding of the frequencies mean nothing, and have no logarithm where they are 0.
    rounding = n * float(np.finfo(float).eps * np.abs(frequencies).max()) ** 2
    squares = max(float((best.residuals**2).sum()), rounding)
    total = float(((frequencies - frequencies.mean()) ** 2).sum())
    r2 = (
        round(1 - squares / total, 12) if total > rounding else None
    )  # a sum of squares that is rounding alone counts as 0
    return r2, aicc(squares, n, len(best.law.parameters))


def aicc(squares: float, n: int, parameters: int) -> float | None:
    """Akaike's criterion, corrected, of a least-squares fit to n pairs; None with too few, or where nothing is left."""
    k = parameters + 1  # and the variance
    if n <= k + 1 or squares <= 0:
        return None
    return float(n * math.log(squares / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1))


def held_out_errors(
    law: Law, sizes: Sizes, frequencies: Floats, targets: Sequence[str], drafts: Sequence[str]
) -> Floats | None:
    """Each model in turn is held out: all pairs that it is part of are predicted from the others.

    Args:
        sizes: of n pairs.
        frequencies: of these pairs, [sets, n].
        targets, drafts: names of their models.

    Returns:
        the root mean squared error over all of them, [sets]; None where the other pairs do not determine the law.
    """
    errors = []
    for model in dict.fromkeys([*targets, *drafts]):
        held = np.array([model in pair for pair in zip(targets, drafts, strict=True)])
        if held.all():
            continue  # the one target of all pairs, say: nothing is left to fit any law to
        error = left_out(law, sizes, frequencies, held)
        if error is None:
            return None
        errors.append(error)
    return np.sqrt(np.mean(np.concatenate(errors, axis=1) ** 2, axis=1)) if errors else None


def left_out(law: Law, sizes: Sizes, frequencies: Floats, held: npt.NDArray[np.bool_]) -> Floats | None:
    """The errors for some pairs that are left out of the fit, [sets, held]; None where the others do not tell.

    Args:
        sizes, frequencies: as in `held_out_errors`.
        held: which pairs, [n].
    """
    rest = fit(law, sizes[~held], frequencies[:, ~held])
    if not determined_frequencies(rest, sizes[~held], sizes[held]).all():
        return None
    return np.asarray(frequencies[:, held] - rest.predict(sizes[held]))


def resampled_frequencies(pairs: pl.DataFrame, resamples: int = HELD_OUT_RESAMPLES) -> Floats:
    """The frequencies that were measured, then those of resamples of the examples, [1 + resamples, pairs].

    Without resamples where the examples are not known.
    """
    measured = pairs["collaboration_frequency"].to_numpy().astype(float)[None]
    if resamples and (texts := Texts.of(pairs)):
        measured = np.concatenate([measured, measured + texts.deviations(resamples, seed=0)])
    return np.asarray(measured)


def held_out(one: Scaling, law: str, resamples: int = HELD_OUT_RESAMPLES) -> Floats:
    """The held-out error of a law on one set: of what was measured, then of each resample of the examples.

    Empty where the other pairs do not determine the law; without resamples where the examples are not known.
    """
    return held_out_of(one.pairs, LAWS[law], resampled_frequencies(one.pairs, resamples))


def held_out_of(pairs: pl.DataFrame, law: Law, frequencies: Floats) -> Floats:
    """As `held_out`, of pairs with given frequencies [sets, pairs]."""
    models = pairs["target"].to_list(), pairs["draft"].to_list()
    found = held_out_errors(law, sizes_of(pairs), frequencies, *models)
    return np.empty(0) if found is None else found


def _parameters(best: Fits, sizes: Sizes, drawn: Resamples) -> dict[str, Parameter]:
    """Each parameter with its interval, and why it is not identified where it is not."""
    law, values = best.law, best.values[0]
    limits = law.limits(values[None], best.shape)[0]
    bounds = {
        one.name: f"{one.low:g}" if one.at_low(best.shape[0, number]) else f"{one.high:g}"
        for number, one in enumerate(law.shape)
        if one.at_low(best.shape[0, number]) or one.at_high(best.shape[0, number])
    }
    lows, highs = drawn.parameters()
    determined = determined_parameters(best, sizes)
    result = {}
    for number, name in enumerate(law.parameters):
        value = float(values[number])
        # An interval contains its estimate, even where the resamples are skewed.
        low, high = min(float(lows[number]), value), max(float(highs[number]), value)
        why_not = ""
        if not determined[number]:
            result[name] = Parameter(None, None, None, "not determined by these pairs")
            continue
        if name in bounds:
            why_not = f"at its bound, {bounds[name]}"
        elif math.isinf(limits[number]):
            why_not = f"without limit as {' and '.join(bounds)} goes beyond its bound"
        elif math.isinf(low) or math.isinf(high):
            why_not = "the interval is not finite"
        ends = [None if math.isinf(end) else end for end in (low, high)]
        result[name] = Parameter(value, ends[0], ends[1], why_not)
    return result


def _predict(chosen: LawFit, drawn: Resamples, measured: Sizes, target: Model, draft: Model) -> Prediction:
    pair = as_sizes([draft.parameters], [target.parameters])
    lows, highs = drawn.predictions(pair)
    value, low, high = (
        min(max(float(number), 0.0), 1.0) for number in (chosen.fits.predict(pair)[0, 0], lows[0], highs[0])
    )
    outside = any(
        not known.min() <= new[0] <= known.max()
        for known, new in (
            (measured.draft, pair.draft),
            (measured.target, pair.target),
            (measured.log_ratio, pair.log_ratio),
        )
    )
    return Prediction(
        target=target.name,
        draft=draft.name,
        target_parameters=target.parameters,
        draft_parameters=draft.parameters,
        law=chosen.law,
        value=value,
        low=min(low, value),
        high=max(high, value),
        outside=outside,
    )
