"""Tiny random models and tokenizers, made in the test: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from fsgen.backends.transformers.model import TransformersModel

# Common sizes: two layers, width 32, 4 heads (2 of keys), 96 tokens, context 128.
SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "initializer_range": 0.3,  # large, so that logits depend visibly on every token
}

# For each architecture its configuration class, and what it needs beside the common sizes.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "qwen2": ("Qwen2Config", {}),
    "qwen2-sliding": (
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "qwen3": ("Qwen3Config", {"head_dim": 8}),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "mistral-sliding": ("MistralConfig", {"sliding_window": 5}),
    "gpt-neox": ("GPTNeoXConfig", {}),
    "gpt2": ("GPT2Config", {}),
    "gemma": ("GemmaConfig", {"head_dim": 8}),
    "gemma2": (
        "Gemma2Config",
        {"head_dim": 8, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {"head_dim": 8, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "phi3": ("Phi3Config", {"sliding_window": 5, "pad_token_id": None}),
    "olmo2": ("Olmo2Config", {}),
}

# Models that carry a recurrent state, with as little of each as they take; the hybrids have one layer of each kind.
_MIXER = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
_KINDS = {"layer_types": ["linear_attention", "full_attention"]}
RECURRENT: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba2": ("Mamba2Config", {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 2, "chunk_size": 8}),
    "falcon-h1": ("FalconH1Config", {"mamba_d_ssm": 64, **_MIXER}),
    "lfm2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}),
    "qwen3-next": (
        "Qwen3NextConfig",
        {
            **_KINDS,
            "head_dim": 8,
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
    ),
    "bamba": ("BambaConfig", {"attn_layer_indices": [1], **_MIXER}),
    "mamba": ("MambaConfig", {"state_size": 8, "intermediate_size": 64, "time_step_rank": 4}),
    "falcon-mamba": ("FalconMambaConfig", {"state_size": 8, "intermediate_size": 64, "time_step_rank": 4}),
    "jamba": (
        "JambaConfig",
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
        },
    ),
}


def tiny_config(architecture: str, **config: Any) -> Any:
    """The configuration of a model of two layers, width 32, 4 heads (2 of keys), 96 tokens, context 128."""
    kind, special = (ARCHITECTURES | RECURRENT)[architecture]
    sizes = dict(SIZES)
    if architecture == "gpt2":
        del sizes["intermediate_size"], sizes["num_key_value_heads"]
    if architecture == "gpt-neox":
        del sizes["num_key_value_heads"]
    return getattr(transformers, kind)(**{**sizes, **special, **config})


def tiny_model(architecture: str, seed: int = 0, **config: Any) -> Any:
    """A random float32 model in eval mode.

    Args:
        architecture: a key of ARCHITECTURES or RECURRENT.
        seed: of the weights.
        config: overrides of its configuration.
    """
    made = tiny_config(architecture, **config)
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        return transformers.AutoModelForCausalLM.from_config(made, dtype=torch.float32).eval()
    finally:
        torch.random.set_rng_state(state)


def shaken(module: Any, noise: float, seed: int = 0) -> Any:
    """The model with random changes of its matrices, `noise` of their own size: one that often agrees with it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            if noise and weight.dim() > 1:
                weight += noise * weight.std() * torch.randn(weight.shape, generator=generator)
    return module


def tiny_member(architecture: str, seed: int = 0, noise: float = 0.0, **config: Any) -> TransformersModel:
    """A tiny model behind sessions, with a tokenizer, named by its architecture; see `tiny_model` and `shaken`."""
    module = shaken(tiny_model(architecture, seed, **config), noise, seed)
    return TransformersModel(module, tiny_tokenizer(), architecture)


def save_tiny(folder: Path, architecture: str = "llama", seed: int = 0, tokenizer: Any = None, **config: Any) -> Path:
    """A tiny model and its tokenizer in a folder; see `tiny_model` and `tiny_tokenizer`."""
    tiny_model(architecture, seed, **config).save_pretrained(folder)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    return folder


def tiny_tokenizer(size: int = 96, special: Iterable[str] = ("<s>", "</s>"), digits: bool = False) -> Any:
    """A byte-level BPE tokenizer of `size` tokens: the special ones, most of printable ASCII, a few merges.

    Args:
        size: tokens in all, at least 85.
        special: the first of them; the first begins a text and the second ends it.
        digits: cut every number into digits, which changes the rules and not the vocabulary.
    """
    special = tuple(special)
    letters = [chr(i) for i in range(33, 127) if chr(i) not in '`~^|@#&{}[]\\"']
    merges = [("t", "h"), ("Ġ", "a"), ("i", "n"), ("e", "r"), ("Ġ", "th")]
    words = [*special, "Ġ", *letters]  # Ġ is the space
    if len(words) > size:
        raise ValueError(f"size={size} is too small: {len(words)} tokens are letters")
    merges = [pair for pair in merges if all(part in words or part == "th" for part in pair)][: size - len(words)]
    words += ["".join(pair) for pair in merges]
    words += [f"<unused{i}>" for i in range(size - len(words))]
    backend = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges))
    cut: Any = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), cut]) if digits else cut
    backend.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=special[0], eos_token=special[1], clean_up_tokenization_spaces=False
    )
