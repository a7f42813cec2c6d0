"""How long a text a model takes."""

from __future__ import annotations

from typing import Any

from fsgen.backends.protocol import LONGEST
from fsgen.backends.transformers.continuation import position_offset, text_config


def context_of(config: Any, tokenizer: Any = None) -> int:
    """The longest sequence, in tokens, that a model scores with one and the same position encoding."""
    text = text_config(config)
    longest = getattr(text, "max_position_embeddings", None)
    if longest is None:
        longest = getattr(tokenizer, "model_max_length", None)
    longest = min(int(longest) - position_offset(text), LONGEST) if longest else LONGEST
    rope = getattr(text, "rope_parameters", None) or {}
    for entry in [rope, *rope.values()]:
        # These encodings change for *all* positions once any row is longer: what is cached would no longer be valid.
        if isinstance(entry, dict) and entry.get("rope_type") in ("longrope", "dynamic"):
            longest = min(longest, int(entry.get("original_max_position_embeddings") or longest))
    return longest
