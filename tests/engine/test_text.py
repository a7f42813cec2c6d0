"""Text that grows by tokens: characters across tokens, stop strings, the end."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsgen.engine.detokenizer import Detokenizer
from fsgen.prompts import encode


class Bytes:
    """A tokenizer of one byte a token; 256 is a special token."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")


@given(st.text(max_size=30))
def test_characters_appear_when_they_are_whole(written: str) -> None:
    text = Detokenizer(Bytes(), ())
    shown = ""
    for byte in written.encode():
        end = text.push(byte)
        assert end == len(text.text)
        assert written.startswith(text.text) or "\ufffd" in written
        shown = text.text
    text.close()
    assert written in (shown, text.text)


def test_what_is_incomplete_at_the_end_is_shown() -> None:
    text = Detokenizer(Bytes(), ())
    text.push("é".encode()[0])
    assert text.text == ""
    assert text.close() == 1
    assert text.text == "\ufffd"
    text = Detokenizer(Bytes(), ())
    assert text.push("é".encode()[0], last=True) == 1


@given(st.text("ab", min_size=1, max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_the_first_stop_string_ends_the_text(written: str, stops: list[str]) -> None:
    text = Detokenizer(Bytes(), stops)
    for count, byte in enumerate(written.encode(), start=1):
        text.push(byte)
        so_far = written[:count]
        found = [so_far.index(stop) for stop in stops if stop in so_far]
        assert text.stopped == bool(found)
        if found:
            assert text.text == so_far[: min(found)]
            break
        # What is held back is the longest end that could begin a stop string, and no more.
        held = max((n for stop in stops for n in range(len(stop)) if so_far.endswith(stop[:n]) or n == 0), default=0)
        assert text.settled() == count - held


def test_restarted_text_is_the_text_of_its_tokens() -> None:
    text = Detokenizer(Bytes(), ("zz",))
    for byte in "abcé".encode():
        text.push(byte)
    assert text.restarted(list(b"ab")).text == "ab"


class _Counting:
    """A tokenizer of one token for each character, that notes how long the longest text was."""

    def __init__(self) -> None:
        self.longest = 0

    def encode(self, text: str) -> list[int]:
        self.longest = max(self.longest, len(text))
        return [1] * len(text)


def test_of_an_endless_prompt_the_beginning_is_enough() -> None:
    members = SimpleNamespace(tokenizer=_Counting(), context=100)
    assert len(encode(members, "a" * 1600)) == 1600  # for the usual check to refuse, with its budget
    with pytest.raises(ValueError, match="1,000,000 characters exceeds the context window of 100 tokens: its first"):
        encode(members, "a" * 1_000_000)
    assert members.tokenizer.longest == 1600


def test_a_long_prompt_of_few_tokens_is_read_whole() -> None:
    tokenizer = SimpleNamespace(encode=lambda text: [1] * (len(text) // 100))
    assert len(encode(SimpleNamespace(tokenizer=tokenizer, context=50), "a" * 4_000)) == 40
