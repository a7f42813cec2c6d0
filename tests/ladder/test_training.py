"""Training resumes exactly, and what is exported loads with the same logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from ladder import package, tokenizer
from ladder.sizes import Size
from ladder.train import Schedule, fit, new_model

_TINY = Size("pocket-test", hidden=32, layers=2, heads=2, ffn=48)


def _batches(steps: int = 6) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(1, 50, (2, 32), generator=generator).to(torch.int16) for _ in range(steps)]
    return [(ids, ids.clone()) for ids in rows]


def _trained(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(folder / "final.pt", weights_only=True)["model"]
    return weights


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    schedule = Schedule()
    fit(new_model(_TINY), _batches(), tmp_path / "whole", schedule, compiled=False)
    fit(new_model(_TINY), _batches(), tmp_path / "parts", schedule, compiled=False, stop_at=2)
    assert not (tmp_path / "parts" / "final.pt").exists()
    # Another initial model: all of its state must come from the checkpoint.
    fit(new_model(_TINY, seed=5), _batches(), tmp_path / "parts", schedule, compiled=False)
    whole, parts = _trained(tmp_path / "whole"), _trained(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert not all(torch.equal(whole[name], value) for name, value in new_model(_TINY).state_dict().items())


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    fit(new_model(_TINY), _batches(1), tmp_path, Schedule(), compiled=False)
    written = (tmp_path / "final.pt").stat().st_mtime_ns
    fit(new_model(_TINY), _batches(1), tmp_path, Schedule(), compiled=False)
    assert (tmp_path / "final.pt").stat().st_mtime_ns == written


def test_ignored_labels_do_not_count(tmp_path: Path) -> None:
    batches = _batches(1)
    batches[0][1][:, 16:] = -100
    fit(new_model(_TINY), batches, tmp_path, Schedule(), compiled=False)
    assert torch.load(tmp_path / "final.pt", weights_only=True)["tokens"] == 2 * 15


def test_block_attention_equals_the_standard_one() -> None:
    ids = torch.randint(0, 100, (2, 300), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = new_model(_TINY)(input_ids=ids, use_cache=False).logits
        theirs = new_model(_TINY, attention="sdpa")(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_schedule_warms_up_and_ends_near_zero() -> None:
    factors = [Schedule(warmup=0.1).factor(step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == 1.0
    assert factors[-1] < 0.02


def test_export_loads_with_the_same_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "FOLDER", tmp_path / "tokenizer")
    tokenizer.save(tokenizer.train_tokenizer(["12 apples and 30 pears"] * 3, vocab_size=300), tmp_path / "tokenizer")
    model, rounded = (new_model(_TINY, attention="sdpa").eval() for _ in range(2))
    rounded.load_state_dict({name: value.bfloat16().float() for name, value in model.state_dict().items()})
    folder = tmp_path / "pocket-test"
    package.write_model(model, folder, {"name": "pocket-test", "tuned_from": None})
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, rounded(input_ids=ids).logits)
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        assert "lm_head.weight" not in list(weights.keys())
        assert weights.get_tensor("model.embed_tokens.weight").dtype == torch.bfloat16
    assert json.loads((folder / "pocket.json").read_text())["name"] == "pocket-test"
