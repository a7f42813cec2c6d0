"""The variance is split as it was made; swapped pairs and equal sizes show what size does, both ways."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from fsgen.analysis.components import REST, components, shares
from fsgen.analysis.intervals import Estimate
from fsgen.analysis.scaling.controls import BOTH_WAYS, SHARE, controls, split
from fsgen.analysis.trainings import of_one_size, over_trainings, reach, widened
from tests.experiments.test_scaling import points


@pytest.mark.parametrize("kept", [1.0, 0.6], ids=["balanced", "with gaps"])
def test_a_known_split_is_found(kept: float) -> None:
    """A crossed table with known components, whole and with 40 % of its values missing."""
    rng = np.random.default_rng(0)
    true = {"a": 4.0, "b": 1.0, "c": 0.0, REST: 2.0}
    found = []
    for _ in range(40):
        place = np.stack(np.meshgrid(np.arange(20), np.arange(15), np.arange(6)), -1).reshape(-1, 3)
        place = place[rng.random(len(place)) < kept]
        values = np.sqrt(true[REST]) * rng.standard_normal(len(place))
        for column, name in enumerate("abc"):
            values += np.sqrt(true[name]) * rng.standard_normal(20)[place[:, column]]
        found.append(components(values, dict(zip("abc", place.T, strict=True))))
    for name, variance in true.items():
        mean = np.mean([one[name] for one in found])
        assert mean == pytest.approx(variance, abs=0.15 + 0.15 * variance)


def test_nested_factors_are_told_apart_and_equal_ones_are_not() -> None:
    rng = np.random.default_rng(1)
    training = np.repeat(np.arange(60), 20)
    size = training // 3
    every = []
    for _ in range(60):
        values = rng.standard_normal(20)[size] + 0.5 * rng.standard_normal(60)[training] + rng.standard_normal(1200)
        every.append(components(values, {"size": size, "training": training}))
    means = {name: float(np.mean([found[name] for found in every])) for name in every[0]}
    assert means == {
        "size": pytest.approx(1.0, abs=0.15),
        "training": pytest.approx(0.25, abs=0.04),
        REST: pytest.approx(1.0, abs=0.03),
    }
    assert set(components(values, {"size": size, "again": 7 - size, "one": np.zeros(1200)})) == {"size", REST}
    parts = shares({"a": 3.0, "b": -0.1, REST: 1.0})
    assert parts == {"a": 0.75, "b": 0.0, REST: 0.25}


def test_what_is_only_another_model_is_no_effect_of_size() -> None:
    same = controls(points(lambda small, large: 0.2, trainings=2))
    assert same[BOTH_WAYS].value == pytest.approx(0.0, abs=0.01)
    assert same[SHARE].value == pytest.approx(1.0, abs=0.05)


def test_what_size_does_is_seen_in_swapped_pairs() -> None:
    found = controls(points(lambda small, large: 0.4 if small < large else 0.1, trainings=2))
    values = {name: number.value for name, number in found.items()}
    assert [*values.values()] == pytest.approx([0.4, 0.1, 0.3, 0.1, 0.25], abs=0.02)
    assert found[BOTH_WAYS].above(0.0) is True


def test_without_swapped_and_equal_pairs_there_are_no_controls() -> None:
    forward = points(lambda small, large: 0.2).filter(pl.col("draft_parameters") < pl.col("target_parameters"))
    assert controls(forward) == {}


def test_the_variance_of_pairs_is_split() -> None:
    by_size = [*split(points(lambda small, large: 0.1 if small > 1e6 else 0.5, trainings=2))]
    assert len(by_size) == 1
    row = by_size[0]
    assert row["draft's size"] > 0.7
    assert row["target's size"] < 0.1
    assert row["draft's training"] < 0.05
    trained = next(iter(split(points(lambda small, large: 0.3, trainings=3, spread=0.1))))
    assert trained["draft's training"] + trained["target's training"] > 0.4
    assert trained["draft's size"] < 0.3
    single = next(iter(split(points(lambda small, large: 0.3))))
    assert single["draft's training"] is None


def test_sizes_of_unlike_spread_have_the_freedom_of_the_one_that_spreads() -> None:
    """{1, 3} and {5, 5, 5}: the mean of both means has a standard error of 0.5, known by one degree of freedom."""
    values = {"a": 1.0, "b": 3.0, "c": 5.0, "d": 5.0, "e": 5.0}

    def mean(left_out: str | None) -> float:
        sizes = [[values[name] for name in names if name != left_out] for names in ("ab", "cde")]
        return float(np.mean([np.mean(size) for size in sizes]))

    assert reach(mean, ["ab", "cde"]) == pytest.approx(0.5 * stats.t.ppf(0.975, 1))
    values["c"], values["d"] = 4.0, 6.0  # variances: 1/4 by 1 degree of freedom, 1/12 by 2
    freedom = (1 / 4 + 1 / 12) ** 2 / ((1 / 4) ** 2 + (1 / 12) ** 2 / 2)
    assert reach(mean, ["ab", "cde"]) == pytest.approx(np.sqrt(1 / 4 + 1 / 12) * stats.t.ppf(0.975, freedom))


def test_the_reach_of_trainings_is_that_of_their_mean() -> None:
    values = {"a": 0.1, "b": 0.3, "c": 0.2}

    def mean(left_out: str | None) -> float:
        return float(np.mean([value for name, value in values.items() if name != left_out]))

    expected = stats.t.ppf(0.975, 2) * np.std([*values.values()], ddof=1) / np.sqrt(3)
    assert reach(mean, [["a", "b", "c"]]) == pytest.approx(expected)
    assert reach(mean, []) == 0.0
    assert of_one_size({"a": 5, "b": 5, "c": 7}) == [["a", "b"]]
    assert reach({None: 0.0, "a": 1.0, "b": 3.0}.__getitem__, [["a", "b"]]) == pytest.approx(12.706, abs=1e-3)
    wide = widened(Estimate(0.2, 0.1, 0.3), 0.24)
    assert (wide.low, wide.high) == pytest.approx((0.2 - 0.26, 0.2 + 0.26))
    both = over_trainings(np.array([[0.1], [0.3], [0.2]]))
    assert both.value == pytest.approx(0.2)
    assert both.high == pytest.approx(0.2 + expected)
    assert over_trainings(np.array([[0.5]])) == Estimate(0.5)
