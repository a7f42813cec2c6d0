"""What a learned router reads at a position: numbers that a trace keeps of the draft's distribution p."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

CANDIDATE_BITS = 11
"""Significant bits of a candidate's probability in a trace: what half precision keeps. Scalars keep all of float32."""
_LEAST = 1e-7  # a probability below this is taken for this; and one this close to 1, for 1


def rounded(values: NDArray[np.float32], bits: int = CANDIDATE_BITS) -> NDArray[np.float32]:
    """Floats with so many significant bits, ties to even: the zeros behind them cost nothing once compressed."""
    drop = np.uint32(24 - bits)
    half = np.uint32((1 << (23 - bits)) - 1)
    words = values.astype(np.float32).view(np.uint32)
    words = words + half + ((words >> drop) & np.uint32(1))
    return (words >> drop << drop).view(np.float32)


def names(top: int) -> tuple[str, ...]:
    """The features of a router that reads the `top` largest probabilities, in their order."""
    return ("log-odds", "margin", "entropy", "log-position", *(f"log p{i}" for i in range(1, top + 1)))


def features(
    top_probs: ArrayLike, prob: ArrayLike, margin: ArrayLike, entropy: ArrayLike, position: ArrayLike
) -> Floats:
    """The features of n positions, [n, 4 + top].

    Probabilities come as logarithms, the largest also as log-odds: the difference between 0.99 and 0.999 tells as much
    as that between 0.5 and 0.9, and for trees it is all one.

    Args:
        top_probs: the largest probabilities of p, falling, [n, top]; rounded here as a trace has them.
        prob, margin: the largest probability and its lead over the second, [n].
        entropy: of p in nats, [n].
        position: of the token in the completion, from 0, [n].
    """
    clipped = np.clip(np.asarray(prob, dtype=np.float64), _LEAST, 1 - _LEAST)
    kept = rounded(np.asarray(top_probs, dtype=np.float32)).astype(np.float64)
    columns = (
        np.log(clipped) - np.log1p(-clipped),
        np.asarray(margin, dtype=np.float64),
        np.asarray(entropy, dtype=np.float64),
        np.log2(1 + np.asarray(position, dtype=np.float64)),
    )
    return np.column_stack([*columns, np.log(np.maximum(kept, _LEAST))])
