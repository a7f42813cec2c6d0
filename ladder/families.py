"""Two more families beside the Llama-like ladder, by the same recipe: GPT-NeoX and Mamba-2.

A model has the width, and about the parameters, of the Llama of its size: with and without the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, Mamba2Config, Mamba2ForCausalLM

from ladder import train
from ladder.sizes import CONTEXT, END_OF_TEXT_ID, FAMILY, VOCAB_SIZE, Size

_IDS = {"bos_token_id": END_OF_TEXT_ID, "eos_token_id": END_OF_TEXT_ID, "pad_token_id": END_OF_TEXT_ID}
_CHUNK = 32  # tokens that Mamba-2 computes at once; of the powers of two the fastest to train on a CPU


@dataclass(frozen=True)
class NeoXSize:
    """Shape of one GPT-NeoX model; its name rounds the true parameter count."""

    name: str
    hidden: int
    layers: int
    heads: int
    ffn: int

    family = f"{FAMILY}-neox"
    vocab_size = VOCAB_SIZE

    @property
    def non_embedding_parameters(self) -> int:
        """Parameters without the (tied) embedding."""
        matrices = 4 * self.hidden**2 + 2 * self.hidden * self.ffn
        biases = 5 * self.hidden + self.ffn
        return self.layers * (matrices + biases + 4 * self.hidden) + 2 * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters; the tied embedding counts once."""
        return self.non_embedding_parameters + VOCAB_SIZE * self.hidden

    def new_model(self, seed: int = 0, attention: str = "ladder_blocks") -> Any:
        """A fresh model of this size, in float32."""
        torch.manual_seed(seed)
        config = GPTNeoXConfig(
            vocab_size=VOCAB_SIZE, hidden_size=self.hidden, intermediate_size=self.ffn, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
            attn_implementation=attention, **_IDS,
        )  # fmt: skip
        return GPTNeoXForCausalLM(config)


@dataclass(frozen=True)
class Mamba2Size:
    """Shape of one Mamba-2 model of one group; its name rounds the true parameter count."""

    name: str
    hidden: int
    layers: int
    heads: int
    state: int

    family = f"{FAMILY}-mamba2"
    vocab_size = VOCAB_SIZE

    @property
    def non_embedding_parameters(self) -> int:
        """Parameters without the (tied) embedding."""
        inner, convolved = 2 * self.hidden, 2 * self.hidden + 2 * self.state
        matrices = self.hidden * (inner + convolved + self.heads) + inner * self.hidden
        others = 5 * convolved + 3 * self.heads + inner + self.hidden
        return self.layers * (matrices + others) + self.hidden

    @property
    def parameters(self) -> int:
        """All parameters; the tied embedding counts once."""
        return self.non_embedding_parameters + VOCAB_SIZE * self.hidden

    def new_model(self, seed: int = 0, attention: str = "") -> Any:
        """A fresh model of this size, in float32; it has no attention to choose."""
        torch.manual_seed(seed)
        config = Mamba2Config(
            vocab_size=VOCAB_SIZE, hidden_size=self.hidden, num_hidden_layers=self.layers, state_size=self.state,
            num_heads=self.heads, head_dim=2 * self.hidden // self.heads, n_groups=1, chunk_size=_CHUNK,
            initializer_range=0.02, tie_word_embeddings=True, **_IDS,
        )  # fmt: skip
        return Mamba2ForCausalLM(config)


NEOX: tuple[NeoXSize, ...] = (
    NeoXSize("pocket-neox-0.25m", hidden=64, layers=2, heads=2, ffn=336),
    NeoXSize("pocket-neox-0.6m", hidden=96, layers=3, heads=3, ffn=480),
)
MAMBA2: tuple[Mamba2Size, ...] = (
    Mamba2Size("pocket-mamba2-0.25m", hidden=64, layers=4, heads=2, state=32),
    Mamba2Size("pocket-mamba2-0.6m", hidden=96, layers=6, heads=3, state=32),
)
FamilySize = NeoXSize | Mamba2Size
SIZES: tuple[FamilySize, ...] = (*NEOX, *MAMBA2)


def new_model(size: Size | FamilySize, seed: int = 0, attention: str = "ladder_blocks") -> Any:
    """A fresh model of a size of any family, in float32."""
    return train.new_model(size, seed, attention) if isinstance(size, Size) else size.new_model(seed, attention)
