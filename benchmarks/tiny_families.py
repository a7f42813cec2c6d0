"""A tiny random model of every causal architecture that `transformers` has, made from what its configuration names."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

FAMILIES: tuple[str, ...] = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

VOCAB, CONTEXT, WINDOW = 96, 160, 9
# What configurations call their sizes, and how small they are made.
SIZES: dict[int, str] = {
    VOCAB: "vocab_size unpadded_vocab_size vocab_size_per_layer_input pronunciation_vocab_size shape_vocab_size "
    "encoder_hash_byte_group_vocab",
    CONTEXT: "max_position_embeddings n_positions n_ctx max_seq_len context_length max_target_positions "
    "position_bias_max_distance model_max_length",
    64: "hidden_size d_model n_embd emb_dim embedding_size embedding_dim word_embed_proj_dim attention_hidden_size "
    "input_embedding_size output_embedding_size lru_width ple_embed_dim mamba_d_ssm",
    48: "intermediate_size ffn_dim dff d_inner ffn_hidden_size encoder_ffn_dim decoder_ffn_dim dim_ff "
    "intermediate_size_mlp dense_intermediate_size feed_forward_size",
    32: "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size expert_ffn_hidden_size "
    "moe_shared_expert_intermediate_size router_hidden_size",
    16: "head_dim kv_lora_rank q_lora_rank v_head_dim dim_head d_head kv_channels linear_key_head_dim "
    "linear_value_head_dim linear_head_dim index_head_dim swa_head_dim o_lora_rank hidden_size_per_layer_input "
    "laurel_rank attention_head_size attention_head_dim global_head_dim mamba_head_dim mamba_headdim mamba_d_head "
    "pronunciation_embed_dim shape_embed_dim gated_norm_rank adapter_rank qk_nope_head_dim indexer_head_dim hc_lowrank "
    "swa_v_head_dim lora_rank",
    24: "index_n_heads",  # so many that no token scores nothing at all, where which one is chosen is open
    8: "qk_rope_head_dim rotary_dim mamba_d_state state_size ssm_state_size chunk_size mamba_chunk_size time_step_rank "
    "mamba_dt_rank block_size d_rel compress_rope_head_dim relative_max_distance rope_head_dim",
    4: "num_attention_heads n_head n_heads attention_heads num_heads encoder_attention_heads decoder_attention_heads "
    "num_decoder_attention_heads num_encoder_attention_heads linear_num_value_heads linear_num_heads "
    "swa_num_attention_heads num_experts num_local_experts n_routed_experts moe_num_experts "
    "mamba_n_heads mamba_num_heads n_mamba_heads",
    2: "num_key_value_heads num_kv_heads linear_num_key_heads swa_num_key_value_heads num_experts_per_tok "
    "num_experts_per_token moe_topk moe_k mamba_n_groups mamba_ngroups n_groups o_groups heads_per_ngram expand "
    "mamba_expand zero_expert_num num_query_groups index_topk_blocks index_block_size",
    1: "num_shared_experts n_shared_experts moe_num_shared_experts n_group topk_group first_k_dense_replace "
    "num_dense_layers num_expert_group prompt_length num_random_blocks",
    0: "num_nextn_predict_layers layerdrop encoder_layerdrop decoder_layerdrop",
    WINDOW: "sliding_window window_size keep_window_size attention_window_size sliding_window_size index_topk "
    "attention_chunk_size rel_extent",
}
SMALL = {name: size for size, names in SIZES.items() for name in names.split()}
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "num_blocks")
NEEDED = (
    "head_dim",
    "num_key_value_heads",
    "n_routed_experts",
    "n_shared_experts",
    "num_experts_per_tok",
)  # that may be left open

# What the rule above does not find.
_MAMBA = {"mamba_d_head": 32}
_SHARED = {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_hidden_layers": 4}
_INDEXER = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 8}
_QWEN4 = _INDEXER | {"indexer_compress_ratio": 2}
_ASSISTANT = {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0, "num_kv_shared_layers": 4}
SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": _MAMBA | {"attn_layer_indices": [1]},
    "big_bird": {"block_size": 64},  # shorter texts than a few blocks are read whole
    "bigbird_pegasus": {"block_size": 64},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0}},
    "dots3_note": {
        "vision_config": {"hidden_size": 64, "adapter_in_dim": 64, "adapter_out_dim": 64},
        "audio_config": {"adapter_input_size": 64},
    },
    "gemma4_assistant": {"text_config": _SHARED | _ASSISTANT},
    "gemma4_unified_assistant": {"text_config": _SHARED | {"num_kv_shared_layers": 4}},
    "gemma3n_text": _SHARED
    | {"num_kv_shared_layers": 2, "intermediate_size": 48, "activation_sparsity_pattern": [0.0] * 4},
    "granitemoehybrid": _MAMBA | {"layer_types": ["linear_attention", "full_attention"]},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"], "num_hidden_layers": 3},
    "mamba2": {"head_dim": 32},
    "prophetnet": {"num_buckets": 32, "relative_max_distance": 128},
    "qwen4_exp": {"text_config": _QWEN4},
    "qwen4_exp_text": _QWEN4,
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "local"], "num_hidden_layers": 2},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 6,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention"] * 2,
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
    },
    "zamba2": {"mamba_headdim": 32, "attention_hidden_size": 128, "attention_head_dim": 32},
    "zaya": {"num_experts_per_tok": 1},
}


def tiny_config(family: str, **changes: Any) -> Any:
    """The configuration of a model of a few layers, one of each kind that the family has."""
    return _shrunk(CONFIG_MAPPING[family], SPECIAL.get(family, {}) | changes)


def tiny_model(family: str, seed: int = 0, **changes: Any) -> Any:
    """A random float32 model in eval mode, whose logits depend visibly on every token."""
    config = tiny_config(family, **changes)
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    finally:
        torch.random.set_rng_state(state)


def _shrunk(kind: type[PretrainedConfig], changes: dict[str, Any]) -> Any:
    try:
        usual = kind().to_dict()
    except Exception:  # a family whose usual values are no model
        usual = {}
    picked = _layers(usual)
    made = {key: _small(kind, key, value, usual, picked, changes) for key, value in usual.items()}
    if "kv_lora_rank" in usual:  # keys and values are one latent vector, each head has its own part
        made["num_key_value_heads"] = SMALL["num_attention_heads"]
        if usual.get("head_dim") == usual.get("qk_rope_head_dim"):
            made["head_dim"] = SMALL["qk_rope_head_dim"]
    made = {key: value for key, value in made.items() if value is not Ellipsis}
    return kind(
        **made | {key: value for key, value in changes.items() if not isinstance(made.get(key), PretrainedConfig)}
    )


def _small(
    kind: type[PretrainedConfig],
    key: str,
    value: Any,
    usual: dict[str, Any],
    picked: list[int],
    changes: dict[str, Any],
) -> Any:
    """The value of one setting in the tiny model; ... where the usual one is kept."""
    if key in SMALL and (type(value) is int or (value is None and key in NEEDED)):
        return SMALL[key]
    if key in LAYERS and type(value) is int:
        return len(picked)
    if isinstance(value, list) and len(value) == _count(usual):
        return [SMALL[key]] * len(picked) if key in SMALL else [value[i] for i in picked]
    if isinstance(value, dict) and key in kind.sub_configs:
        part = kind.sub_configs[key]
        if part is AutoConfig:
            part = CONFIG_MAPPING[value["model_type"]]
        return _shrunk(part, changes.get(key, {}))
    if key in ("initializer_range", "init_std", "initializer_factor"):
        return 0.3
    if key == "is_decoder":
        return True
    if key.endswith("_token_id"):
        return {"bos_token_id": 0, "eos_token_id": 1}.get(key, None if value is None else 2)
    return 0.0 if isinstance(value, float) and ("dropout" in key or key.endswith("pdrop")) else ...


def _count(usual: dict[str, Any]) -> int:
    return next((usual[key] for key in LAYERS if isinstance(usual.get(key), int)), 0)


def _layers(usual: dict[str, Any]) -> list[int]:
    """A few layers: the first of each kind, and at least two."""
    count = _count(usual)
    lists = [value for value in usual.values() if isinstance(value, list) and len(value) == count]
    kinds = [tuple(str(value[i]) for value in lists) for i in range(count)]
    picked = sorted({kinds.index(kind) for kind in kinds})[:5]
    return picked if len(picked) > 1 else [0, 1]
