"""Draws tokens by shared noise, many positions in one call (see `fsgen.probs.race`)."""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import carray
from numpy.typing import NDArray

from fsgen.compiled.keep import call, compiled, source
from fsgen.compiled.memory import FLOATS, PAIRS, WHOLES, array, inlined
from fsgen.compiled.threads import Team, share

COUNT, VOCAB, PROBS, KEYS, TOKENS, ARGUMENTS = range(6)


@inlined
def mixed(h):
    """The bits of a word, stirred: the last step of MurmurHash3."""
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))  # which numba would make 64 bits of
    h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@inlined
def race(a):
    """The token whose exponential time, divided by its probability, is the shortest."""
    n, vocab = a[COUNT], a[VOCAB]
    probs, keys, tokens = array(a[PROBS], FLOATS, n * vocab), array(a[KEYS], PAIRS, 2 * n), array(a[TOKENS], WHOLES, n)
    begin, end = share(n)
    for row in range(begin, end):
        best, token = np.inf, 0
        first, second, start = keys[2 * row], keys[2 * row + 1], row * vocab
        for i in range(vocab):
            word = mixed(np.uint32(mixed(np.uint32(np.uint32(i) * np.uint32(0x9E3779B9) + first)) + second))
            uniform, p = (np.float64(word) + 0.5) * 2.0**-32, np.float64(probs[start + i])
            if uniform < best * p:  # -log(1 - u) is more than u, so most are out of it already
                time = -np.log1p(-uniform)
                if time < best * p:
                    best, token = time / p, i
        tokens[row] = token


@cache
def _race() -> Team:
    state = source()

    def forward(arguments):
        state  # noqa: B018 - other code is another function
        race(carray(arguments, ARGUMENTS))

    return compiled(forward)


def winners(probs: NDArray[np.float32], keys: NDArray[np.uint32]) -> NDArray[np.int64]:
    """The token [n] that wins at each position: [n, vocab] probabilities and [n, 2] keys, each in one piece."""
    n, vocab = probs.shape
    tokens = np.empty(n, np.int64)
    call(_race(), ARGUMENTS, {COUNT: n, VOCAB: vocab, PROBS: probs, KEYS: keys, TOKENS: tokens})
    return tokens
