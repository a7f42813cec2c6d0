"""Broken model folders end in one sentence that names the file and the value, before weights load where that can be."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fsgen import Members, SamplingParams, generate, load
from fsgen.backends.transformers.model import TransformersModel
from fsgen.verify import verify
from tests.conftest import Finished
from tests.tiny import save_tiny, tiny_member, tiny_model

UP = "model.layers.1.mlp.up_proj.weight"
ROPE = {"rope_type": "default", "rope_theta": 1e4}
Damage = Callable[[Path], Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("whole") / "model")


@pytest.fixture
def broken(whole: Path, tmp_path: Path) -> Callable[[Damage], Path]:
    """Breaks a copy of a folder that is whole."""

    def make(damage: Damage) -> Path:
        damage(Path(shutil.copytree(whole, tmp_path / "model")))
        return tmp_path / "model"

    return make


def config(**values: Any) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return damage


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        held = load_file(folder / "model.safetensors")
        change(held)
        save_file(held, folder / "model.safetensors", {"format": "pt"})

    return damage


def content(name: str, change: bytes | Callable[[bytes], bytes]) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / name
        file.write_bytes(change if isinstance(change, bytes) else change(file.read_bytes()))

    return damage


def shards(weight_map: Any) -> Damage:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "part.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return damage


BEFORE: dict[str, tuple[Damage, str]] = {
    "no bytes": (content("model.safetensors", b""), "weights of .* are broken: model.safetensors: .*header too small"),
    "cut off": (content("model.safetensors", lambda all: all[:-100]), "model.safetensors: .*not fully covered"),
    "cut in its header": (content("model.safetensors", lambda all: all[:50]), "model.safetensors: .*header"),
    "garbage": (content("model.safetensors", b"\0garbage" * 100), "model.safetensors: .*header too large"),
    "too long": (content("model.safetensors", lambda all: all + b"more"), "model.safetensors: .*not fully covered"),
    "no shard": (shards({UP: "model-1.safetensors"}), "index.json names model-1.safetensors"),
    "no map": (shards([1]), "index.json is no index"),
    "empty config": (content("config.json", b""), "config.json of .* cannot be read: .*not a valid JSON"),
    "cut config": (content("config.json", b'{"a":'), "cannot be read: .*not a valid JSON"),
    "binary config": (content("config.json", b"\xff\xfe\0"), "cannot be read: .*not a valid JSON"),
    "config of a list": (content("config.json", b"[1]"), r"it holds \[1\], not a table"),
    "config of a number": (content("config.json", b"3"), "config.json of .* cannot be read"),
    "no model type": (content("config.json", b"{}"), "Should have a `model_type`"),
    "unknown model type": (config(model_type="nosuch"), "model type `nosuch`"),
    "size in words": (config(hidden_size="big"), "'hidden_size' expected int, got str .*'big'"),
    "no heads": (config(num_attention_heads=0), "num_attention_heads=0 is impossible: at least 1"),
    "fewer heads": (config(num_attention_heads=-1), "num_attention_heads=-1 is impossible"),
    "uneven heads": (config(num_attention_heads=5), r"hidden size \(32\) .*attention heads \(5\)"),
    "no key heads": (config(num_key_value_heads=0), "num_key_value_heads=0 is impossible"),
    "no width": (config(hidden_size=0), "hidden_size=0 is impossible"),
    "no layers": (config(num_hidden_layers=0), "num_hidden_layers=0 is impossible"),
    "fewer layers": (config(num_hidden_layers=-1), "num_hidden_layers=-1 is impossible"),
    "layers that are null": (config(num_hidden_layers=None), "'num_hidden_layers' expected int, got NoneType"),
    "half layers": (config(num_hidden_layers=1.5), "'num_hidden_layers' expected int, got float"),
    "no vocabulary": (config(vocab_size=0), "vocab_size=0 is impossible"),
    "no context": (config(max_position_embeddings=0), "max_position_embeddings=0 is impossible"),
    "odd heads": (config(head_dim=7), "`head_dim`=7"),
    "activation": (config(hidden_act="nosuch"), "hidden_act='nosuch' is not known"),
    "dtype": (config(dtype="float7"), "dtype='float7' is no type of weights"),
    "old dtype": (config(dtype=None, torch_dtype="int3"), "torch_dtype='int3' is no type of weights"),
    "dtype of integers": (config(dtype="int64"), "dtype='int64' is no type of weights"),
    "rope type": (config(rope_parameters=ROPE | {"rope_type": "nosuch"}), "rope_type='nosuch' is not known"),
    "rope number": (config(rope_parameters=3), "'rope_parameters' with value 3"),
    "rope that lacks": (config(rope_parameters=ROPE | {"rope_type": "yarn"}), "Missing required keys .*'factor'"),
    "base of zero": (config(rope_parameters=ROPE | {"rope_theta": 0}), "rope_theta=0 is impossible"),
    "base below zero": (config(rope_parameters=ROPE | {"rope_theta": -1.0}), "rope_theta=-1.0 is impossible"),
    "base that is no number": (config(rope_parameters=ROPE | {"rope_theta": math.nan}), "rope_theta=nan is not finite"),
    "base in words": (config(rope_parameters=ROPE | {"rope_theta": "x"}), "no model can be made of it: .*'str'"),
    "quantisation": (config(quantization_config={"quant_method": "nosuch"}), "quant_method='nosuch'"),
    "quantisation of a number": (config(quantization_config=3), "quantization_config=3 is not a table"),
    "quantisation of nothing": (config(quantization_config={}), "quant_method=None"),
    "epsilon that is no number": (config(rms_norm_eps=math.nan), "rms_norm_eps=nan is not finite"),
    "endless epsilon": (config(rms_norm_eps=math.inf), "rms_norm_eps=inf is not finite"),
    "epsilon below zero": (config(rms_norm_eps=-1.0), "rms_norm_eps=-1.0 is impossible"),
    "kinds of layers": (config(layer_types=["nosuch"] * 2), "`layer_types` entries must be"),
    "too few kinds": (config(layer_types=["full_attention"]), r"`num_hidden_layers` \(2\)"),
    "end in words": (config(eos_token_id="x"), "'eos_token_id' with value 'x'"),
    "padding": (config(pad_token_id=1000), "Padding_idx"),
    "attention": (config(_attn_implementation="nosuch"), 'attn_implementation="nosuch"'),
    "cut generation config": (content("generation_config.json", b"{"), "generation_config.json of .*it is no JSON"),
    "generation list": (content("generation_config.json", b"[]"), r"it holds \[\], not a table"),
    "generation end": (content("generation_config.json", b'{"eos_token_id": "x"}'), "eos_token_id='x' is no token id"),
    "nested ends": (content("generation_config.json", b'{"eos_token_id": [[1]]}'), r"eos_token_id=\[\[1\]\] is no"),
    "tokenizer": (content("tokenizer.json", b"{"), "tokenizer of .* cannot be read"),
}

AFTER: dict[str, tuple[Damage, str]] = {
    "a weight is missing": (weights(lambda held: held.pop(UP)), f"lack what config.json wants: {UP}$"),
    "the head is missing": (weights(lambda held: held.pop("lm_head.weight")), "lack .*: lm_head.weight$"),
    "more layers": (config(num_hidden_layers=9), "lack .*model.layers.2.input_layernorm.weight, .* and 60 more"),
    "fewer layers": (config(num_hidden_layers=1), "hold what config.json does not want: model.layers.1.input"),
    "one more weight": (weights(lambda held: held.update(extra=torch.ones(3))), "does not want: extra$"),
    "another shape": (weights(lambda held: held.update({UP: torch.ones(3, 3)})), rf"{UP} is \[3, 3\], not \[48, 32\]"),
    "heads of another size": (config(num_key_value_heads=4), r"k_proj.weight is \[16, 32\], not \[32, 32\], .*1 more"),
    "more tokens": (config(vocab_size=200), r"lm_head.weight is \[96, 32\], not \[200, 32\]"),
    "a tie that is none": (config(tie_word_embeddings=True), "ties weights that the files hold apart: lm_head.weight"),
    "no package": (config(quantization_config={"quant_method": "gptq", "bits": 4}), "weights of .* cannot be loaded"),
    "weights of NaN": (weights(lambda held: held[UP].fill_(math.nan)), f"{UP} holds numbers that are not finite"),
    "one weight of infinity": (weights(lambda held: held[UP][3, 5:6].fill_(math.inf)), f"{UP} holds numbers"),
}


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("kind", BEFORE)
def test_broken_before_weights_load(kind: str, broken: Callable[[Damage], Path]) -> None:
    damage, words = BEFORE[kind]
    folder = broken(damage)
    with pytest.raises(ValueError, match=words) as caught:
        load(target=folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", AFTER)
def test_weights_that_do_not_fit(kind: str, broken: Callable[[Damage], Path]) -> None:
    damage, words = AFTER[kind]
    folder = broken(damage)
    with pytest.raises(ValueError, match=words) as caught:
        load(target=folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [BEFORE["no heads"][0], AFTER["more layers"][0]])
def test_a_command_says_one_line(
    damage: Damage, broken: Callable[[Damage], Path], run: Callable[..., Finished]
) -> None:
    finished = run("generate", "the cat", "--target", str(broken(damage)), "--method", "plain")
    assert finished.status == 2
    assert finished.err.splitlines()[-1].startswith("error: ")


def test_tables_of_old_checkpoints_are_no_fault(broken: Callable[[Damage], Path]) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    assert load(target=broken(weights(lambda held: held.update({name: torch.ones(4)})))).target is not None


@pytest.mark.parametrize(("name", "value"), [("variance_epsilon", math.nan), ("variance_epsilon", -1.0)])
def test_models_at_hand_have_finite_epsilons(name: str, value: float) -> None:
    module = tiny_model("llama")
    setattr(module.model.norm, name, value)
    with pytest.raises(ValueError, match=f"model.norm.{name} is {value}"):
        TransformersModel(module)


def test_models_at_hand_have_finite_positions() -> None:
    module = tiny_model("llama")
    module.model.rotary_emb.inv_freq[1] = math.nan
    with pytest.raises(ValueError, match=r"rotary_emb\.inv_freq holds numbers that are not finite"):
        TransformersModel(module, name="odd")


# The compiled forward pass, and that of transformers.
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("role", ["draft", "target"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_stop_the_run(
    architecture: str, role: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {name: tiny_member(architecture, seed) for seed, name in enumerate(("draft", "target"))}
    models[role] = odd = TransformersModel(models[role].module, models[role].tokenizer, "odd")
    prompt, length = [2, 30, 41], 5
    sampling = SamplingParams(length, ignore_eos=True)
    members = Members.of(**models)
    make = odd.session

    def session(rows: int) -> Any:
        made = make(rows)
        score = made.score

        def spoilt(sequences: Any, last: Any) -> torch.Tensor:
            logits = score(sequences, last).clone()
            for row, sequence in zip(logits, sequences, strict=True):
                if sequence is not None and len(sequence) >= len(prompt) + 3:
                    row[-1, 7] = value
            return logits

        monkeypatch.setattr(made, "score", spoilt)
        return made

    monkeypatch.setattr(odd, "session", session)
    with pytest.raises(ValueError, match=f"the logits of the {role} odd are not finite at token 3 of a text"):
        generate(members, [prompt], "oracle", sampling=sampling)
    with pytest.raises(ValueError, match=f"the logits of the {role} odd are not finite"):
        verify(members, [prompt], max_tokens=length)
