"""Draws tokens by shared noise, many positions in one call (see `fsgen.probs.race`)."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numba import carray
from numpy.typing import NDArray
from torch import Tensor

from fsgen.backends.cpu.arithmetic import ZERO, argmax, exp
from fsgen.backends.cpu.compilation import source
from fsgen.backends.cpu.memory import FLOAT32, INT64, address_of, at, fields, inlined, pointer, stage, view
from fsgen.backends.cpu.threads import FEW, HEADER, Parallel, Thread, share

# What the function is given: numbers, and the addresses of arrays.
RACE = np.dtype([*HEADER, *fields("n vocab given keys scales tokens room")])
CHUNK = 256  # tokens that are looked at together
KEY = np.uint64(0)  # what an address of keys is of


@inlined
def fmix32(h):
    """The last step of MurmurHash3."""
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))  # which numba would make 64 bits of
    h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@inlined
def race_on(probs, start, key, best, token):
    """The race among some tokens, the first of which is `start`, after others: the least time, and whose it is."""
    first, second = np.uint32(key & np.uint64(0xFFFFFFFF)), np.uint32(key >> np.uint64(32))
    for i in range(len(probs)):
        word = fmix32(np.uint32(fmix32(np.uint32(np.uint32(start + i) * np.uint32(0x9E3779B9) + first)) + second))
        uniform, p = (np.float64(word) + 0.5) * 2.0**-32, np.float64(probs[i])
        if uniform < best * p:  # -log(1 - u) is more than u, so most are out of it already
            time = -np.log1p(-uniform)
            if time < best * p:
                best, token = time / p, start + i
    return best, token


@inlined
def draw(logits, vocab, scale, key, room):
    """A token of the softmax of logits times a scale (1 / temperature); the most likely one where that is 0."""
    top, token = argmax(view(logits, 0, vocab))
    if scale == ZERO:
        return token
    best = np.inf
    for start in range(0, vocab, CHUNK):
        n = min(CHUNK, vocab - start)
        here, weights = view(logits, start, n), view(room, 0, n)
        for i in range(n):
            weights[i] = exp((here[i] - top) * scale)
        best, token = race_on(weights, start, key, best, token)
    return token


@stage
def race_rows(args, me):
    """The token whose exponential time, divided by its probability, is the shortest."""
    vocab, tokens = args.vocab, pointer(args.tokens, INT64)
    begin, end = share(me, args.n)
    for row in range(begin, end):
        given, key = at(pointer(args.given, FLOAT32), row * vocab), pointer(args.keys, KEY)[row]
        if args.scales:
            room = at(pointer(args.room, FLOAT32), row * CHUNK)
            tokens[row] = draw(given, vocab, pointer(args.scales, FLOAT32)[row], key, room)
        else:
            tokens[row] = race_on(view(given, 0, vocab), 0, key, np.inf, 0)[1]


@cache
def _race() -> Parallel:
    state = source()

    def forward(arguments, number, team):
        state  # noqa: B018 - other code is another function
        race_rows(carray(arguments, 1)[0], Thread(number, team, address_of(arguments)))

    return Parallel(forward, RACE)


def compile() -> None:
    """Makes the function ready."""
    _race()


def race(given: Tensor, keys: NDArray[np.uint64], scales: NDArray[np.float32] | None) -> Tensor:
    """See `fsgen.probs.Compiled`."""
    n, vocab = given.shape
    given, tokens = given.contiguous(), np.empty(n, np.int64)
    room = np.empty((n, CHUNK), np.float32)
    record = _race().record(
        n=n, vocab=vocab, given=given, keys=keys, scales=0 if scales is None else scales, tokens=tokens, room=room
    )
    _race()(record, alone=n < FEW)
    return torch.from_numpy(tokens)
