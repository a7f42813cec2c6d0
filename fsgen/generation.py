"""One written text, with its trace and its counts."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

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
        logits: q's at each token [tokens, vocab], float32, where they were asked for; with penalties and
            biases, before any other transform.
    """

    text: str
    token_ids: list[int]
    tokens: list[Token]
    stats: Counts
    stop_reason: StopReason
    prompt_tokens: int
    logits: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def logprobs(self) -> list[dict[int, float]] | None:
        """Log-probabilities by token id, for each token of the text, itself and the most likely ones, as in vLLM.

        They are those of q, or of p where System 2 was not consulted, at temperature 1, with penalties and biases.
        None where `SamplingParams.logprobs` did not ask for them.
        """
        found = [token.target_logprobs or token.draft_logprobs for token in self.tokens]
        return [dict(each) for each in found] if all(found) else None

    def _repr_html_(self) -> str:
        """What a notebook shows: the text, each token coloured by its source."""
        from fsgen.render import html

        return html(self)

    def as_dict(self, whole: bool = True) -> dict[str, Any]:
        """The text with its counts as plain data; `whole`: with the record of every token."""
        tokens = {"tokens": [asdict(token) for token in self.tokens]} if whole else {}
        logprobs = {} if self.logprobs is None else {"logprobs": [list(each.items()) for each in self.logprobs]}
        return {
            "text": self.text,
            **tokens,
            "stats": self.stats.as_dict(),
            "prompt_tokens": self.prompt_tokens,
            "stop_reason": self.stop_reason,
            **logprobs,
        }

    def to_json(self, whole: bool = True) -> str:
        """The same as JSON; a log-probability of minus infinity is null."""
        return json.dumps(finite(self.as_dict(whole)), allow_nan=False)

    def to_frame(self) -> pl.DataFrame:
        """The trace as a Polars data frame, one row a token."""
        import polars as pl

        rows = []
        for token in self.tokens:
            row = as_dict(token)
            for side in ("draft", "target"):
                top = row.pop(f"{side}_top")
                row |= {f"{side}_top_ids": [i for i, _ in top], f"{side}_top_probs": [p for _, p in top]}
                own, *_ = row.pop(f"{side}_logprobs") or ((token.id, None),)
                row[f"{side}_logprob"] = own[1]
            rows.append(row)
        return pl.DataFrame(rows, infer_schema_length=None)

    def to_pandas(self) -> Any:
        """The same as a pandas data frame. Raises ImportError where pandas is not installed."""
        return as_pandas(self.to_frame())


def as_pandas(frame: pl.DataFrame) -> Any:
    """A Polars data frame as one of pandas. Raises ImportError where that is not installed."""
    try:
        return frame.to_pandas()
    except ImportError:
        raise ImportError("to_pandas needs pandas: pip install pandas; to_frame gives a Polars data frame") from None


def finite(value: Any) -> Any:
    """Plain data with None for every number that is not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
