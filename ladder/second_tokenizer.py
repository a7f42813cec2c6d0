"""A second tokenizer of 1,024 entries, and models that begin with it from those of the first one."""

from __future__ import annotations

from typing import Any

import torch

from ladder import mix, tokenizer
from ladder.sizes import END_OF_TEXT_ID, SECOND_VOCAB_SIZE

_SAMPLE_SHARDS = (0, 5)  # of the first shares and of the later ones
_EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")  # tied


def build() -> None:
    """Train the tokenizer on the documents of two shards of the mix, unless there is one."""
    try:
        tokenizer.home(SECOND_VOCAB_SIZE)
    except ValueError:
        texts = [document.text for number in _SAMPLE_SHARDS for document, _ in mix.shard_documents(0, number)]
        made = tokenizer.train_tokenizer(texts, SECOND_VOCAB_SIZE)
        tokenizer.save(made, tokenizer.made_folder(SECOND_VOCAB_SIZE))
        print(f"tokenizer: {made.get_vocab_size()} entries from {sum(map(len, texts)):,} characters")


def translate(model: Any, started: Any, first: Any, second: Any) -> None:
    """Give a model with the second tokenizer the weights of one of the same shape with the first.

    The embedding of each entry is the mean of those of the tokens that the first tokenizer has for its bytes.
    """
    weights = model.state_dict()
    old = weights[_EMBEDDINGS[0]]
    rows = []
    for number in range(second.get_vocab_size()):
        pieces = [END_OF_TEXT_ID]
        if number != END_OF_TEXT_ID:  # an entry is a row of bytes, and need not be a text
            pieces = [token.id for token in first.model.tokenize(second.id_to_token(number))]
        rows.append(old[pieces].mean(0))
    started.load_state_dict(weights | dict.fromkeys(_EMBEDDINGS, torch.stack(rows)))
