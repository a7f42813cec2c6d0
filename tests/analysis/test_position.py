"""Position: profiles by hand, models against direct dense formulas, effects found where they are and only there."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize

from fsgen.analysis.logistic import clustered, fit, influence
from fsgen.analysis.position import PositionModel, PositionResult, position
from tests.analysis.made_up import Floats, drawn, places, trace


def model(result: PositionResult, scale: str = "relative") -> PositionModel:
    return next(one for one in result.models if one.scale == scale)


def chance(odds: Floats) -> Floats:
    return 1 / (1 + np.exp(-odds))


def test_profiles_are_what_counting_gives() -> None:
    draw, prob = drawn(40, 70)
    differs = draw.random(len(prob)) < 0.4
    frame = trace(prob, differs, 70)
    found = position(frame)
    _, at = places(40, 70)
    assert [(place.start, place.stop) for place in found.relative][:2] == [(0.0, 0.1), (0.1, 0.2)]
    assert [place.tokens for place in found.relative] == [280] * 10
    entropy = frame["draft_entropy"].to_numpy()
    for i, place in enumerate(found.relative):
        here = at // 7 == i
        assert place.frequency.value == differs[here].mean()
        assert place.entropy == pytest.approx(entropy[here].mean(), rel=1e-6)
        assert place.uncertainty == pytest.approx((1 - prob[here]).mean(), rel=1e-5)
        assert place.frequency.low is not None
        assert place.frequency.high is not None
        assert place.frequency.low < place.frequency.value < place.frequency.high
    assert [(place.start, place.stop) for place in found.absolute][30:] == [(30, 31), (31, 32), (32, 64), (64, 128)]
    assert found.absolute[5].frequency.value == differs[at == 5].mean()
    assert found.absolute[32].frequency.value == differs[(at >= 32) & (at < 64)].mean()
    assert found.absolute[33].tokens == 40 * 6


def test_places_of_texts_of_different_lengths() -> None:
    long, short = trace(np.full(20, 0.5), np.arange(20) < 2, 20), trace(np.full(5, 0.5), np.arange(5) < 1, 5)
    frame = long.vstack(short.with_columns(example=short["example"] + "b")).sample(fraction=1.0, shuffle=True, seed=1)
    found = position(frame)
    assert found.relative[0].frequency.value == 1.0
    assert [place.tokens for place in found.relative] == [3, 2] * 5
    assert sum(place.frequency.value * place.tokens for place in found.relative) == 3


def test_a_sampled_run_is_profiled_by_its_variation() -> None:
    prob = np.full(100, 0.5)
    found = position(trace(prob, np.arange(100) % 10 == 0, 10), sampled=True)
    assert found.relative[0].frequency.value == 0.5
    assert found.relative[1].frequency.value == 0.0


# ---- the models


def dense(design: Floats, events: Floats, clusters: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Coefficients and clustered standard errors, token by token."""

    def loss(b: Floats) -> float:
        return float((np.logaddexp(0, design @ b) - events * (design @ b)).sum())

    def slope(b: Floats) -> Floats:
        return design.T @ (chance(design @ b) - events)

    b = optimize.minimize(loss, np.zeros(design.shape[1]), jac=slope, method="BFGS", options={"gtol": 1e-9}).x
    p = chance(design @ b)
    bread = np.linalg.inv((design.T * (p * (1 - p))) @ design)
    scores = design * (events - p)[:, None]
    sums = np.array([scores[clusters == c].sum(0) for c in np.unique(clusters)])
    g = len(sums)
    return b, np.sqrt(np.diag(bread @ (sums.T @ sums) @ bread) * g / (g - 1))


def test_fit_and_errors_are_those_of_the_dense_formula() -> None:
    draw = np.random.default_rng(0)
    texts, length = 60, 30
    text, at = places(texts, length)
    level = draw.integers(0, 4, len(text)).astype(float)
    shift = draw.normal(0, 0.8, texts)[text]
    events = (draw.random(len(text)) < chance(-1 + 0.5 * level + 0.8 * at / length + shift)).astype(float)
    design = np.column_stack([np.ones(len(text)), level, at / length])
    expected, errors = dense(design, events, text)

    cells, which = np.unique(design, axis=0, return_inverse=True)
    found = fit(cells, np.bincount(which).astype(float), np.bincount(which, events).astype(float), ridge=0.0)
    assert found.coefficients == pytest.approx(expected, abs=1e-5)
    for column in range(3):
        without, with_ = influence(found, cells, column)
        added = np.where(events > 0, with_[which], without[which])
        assert clustered(np.bincount(text, added).astype(float)) == pytest.approx(errors[column], rel=1e-4)


def test_the_models_of_a_trace_are_those_of_the_dense_formula() -> None:
    draw = np.random.default_rng(1)
    texts, length = 80, 20
    text, at = places(texts, length)
    unsure = draw.random(len(text)) < 0.4
    prob = np.where(unsure, 0.4, 0.9)
    events = draw.random(len(text)) < chance(-1.5 + 1.2 * unsure - 0.7 * at / length + draw.normal(0, 0.5, texts)[text])
    found = position(trace(prob, events, length))
    for scale, place in (("relative", (at + 0.5) / length), ("absolute", np.log2(1 + at))):
        alone, errors = dense(np.column_stack([np.ones(len(at)), place]), events.astype(float), text)
        assert model(found, scale).alone.log_odds == pytest.approx(alone[1], rel=1e-3)
        assert model(found, scale).alone.standard_error == pytest.approx(errors[1], rel=1e-3)
        both, errors = dense(np.column_stack([np.ones(len(at)), unsure, place]), events.astype(float), text)
        assert model(found, scale).given_uncertainty.log_odds == pytest.approx(both[2], rel=1e-3)
        assert model(found, scale).given_uncertainty.standard_error == pytest.approx(errors[2], rel=1e-3)


def test_position_that_matters_is_found() -> None:
    draw, prob = drawn(100, 80)
    _, at = places(100, 80)
    events = draw.random(len(at)) < chance(np.log((1 - prob) / prob) - 1.0 * at / 80)
    found = position(trace(prob, events, 80))
    assert found.matters
    given = model(found).given_uncertainty
    assert given.low < np.exp(-1.0) < given.high
    assert "still matters" in found.finding


def test_position_that_acts_through_uncertainty_alone_is_not_found() -> None:
    """The draft is more certain after the beginning, and so errs less there: at equal uncertainty nothing is left."""
    draw = np.random.default_rng(2)
    _, at = places(100, 80)
    prob = chance(draw.normal(0.0, 1.5, len(at)) + 2.0 * at / 80)
    found = position(trace(prob, draw.random(len(at)) < 0.9 * (1 - prob) ** 0.8, 80))
    assert model(found).alone.high < 0.6, "without uncertainty it seems to matter"
    assert found.matters is False
    assert "no longer matters" in found.finding
    assert model(found).explained_by_both - model(found).explained_by_uncertainty < 0.002


def test_nothing_is_found_in_nothing_about_as_often_as_it_says() -> None:
    """Texts differ, so that errors by token would find something far too often."""
    found = 0
    for seed in range(60):
        draw, prob = drawn(40, 30, seed)
        text, _ = places(40, 30)
        shift = draw.normal(0, 1.0, 40)[text]
        result = position(trace(prob, draw.random(len(prob)) < chance(-1 - prob + shift), 30))
        found += bool(result.matters)
    assert found <= 8


def test_what_cannot_be_fitted_is_said() -> None:
    same = position(trace(np.full(40, 0.5), np.zeros(40, dtype=bool), 10))
    assert (same.models, same.matters) == ((), None)
    assert "cannot tell whether position matters" in same.finding
    one_text = position(trace(np.linspace(0.2, 0.9, 40), np.arange(40) % 3 == 0, 40))
    assert one_text.models == ()
    single = position(trace(np.linspace(0.2, 0.9, 40), np.arange(40) % 3 == 0, 1))
    assert single.models == ()
    nothing = position(trace(np.full(4, 0.5), np.zeros(4, dtype=bool), 2, consulted=np.zeros(4, dtype=bool)))
    assert nothing.relative == ()


def test_a_draft_that_is_sometimes_never_wrong() -> None:
    """Where the certain half has no mismatch at all, coefficients stay finite and position is judged all the same."""
    draw = np.random.default_rng(4)
    _, at = places(60, 40)
    prob = np.where(draw.random(len(at)) < 0.5, draw.uniform(0.3, 0.6, len(at)), 0.99999)
    events = (prob < 0.9) & (draw.random(len(at)) < chance(0.5 - 1.5 * at / 40))
    found = position(trace(prob, events, 40))
    assert found.matters
    assert model(found).given_uncertainty.low < np.exp(-1.5) < model(found).given_uncertainty.high
