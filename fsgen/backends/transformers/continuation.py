"""How a model continues from what it has computed, by its configuration: the one place that decides it.

An attention layer holds keys and values by position, and is rewound by forgetting the last ones. A recurrent layer
holds a state that has no positions: it can only be saved and restored. What the code of a model does with such a state
differs, so whatever is not known from the tests is checked when it is loaded (`proof.py`).
"""

from __future__ import annotations

import inspect
from enum import Enum
from typing import Any

from transformers import AutoModelForCausalLM


class Continuation(Enum):
    """A way to continue."""

    REWOUND = "keys and values by position"
    ROWS = "keys and values by position, one row a call"
    SEVERAL = "snapshots of its state, several tokens a call"
    SINGLE = "snapshots of its state, one token a call"


# The tests compare these with plain forward passes. The several-token call of the last three starts from an empty
# state, whatever state they are given. Any other model that carries a state is tried, and refused if it is not exact.
KNOWN = {
    "mamba2": Continuation.SEVERAL,
    "falcon_h1": Continuation.SEVERAL,
    "lfm2": Continuation.SEVERAL,
    "qwen3_next": Continuation.SEVERAL,
    "bamba": Continuation.SEVERAL,
    "mamba": Continuation.SINGLE,
    "jamba": Continuation.SINGLE,
    "falcon_mamba": Continuation.SINGLE,
}

ATTENTION_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention", "indexed_attention"})
HYBRID_LAYERS = frozenset({"hybrid", "hybrid_sliding"})  # a state beside keys and values
STATE_LAYERS = frozenset({"linear_attention", "conv"}) | HYBRID_LAYERS
EMPTY_LAYERS = frozenset({"mlp", "moe"})  # hold nothing

# What a session hands to a model's forward pass; without the last two, a model runs one row a call.
NEEDED_ARGUMENTS = ("input_ids", "past_key_values")
PLACING_ARGUMENTS = ("attention_mask", "position_ids")
# Their first token has the position after that of the padding token.
AFTER_PADDING = frozenset(
    {"camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"}
)
# How a model without attention calls its cache; it has no positions either.
STATE_ARGUMENT = "cache_params"


def ways_to_continue(config: Any, name: str, architecture: type | None = None) -> tuple[Continuation, ...]:
    """The ways in which a session may continue a model, best first; of several, the first that proves exact counts.

    Args:
        config: of the model.
        name: for messages.
        architecture: its class, where that is not the one `transformers` picks for this configuration.

    Raises:
        ValueError: no session could serve it; names the model, its architecture and the reason.
    """
    if architecture is None:
        try:
            architecture = AutoModelForCausalLM._model_mapping[type(config)]
        except KeyError:
            raise ValueError(f"{name!r} ({config.model_type}) is not a causal language model") from None
        if isinstance(architecture, (tuple, list)):
            architecture = architecture[0]
    stateful = _is_stateful(config, architecture)
    reason = _why_not(config, architecture, stateful)
    if reason:
        raise ValueError(
            f"{name!r} ({architecture.__name__}) cannot be used: {reason}. Collaborative decoding goes back to earlier "
            "tokens, and needs keys and values by position, or a state that can be kept and given back"
        )
    if not stateful:
        placed = all(argument in _arguments(architecture) for argument in PLACING_ARGUMENTS)
        # Positions that are added to the scores (ALiBi) are counted by the model's own code.
        batched = placed and not getattr(text_config(config), "alibi", False)
        return (Continuation.REWOUND, Continuation.ROWS) if batched else (Continuation.ROWS,)
    known = KNOWN.get(config.model_type)
    return (known,) if known is not None else (Continuation.SEVERAL, Continuation.SINGLE)


def _arguments(architecture: Any) -> frozenset[str]:
    """What the forward pass of a class takes."""
    return frozenset(inspect.signature(architecture.forward).parameters)


def _is_stateful(config: Any, architecture: type) -> bool:
    if getattr(architecture, "_is_stateful", False):
        return True
    kinds = getattr(text_config(config), "layer_types", None) or []
    return not STATE_LAYERS.isdisjoint(kinds)


def _why_not(config: Any, architecture: type, stateful: bool) -> str | None:
    text = text_config(config)
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder model"
    arguments = _arguments(architecture)
    if stateful and "past_key_values" not in arguments and STATE_ARGUMENT not in arguments:
        return "it carries a recurrent state, which its forward pass does not take as a cache"
    try:
        kinds = {kind for kind, _ in layer_kinds(config)}
    except AttributeError:
        return "its configuration does not say what its layers are"
    odd = sorted(kinds - ATTENTION_LAYERS - (STATE_LAYERS | EMPTY_LAYERS if stateful else frozenset()))
    if odd:
        return f"it has layers of a type whose state cannot be rewound ({', '.join(odd)})"
    if stateful and kinds <= ATTENTION_LAYERS:
        return "it carries a recurrent state that its layers do not mention"
    if getattr(text, "num_kv_shared_layers", None) == text.num_hidden_layers:
        return "it reads the keys and values of another model"
    if (
        getattr(text, "use_bidirectional_attention", False) in (True, "all")
        or getattr(text, "is_causal", True) is False
    ):
        return "its attention is not causal"
    needed = ("input_ids", STATE_ARGUMENT) if stateful and STATE_ARGUMENT in arguments else NEEDED_ARGUMENTS
    missing = [argument for argument in needed if argument not in arguments]
    if missing:
        return f"its forward pass does not take {', '.join(missing)}"
    return None


def text_config(config: Any) -> Any:
    """The part of a (perhaps multimodal) configuration that describes the language model."""
    return config.get_text_config(decoder=True)


def position_offset(config: Any) -> int:
    """The position of a text's first token."""
    text = text_config(config)
    return int(text.pad_token_id or 0) + 1 if text.model_type in AFTER_PADDING else 0


def layer_kinds(config: Any) -> list[tuple[str, int | None]]:
    """For each layer its type and, for a sliding layer, its window in tokens."""
    config = text_config(config)
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        only = "full_attention"
        if window is not None:
            only = "sliding_attention"
        elif getattr(config, "attention_chunk_size", None) is not None:
            only = "chunked_attention"
        kinds = [only] * config.num_hidden_layers
    return [(kind, window if "sliding" in kind else None) for kind in kinds]
