"""Each family that the compiled pass declares: what transformers computes, in any batch and every type of weights."""

from __future__ import annotations

import json
import random
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from fsgen.backends import int4, int8
from fsgen.backends.cpu import weights
from fsgen.backends.cpu.checkpoint import CpuCheckpoint, open_for_cpu
from fsgen.backends.cpu.families import FAMILIES
from fsgen.backends.cpu.gemm import HAS_INT8_PAIRS, HAS_PAIRS
from fsgen.backends.cpu.model import CpuModel
from fsgen.backends.cpu.modules import weights_of
from fsgen.backends.cpu.shape import Shape
from fsgen.backends.opening import open_checkpoint
from fsgen.backends.transformers.model import TransformersModel
from tests.backends.scripts import alone, edited
from tests.tiny import SIZES, tiny_tokenizer

ROUNDING = 1e-4  # of the largest logit
HEADS = {"head_dim": 8}
WINDOW = {"sliding_window": 5}
MIXED = {"layer_types": ["sliding_attention", "full_attention"], **WINDOW}
LLAMA3 = {
    "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 1e4,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e5}
# Of sizes that fill no panel, block or vector.
ODD = {"hidden_size": 36, "intermediate_size": 50, "num_attention_heads": 3, "num_key_value_heads": 3, "vocab_size": 97}

# Configurations that run compiled: of each family the class, and what its configuration has beside the common sizes.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"rope_parameters": LLAMA3}),
    "llama, biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"}),
    "mistral": ("Mistral", WINDOW | HEADS),
    "qwen2": ("Qwen2", MIXED | {"use_sliding_window": True}),
    "qwen3": ("Qwen3", HEADS | {"attention_bias": True}),
    "gemma": ("Gemma", HEADS),
    "gemma2": ("Gemma2", HEADS | MIXED | {"query_pre_attn_scalar": 12}),
    "gemma2, low caps": (
        "Gemma2", HEADS | MIXED | {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 0.5},
    ),
    "gemma2, odd sizes": ("Gemma2", ODD | MIXED | {"head_dim": 14, "num_key_value_heads": 1}),
    "gemma3_text": ("Gemma3Text", HEADS | MIXED | {"final_logit_softcapping": 3.0}),
    "gemma3_text, stretched": (
        "Gemma3Text", HEADS | MIXED | {"rope_parameters": {
            "full_attention": LINEAR, "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}},
    ),
    "phi3": ("Phi3", WINDOW),
    "phi3, part of a head": ("Phi3", {"partial_rotary_factor": 0.5}),
    "olmo": ("Olmo", {}),
    "olmo2": ("Olmo2", {}),
    "olmo2, biases": ("Olmo2", {"attention_bias": True, "rope_parameters": LINEAR}),
    "gpt_neox": ("GPTNeoX", {"num_key_value_heads": ..., "rotary_pct": 0.25}),
    "gpt_neox, one after the other": (
        "GPTNeoX", {"num_key_value_heads": ..., "use_parallel_residual": False, "attention_bias": False},
    ),
    "gpt_neox, odd sizes": ("GPTNeoX", ODD | {"num_key_value_heads": ..., "rotary_pct": 0.5, "hidden_act": "gelu_new"}),
    "granite": (
        "Granite",
        {"embedding_multiplier": 3.0, "logits_scaling": 2.5, "residual_multiplier": 0.3, "attention_multiplier": 0.2,
         "attention_bias": True},
    ),
    "starcoder2": ("Starcoder2", WINDOW),
    "starcoder2, no biases": ("Starcoder2", {"use_bias": False, "hidden_act": "silu"}),
    "cohere": ("Cohere", {"logit_scale": 0.5}),
    "cohere2": ("Cohere2", MIXED | {"logit_scale": 0.5}),
    "smollm3": ("SmolLM3", {"no_rope_layers": [1, 0], "rope_parameters": LLAMA3}),
    "smollm3, windows": ("SmolLM3", {"no_rope_layers": [0, 1], "use_sliding_window": True, **WINDOW}),
    "glm": ("Glm", HEADS | {"attention_bias": True}),
    "glm4": ("Glm4", {"head_dim": 16}),
    "exaone4": ("Exaone4", HEADS | MIXED),
    "exaone4, no windows": ("Exaone4", HEADS | {"sliding_window": None, "layer_types": ["full_attention"] * 2}),
    "seed_oss": ("SeedOss", HEADS | {"attention_out_bias": True, "mlp_bias": True}),
    "stablelm": ("StableLm", {"use_qkv_bias": True, "partial_rotary_factor": 0.5}),
    "olmo3": ("Olmo3", MIXED),
    "olmo3, stretched": (
        "Olmo3", MIXED | {"rope_parameters": {
            "full_attention": LINEAR, "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}},
    ),
    "phi": ("Phi", {"partial_rotary_factor": 0.5}),
}  # fmt: skip
# Each a way of holding weights; the last ones where the processor has the instructions.
HELD = ["float32", "bfloat16", "int8", "int4", *["bfloat16 pairs"] * HAS_PAIRS, *["int8 pairs"] * HAS_INT8_PAIRS]


def config_of(case: str, **changes: Any) -> Any:
    kind, special = CASES[case]
    made = {
        key: value for key, value in (SIZES | {"pad_token_id": None} | special | changes).items() if value is not ...
    }
    return getattr(transformers, f"{kind}Config")(**made)


def module_of(case: str, **changes: Any) -> Any:
    """A random model in eval mode, whose norms and biases are no ones and zeros."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = transformers.AutoModelForCausalLM.from_config(config_of(case, **changes), dtype=torch.float32).eval()
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.dim() == 1:
                    parameter += 0.3 * torch.randn(parameter.shape)
    return module


def saved(folder: Path, module: Any) -> Path:
    module.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@cache
def loaded(folder: Path, held: str = "float32") -> CpuModel:
    """The model of a folder, on the compiled pass."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "HAS_PAIRS", held == "bfloat16 pairs")
        patch.setattr(weights, "HAS_INT8_PAIRS", held == "int8 pairs")
        model = open_checkpoint(folder).load(held.split()[0], "cpu")
    assert isinstance(model, CpuModel)
    assert model.kind == ("int4 pairs" if held == "int4" else held)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


def folder_of(folders: Path, case: str) -> Path:
    folder = folders / case
    return folder if folder.exists() else saved(folder, module_of(case))


def test_every_declared_family_is_tried() -> None:
    assert {config_of(case).model_type for case in CASES} == set(FAMILIES)


def test_the_page_lists_them() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
    section = page.partition("## What runs compiled on a CPU")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(FAMILIES)


@pytest.mark.parametrize("case", CASES)
def test_it_computes_what_transformers_does(case: str, folders: Path) -> None:
    """Rows of unlike lengths, grown, drafted, rewound and replaced, far beyond the windows; and a greedy text."""
    module, model, rng = module_of(case), loaded(folder_of(folders, case)), random.Random(1)
    session, texts = model.session(3), [[rng.randrange(96) for _ in range(n)] for n in (100, 3, 37)]
    for _ in range(8):
        given = [None if rng.random() < 0.2 else text for text in texts]
        last = [rng.randint(1, len(text)) for text in texts]
        logits = session.score(given, last)
        for row, text in enumerate(given):
            if text is not None:
                wanted = alone(module, text, last[row])
                off = (logits[row, -last[row] :] - wanted).abs().max() / wanted.abs().max()
                assert off < ROUNDING
        texts = [edited(text, rng) for text in texts]
    ours, theirs = [5, 9, 11], [5, 9, 11]
    for _ in range(24):
        ours = [*ours, int(session.score([ours, None, None], 1)[0, 0].argmax())]
        theirs = [*theirs, int(alone(module, theirs, 1)[0].argmax())]
    assert ours == theirs


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("case", CASES)
def test_logits_do_not_depend_on_the_batch(case: str, held: str, folders: Path) -> None:
    model, rng = loaded(folder_of(folders, case), held), random.Random(2)
    texts = [[rng.randrange(96) for _ in range(n)] for n in (90, 12, 41, 1, 64)]
    expected = [model.session(1).score([text], len(text))[0] for text in texts]
    for rows in (2, 5):
        session, lengths = model.session(rows), [0] * rows
        while lengths != [len(text) for text in texts[:rows]]:
            new = [min(len(text), n + rng.choice((1, 2, 30))) for n, text in zip(lengths, texts, strict=False)]
            given = [text[:n] if n > old else None for text, n, old in zip(texts, new, lengths, strict=False)]
            logits = session.score(given, [max(1, n - old) for n, old in zip(new, lengths, strict=True)])
            for row, (old, n) in enumerate(zip(lengths, new, strict=True)):
                if n > old:
                    assert torch.equal(logits[row, old - n :], expected[row][old:n])
            lengths = new


def rounded_like(module: Any, held: str) -> Any:
    """The model in float32 with the numbers that its weights are rounded to."""
    for part in module.modules():
        if isinstance(part, torch.nn.Linear):
            if held.startswith("int8"):
                weight, scales = int8.rounded(part.weight.detach())
                part.weight = torch.nn.Parameter(weight * scales[:, None])
            else:
                weight, scales = int4.rounded(part.weight.detach())
                steps = scales.repeat_interleave(int4.GROUP, 1)[:, : weight.shape[1]]
                part.weight = torch.nn.Parameter((weight.float() - 8) * steps)
    return module


@pytest.mark.parametrize("held", [held for held in HELD if held.startswith("int")])
@pytest.mark.parametrize("case", CASES)
def test_rounded_weights_are_those_that_are_multiplied(case: str, held: str, folders: Path) -> None:
    """What is left is the rounding of inputs to sixteen bits; the table of embeddings is not rounded."""
    module, text = module_of(case), [(7 * i) % 96 for i in range(60)]
    if module.config.tie_word_embeddings:
        module.lm_head.weight = torch.nn.Parameter(module.lm_head.weight.detach().clone())
    got = loaded(folder_of(folders, case), held).session(1).score([text], 60)[0]
    wanted = alone(rounded_like(module, held), text, 60)
    assert (got - wanted).abs().max() < 1e-3 * wanted.abs().max()


@pytest.mark.parametrize("held", [held for held in HELD if held.startswith("bfloat16")])
@pytest.mark.parametrize("case", CASES)
def test_bfloat16_is_as_near_to_float32_as_transformers_is(case: str, held: str, folders: Path) -> None:
    text = [(7 * i) % 96 for i in range(60)]
    wanted = alone(module_of(case).to(torch.bfloat16).float(), text, 60)
    theirs = (alone(module_of(case).to(torch.bfloat16), text, 60).float() - wanted).abs().mean()
    ours = (loaded(folder_of(folders, case), held).session(1).score([text], 60)[0] - wanted).abs().mean()
    assert 0 < ours < theirs


@pytest.mark.parametrize("case", CASES)
def test_a_model_in_memory_runs_compiled_too(case: str) -> None:
    module, text = module_of(case), [(7 * i) % 96 for i in range(60)]
    model = TransformersModel(module, name=case)
    assert model.compiled
    wanted = alone(module, text, 60)
    assert (model.session(1).score([text], 60)[0] - wanted).abs().max() < ROUNDING * wanted.abs().max()
    int8.quantise(module, case)
    assert weights_of(module)


# Settings that change what is computed, and that the pass does not know.
DECLINED: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"hidden_act": "relu"}),
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}),
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
    ("llama", {"partial_rotary_factor": 0.5}),
    ("gemma2", {"use_bidirectional_attention": True}),
    ("gemma3_text", {"hidden_activation": "relu"}),
    ("gemma3_text", {"attn_logit_softcapping": 2.0}),
    ("gemma3_text", {"layer_types": ["sliding_attention", "chunked_attention"]}),
    ("phi3", {"original_max_position_embeddings": 32, "rope_parameters": {
        "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "rope_theta": 1e4}}),
    ("olmo", {"clip_qkv": 0.5}),
    ("olmo2", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}),
    ("gpt_neox", {"hidden_act": "relu"}),
    ("cohere", {"use_qk_norm": True}),
    ("phi", {"qk_layernorm": True}),
    ("phi", {"tie_word_embeddings": True}),
    ("stablelm", {"use_parallel_residual": True}),
    ("mistral", {"layer_types": [["full_attention"], {}]}),
]  # fmt: skip


@pytest.mark.parametrize(("case", "changes"), DECLINED)
def test_what_is_not_known_is_left_to_transformers(case: str, changes: dict[str, Any]) -> None:
    assert Shape.of(config_of(case).to_dict())
    config = config_of(case).to_dict() | changes
    assert Shape.of(config) is None


def test_a_model_with_an_unknown_setting_runs_on_transformers(tmp_path: Path) -> None:
    module = module_of("olmo", clip_qkv=0.5)
    model, text = open_checkpoint(saved(tmp_path, module)).load("float32", "cpu"), list(range(2, 40))
    assert not isinstance(model, CpuModel)
    assert (model.session(1).score([text], 3)[0] - alone(module, text, 3)).abs().max() < 1e-4


@pytest.mark.parametrize("case", ["qwen2", "gpt_neox", "starcoder2", "phi"])
def test_a_bias_that_is_missing_is_not_taken_for_zero(case: str, tmp_path: Path) -> None:
    saved(tmp_path, module_of(case))
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[next(name for name in tensors if name.endswith("bias"))]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert open_for_cpu("model", tmp_path) is None
    with pytest.raises(ValueError, match=r"\.bias"):
        open_checkpoint(tmp_path).load("float32", "cpu")


def test_older_files_of_gpt_neox_are_read(tmp_path: Path, folders: Path) -> None:
    """Their head has another name, and they hold masks and tables of positions."""
    saved(tmp_path, module_of("gpt_neox"))
    tensors = load_file(tmp_path / "model.safetensors")
    assert "embed_out.weight" in tensors  # as transformers still writes it
    for layer in range(2):
        attention = f"gpt_neox.layers.{layer}.attention."
        tensors[f"{attention}bias"] = torch.ones(1, 1, 128, 128, dtype=torch.bool)
        tensors[f"{attention}masked_bias"] = torch.tensor(-1e9)
        tensors[f"{attention}rotary_emb.inv_freq"] = torch.ones(1)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    checkpoint = open_checkpoint(tmp_path)
    assert isinstance(checkpoint, CpuCheckpoint)
    model, text = checkpoint.load("float32", "cpu"), [(7 * i) % 96 for i in range(60)]
    today = loaded(folder_of(folders, "gpt_neox"))
    assert torch.equal(model.session(1).score([text], 60), today.session(1).score([text], 60))


def test_names_of_today_are_read_as_well(tmp_path: Path) -> None:
    saved(tmp_path, module_of("gpt_neox"))
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("embed_out.weight")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert isinstance(open_checkpoint(tmp_path), CpuCheckpoint)


# What config.json of well-known models says, in the words of older versions.
PUBLISHED: dict[str, dict[str, Any]] = {
    "gemma-2-2b": {
        "model_type": "gemma2", "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304,
        "intermediate_size": 9216, "max_position_embeddings": 8192, "num_attention_heads": 8,
        "num_hidden_layers": 26, "num_key_value_heads": 4, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "sliding_window": 4096, "torch_dtype": "float32", "vocab_size": 256000,
        "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "attention_bias": False,
    },
    "gemma-3-1b": {
        "model_type": "gemma3_text", "attn_logit_softcapping": None, "final_logit_softcapping": None,
        "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "intermediate_size": 6912,
        "max_position_embeddings": 32768, "num_attention_heads": 4, "num_hidden_layers": 26,
        "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "rope_local_base_freq": 10000,
        "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6,
        "torch_dtype": "bfloat16", "vocab_size": 262144, "bos_token_id": 2, "eos_token_id": [1, 106],
        "pad_token_id": 0, "attention_bias": False,
    },
    "pythia-160m": {
        "model_type": "gpt_neox", "hidden_act": "gelu", "hidden_size": 768, "intermediate_size": 3072,
        "layer_norm_eps": 1e-5, "max_position_embeddings": 2048, "num_attention_heads": 12,
        "num_hidden_layers": 12, "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False,
        "torch_dtype": "float16", "use_parallel_residual": True, "vocab_size": 50304, "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "phi-3-mini-4k": {
        "model_type": "phi3", "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192,
        "max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 32, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        "rope_scaling": None, "rope_theta": 10000.0, "sliding_window": 2047, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "vocab_size": 32064, "bos_token_id": 1, "eos_token_id": 32000,
        "pad_token_id": 32000, "attention_bias": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_configurations_as_published_are_read_as_transformers_reads_them(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name]))
    normal = transformers.AutoConfig.from_pretrained(tmp_path).to_dict()
    found, wanted = (Shape.of(config) for config in (PUBLISHED[name], normal | {"dtype": None}))
    assert found is not None
    assert wanted is not None
    for rope, other in zip(found.ropes, wanted.ropes, strict=True):
        assert torch.equal(rope.inverse_frequencies, other.inverse_frequencies)
    assert [getattr(found, key) for key in found.__dataclass_fields__ if key != "ropes"] == [
        getattr(wanted, key) for key in wanted.__dataclass_fields__ if key != "ropes"
    ]
