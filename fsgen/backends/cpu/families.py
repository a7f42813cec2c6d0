"""The families of models that the compiled forward pass computes, each declared by how it differs from Llama."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Settings of config.json that the code of every family reads.
COMMON = frozenset(
    {"hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size"}
    | {"vocab_size", "max_position_embeddings", "hidden_act", "rms_norm_eps", "tie_word_embeddings", "layer_types"}
    | {"rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor"}
)


@dataclass(frozen=True)
class Family:
    """What a family of models computes, and what its files call it; what is not said is as in Llama.

    Attributes:
        settings: of config.json, what its code reads beside `COMMON`, or that is usual where the file does not say it.
        renamed: settings that it calls otherwise, with the name that they have in other families.
        fixed: settings that it has whatever the file says.
        refused: settings that are not computed here where they are set to anything but none, false or 0.
        norm: "rms", "rms + 1" (of which the weights are stored less 1), "layer", or "layer, no weights".
        norm_bias: layer norms have one.
        norms: in a layer, before and after attention, before and after the MLP; "" where there is none.
        head_norms: of queries and keys, "each head" or "all heads" (together).
        gated: the MLP has a gate.
        scaled_embedding: embeddings are multiplied by the square root of their width.
        windows: which layers have a sliding window: "none", "all", by "layer_types" or, where that is not given, all
            but every n-th one (`sliding_window_pattern`), or as in "qwen" or "smollm".
        full_without_positions: layers without a window have no rotary positions, in a model that has windows.
        interleaved: rotary positions turn neighbours, not the halves of a head.
        rope_types: the kinds of rotary positions that it has; None for all. Parts of a head are turned where
            `settings` have `partial_rotary_factor`.
        activations: names that mean another one in this family.
        biases: of linear layers of the pass, whether they have one; or the setting that says so.
        qkv, gate_up: tensors whose rows follow one another; one where the file has them joined.
        o, down, layers, embed, final_norm: tensors.
        heads_together: of joined queries, keys and values, those of one head follow one another.
        former: names of tensors in older files, each with today's.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    norm: str = "rms"
    norms: tuple[str, str, str, str] = ("input_layernorm", "", "post_attention_layernorm", "")
    head_norms: str = ""
    gated: bool = True
    scaled_embedding: bool = False
    windows: str = "none"
    full_without_positions: bool = False
    interleaved: bool = False
    rope_types: frozenset[str] | None = None
    activations: Mapping[str, str] = field(default_factory=dict)
    biases: Mapping[str, bool | str] = field(default_factory=dict)
    norm_bias: bool = False
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    o: str = "self_attn.o_proj"
    gate_up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    down: str = "mlp.down_proj"
    layers: str = "model.layers"
    embed: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    heads_together: bool = False
    former: Mapping[str, str] = field(default_factory=dict)

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a configuration that this family reads, by the names that they have in most."""
        found = {key: value for key, value in config.items() if key in COMMON or key in self.settings}
        for name, common in self.renamed.items():
            found.pop(common, None)
            if name in config:
                found[common] = config[name]
        return {**self.settings, **found, **self.fixed}


_ATTENTION_BIAS = {"qkv_proj": "attention_bias", "o_proj": "attention_bias"}
_ALL_BIASES = {"qkv_proj": True, "o_proj": True, "gate_up_proj": True, "down_proj": True}
_MLP_BIAS = {"gate_up_proj": "mlp_bias", "down_proj": "mlp_bias"}
_SANDWICH = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
_AFTER = ("", "post_attention_layernorm", "", "post_feedforward_layernorm")
_QWEN = {"use_sliding_window": False, "sliding_window": None, "max_window_layers": 28}
_GEMMA = {"head_dim": 256, "tie_word_embeddings": True, "attention_bias": False, "use_bidirectional_attention": None}
_CAPS = {"final_logit_softcapping": None, "attn_logit_softcapping": None}

FAMILIES: Mapping[str, Family] = {
    "llama": Family(settings={"attention_bias": False, "mlp_bias": False}, biases=_ATTENTION_BIAS | _MLP_BIAS),
    "mistral": Family(settings={"sliding_window": None}, windows="all"),
    "qwen2": Family(settings=_QWEN, windows="qwen", biases={"qkv_proj": True}),
    "qwen3": Family(
        settings=_QWEN | {"attention_bias": False}, windows="qwen", biases=_ATTENTION_BIAS, head_norms="each head"
    ),
    "gemma3_text": Family(
        settings=_GEMMA
        | _CAPS
        | {"query_pre_attn_scalar": 256, "sliding_window": 4096, "sliding_window_pattern": 6}
        | {"rope_theta": 1e6, "rope_local_base_freq": 1e4},
        renamed={"hidden_activation": "hidden_act"},
        refused=("use_bidirectional_attention", "attn_logit_softcapping"),
        norm="rms + 1",
        norms=_SANDWICH,
        head_norms="each head",
        scaled_embedding=True,
        windows="layer_types",
        biases=_ATTENTION_BIAS,
    ),
    "gemma2": Family(
        settings=_GEMMA
        | {"final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0}
        | {"query_pre_attn_scalar": 256, "sliding_window": 4096},
        renamed={"hidden_activation": "hidden_act"},
        fixed={"sliding_window_pattern": 2},
        refused=("use_bidirectional_attention",),
        norm="rms + 1",
        norms=_SANDWICH,
        scaled_embedding=True,
        windows="layer_types",
        biases=_ATTENTION_BIAS,
    ),
    "phi3": Family(
        settings={"sliding_window": None, "partial_rotary_factor": 1.0, "num_key_value_heads": None},
        windows="all",
        rope_types=frozenset({"default"}),
        qkv=("self_attn.qkv_proj",),
        gate_up=("mlp.gate_up_proj",),
    ),
    "olmo2": Family(
        settings={"attention_bias": False, "num_key_value_heads": None},
        norms=_AFTER,
        head_norms="all heads",
        biases=_ATTENTION_BIAS,
    ),
    "gpt_neox": Family(
        settings={"attention_bias": True, "use_parallel_residual": True, "partial_rotary_factor": 0.25},
        renamed={
            "layer_norm_eps": "rms_norm_eps",
            "rotary_emb_base": "rope_theta",
            "rotary_pct": "partial_rotary_factor",
        },
        fixed={"num_key_value_heads": None},
        refused=("head_dim",),
        norm="layer",
        norm_bias=True,
        gated=False,
        biases=_ATTENTION_BIAS | {"gate_up_proj": True, "down_proj": True},
        qkv=("attention.query_key_value",),
        heads_together=True,
        o="attention.dense",
        gate_up=("mlp.dense_h_to_4h",),
        down="mlp.dense_4h_to_h",
        layers="gpt_neox.layers",
        embed="gpt_neox.embed_in",
        final_norm="gpt_neox.final_layer_norm",
        former={"embed_out.weight": "lm_head.weight"},
    ),
    "gemma": Family(
        settings=_GEMMA,
        refused=("use_bidirectional_attention",),
        activations={"gelu": "gelu_pytorch_tanh"},
        norm="rms + 1",
        scaled_embedding=True,
        biases=_ATTENTION_BIAS,
    ),
    "granite": Family(
        settings={
            "attention_bias": False,
            "mlp_bias": False,
            "num_key_value_heads": None,
            "embedding_multiplier": 1.0,
            "logits_scaling": 1.0,
            "residual_multiplier": 1.0,
            "attention_multiplier": 1.0,
        },
        biases=_ATTENTION_BIAS | _MLP_BIAS,
    ),
    "starcoder2": Family(
        settings={"sliding_window": None, "use_bias": True, "tie_word_embeddings": True},
        renamed={"norm_epsilon": "rms_norm_eps"},
        norm="layer",
        norm_bias=True,
        gated=False,
        windows="all",
        biases=dict.fromkeys(_ALL_BIASES, "use_bias"),
        gate_up=("mlp.c_fc",),
        down="mlp.c_proj",
    ),
    "cohere": Family(
        settings={
            "logit_scale": 0.0625,
            "attention_bias": False,
            "use_qk_norm": False,
            "tie_word_embeddings": True,
            "num_key_value_heads": None,
        },
        renamed={"layer_norm_eps": "rms_norm_eps"},
        fixed={"use_parallel_residual": True},
        refused=("use_qk_norm",),
        norm="layer",
        norms=("input_layernorm", "", "", ""),
        interleaved=True,
        biases=_ATTENTION_BIAS,
    ),
    "cohere2": Family(
        settings={
            "logit_scale": 0.0625,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "num_key_value_heads": None,
            "sliding_window": 4096,
            "sliding_window_pattern": 4,
        },
        renamed={"layer_norm_eps": "rms_norm_eps"},
        fixed={"use_parallel_residual": True},
        norm="layer",
        norms=("input_layernorm", "", "", ""),
        windows="layer_types",
        full_without_positions=True,
        interleaved=True,
        biases=_ATTENTION_BIAS,
    ),
    "smollm3": Family(
        settings={
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "sliding_window": None,
            "no_rope_layers": None,
            "no_rope_layer_interval": 4,
        },
        windows="smollm",
        biases=_ATTENTION_BIAS | _MLP_BIAS,
    ),
    "phi": Family(
        settings={"partial_rotary_factor": 0.5, "qk_layernorm": False, "num_key_value_heads": None},
        renamed={"layer_norm_eps": "rms_norm_eps"},
        fixed={"use_parallel_residual": True},
        refused=("qk_layernorm",),
        norm="layer",
        norm_bias=True,
        norms=("input_layernorm", "", "", ""),
        gated=False,
        biases=_ALL_BIASES | {"lm_head": True},
        o="self_attn.dense",
        gate_up=("mlp.fc1",),
        down="mlp.fc2",
        final_norm="model.final_layernorm",
    ),
    "olmo": Family(
        settings={"attention_bias": False, "clip_qkv": None, "num_key_value_heads": None},
        fixed={"rms_norm_eps": 1e-5},
        refused=("clip_qkv",),
        norm="layer, no weights",
        biases=_ATTENTION_BIAS,
    ),
}
