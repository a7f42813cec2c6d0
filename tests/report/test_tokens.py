"""The token viewer's data: what the traces hold, small, and as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fsgen.analysis.frequency import read_summary
from fsgen.analysis.traces import scan_traces
from fsgen.report.tokens import CANDIDATES, _side, _spread, as_text, pieces, viewer
from tests.report.conftest import HOSTILE


@pytest.fixture(scope="module")
def content(folder: Path) -> dict[str, Any]:
    made = viewer(folder, read_summary(folder))
    assert made is not None
    assert made.examples == {"pocket_math": (6, 6)}
    found: dict[str, Any] = json.loads(made.content)
    return found


def test_it_holds_the_traces(content: dict[str, Any], folder: Path) -> None:
    assert len(content["texts"]) == 6 * len(content["runs"])
    for text in content["texts"]:
        run, example = content["runs"][text["run"]]["run"], content["examples"][text["example"]]["name"]
        rows = scan_traces(folder, run).filter(pl.col("example") == example).sort("position").collect()
        assert text["source"] == "".join(source[0] for source in rows["source"])
        differs = (rows["draft_token"] != rows["target_token"]).to_list()
        assert text["differs"] == "".join("-" if each is None else str(int(each)) for each in differs)
        for side in ("draft", "target"):
            column = content["columns"][text[side]]
            for packed, entropy, probs in zip(column, rows[f"{side}_entropy"], rows[f"{side}_top_probs"], strict=True):
                if probs is None:
                    assert packed == 0
                    continue
                assert packed[0] / 100 == pytest.approx(entropy, abs=0.006)
                shares = [share / 1000 for share in packed[2::2]]
                assert len(shares) <= CANDIDATES
                assert shares == pytest.approx(list(probs)[: len(shares)], abs=6e-4)


def test_joined_tokens_are_the_text(content: dict[str, Any], folder: Path) -> None:
    words = content["words"]
    for text in content["texts"]:
        run, example = content["runs"][text["run"]]["run"], content["examples"][text["example"]]["name"]
        table = pl.concat([pl.read_parquet(file) for file in (folder / "generations" / f"run={run}").glob("*")])
        stored = table.filter(pl.col("example") == example)["text"][0]
        shown = [words[number] for number in content["columns"][text["tokens"]]]
        # One token of the vocabulary was made hostile; it stood for one character. Special ones add nothing to a text.
        pattern = "".join(word.replace(HOSTILE, "\0") for word in shown if not word.startswith("⟨"))
        assert len(pattern) >= len(stored)
        assert all(one in ("\0", two) for one, two in zip(pattern, stored, strict=False)), (pattern, stored)


def test_what_is_equal_stands_once(content: dict[str, Any]) -> None:
    columns = [json.dumps(column) for column in content["columns"]]
    assert len(set(columns)) == len(columns)
    assert len(set(content["words"])) == len(content["words"])
    oracles = [text for text in content["texts"] if content["runs"][text["run"]]["method"] == "oracle"]
    assert len({text["target"] for text in oracles}) < len(oracles), "drafts of one target share what it said"


def test_a_small_budget_keeps_an_example_of_each_task(folder: Path) -> None:
    rows = read_summary(folder)
    small = viewer(folder, rows, budget=9000)
    assert small is not None
    assert small.examples == {"pocket_math": (1, 6)}
    assert "1 of 6 of pocket_math" in small.lead
    whole = viewer(folder, rows)
    assert whole is not None
    assert len(small.content) < len(whole.content) / 2


def test_a_folder_without_vocabularies_shows_numbers(folder: Path, tmp_path: Path) -> None:
    for name in ("runs", "traces", "generations", "study.json"):
        (tmp_path / name).symlink_to(folder / name)
    made = viewer(tmp_path, read_summary(folder))
    assert made is not None
    found = json.loads(made.content)
    assert all(word.startswith("[") for word in found["words"])
    assert found["examples"][0]["prompt"] is None


def test_characters_that_span_tokens() -> None:
    euro = "€".encode()
    assert pieces([(b"1", False), (euro[:1], False), (euro[1:], False), (b"</s>", True)]) == ["1", "", "€", "⟨/s⟩"]
    assert pieces([(b"1", False), (euro[:2], False), (b"</s>", True)]) == ["1", "\ufffd", "⟨/s⟩"]
    assert as_text(euro, False) == "€"
    assert as_text(euro[:2], False) == r"\xe2\x82"
    assert as_text(b"<|end|>", True) == "⟨end⟩"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 64])
def test_examples_are_spread(count: int) -> None:
    order = _spread(count)
    assert sorted(order) == list(range(count))
    if count == 64:
        assert sorted(order[:2]) == [16, 48]
        assert sorted(order[:6]) == [8, 16, 24, 40, 48, 56]


def test_an_entropy_that_is_not_known_is_not_zero() -> None:
    tokens = pl.DataFrame(
        {
            "draft_token": [1, 1, 1],
            "draft_prob": [0.5] * 3,
            "draft_entropy": [0.0, None, None],
            "draft_entropy_bounds": [None, [0.251, 1.5], None],
            "draft_top_ids": [[1]] * 3,
            "draft_top_probs": [[0.5]] * 3,
        }
    )

    def entropies(table: pl.DataFrame) -> list[Any]:
        return [packed[0] for packed in _side(table, "draft", lambda token: b"a", lambda token: False)]

    assert entropies(tokens) == [0, [25, 150], None]
    assert entropies(tokens.drop("draft_entropy_bounds")) == [0, None, None]
