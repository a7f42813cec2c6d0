"""Intervals: drawn by example, as wide as they should be."""

from __future__ import annotations

import numpy as np
import pytest

from fsgen.analysis.intervals import GROUPS, Estimate, grouped, percentiles, ratio


def test_a_ratio_and_its_interval() -> None:
    draw = np.random.default_rng(0)
    wholes = draw.integers(50, 150, 60).astype(float)
    parts = draw.binomial(wholes.astype(int), 0.3).astype(float)
    found = ratio(parts, wholes)
    assert found is not None
    assert found.value == parts.sum() / wholes.sum()
    means = [(parts[i].sum() / wholes[i].sum()) for i in draw.integers(0, 60, (4000, 60))]
    assert (found.low, found.high) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.003)


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        # texts differ among each other: an interval over tokens would cover much less often
        chances = draw.beta(2, 6, 64)
        found = ratio(draw.binomial(100, chances).astype(float), np.full(64, 100.0), resamples=400)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.25 <= found.high
    assert 0.90 <= covered / 300 <= 0.99


def test_many_examples_stand_in_groups() -> None:
    draw = np.random.default_rng(2)
    parts = draw.random(5000)
    assert len(grouped(parts)) == GROUPS
    assert grouped(parts).sum() == pytest.approx(parts.sum())
    assert grouped(parts)[3] == pytest.approx(parts[3::GROUPS].sum())
    found = ratio(parts, np.ones(5000))
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * parts.std() / np.sqrt(5000), rel=0.2)


def test_what_has_no_interval() -> None:
    assert ratio(np.zeros(3), np.zeros(3)) is None
    assert ratio(np.array([1.0]), np.array([2.0])) == Estimate(0.5)
    assert ratio(np.array([1.0, 0.0]), np.array([2.0, 0.0])) == Estimate(0.5), "an empty example is none"
    assert percentiles(np.full(3, np.nan)) == (None, None)
    assert ratio(np.zeros(32), np.ones(32)) == Estimate(0.0), "none of 32 is right: that does not prove 0"
    alike = ratio(0.3 * np.arange(1.0, 33.0), np.arange(1.0, 33.0))
    assert alike is not None
    assert alike.value == pytest.approx(0.3)
    assert alike.low is None, "to rounding"


def test_a_text_without_a_call_counts_in_tokens_a_call() -> None:
    """Its tokens belong above the line, although it has nothing below it."""
    found = ratio(np.array([10.0, 10.0, 10.0, 10.0]), np.array([1.0, 0.0, 0.0, 1.0]))
    assert found is not None
    assert found.value == 20
    assert found.low is not None
    assert found.low < 20
    assert found.high is None, "some draws have no call at all"


def test_an_estimate_in_words() -> None:
    assert str(Estimate(0.25, 0.2, 0.3)) == "0.250 [0.200, 0.300]"
    assert str(Estimate(0.25)) == "0.250"
