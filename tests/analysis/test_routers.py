"""Routers, against brute force at every threshold."""

from __future__ import annotations

import numpy as np
import pytest

from fsgen.analysis.routers import RouterPoint, RoutersResult, check_budgets, routers
from tests.analysis.made_up import Floats, drawn, trace


def points(result: RoutersResult, router: str) -> tuple[RouterPoint, ...]:
    return next(curve.points for curve in result.curves if curve.router == router)


@pytest.mark.parametrize("router", ["max-prob", "margin", "entropy"])
def test_every_point_is_what_counting_gives(router: str) -> None:
    draw, prob = drawn(30, 50)
    differs = draw.random(len(prob)) < 1 - prob
    frame = trace(prob, differs, 50)
    values = frame[{"max-prob": "draft_prob", "margin": "draft_margin", "entropy": "draft_entropy"}[router]].to_numpy()
    found = routers(frame)
    assert found.collaboration_frequency == differs.mean()
    shown = points(found, router)
    assert 20 < len(shown) <= 100
    for point in shown:
        consulted = values > point.threshold if router == "entropy" else values < point.threshold
        assert point.consulted_rate == pytest.approx(consulted.mean(), abs=1e-12)
        assert point.missed == pytest.approx((differs & ~consulted).mean(), abs=1e-12)
        assert point.random_missed == pytest.approx((1 - consulted.mean()) * differs.mean())
        assert point.perfect_missed == pytest.approx(max(0.0, differs.mean() - consulted.mean()))


def test_round_thresholds_are_exact() -> None:
    """At T itself `p < T` does not consult and `H > T` does not either."""
    prob, differs = np.tile([0.25, 0.5, 0.75, 1.0], 10), np.tile([True, False, False, True], 10)
    frame = trace(prob, differs, 4, entropy=np.tile([1.5, 1.0, 0.5, 0.0], 10))
    found = routers(frame, calls=(0.25, 0.5, 0.9, 1.0), misses=())
    by_router: dict[str, list[RouterPoint]] = {}
    for choice in found.choices:
        by_router.setdefault(choice.router, []).append(choice.point)
    assert [point.consulted_rate for point in by_router["max-prob"]] == [0.25, 0.5, 0.75, 0.75], "never where p = 1"
    assert [point.threshold for point in by_router["max-prob"][:2]] == [0.3, 0.6], "the first of the shortest"
    assert routers(frame, calls=(0.25,)).choices[0].point.threshold == 0.3
    assert [point.consulted_rate for point in by_router["entropy"]] == [0.25, 0.5, 0.75, 0.75]
    assert by_router["entropy"][2].threshold == 0.4


def test_a_perfect_and_a_useless_measure() -> None:
    draw = np.random.default_rng(0)
    differs = draw.random(4000) < 0.3
    perfect = routers(trace(np.where(differs, 0.2, 0.8), differs, 40))
    useless = routers(trace(draw.uniform(0.1, 0.9, 4000), differs, 40))
    assert all(curve.gain == pytest.approx(1.0) for curve in perfect.curves)
    assert all(abs(curve.gain) < 0.06 for curve in useless.curves)
    assert "closes 100 % of the gap" in perfect.finding


def test_choices_meet_their_budgets_and_nothing_is_left() -> None:
    draw, prob = drawn(40, 50, seed=3)
    differs = draw.random(len(prob)) < 1 - prob
    found = routers(trace(prob, differs, 50), calls=(0.15, 0.4), misses=(0.03,))
    assert len(found.choices) == 9
    for choice in found.choices:
        if choice.router != "max-prob":
            continue
        if choice.budget == "calls":
            assert choice.allowed - 0.01 < choice.point.consulted_rate <= choice.allowed
        else:
            assert choice.allowed - 0.01 < choice.point.missed <= choice.allowed
        consulted = prob.astype(np.float32) < choice.point.threshold
        assert choice.point.consulted_rate == pytest.approx(consulted.mean())


def test_budgets_that_nothing_meets() -> None:
    prob: Floats = np.tile([1.0, 0.5], 20)
    found = routers(trace(prob, prob == 1, 4), calls=(0.0,), misses=(0.0,))
    calls, misses = (choice.point for choice in found.choices if choice.router == "max-prob")
    assert calls.consulted_rate == 0
    assert misses.missed == 0.5, "it misses as little as it can"


@pytest.mark.parametrize(("name", "budget"), [("calls", 1.2), ("misses", -0.1), ("calls", float("nan"))])
def test_a_budget_is_a_share(name: str, budget: float) -> None:
    _, prob = drawn(2, 10)
    with pytest.raises(ValueError, match=f"a budget of {name}"):
        check_budgets(**{"calls": (0.1,), "misses": (0.1,), name: (budget,)})
    with pytest.raises(ValueError, match="a budget"):
        routers(trace(prob, prob < 0.5, 10), calls=(2.0,))


def test_nothing_known() -> None:
    prob = np.full(10, 0.5)
    found = routers(trace(prob, prob < 0, 5, consulted=np.zeros(10, dtype=bool)))
    assert (found.tokens, found.curves, found.choices) == (0, (), ())
