"""Bounds of distributions that are known in part hold for every distribution that they could be."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fsgen.bounds import completed, entropy_bounds, known, known_columns, told, variation_bounds
from fsgen.probs import entropy, total_variation


def partial(logits: torch.Tensor, count: int) -> torch.Tensor:
    best = logits.log_softmax(-1).topk(count, dim=-1)
    return completed(best.indices, best.values, logits.shape[-1])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(1, 11), st.integers(1, 12), st.sampled_from([0.1, 1.0, 3.0, 12.0]), st.booleans()
)
def test_the_truth_lies_within_the_bounds(seed: int, count: int, of_p: int, scale: float, both: bool) -> None:
    draw = torch.Generator().manual_seed(seed)
    p, q = (scale * torch.randn(5, 12, generator=draw) for _ in range(2))
    shown = partial(q, count)
    true = entropy(q.log_softmax(-1))
    for (low, high), value in zip(entropy_bounds(shown), true.tolist(), strict=True):
        assert low - 1e-5 <= value <= high + 1e-5
    sides, shown_p = ({"draft", "target"}, partial(p, of_p)) if both else ({"target"}, p)
    distances = total_variation(p.softmax(-1), q.softmax(-1)).tolist()
    for (low, high), value in zip(variation_bounds(shown_p, shown, sides), distances, strict=True):
        assert low - 1e-5 <= value <= high + 1e-5
    for (low, high), value in zip(variation_bounds(shown, p, {"draft"}), distances, strict=True):
        assert low - 1e-5 <= value <= high + 1e-5


def test_bounds_worked_out_by_hand() -> None:
    # Of five tokens the first two are known, 0.5 and 0.2; the others have 0.3 together, at most 0.2 each.
    q = completed(torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.2]]).log(), 5)
    assert q.exp()[0].tolist() == pytest.approx([0.5, 0.2, 0.1, 0.1, 0.1])
    inside = -0.5 * math.log(0.5) - 0.2 * math.log(0.2)
    ((low, high),) = entropy_bounds(q)
    assert low == pytest.approx(inside - 0.2 * math.log(0.2) - 0.1 * math.log(0.1), abs=1e-4)
    assert high == pytest.approx(inside - 0.3 * math.log(0.1), abs=1e-4)
    p = torch.tensor([[0.1, 0.3, 0.6, 0.0, 0.0]]).log()
    # p exceeds q by 0.1 at the second token, and by 0.4 to 0.6 at the third, where q has 0 to 0.2.
    assert variation_bounds(p, q, {"target"})[0] == pytest.approx((0.5, 0.7), abs=1e-4)


def test_more_is_known_with_more_tokens() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
    widths = [[high - low for low, high in entropy_bounds(partial(logits, k))] for k in (1, 5, 20, 49)]
    for wide, narrow in pairwise(widths):
        assert all(a > b for a, b in zip(wide, narrow, strict=True))


def test_the_most_likely_token_is_known_even_of_a_flat_distribution() -> None:
    flat = partial(torch.zeros(1, 8), 3)
    assert known(flat)[0].sum() == 3
    assert known(flat)[0, flat.argmax()]


def test_a_token_without_its_probability() -> None:
    logits = completed(torch.tensor([[3], [2]]), torch.tensor([[math.nan], [-0.1]]), 5)
    assert told(logits) == [False, True]
    assert logits.argmax(-1).tolist() == [3, 2]
    columns: dict[str, list[Any]] = {
        "target_prob": [math.nan, 0.9],
        "target_top": [((3, math.nan),), ((2, 0.9), (0, 0.02))],
    }
    found = known_columns(logits, "target", columns)
    assert found["target_prob"] == [None, 0.9]
    assert found["target_top"] == [(), ((2, 0.9),)]
    assert found["target_entropy"] == [None, None]
    assert found["target_entropy_bounds"][0] == (0.0, math.log(5))
    assert variation_bounds(torch.randn(2, 5), logits, {"target"})[0] == (0.0, 1.0)
