"""What the compiled forward pass is given, by name; and how its numbers lie in memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fsgen.backends.cpu.memory import BFLOAT16, BFLOAT16_PAIR, FLOAT32, INT4_PAIR, INT8, INT8_PAIR, fields
from fsgen.backends.cpu.threads import HEADER

MAX_TOKENS = 256  # of one pass: with more, what lies between two products would not stay in a core's own cache
BLOCK = 32  # slots of the cache whose keys lie together, [head_dim, BLOCK]
QUERIES = 8  # that attention takes at a time


class Types(NamedTuple):
    """What numbers there are of each kind, by one of them.

    Attributes:
        weight: of linear layers, as products read them.
        cache: of embeddings, keys and values; cache_read: of the latter, as products read them.
        activation: of what else goes into products, as it is written; activation_read: as it is read.
        per: numbers that a product reads as one: 2 where the processor multiplies pairs.
        per_weight: of weights; pairs of int8 and int4 take inputs that are rounded to int16 (`gemm.Quantized`).
        scale: of rounded weights.
    """

    weight: Any
    cache: Any
    cache_read: Any
    activation: Any
    activation_read: Any
    per: int
    per_weight: int
    scale: Any = FLOAT32


TYPES = {
    "float32": Types(FLOAT32, FLOAT32, FLOAT32, FLOAT32, FLOAT32, 1, 1),
    "bfloat16": Types(BFLOAT16, BFLOAT16, BFLOAT16, FLOAT32, FLOAT32, 1, 1),
    "bfloat16 pairs": Types(BFLOAT16_PAIR, BFLOAT16, BFLOAT16_PAIR, BFLOAT16, BFLOAT16_PAIR, 2, 2),
    "int8": Types(INT8, FLOAT32, FLOAT32, FLOAT32, FLOAT32, 1, 1),
    "int8 pairs": Types(INT8_PAIR, FLOAT32, FLOAT32, FLOAT32, FLOAT32, 1, 2),
    "int4 pairs": Types(INT4_PAIR, FLOAT32, FLOAT32, FLOAT32, FLOAT32, 1, 2, BFLOAT16),
}


# The weights of a linear layer, of all layers one after another, in panels of 32 columns; scales of rounded ones; a
# bias where it has one, else 0.
LINEAR = np.dtype(fields("weight scales bias inputs panels scale_panel"), align=True)

# A norm, of all layers one after another; 0 where there is none; layer norms have a bias. In a layer, and behind all:
NORM = np.dtype(fields("weight bias"), align=True)
BEFORE_ATTENTION, AFTER_ATTENTION, BEFORE_MLP, AFTER_MLP, FINAL = range(5)

# New tokens of one row of the session.
CHUNK = np.dtype(
    [
        *fields("row first_token num_tokens position"),  # its first token: among those of the pass, and of its text
        *fields("prefix_row prefix_length"),  # where it reads the beginning of its text: tokens, in whole blocks
    ],
    align=True,
)

# All else; what is no number is an address.
ARGUMENTS = np.dtype(
    [
        *HEADER,
        # The model; norms of queries and keys are 0 where there are none, caps too.
        *fields("num_layers hidden_size num_heads num_kv_heads head_dim intermediate_size vocab_size"),
        *fields("layer_norm activation gated parallel norm_all_heads"),
        *fields("norm_eps embed_scale attention_scale attention_cap residual_scale logit_scale logit_cap", np.float32),
        *fields("qkv_proj o_proj gate_up_proj down_proj lm_head", LINEAR),
        ("norms", NORM, (5,)),
        *fields("embed_tokens q_norm k_norm sliding_windows"),
        # Of each layer which rotary tables it reads: [tables, rope_positions, head_dim / 2].
        *fields("rope_tables rope_positions rope_cos rope_sin"),
        # Keys and values: rows, slots of each, numbers of a value (a head, filled up to whole vectors).
        *fields("cache_rows cache_slots value_dim key_cache value_cache"),
        # The tokens of a pass; logits are computed of some of them.
        *fields("num_tokens num_chunks num_logits logits"),
        ("input_ids", np.int64, (MAX_TOKENS,)),
        ("logits_to_keep", np.int64, (MAX_TOKENS,)),
        ("chunks", CHUNK, (MAX_TOKENS,)),
        # What lies between products, for each token; and what attention needs, for each thread.
        *fields("hidden_states normed qkv attention_out gate_up activated block_out zeros"),
        *fields("quantized quantized_scales"),
        *fields("queries scores probs context groups"),
    ],
    align=True,
)
