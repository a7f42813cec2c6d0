"""What ships: six sizes, distilled, tuned and of other families, small enough, and as good as the table says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from fsgen.backends.transformers.context import context_of
from fsgen.models.bundled import ladder
from ladder import export, families
from ladder.files import PACKAGE, RESULTS
from ladder.sizes import CONTEXT, SIZES, VOCAB_SIZE

_SHIPPED = export.names()[:-1]


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    written: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return {model["name"]: model for model in written["models"]}


def test_the_weights_fit() -> None:
    assert sum(file.stat().st_size for file in PACKAGE.rglob("*") if file.is_file()) <= 45_000_000
    assert sorted(folder.name for folder in PACKAGE.iterdir()) == sorted(_SHIPPED)


@pytest.mark.parametrize("name", _SHIPPED)
def test_models_share_one_tokenizer(name: str) -> None:
    config = AutoConfig.from_pretrained(PACKAGE / name)
    assert config.vocab_size == VOCAB_SIZE
    assert context_of(config, AutoTokenizer.from_pretrained(PACKAGE / name)) == CONTEXT
    assert (PACKAGE / name / "tokenizer.json").read_bytes() == (PACKAGE / _SHIPPED[0] / "tokenizer.json").read_bytes()
    loaded = AutoTokenizer.from_pretrained(PACKAGE / name)
    text = "Question: Zoë pays 1,250 €.\n\tAnswer:  12 + 7 = 19 ?\n"
    assert loaded.decode(loaded(text)["input_ids"]) == text


def test_loss_falls_strictly_with_size(results: dict[str, Any]) -> None:
    losses = [results[size.name]["held_out_loss"]["all"] for size in SIZES]
    assert losses == sorted(set(losses), reverse=True)


def test_all_sizes_saw_the_same_tokens(results: dict[str, Any]) -> None:
    seen = {results[size.name]["training_tokens"] for size in SIZES}
    assert len(seen) == 1
    assert seen.pop() >= 15_000_000


def test_the_ladder_is_of_one_family() -> None:
    assert ladder() == [size.name for size in SIZES]


@pytest.mark.parametrize("sizes", [families.NEOX, families.MAMBA2], ids=["neox", "mamba2"])
def test_loss_falls_with_size_in_every_family(results: dict[str, Any], sizes: tuple[families.FamilySize, ...]) -> None:
    losses = [results[size.name]["held_out_loss"]["all"] for size in sizes]
    assert losses == sorted(set(losses), reverse=True)
    assert {results[size.name]["training_tokens"] for size in sizes} == {results[SIZES[0].name]["training_tokens"]}


def test_pocket_math_spans_the_ladder(results: dict[str, Any]) -> None:
    assert results[SIZES[-1].name]["accuracy"]["pocket_math"] >= 0.60
    assert results[SIZES[0].name]["accuracy"]["pocket_math"] <= 0.20
