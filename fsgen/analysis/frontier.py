"""Accuracy for its cost: which settings no other one beats, and what a random mix of models buys."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fsgen.analysis.intervals import Floats


def random_mix(accuracy: Floats, costs: Floats, at: Floats) -> Floats:
    """The accuracy of writing each text with one of some models, chosen at random so that the mean cost is as given.

    Args:
        accuracy, costs: of the models, [sets, models].
        at: costs, [sets, n].

    Returns:
        the best that these costs buy, [sets, n]; below the cheapest model it is 0.
    """
    best: Floats = np.where(costs[:, None] <= at[..., None], accuracy[:, None], 0.0).max(axis=-1)
    for i, j in np.ndindex(costs.shape[1], costs.shape[1]):
        low, high = costs[:, i, None], costs[:, j, None]
        between = (low < high) & (low <= at) & (at <= high)
        share = np.divide(at - low, high - low, out=np.zeros_like(at), where=between)
        mixed = accuracy[:, i, None] + share * (accuracy[:, j] - accuracy[:, i])[:, None]
        best = np.where(between, np.maximum(best, mixed), best)
    return best


def on_frontier(accuracy: Floats, costs: Floats) -> NDArray[np.bool_]:
    """Which settings no other one beats: none is as good for less, or better for as little. Both [sets, settings]."""
    as_good, as_cheap = accuracy[:, None] >= accuracy[..., None], costs[:, None] <= costs[..., None]
    better = (accuracy[:, None] > accuracy[..., None]) | (costs[:, None] < costs[..., None])
    return np.logical_not((as_good & as_cheap & better).any(axis=-1))
