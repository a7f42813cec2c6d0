"""The tokenizer of a model that others run: that of a local model, or of a folder that has no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fsgen.backends.checkpoint import Checkpoint
from fsgen.backends.vocabulary import Vocabulary, vocabulary

Opener = Callable[[str], Checkpoint]


@dataclass(frozen=True)
class TokenizerOf:
    """What the local side takes from the model whose tokenizer it is."""

    tokenizer: Any
    vocab_size: int
    eos_ids: frozenset[int]
    known: Vocabulary


def tokenizer_of(name: str, open_local: Opener) -> TokenizerOf:
    """The tokenizer of a local model, or of a folder or name that has no more than that."""
    try:
        checkpoint = open_local(name)
    except ValueError:
        from fsgen.backends.transformers.tokenizers import open_tokenizer

        tokenizer, rows, ends = open_tokenizer(name), 0, frozenset[int]()
    else:
        tokenizer, rows, ends = checkpoint.tokenizer, checkpoint.vocab_size, checkpoint.ends
    if (usual := getattr(tokenizer, "eos_token_id", None)) is not None:
        ends |= {int(usual)}
    known = vocabulary(tokenizer)
    return TokenizerOf(tokenizer, max(rows, len(known.texts)), ends, known)
