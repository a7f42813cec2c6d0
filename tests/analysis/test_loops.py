"""Where a text begins to say the same again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsgen.analysis.suspects import loop_start, loops


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("so " * 9, 3),  # the second of the nine
        ("Well, " + "I am here. " * 4, 16),
        ("Well, " + "I am here. " * 4 + "I am", 16),  # the last time is cut; the space before belongs to it
        ("I am here. " * 4 + "No.", None),  # it found its way out
        ("I am here. " * 3, None),
        ("#### 2222", None),  # too short to be told from a number
        ("1 2 3 4 5 6 7", None),
        ("", None),
    ],
)
def test_where_a_loop_begins(text: str, start: int | None) -> None:
    assert loop_start(text) == start
    assert loops(text) == (start is not None)


@given(st.text("ab", max_size=20), st.text("abc ", min_size=1, max_size=10), st.integers(0, 12))
def test_what_is_said_again_ends_the_text(before: str, said: str, times: int) -> None:
    text = before + said * times
    start = loop_start(text)
    if times >= 4 and len(said) * times >= 24 + len(said):
        assert start is not None
    if start is not None:
        periods = [p for p in range(1, start + 1) if all(text[i] == text[i - p] for i in range(start, len(text)))]
        assert any(len(text) - start >= 3 * p for p in periods)
