"""Traces whose every answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def places(examples: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The example and the position of each token of texts of one length."""
    return np.repeat(np.arange(examples), length), np.tile(np.arange(length), examples)


def trace(
    prob: Floats,
    differs: NDArray[np.bool_],
    length: int,
    *,
    asked: NDArray[np.bool_] | None = None,
    second: Floats | None = None,
    entropy: Floats | None = None,
    **columns: Any,
) -> pl.DataFrame:
    """A trace of texts of one length.

    Args:
        prob: the draft's largest probability, [examples x length].
        differs: System 2 takes another token.
        length: of each text.
        asked: System 2 was asked; everywhere if None.
        second: the draft's second probability; half of what is left if None.
        entropy: of the draft, in nats; a falling function of `prob` if None.
        columns: others, or instead of these.
    """
    count = len(prob)
    example, position = places(count // length, length)
    second = (1 - prob) / 2 if second is None else second
    chosen = np.where(differs, 8, 7)
    known = np.ones(count) if asked is None else asked
    target = [int(token) if is_known else None for token, is_known in zip(chosen, known, strict=True)]
    values: dict[str, Any] = {
        "example": [f"e{i:04d}" for i in example],
        "turn": [1] * count,
        "position": position,
        "token": chosen,
        "source": ["accepted"] * count,
        "draft_token": [7] * count,
        "target_token": target,
        "draft_prob": prob,
        "draft_margin": prob - second,
        "draft_entropy": -np.log(prob) * 2 if entropy is None else entropy,
        "total_variation": differs * 0.5,
        "draft_top_ids": [[7, 8, 9]] * count,
        "draft_top_probs": np.column_stack([prob, second, (1 - prob - second) / 2]).tolist(),
    }
    types = {
        "example": pl.String,
        "turn": pl.UInt8,
        "position": pl.UInt32,
        "token": pl.UInt32,
        "source": pl.String,
        "draft_token": pl.UInt32,
        "target_token": pl.UInt32,
        "draft_prob": pl.Float32,
        "draft_margin": pl.Float32,
        "draft_entropy": pl.Float32,
        "total_variation": pl.Float32,
        "draft_top_ids": pl.List(pl.UInt32),
        "draft_top_probs": pl.List(pl.Float32),
    }
    values |= columns
    return pl.DataFrame(
        {name: pl.Series(name, values[name]).cast(kind) for name, kind in types.items() if values[name] is not None}  # type: ignore[arg-type]
    )


def drawn(examples: int, length: int, seed: int = 0) -> tuple[np.random.Generator, Floats]:
    """A generator, and probabilities from 0.05 to 0.98, each rounded to three digits."""
    draw = np.random.default_rng(seed)
    return draw, draw.uniform(0.05, 0.98, examples * length).round(3)
