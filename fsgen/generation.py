"""One written text, with its trace and its counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fsgen.metrics import Counts
from fsgen.types import StopReason, Token, as_dict

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor


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
