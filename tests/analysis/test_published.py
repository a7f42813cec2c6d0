"""Counting as published: each fault does to the numbers what it did there."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from fsgen.analysis.published import published
from tests.analysis.made_up import generations, trace


def texts(**columns: Any) -> pl.DataFrame:
    """Two texts of ten tokens, compared everywhere."""
    counts = {"tokens": 10, "known": 10, "differing": 2, "consulted": 10, "target_tokens": 10}
    return generations(2, **(counts | columns))


def test_a_run_that_consulted_everywhere_is_counted_alike() -> None:
    frame = trace(np.full(20, 0.5), np.tile(np.arange(10) < 2, 2), 10)
    run = texts()
    found = published(run, frame, everywhere=run)
    assert found.frequency.ours == found.frequency.published
    assert [tenth.ours for tenth in found.tenths] == [tenth.published for tenth in found.tenths]
    assert [tenth.ours for tenth in found.tenths][:3] == [0.5, 0.5, 0.0]
    assert found.not_recounted == ()


def test_the_mismatch_ratio_changes_with_the_router() -> None:
    """It consults where the two differ: 4 of 5 consultations are mismatches, while 4 of 20 positions are."""
    differs = np.tile(np.arange(10) < 2, 2)
    consulted = differs | (np.arange(20) == 5)
    routed = texts(consulted=[3, 2], known=[3, 2], differing=[2, 2])
    found = published(routed, trace(np.full(20, 0.5), differs, 10, consulted=consulted), everywhere=texts())
    assert found.frequency.published is not None
    assert found.frequency.published.value == 0.8
    assert found.frequency.ours is not None
    assert found.frequency.ours.value == 0.2
    assert published(routed, trace(np.full(20, 0.5), differs, 10, consulted=consulted)).frequency.ours is None


def test_positions_are_counted_among_the_consulted_ones() -> None:
    """Consulted at 0, 8 and 9, and different at 8: late in the text, but in the middle of the consulted ones."""
    differs, consulted = np.arange(10) == 8, np.isin(np.arange(10), [0, 8, 9])
    found = published(texts(), trace(np.full(10, 0.5), differs, 10, consulted=consulted))
    assert [tenth.ours for tenth in found.tenths].index(1.0) == 8
    assert [tenth.published for tenth in found.tenths].index(1.0) == 3


def test_our_frequency_of_a_sampled_run_is_its_variation() -> None:
    run = texts(sampled=[True, True], compared=[10, 10], variation=[1.0, 5.0])
    found = published(run, trace(np.full(20, 0.5), np.arange(20) < 4, 10), everywhere=run)
    assert found.frequency.ours is not None
    assert found.frequency.ours.value == pytest.approx(0.3)
    assert found.frequency.published is not None
    assert found.frequency.published.value == pytest.approx(0.2)


def test_catching_up_was_not_counted() -> None:
    found = published(texts(consulted=[2, 3], target_tokens=[9, 8]), trace(np.full(20, 0.5), np.ones(20, bool), 10))
    assert found.target_tokens_per_token.ours is not None
    assert found.target_tokens_per_token.ours.value == pytest.approx(0.85)
    assert found.target_tokens_per_token.published is not None
    assert found.target_tokens_per_token.published.value == pytest.approx(0.25)
    assert "0.85 tokens run through the target for each token written, not 0.25" in found.finding


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        ("The answer is 2,000.", "#### 1,000", 1.0),
        ("The answer is -5", "#### 5", 1.0),
        ("It is 18.00", "#### 18", 0.0),
        ("It is 18", "#### 18", 1.0),
        ("none", "#### 18", 0.0),
    ],
)
def test_answers_of_gsm8k_were_the_last_run_of_digits(text: str, reference: str, right: float) -> None:
    frame = trace(np.full(20, 0.5), np.ones(20, bool), 10)
    run = texts(text=[text] * 2, score=[0.0, 0.0])
    references = pl.DataFrame({"example": ["e0000", "e0001"], "reference": [reference] * 2})
    found = published(run, frame, task="gsm8k", references=references)
    assert found.accuracy.ours is not None
    assert found.accuracy.ours.value == 0
    assert found.accuracy.published is not None
    assert found.accuracy.published.value == right
    assert published(run, frame, task="mbpp", references=references).accuracy.published is None
    assert published(run, frame, task="gsm8k").accuracy.published is None


def test_what_cannot_be_recounted_is_said() -> None:
    frame = trace(np.full(20, 0.5), np.ones(20, bool), 10)
    assert "ensemble" in published(texts(), frame, method="contrastive:beta=0.3").not_recounted[0]
    assert "untuned" in published(texts(), frame, method="proxy").not_recounted[0]
    nothing = published(
        texts(consulted=[0, 0]), trace(np.full(20, 0.5), np.ones(20, bool), 10, consulted=np.zeros(20, bool))
    )
    assert nothing.tenths == ()
    assert "not consulted" in nothing.finding
