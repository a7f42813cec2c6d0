"""The former ladder: what ships until the second stage replaces it, as good as its table says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from fsgen.models.bundled import ladder, model_info
from ladder import families, tokenizer
from ladder.families import FamilySize
from ladder.files import PACKAGE, RESULTS
from ladder.former import __main__ as former_steps
from ladder.former import distill, export
from ladder.score import inference_copy
from ladder.sizes import SIZES
from ladder.train import new_model


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    written: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return {model["name"]: model for model in written["models"]}


def test_what_ships() -> None:
    assert sorted(folder.name for folder in PACKAGE.iterdir()) == sorted(export.names()[:-1])
    assert ladder() == [size.name for size in SIZES]


def test_loss_falls_strictly_with_size(results: dict[str, Any]) -> None:
    losses = [results[size.name]["held_out_loss"]["all"] for size in SIZES]
    assert losses == sorted(set(losses), reverse=True)


def test_all_sizes_saw_the_same_tokens(results: dict[str, Any]) -> None:
    seen = {results[size.name]["training_tokens"] for size in SIZES}
    assert len(seen) == 1
    assert seen.pop() >= 15_000_000


@pytest.mark.parametrize("sizes", [families.NEOX, families.MAMBA2], ids=["neox", "mamba2"])
def test_loss_falls_with_size_in_every_family(results: dict[str, Any], sizes: tuple[families.FamilySize, ...]) -> None:
    losses = [results[size.name]["held_out_loss"]["all"] for size in sizes]
    assert losses == sorted(set(losses), reverse=True)
    assert {results[size.name]["training_tokens"] for size in sizes} == {results[SIZES[0].name]["training_tokens"]}


def test_pocket_math_spans_the_ladder(results: dict[str, Any]) -> None:
    assert results[SIZES[-1].name]["accuracy"]["pocket_math"] >= 0.60
    assert results[SIZES[0].name]["accuracy"]["pocket_math"] <= 0.20


def test_names_are_those_of_one_model_each() -> None:
    names = export.names()
    assert len(set(names)) == len(names)
    assert {size.name for size in (*SIZES, *families.SIZES)} <= set(names)


@pytest.mark.parametrize("size", [families.NEOX[0], families.MAMBA2[0]], ids=lambda size: size.family)
def test_what_is_exported(size: FamilySize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "WORK", tmp_path)
    monkeypatch.setattr(export, "PACKAGE", tmp_path / "package")
    monkeypatch.setattr(tokenizer, "FOLDER", tmp_path / "tokenizer")
    tokenizer.save(tokenizer.train_tokenizer(["12 apples and 30 pears"] * 3, vocab_size=300), tmp_path / "tokenizer")
    with pytest.raises(ValueError, match=f"{size.name} is not trained yet"):
        former_steps.run("export", size.name)
    model = size.new_model(seed=4)
    (tmp_path / "runs" / size.name).mkdir(parents=True)
    state = {"model": model.state_dict(), "tokens": 12, "seconds": 3.4}
    torch.save(state, tmp_path / "runs" / size.name / "final.pt")
    former_steps.run("export", size.name)
    folder = tmp_path / "package" / size.name
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.load_state_dict({name: value.bfloat16() for name, value in model.state_dict().items()})
    with torch.no_grad():
        ids = torch.randint(1, 200, (1, 40), generator=torch.Generator().manual_seed(3))
        rounded = model.eval()(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(loaded(input_ids=ids, use_cache=False).logits, rounded, rtol=1e-4, atol=1e-4)
    info = model_info(folder)
    assert (info.family, info.tuned_from) == (size.family, None)
    assert (info.parameters, info.non_embedding_parameters) == (size.parameters, size.non_embedding_parameters)


def test_steps_refuse_what_they_do_not_make() -> None:
    with pytest.raises(ValueError, match="unknown model 'pocket-9t'"):
        former_steps.run("export", "pocket-9t")
    with pytest.raises(ValueError, match=r"no tune for pocket-4m; choose one of pocket-0\.25m, "):
        former_steps.run("tune", "pocket-4m")


def test_the_teacher_is_rounded_as_it_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_model(SIZES[0])
    monkeypatch.setattr("ladder.first_stage.load", lambda size: inference_copy(model))
    taught = distill.load_teacher("ladder_blocks")
    assert taught.config._attn_implementation == "ladder_blocks"
    rounded = model.state_dict()["lm_head.weight"].bfloat16().float()
    assert torch.equal(taught.state_dict()["lm_head.weight"], rounded)
