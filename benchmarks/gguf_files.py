"""Writes GGUF files of Llama-like models, for tests and benchmarks: to compare the same weights in both formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from fsgen.backends.cpu.files import Tensors
from fsgen.backends.cpu.shape import Shape

TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}
# Of the bundled tokenizer: digits alone, all else as GPT-2 splits it.
PRE_TOKENIZER = "smollm"
NORMAL, CONTROL, UNUSED = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL, gguf.TokenType.UNUSED

_OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_INSIDE = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def write_gguf(folder: Path, file: Path, kind: str = "float32", chat_template: str | None = None) -> Path:
    """Writes the model of a folder as a GGUF file.

    Args:
        folder: a model of the Llama, Qwen2 or Qwen3 family, with a byte-level tokenizer that splits digits.
        file: to be written.
        kind: of its matrices: float32, float16, bfloat16, or int8 or int4 (blocks of 32 with one scale, Q8_0, Q4_0).
        chat_template: how messages become a prompt.
    """
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape, tensors = Shape.of(config), Tensors(folder.name, folder)
    assert shape is not None
    partial, whole = file.with_suffix(".part"), gguf.GGMLQuantizationType[TYPES[kind]]
    writer = gguf.GGUFWriter(partial, shape.model_type)
    _write_sizes(writer, shape, folder.name)
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    write_tokenizer(writer, folder, shape.vocab_size, config)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    names = {name: (_name(name), whole if len(size) > 1 else gguf.GGMLQuantizationType.F32) for name, size in
             tensors.shapes.items()}  # fmt: skip
    for name, (stored, type_) in names.items():
        size = tensors.shapes[name]
        nbytes = int(np.prod(gguf.quant_shape_to_byte_shape(size, type_)))
        writer.add_tensor_info(stored, size, np.dtype(np.float32), nbytes, type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, (_, type_) in names.items():
        tensor = tensors[name].float()
        if shape.model_type == "llama" and ("q_proj" in name or "k_proj" in name):
            tensor = _interleaved(tensor, shape.num_heads if "q_proj" in name else shape.num_kv_heads)
        writer.write_tensor_data(gguf.quants.quantize(tensor.numpy(), type_))
    writer.close()
    partial.rename(file)
    return file


def _write_sizes(writer: gguf.GGUFWriter, shape: Shape, name: str) -> None:
    writer.add_name(name)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocab_size)


def write_tokenizer(writer: gguf.GGUFWriter, folder: Path, rows: int, config: dict[str, Any]) -> None:
    """The tokenizer of a folder; ids that it does not have are there, and unused."""
    rules = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    ids = rules["model"]["vocab"] | {token["content"]: token["id"] for token in rules["added_tokens"]}
    special = {token["id"] for token in rules["added_tokens"]}
    by_id = {index: token for token, index in ids.items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list([by_id.get(index, f"[PAD{index}]") for index in range(rows)])
    writer.add_token_types(
        [CONTROL if index in special else NORMAL if index in by_id else UNUSED for index in range(rows)]
    )
    writer.add_token_merges([" ".join(pair) for pair in rules["model"]["merges"]])
    end = config["eos_token_id"]
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)


def _name(name: str) -> str:
    """What the other format calls a tensor."""
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    _, _, layer, rest = name.split(".", 3)
    part, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{_INSIDE[part]}.{kind}"


def _interleaved(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of each head in the order in which this format's llama rotates them: neighbours, not halves."""
    return tensor.view(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape).contiguous()
