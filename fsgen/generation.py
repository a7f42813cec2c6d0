"""One written text, with its trace and its counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from fsgen.metrics import Counts
from fsgen.types import StopReason, Token, as_dict

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

Prompt = str | Sequence[int]


@dataclass(frozen=True)
class Generation:
    """One written text.

    Attributes:
        text: without its stop string.
        token_ids: of the completion, with the tokens of the stop string or the end-of-text token.
        tokens: the trace, one record a token; their texts joined are `text`.
        stats: counts and metrics (`stats.collaboration_frequency`, ...).
        stop_reason: `eos`, `stop` (a stop string) or `length` (the budget is spent).
        prompt_tokens: how many tokens the prompt has.
        logits: q's at each token [tokens, vocab], float32, where they were asked for; as they are before any transform.
    """

    text: str
    token_ids: list[int]
    tokens: list[Token]
    stats: Counts
    stop_reason: StopReason
    prompt_tokens: int
    logits: Tensor | None = field(default=None, repr=False, compare=False)

    def _repr_html_(self) -> str:
        """What a notebook shows: the text, each token coloured by its source."""
        from fsgen.render import html

        return html(self)

    def to_frame(self) -> pl.DataFrame:
        """The trace as a Polars data frame, one row a token."""
        import polars as pl

        rows = []
        for token in self.tokens:
            row = as_dict(token)
            for side in ("draft", "target"):
                top = row.pop(f"{side}_top")
                row |= {f"{side}_top_ids": [i for i, _ in top], f"{side}_top_probs": [p for _, p in top]}
            rows.append(row)
        return pl.DataFrame(rows, infer_schema_length=None)


CHARACTERS = 16  # for each token of the context window: of a longer text the beginning is looked at first


class Tokenizing(Protocol):
    """Members, loaded or only planned."""

    @property
    def tokenizer(self) -> Any: ...
    @property
    def context(self) -> int: ...


def encode(members: Tokenizing, prompt: Prompt) -> list[int]:
    """Token ids of a prompt; those of a text by the members' tokenizer, with whatever special tokens it adds.

    Raises:
        ValueError: a text that is far beyond the context window: some tokenizers take a minute for a megabyte.
    """
    if not isinstance(prompt, str):
        return [int(token) for token in prompt]
    if len(prompt) > (beginning := CHARACTERS * members.context):
        count = len(members.tokenizer.encode(prompt[:beginning]))
        if count > 2 * members.context:  # what follows cannot make fewer of them
            raise ValueError(
                f"a prompt of {len(prompt):,} characters exceeds the context window of {members.context:,} tokens: its "
                f"first {beginning:,} characters are {count:,} tokens"
            )
    return list(members.tokenizer.encode(prompt))
