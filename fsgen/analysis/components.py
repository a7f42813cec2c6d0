"""How the variance of a number is split among what it may come from: a plain random-effects decomposition.

The components are estimated by equating sums of squares with what they are expected to be (MINQUE with zero weights;
Rao 1971, Searle, Casella & McCulloch 1992, chapter 11): unbiased for unbalanced tables too, without any distribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fsgen.analysis.intervals import Floats

REST = "the rest"


def components(values: Floats, factors: Mapping[str, ArrayLike]) -> dict[str, float]:
    """The variance that goes with each factor, and what is left.

    Args:
        values: [n].
        factors: by name the level of each value, [n]; a factor that groups the values as another one does, or that has
            one level, is left out, since nothing can tell it.

    Returns:
        by name the variance; below 0 where chance makes it so, which means about none.
    """
    levels = {name: _numbers(given) for name, given in factors.items()}
    kept: dict[str, NDArray[np.int64]] = {}
    for name, mine in levels.items():
        others = (other for other in kept.values() if _same(mine, other))
        if mine.max(initial=0) > 0 and next(others, None) is None:
            kept[name] = mine
    n, centred = len(values), values - values.mean()
    designs = [*kept.values(), np.arange(n)]  # each value has a level of its own in what is left
    counts = [np.bincount(design).astype(float) for design in designs]
    squares = np.array([float((np.bincount(design, centred) ** 2).sum()) for design in designs])
    expected = np.empty((len(designs), len(designs)))
    for i, one in enumerate(designs):
        for j, other in enumerate(designs):
            # || Z_i' (1 - 11'/n) Z_j ||^2 of the indicators of both, from the counts of each pair of levels
            pairs, cells = np.unique(np.stack([one, other]), axis=1, return_counts=True)
            a, b = counts[i], counts[j]
            shared = float((cells**2).sum()) - 2 / n * float((cells * a[pairs[0]] * b[pairs[1]]).sum())
            expected[i, j] = shared + float((a**2).sum()) * float((b**2).sum()) / n**2
    found = np.linalg.lstsq(expected, squares, rcond=None)[0]
    return dict(zip([*kept, REST], map(float, found), strict=True))


def shares(found: Mapping[str, float]) -> dict[str, float]:
    """The components as shares of their sum; those below 0 count as none."""
    positive = {name: max(value, 0.0) for name, value in found.items()}
    total = sum(positive.values())
    return {name: value / total if total else 0.0 for name, value in positive.items()}


def _numbers(levels: ArrayLike | Sequence[str]) -> NDArray[np.int64]:
    return np.unique(np.asarray(levels), return_inverse=True)[1].astype(np.int64).ravel()


def _same(one: NDArray[np.int64], other: NDArray[np.int64]) -> bool:
    """Whether two factors group the values alike."""
    together = len({*zip(one.tolist(), other.tolist(), strict=True)})
    return together == int(one.max()) + 1 and together == int(other.max()) + 1
