"""What the decode loop needs of a model: a session that scores whole sequences.

The caller hands over the *whole* sequence of each row, every time. The session keeps what it computed before, finds
the longest common prefix, runs only the rest, in one forward call for all rows, and forgets what no longer holds. So
nothing outside a session ever rewinds a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

from fsgen.types import ModelInfo, SamplingParams

TokenIds = Sequence[int]
LONGEST = 2**20
"""Tokens of the longest sequence of any model, whatever its files say, or where nothing is said."""


@dataclass(slots=True)
class Usage:
    """What one row's text has cost so far: forward calls in which it took part, and tokens run through the model."""

    calls: int = 0
    tokens: int = 0


class Session(Protocol):
    """The state of one batch.

    Attributes:
        usage: one `Usage` a row; tokens count every catch-up token.
    """

    usage: list[Usage]

    def begin(self, row: int, prompt: int, longest: int) -> None:
        """A new text starts in this row, whose usage starts anew.

        Args:
            row: of the session.
            prompt: tokens of its prompt, of which only the last one counts as used: what of it is still held, or taken
                from another row, is then no matter.
            longest: how many tokens it will have at most, so that room is made once.
        """
        ...

    def score(self, sequences: Sequence[TokenIds | None], last: int | Sequence[int]) -> torch.Tensor:
        """Logits of the last positions of each row.

        Args:
            sequences: the whole token sequence of each row, None for a row that is idle in this call.
            last: how many of its last positions each row wants, 1 <= last[i] <= len(sequences[i]).

        Returns:
            float32 [rows, max(last), vocab], on the model's device. Row i's positions are the *last* last[i] of the
            second axis (right-aligned): `logits[i, -1]` predicts the token after sequences[i]. The rest is undefined.

        Raises:
            ValueError: a wrong number of rows, an impossible `last`, or a sequence longer than the context window.
        """
        ...


class UnavailableError(OSError):
    """A server is away. That is no fault of a text: what needs the server fails as a whole, and is tried again."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend declares that it can do; read by the engine and by studies.

    Attributes:
        full_logits: it gives all logits, not only those of the most likely tokens (`fsgen.bounds`).
        writes: it writes whole texts by itself, and is told of them ahead (`Writer`).
        bit_exact: a token's logits have the same bits however the work is cut into calls, and in any batch.
        several_tokens: several new tokens in one call are computed in one forward pass, not one by one.
        rounding: by how much a logit may be off, as a part of the largest one; read where no `transformers` module is
            at hand to measure it with.
    """

    full_logits: bool = True
    writes: bool = False
    bit_exact: bool = False
    several_tokens: bool = True
    rounding: float = 2.0**-23


class Model(Protocol):
    """A language model behind sessions.

    Attributes:
        info: name, family and sizes.
        tokenizer: the `transformers` tokenizer (encode, decode, chat template).
        vocab_size: rows of the logits, padding rows included.
        context: the longest sequence it can score.
        eos_ids: the tokens that end a text.
        capabilities: what its backend can do.
        device: where its logits live.
    """

    info: ModelInfo
    tokenizer: Any
    vocab_size: int
    context: int
    eos_ids: frozenset[int]
    device: torch.device

    @property
    def capabilities(self) -> Capabilities: ...

    def session(self, batch_size: int) -> Session: ...

    def cache_bytes(self, tokens: int) -> int:
        """Bytes of keys and values that a session holds for a row of so many tokens; 0 if others hold them."""
        ...


class Writer(Model, Protocol):
    """A model whose backend writes whole texts by itself: what its sessions score then is known already."""

    def write(self, prompts: Sequence[TokenIds], sampling: Sequence[SamplingParams]) -> None:
        """Write these texts greedily, all at once. Raises ValueError where it refuses one."""
        ...
