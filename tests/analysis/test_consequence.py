"""Loops and classes of mismatches, by hand."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsgen.analysis.consequence import CLASSES, LONGEST_PERIOD, REPEATS, classified, loop_start


@pytest.mark.parametrize(
    ("tokens", "start"),
    [
        ([1, 2, 3], None),
        ([5, 7, 7, 7, 7], 2),  # the second of the four
        ([5, 7, 7, 7], None),  # three times are too few
        ([9, 1, 2, 1, 2, 1, 2, 1, 2], 3),
        ([9, 1, 2, 1, 2, 1, 2, 1, 2, 1], 3),  # the last time is cut
        ([1, 2, 1, 2, 1, 2, 1, 2, 9], None),  # it found its way out
        ([], None),
    ],
)
def test_where_a_loop_begins(tokens: list[int], start: int | None) -> None:
    assert loop_start(tokens) == start


@given(st.lists(st.integers(0, 3), max_size=40))
def test_a_loop_is_what_repeats_to_the_end(tokens: list[int]) -> None:
    found = [
        start
        for period in range(1, LONGEST_PERIOD + 1)
        for start in range(period, len(tokens))
        if len(tokens) - start >= (REPEATS - 1) * period
        and all(tokens[i] == tokens[i - period] for i in range(start, len(tokens)))
    ]
    assert loop_start(tokens) == min(found, default=None)


def test_each_mismatch_has_one_class() -> None:
    rows = [
        # score, kept_score, gap, loop, cut
        (1.0, 0.0, 0.1, True, True, "harmful"),
        (0.0, 1.0, 0.1, True, False, "helpful"),
        (1.0, 1.0, 0.1, True, False, "neutral, loop or cut"),
        (0.0, 0.0, 0.1, False, True, "neutral, loop or cut"),
        (1.0, 1.0, 0.99, False, False, "neutral, near-tie"),
        (1.0, 1.0, 1.0, False, False, "neutral, other"),
        (1.0, 1.0, float("inf"), False, False, "neutral, other"),
    ]
    table = pl.DataFrame(rows, ["score", "kept_score", "gap", "loop", "cut", "expected"], orient="row")
    assert classified(table)["class"].to_list() == table["expected"].to_list()
    assert set(table["expected"]) == set(CLASSES)
