"""Draws tokens by shared noise, many positions in one call (see `fsgen.probs.race`)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numba import carray
from numpy.typing import NDArray
from torch import Tensor

from fsgen.backends.cpu.arithmetic import ZERO, exp, likeliest
from fsgen.backends.cpu.compilation import call, compiled, source
from fsgen.backends.cpu.memory import FLOATS, WHOLES, array, inlined, view
from fsgen.backends.cpu.threads import Team, share

COUNT, VOCAB, GIVEN, KEYS, TOKENS, SCALES, ARGUMENTS = range(7)
CHUNK = 256  # tokens that are looked at together; as many float32 a draw needs beside
KEYS_OF = np.uint64(0)  # what an address of keys is of


@inlined
def mixed(h):
    """The bits of a word, stirred: the last step of MurmurHash3."""
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))  # which numba would make 64 bits of
    h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@inlined
def run_on(probs, start, key, best, token):
    """The race among some tokens, the first of which is `start`, after others: the least time, and whose it is."""
    first, second = np.uint32(key & np.uint64(0xFFFFFFFF)), np.uint32(key >> np.uint64(32))
    for i in range(len(probs)):
        word = mixed(np.uint32(mixed(np.uint32(np.uint32(start + i) * np.uint32(0x9E3779B9) + first)) + second))
        uniform, p = (np.float64(word) + 0.5) * 2.0**-32, np.float64(probs[i])
        if uniform < best * p:  # -log(1 - u) is more than u, so most are out of it already
            time = -np.log1p(-uniform)
            if time < best * p:
                best, token = time / p, start + i
    return best, token


@inlined
def drawn(logits, scale, key, room):
    """A token of the softmax of logits times a scale (1 / temperature); the likeliest one where that is 0.

    Args:
        room: [CHUNK] float32.
    """
    top, token = likeliest(logits)
    if scale == ZERO:
        return token
    vocab, best = len(logits), np.inf
    for start in range(0, vocab, CHUNK):
        n = min(CHUNK, vocab - start)
        for i in range(n):
            room[i] = exp((logits[start + i] - top) * scale)
        best, token = run_on(view(room, 0, n), start, key, best, token)
    return token


@inlined
def draw(a):
    """The token whose exponential time, divided by its probability, is the shortest."""
    n, vocab = a[COUNT], a[VOCAB]
    given, keys, tokens = array(a[GIVEN], FLOATS, n * vocab), array(a[KEYS], KEYS_OF, n), array(a[TOKENS], WHOLES, n)
    scales, room = array(a[SCALES], FLOATS, n), np.empty(CHUNK, np.float32)
    begin, end = share(n)
    for row in range(begin, end):
        here = view(given, row * vocab, vocab)
        if a[SCALES]:
            tokens[row] = drawn(here, scales[row], keys[row], room)
        else:
            tokens[row] = run_on(here, 0, keys[row], np.inf, 0)[1]


@cache
def _race() -> Team:
    state = source()

    def forward(arguments):
        state  # noqa: B018 - other code is another function
        draw(carray(arguments, ARGUMENTS))

    return compiled(forward)


def race(given: Tensor, keys: NDArray[np.uint64], scales: NDArray[np.float32] | None) -> Tensor:
    """See `fsgen.probs.Compiled`."""
    n, vocab = given.shape
    tokens = np.empty(n, np.int64)
    told: dict[int, int | NDArray[Any]] = {
        COUNT: n, VOCAB: vocab, GIVEN: given.contiguous().numpy(), KEYS: keys, TOKENS: tokens,
    }  # fmt: skip
    call(_race(), ARGUMENTS, told if scales is None else told | {SCALES: scales})
    return torch.from_numpy(tokens)
