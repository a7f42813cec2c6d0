"""The forms of drafting that are compared: chains, chains with siblings beside them, the most likely trees."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.tree.drafted import DEPTH, NODES, RANKS, Drafted, Ints

CHAIN, STOPPED, LEAVES, BRANCHES, BEST = "chain", "chain, stopped", "leaves", "branches", "likeliest tree"
KINDS = (CHAIN, STOPPED, LEAVES, BRANCHES, BEST)
TINY = 1e-300  # a probability that excludes nothing


@dataclass(frozen=True)
class Form:
    """One way of drafting, as it would go from each of N positions.

    Attributes:
        kind, name: how tables call it.
        size: the most nodes that it has.
        gained: drafted tokens that stand, [N]; nodes: drafted tokens that the target reads, [N].
        widths: how many nodes each of the draft's calls continues, [N, calls], 0 where there is no call.
    """

    kind: str
    name: str
    size: int
    gained: Ints
    nodes: Ints
    widths: Ints


@dataclass(frozen=True)
class Stop:
    """A chain ends behind its first token that is (or, with `path`, that together with those before it is) less likely
    than `least`."""

    least: float = 0.0
    path: bool = False

    def __str__(self) -> str:
        return f", {'path' if self.path else 'token'} < {self.least:g}" if self.least else ""


NEVER = Stop()
STOPS = (
    NEVER,
    *(Stop(least) for least in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)),
    *(Stop(least, path=True) for least in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)),
)


def chain_length(d: Drafted, most: int, stop: Stop) -> Ints:
    """Drafted tokens of a chain, [N]."""
    sure = d.probs[:, :, 0]
    unsure = (np.cumprod(sure, axis=1) if stop.path else sure) < stop.least
    first = np.where(unsure.any(1), unsure.argmax(1) + 1, DEPTH)
    return np.minimum(np.minimum(first, d.length), np.minimum(d.room, most))


def chain(d: Drafted, most: int, stop: Stop = NEVER) -> Form:
    nodes = chain_length(d, most, stop)
    widths = (np.arange(DEPTH) < nodes[:, None]).astype(np.int64)
    name = f"k={most}{stop}"
    return Form(STOPPED if stop.least else CHAIN, name, most, np.minimum(d.run, nodes), nodes, widths)


def branched(d: Drafted, most: int, stop: Stop, count: int, length: int, rule: str) -> Form:
    """A chain with at most `count` siblings beside it, each continued to `length` tokens (1: a leaf).

    Args:
        rule: where they stand: `unsure`, the draft's second choices at the chain's least likely tokens; `likely`, those
            of the second and third choices whose paths are the most likely.
    """
    trunk = chain_length(d, most, stop)
    inside = np.arange(DEPTH) < trunk[:, None]
    if rule == "unsure":
        value = np.stack([-d.probs[:, :, 0], np.full(d.probs.shape[:2], -np.inf)], axis=2)
    else:
        before = np.cumprod(np.concatenate([np.ones((len(trunk), 1)), d.probs[:, :-1, 0]], axis=1), axis=1)
        value = before[:, :, None] * d.probs[:, :, 1:]
    value = np.where(inside[:, :, None], value, -np.inf).reshape(len(trunk), -1)
    order = np.argsort(np.argsort(-value, axis=1, kind="stable"), axis=1)
    chosen = ((order < count) & np.isfinite(value)).reshape(len(trunk), DEPTH, RANKS - 1)

    place = np.minimum(d.run, trunk)  # the first drafted token that falls
    rows = np.arange(len(trunk))
    at = np.minimum(place, DEPTH - 1)
    hit = (chosen[rows, at] & (d.ids[rows, at, 1:] == d.wanted[rows, at, None])).any(1) & (place < trunk)
    # Behind a sibling that is the text's token, the draft would write what it writes from there.
    beyond = np.minimum(rows + place + 1, len(trunk) - 1)
    follows = np.where(place + 1 < d.left, np.minimum(d.run[beyond], length - 1), 0)
    gained = place + np.where(hit, 1 + follows, 0)

    lengths = np.minimum(length, d.room[:, None, None] - np.arange(DEPTH)[:, None])
    nodes = trunk + np.where(chosen, lengths, 0).sum((1, 2))
    widths = np.zeros((len(trunk), DEPTH + length - 1), dtype=np.int64)
    widths[:, :DEPTH] = inside
    for step in range(length - 1):  # all branches together, once the chain is there
        widths[:, DEPTH + step] = (chosen & (lengths > step + 1)).sum((1, 2))
    shape = f"{count} x {length}" if length > 1 else f"{count}"
    name = f"k={most}{stop}, {shape} {rule}"
    return Form(BRANCHES if length > 1 else LEAVES, name, most + count * length, gained, nodes, widths)


def best_tree(d: Drafted, size: int, deepest: int, least: float) -> Form:
    """The `size` nodes whose paths are the most likely ones, at most `deepest` deep and no less likely than `least`.

    By the draft's own probabilities no tree of this size has a higher expected length (OPT-Tree, 2406.17276; EAGLE-2's
    are like it, 2406.16858). Only nodes with a child in the tree are counted as continued by the draft.
    """
    allowed = (d.depth >= 1) & (d.depth <= np.minimum(d.room, deepest)[:, None]) & (d.log_prob >= math.log(least))
    allowed[:, 0] = True  # something is drafted in every round
    chosen = allowed & (np.cumsum(allowed, axis=1) <= size)
    gained = np.where(chosen & d.on_text, d.depth, 0).max(1)
    row, column = np.nonzero(chosen)
    parents = np.unique(np.stack([row, d.parent[row, column]]), axis=1)
    level = np.where(parents[1] >= 0, d.depth[parents[0], parents[1]], 0)
    widths = np.zeros((len(gained), DEPTH), dtype=np.int64)
    np.add.at(widths, (parents[0], level), 1)
    name = f"{size} nodes, depth {deepest}" + f", from {least:g}" * (least > TINY)
    return Form(BEST, name, size, gained, chosen.sum(1), widths)


def forms(d: Drafted) -> Iterator[Form]:
    """All that are compared."""
    lengths = range(1, DEPTH + 1)
    for most in lengths:
        for stop in STOPS:
            yield chain(d, most, stop)
            for rule in ("unsure", "likely"):
                for length in (1, 2, 3, 4) if rule == "likely" else (1, 2):
                    for count in (1, 2, 3, 4, 6, 8) if length == 1 else (1, 2, 3):
                        if most + count * length <= NODES:
                            yield branched(d, most, stop, count, length, rule)
    for size in (2, 3, 4, 5, 6, 8, 10, 12, 16):
        for deepest in lengths:
            for least in (TINY, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4):
                if deepest <= size:
                    yield best_tree(d, size, deepest, least)
