"""Uncertainty, against scikit-learn's exact values and data whose answer is known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn import metrics

from fsgen.analysis.histograms import MEASURES, histograms
from fsgen.analysis.uncertainty import MeasureResult, UncertaintyResult, uncertainty
from tests.analysis.made_up import drawn, trace


def measure(result: UncertaintyResult, name: str) -> MeasureResult:
    return next(one for one in result.measures if one.name == name)


@pytest.mark.parametrize("name", ["max-prob", "margin", "entropy", "top-k mass", "top-k entropy"])
@pytest.mark.parametrize("seed", [0, 1])
def test_areas_are_those_of_scikit_learn_to_the_width_of_a_bin(name: str, seed: int) -> None:
    draw = np.random.default_rng(seed)
    prob = 1 / (1 + np.exp(-draw.normal(1.5, 3.0, 40 * 50)))
    differs = draw.random(len(prob)) < (1 - prob) * 0.9
    frame = trace(prob, differs, 50, second=np.minimum(1 - prob, prob) * draw.uniform(0.1, 0.7, len(prob)))
    found = measure(uncertainty(frame), name)
    kind = next(one for one in MEASURES if one.name == name)
    score = frame.select(kind.expression).to_series().to_numpy().astype(float)
    score = -score if kind.low else score
    assert found.auroc.value == pytest.approx(metrics.roc_auc_score(differs, score), abs=found.auroc_resolution + 1e-12)
    assert found.auroc_resolution < 0.003
    assert found.average_precision.value == pytest.approx(metrics.average_precision_score(differs, score), abs=0.01)


def test_areas_are_exact_where_each_value_has_its_bin() -> None:
    draw, prob = drawn(30, 40)
    differs = draw.random(len(prob)) < 1 - prob
    # In the middle of bins a thousandth wide, where no edge is finer.
    prob = np.clip((prob * 100).round() / 100, 0.2, 0.8) + 0.0003
    found = measure(uncertainty(trace(prob, differs, 40)), "max-prob")
    assert found.auroc.value == pytest.approx(metrics.roc_auc_score(differs, -prob.astype(np.float32)), abs=1e-12)
    assert found.average_precision.value == pytest.approx(
        metrics.average_precision_score(differs, -prob.astype(np.float32)), abs=1e-12
    )


def test_an_effect_that_is_there_is_found_and_one_that_is_not_is_not() -> None:
    draw, prob = drawn(50, 60)
    there = uncertainty(trace(prob, draw.random(len(prob)) < 1 - prob, 60))
    absent = uncertainty(trace(prob, draw.random(len(prob)) < 0.3, 60))
    for name in ("max-prob", "entropy"):
        low, high = measure(there, name).auroc.low, measure(there, name).auroc.high
        assert low is not None
        assert low > 0.7
        low, high = measure(absent, name).auroc.low, measure(absent, name).auroc.high
        assert low is not None
        assert high is not None
        assert low < 0.5 < high
    assert measure(there, "max-prob").mean_mismatch < measure(there, "max-prob").mean_match
    assert measure(there, "entropy").mean_mismatch > measure(there, "entropy").mean_match


def test_the_right_way_round() -> None:
    """A draft that is certain where it is wrong has an area below a half."""
    prob = np.tile([0.9, 0.3], 200)
    found = uncertainty(trace(prob, prob > 0.5, 20))
    assert measure(found, "max-prob").auroc.value == 0.0
    assert measure(found, "entropy").auroc.value == 0.0
    bars = {bar.low: (bar.matches, bar.mismatches) for bar in measure(found, "max-prob").bars}
    assert bars[0.9] == (0, 200)
    assert bars[0.3] == (200, 0)
    assert sum(a + b for a, b in bars.values()) == 400


def test_calibration() -> None:
    draw, prob = drawn(200, 100)
    honest = uncertainty(trace(prob, draw.random(len(prob)) > prob, 100)).calibration_error
    assert honest is not None
    assert honest.value < 0.02
    overconfident = uncertainty(trace(prob, draw.random(len(prob)) > prob / 2, 100))
    assert overconfident.calibration_error is not None
    assert overconfident.calibration_error.value == pytest.approx((prob / 2).mean(), abs=0.01)
    assert "overconfident by" in overconfident.finding
    by_hand = uncertainty(trace(np.tile([0.91, 0.93, 0.52, 0.61], 10), np.tile([False, True, False, False], 10), 4))
    # 0.91 and 0.93 share a bin, of which half agree; 0.52 and 0.61 are alone, and all agree
    assert by_hand.calibration_error is not None
    assert by_hand.calibration_error.value == pytest.approx((2 * 0.42 + 0.48 + 0.39) / 4, abs=1e-6)
    assert [(bin.low, bin.tokens) for bin in by_hand.reliability] == [(0.5, 10), (0.6, 10), (0.9, 20)]
    assert by_hand.reliability[-1].agreement == 0.5


def test_ranks_of_the_targets_token() -> None:
    differs = np.tile([True, False, True, True, True], 4)
    tops = [[7, 8, 9], [7, 8, 9], [7, 9, 8], [7, 9, 8], [7, 5, 6]] * 4
    found = uncertainty(trace(np.full(20, 0.5), differs, 5, draft_top_ids=tops))
    assert found.candidates == 3
    assert found.ranks == (0.25, 0.5), "a quarter lies further down"


def test_only_known_choices_count() -> None:
    draw, prob = drawn(20, 50)
    differs = draw.random(len(prob)) < 1 - prob
    consulted = draw.random(len(prob)) < 0.5
    partly = uncertainty(trace(prob, differs, 50, consulted=consulted))
    assert partly.tokens == consulted.sum()
    assert partly.mismatches == (consulted & differs).sum()
    assert measure(partly, "max-prob").auroc.value == pytest.approx(
        metrics.roc_auc_score(differs[consulted], -prob[consulted]), abs=0.005
    )


def test_what_cannot_be_predicted_is_said() -> None:
    prob = np.full(40, 0.7)
    found = uncertainty(trace(prob, np.zeros(40, dtype=bool), 10))
    assert found.measures == ()
    assert "can predict nothing" in found.finding
    empty = uncertainty(trace(prob, np.zeros(40, dtype=bool), 10, consulted=np.zeros(40, dtype=bool)))
    assert empty.tokens == 0
    assert empty.calibration_error is None


def test_without_candidates_the_other_measures_stay() -> None:
    draw, prob = drawn(10, 20)
    differs = draw.random(len(prob)) < 0.4
    frame = trace(prob, differs, 20, draft_top_ids=None, draft_top_probs=None)
    found = uncertainty(frame)
    assert [one.name for one in found.measures] == ["max-prob", "margin", "entropy"]
    assert (found.candidates, found.ranks) == (0, ())
    none_kept = trace(prob, differs, 20).with_columns(
        draft_top_ids=pl.lit(None, pl.List(pl.UInt32)), draft_top_probs=pl.lit(None, pl.List(pl.Float32))
    )
    assert uncertainty(none_kept).measures == found.measures


def test_extreme_values() -> None:
    """Probabilities that are exactly 1, entropies that are exactly 0, candidates that were rounded to 0."""
    prob = np.tile([1.0, 0.2], 50)
    frame = trace(prob, prob < 0.5, 10, entropy=np.where(prob == 1, 0.0, 2.0), second=np.where(prob == 1, 0.0, 0.2))
    found = uncertainty(frame)
    assert all(one.auroc.value == 1.0 for one in found.measures if one.name != "top-k mass")
    counted = histograms(frame)
    assert all(histogram.tokens == 100 for histogram in counted.values())


def test_a_lazy_frame_does_as_well() -> None:
    draw, prob = drawn(10, 20)
    frame = trace(prob, draw.random(len(prob)) < 0.4, 20)
    assert uncertainty(frame.lazy()) == uncertainty(frame)


def test_not_a_trace() -> None:
    with pytest.raises(ValueError, match="no column example, turn"):
        uncertainty(pl.DataFrame({"a": [1]}))
