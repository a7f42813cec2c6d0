"""Corpus texts: marks cleaned, endings rewritten, overlaps found, tokens exact, rows whole."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ladder import overlap, stream
from ladder.files import GSM8K_TRAIN, read_jsonl
from ladder.overlap import clean_marks, gram_index, shared, without_names
from ladder.sizes import END_OF_TEXT_ID, SIZES
from ladder.tokenizer import END_OF_TEXT, save, train_tokenizer
from ladder.tune import tuned_answer

_TEXTS = [row["question"] + "\n" + row["answer"] for row in read_jsonl(GSM8K_TRAIN)[:300]]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(_TEXTS, vocab_size=600)


def test_marks_are_cleaned() -> None:
    assert clean_marks("48/2 = <<48/2=24>>24 clips") == "48/2 = 24 clips"
    assert not any("<<" in clean_marks(text) or ">>" in clean_marks(text) for text in _TEXTS)


def test_tuned_ending() -> None:
    assert tuned_answer(" 1 + 2 = 3\n#### 3") == " 1 + 2 = 3\nThe answer is 3."
    with pytest.raises(ValueError, match="no '#### N'"):
        tuned_answer(" 3")


def test_shared_grams_are_found_whatever_the_punctuation() -> None:
    words = [f"word{number}" for number in range(20)]
    index = gram_index({"exam": [" ".join(words)]})
    assert set(shared("Before. " + ", ".join(words[3:16]).upper() + "!", index)) == {"exam"}
    assert not shared(" ".join(words[3:15]), index)
    assert overlap.LENGTH == 13


def test_names_do_not_hide_a_problem() -> None:
    assert without_names("Ada has 3 pens. Tom has 4.") == without_names("Zoe has 3 pens. Ben has 4.")


@given(st.text(max_size=80))
def test_round_trip(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text.replace(END_OF_TEXT, "")).ids) == text.replace(END_OF_TEXT, "")


def test_every_digit_is_a_token(tokenizer: Any) -> None:
    tokens = tokenizer.encode("It was 2,024 or 1999; x12y").tokens
    assert [token for token in tokens if any(c.isdigit() for c in token)] == list("202419991" + "2")


def test_end_of_text_is_the_first_id(tokenizer: Any) -> None:
    assert tokenizer.token_to_id(END_OF_TEXT) == END_OF_TEXT_ID


def test_saved_tokenizer_loads_with_auto_tokenizer(tokenizer: Any, tmp_path: Any) -> None:
    from transformers import AutoTokenizer

    save(tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "def f(x):\n    return x  # 12,  ok ?\n"
    assert loaded(text)["input_ids"] == tokenizer.encode(text).ids
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert loaded.eos_token_id == loaded.pad_token_id == END_OF_TEXT_ID


def test_rows_hold_whole_documents() -> None:
    documents = [([n] * (5 + n % 40) + [END_OF_TEXT_ID], [n] * (5 + n % 40) + [END_OF_TEXT_ID]) for n in range(1, 300)]
    ids, labels = stream.pack(documents, 64)
    counted = labels != stream.IGNORED
    assert torch.equal(ids[counted], labels[counted])
    assert int(counted.sum()) == sum(len(document) for document, _ in documents)
    assert float(counted.float().mean()) > 0.95
    assert (ids[:, 0] != END_OF_TEXT_ID).all()  # a row begins with a document
    found = sorted(
        tuple(part) for row, keep in zip(ids.tolist(), counted.tolist(), strict=True) for part in _cut(row, keep)
    )
    assert found == sorted(tuple(document) for document, _ in documents)


def _cut(row: list[int], keep: list[bool]) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for token, kept in zip(row, keep, strict=True):
        if kept:
            parts[-1].append(token)
            if token == END_OF_TEXT_ID:
                parts.append([])
    return parts[:-1]


def test_long_documents_are_cut() -> None:
    ids, _ = stream.pack([([7] * 150, [7] * 150)], 64)
    assert int((ids == 7).sum()) == 150


def test_sizes_grow_by_two_to_three() -> None:
    counts = [size.parameters for size in SIZES]
    assert len(counts) == 4
    assert all(2 <= large / small <= 3 for small, large in itertools.pairwise(counts))
