"""From files straight onto the compiled pass: what `transformers` reads in them, to the last bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from fsgen.backends import int8, load
from fsgen.backends.cpu.checkpoint import CpuCheckpoint, open_for_cpu
from fsgen.backends.cpu.rope import Rope
from fsgen.backends.cpu.shape import Shape
from fsgen.backends.opening import open_checkpoint
from fsgen.backends.tokenizer import Tokenizer, plain_tokenizer
from fsgen.backends.transformers.architecture import Architecture
from fsgen.backends.transformers.model import TransformersModel
from fsgen.models.bundled import ROOT, bundled
from tests.tiny import save_tiny, tiny_config, tiny_model, tiny_tokenizer

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
YARN = {"factor": 4.0, "original_max_position_embeddings": 64}
ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {"rope_type": "llama3", **LLAMA3},
    "yarn": {"rope_type": "yarn", **YARN},
    "yarn, two scales": {"rope_type": "yarn", **YARN, "mscale": 0.7, "mscale_all_dim": 0.3},
    "yarn, a factor of its own": {"rope_type": "yarn", **YARN, "attention_factor": 1.3, "truncate": False},
    "yarn, other ramps": {"rope_type": "yarn", **YARN, "beta_fast": 16, "beta_slow": 2},
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied, biases": ("llama", {"tie_word_embeddings": True, "attention_bias": True}),
    "llama, stretched": ("llama", {"rope_parameters": ROPES["llama3"] | {"rope_theta": 5e5}}),
    "mistral": ("mistral", {}),
    "mistral, a window": ("mistral-sliding", {}),
    "qwen2": ("qwen2", {}),
    "qwen2, a window in one layer": ("qwen2-sliding", {}),
    "qwen2, windows from a layer on": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {}),
}
TEXT = [5, 9, 2, 40, 7, 7, 61, 3, 12, 8]


@pytest.mark.parametrize("theta", [10_000.0, 1e6])
@pytest.mark.parametrize("kind", ROPES)
def test_rotary_tables_have_the_bits_of_transformers(kind: str, theta: float) -> None:
    config = tiny_config("llama", rope_parameters=ROPES[kind] | {"rope_theta": theta}, max_position_embeddings=256)
    rope = Rope.of(config.to_dict(), config.head_dim, 256)
    assert rope is not None
    expected = tiny_model(
        "llama", rope_parameters=config.rope_parameters, max_position_embeddings=256
    ).model.rotary_emb(torch.empty(0), torch.arange(200)[None])
    for ours, theirs in zip(rope.tables(200), expected, strict=True):
        assert torch.equal(ours, theirs[0, :, : config.head_dim // 2])


def test_an_older_spelling_says_the_same() -> None:
    new = Rope.of({"rope_parameters": ROPES["llama3"] | {"rope_theta": 1e4}}, 16, 256)
    old = Rope.of({"rope_scaling": {"type": "llama3", **LLAMA3}, "rope_theta": 1e4}, 16, 256)
    assert new is not None
    assert old is not None
    assert torch.equal(new.inverse_frequencies, old.inverse_frequencies)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "yarn"},
        {"rope_type": "linear", "factor": 0.0},
        {"rope_type": "linear", "factor": "4"},
        {"rope_type": "default", "more": 1},
        {"rope_type": "default", "partial_rotary_factor": 0.5},
    ],
)
def test_other_positions_are_left_to_transformers(rope: dict[str, Any]) -> None:
    assert Rope.of({"rope_parameters": rope | {"rope_theta": 1e4}}, 16, 256) is None


@pytest.mark.parametrize("name", MODELS)
def test_windows_are_those_that_transformers_masks_by(name: str) -> None:
    architecture, sizes = MODELS[name]
    module = tiny_model(architecture, **sizes)
    shape = Shape.of(module.config.to_dict())
    assert shape is not None
    known = Architecture.of(module, 128, 96)
    assert list(shape.windows) == [known.windows[kind] for kind in known.layers]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_files_give_the_bits_of_the_loaded_module(name: str, dtype: str, tmp_path: Path) -> None:
    architecture, sizes = MODELS[name]
    folder = save_tiny(tmp_path, architecture, 3, **sizes)
    checkpoint = open_for_cpu(str(folder), folder)
    assert checkpoint is not None
    kind = torch.float32 if dtype == "int8" else getattr(torch, dtype)
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=kind)
    if dtype == "int8":
        int8.quantise(module, name)
    expected = TransformersModel(module).session(1).score([TEXT], len(TEXT))
    assert torch.equal(checkpoint.load(dtype).session(1).score([TEXT], len(TEXT)), expected)


def test_what_is_known_of_a_model_is_the_same(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "qwen2")
    checkpoint = open_for_cpu(str(folder), folder)
    assert checkpoint is not None
    ours, theirs = checkpoint.load(), TransformersModel(
        AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), str(folder), str(folder)
    )  # fmt: skip
    for name in ("info", "vocab_size", "context", "eos_ids", "capabilities"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.cache_bytes(70) == theirs.cache_bytes(70)


def test_half_precision_runs_on_transformers(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "llama")
    draft: Any = load(draft=folder, target=folder, weights="draft=float16").draft
    assert isinstance(draft, TransformersModel)
    assert draft.module.dtype == torch.float16


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    whole = save_tiny(tmp_path / "whole", "llama", 3)
    module = AutoModelForCausalLM.from_pretrained(whole)
    parts = save_tiny(tmp_path / "parts", "llama", 3)
    (parts / "model.safetensors").unlink()
    module.save_pretrained(parts, max_shard_size="20KB")
    assert len(list(parts.glob("*.safetensors"))) > 1
    one, two = (open_checkpoint(folder).load() for folder in (whole, parts))
    assert torch.equal(one.session(1).score([TEXT], 3), two.session(1).score([TEXT], 3))


@pytest.mark.parametrize("name", [info.name for info in bundled() if info.family == "pocket"])
def test_bundled_models_need_no_transformers(name: str) -> None:
    assert isinstance(open_checkpoint(name), CpuCheckpoint)
    assert Shape.of(AutoConfig.from_pretrained(ROOT / name).to_dict()) is not None


def test_generating_imports_no_transformers() -> None:
    program = (
        "import sys, fsgen\n"
        "members = fsgen.load('pocket-0.25m', 'pocket-0.6m')\n"
        "fsgen.generate(members, ['Question: 2 + 2?'], sampling=fsgen.SamplingParams(8))\n"
        "assert 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


TEXTS = ["Tom has 3 boxes.", " two  spaces\n\ttab", "the <s>end</s> of a text", "naïve 価格", ""]


def tokenizers(tmp_path: Path) -> dict[str, Path]:
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    tiny_tokenizer(digits=True, special=("<a>", "<b>", "<c>")).save_pretrained(tmp_path / "digits")
    return {"tiny": tmp_path / "tiny", "digits": tmp_path / "digits", "bundled": ROOT / "pocket-0.6m"}


@pytest.mark.parametrize("name", ["tiny", "digits", "bundled"])
def test_tokenizers_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    folder = tokenizers(tmp_path)[name]
    ours, theirs = plain_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert isinstance(ours, Tokenizer)
    for text in TEXTS:
        for special in (True, False):
            ids = theirs.encode(text, add_special_tokens=special)
            assert ours.encode(text, add_special_tokens=special) == ids
            assert ours.decode(ids, skip_special_tokens=special) == theirs.decode(ids, skip_special_tokens=special)
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    assert ours.eos_token_id == theirs.eos_token_id
    assert sorted(ours.all_special_ids) == sorted(theirs.all_special_ids)
    assert len(ours) == len(theirs)
    assert ours.chat_template == theirs.chat_template


@pytest.mark.parametrize(
    "change",
    [{"add_bos_token": False}, {"add_prefix_space": True}, {"tokenizer_class": "LlamaTokenizer"}, {"eos_token": "the"}],
)
def test_tokenizers_whose_settings_change_them_are_left_to_transformers(change: dict[str, Any], tmp_path: Path) -> None:
    folder = tokenizers(tmp_path)["tiny"]
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert plain_tokenizer(folder) is None


def test_messages_become_a_prompt(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }};{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    ours = plain_tokenizer(tmp_path)
    assert ours is not None
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert ours.apply_chat_template(messages, tokenize=False) == "a;b;"


def test_a_model_of_the_hub_is_fetched_by_its_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = save_tiny(tmp_path / "hub" / "0123abc", "llama", 3)
    AutoModelForCausalLM.from_pretrained(hub).save_pretrained(hub, max_shard_size="20KB")
    (hub / "model.safetensors").unlink(missing_ok=True)
    (hub / "consolidated.safetensors").write_bytes(b"the same once more")
    wanted: list[str] = []

    def download(name: str, allow_patterns: list[str], revision: str | None) -> str:
        # First the newest one, and then the weights of the one that it was.
        assert (name, revision) == ("someone/model", "0123abc" if wanted else None)
        wanted.extend(allow_patterns)
        return str(hub)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    checkpoint = open_checkpoint("someone/model")
    assert isinstance(checkpoint, CpuCheckpoint)
    assert not any(pattern.endswith("safetensors") for pattern in wanted)  # before the members are compared
    assert (checkpoint.revision, checkpoint.path, checkpoint.local) == ("0123abc", "someone/model", None)
    expected = TransformersModel(AutoModelForCausalLM.from_pretrained(hub)).session(1).score([TEXT], 2)
    assert torch.equal(checkpoint.load().session(1).score([TEXT], 2), expected)
    assert {file.name for file in hub.glob("model-*")} <= set(wanted)
    assert "consolidated.safetensors" not in wanted


def test_what_cannot_be_fetched_is_left_to_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert open_for_cpu("someone/model", None) is None
