"""What a trace keeps of distributions, and how far two are apart, for many positions in one call.

The same numbers as `fsgen.probs` defines for tensors anywhere, of float32 logits on a CPU. torch takes a dozen passes
over the logits, each from memory; here a position stays in a core's first cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import carray
from numpy.typing import NDArray
from torch import Tensor

from fsgen.backends.cpu.arithmetic import ONE, ZERO, all_are_numbers, exp, highest, likeliest
from fsgen.backends.cpu.compilation import call, compiled, source
from fsgen.backends.cpu.memory import FLOATS, WHOLES, array, inlined, view
from fsgen.backends.cpu.threads import Team, share
from fsgen.probs import Lines, Summary

# What a call is told: numbers, and the addresses of arrays.
COUNT, VOCAB, TOP, FIRST, SECOND, TOKENS, FOUND, IDS, PROBS, SCALES, ARGUMENTS = range(11)
LOWEST = np.float32(-1000)  # e to the power of this is as good as 0, and times it still is
SPAN = 1024  # numbers that are summed in float32, and such sums in float64


@inlined
def total_of(x, top, scale):
    total = 0.0
    for start in range(0, len(x), SPAN):
        part, here = ZERO, view(x, start, min(SPAN, len(x) - start))
        for i in range(len(here)):
            part += exp((here[i] - top) * scale)
        total += part
    return np.float32(total)


@inlined
def summarise(a):
    """Greedy token; its probability, its lead, the entropy; the likeliest candidates, at ties the first ones."""
    n, vocab, most = a[COUNT], a[VOCAB], a[TOP]
    rows, tokens = array(a[FIRST], WHOLES, n), array(a[TOKENS], WHOLES, n)
    found = array(a[FOUND], FLOATS, 3 * n)
    begin, end = share(n)
    for row in range(begin, end):
        x = array(rows[row], FLOATS, vocab)
        top, token = likeliest(x)
        total_there, mean_there = 0.0, 0.0
        for start in range(0, vocab, SPAN):
            total, mean, here = ZERO, ZERO, view(x, start, min(SPAN, vocab - start))
            for i in range(len(here)):
                below = max(here[i] - top, LOWEST)
                weight = exp(below)
                total += weight
                mean += weight * below
            total_there += total
            mean_there += mean
        total, mean = np.float32(total_there), np.float32(mean_there)
        second = max(highest(view(x, 0, token)), highest(view(x, token + 1, vocab - token - 1)))
        if not (abs(top) < np.float32(np.inf) and all_are_numbers(x)):  # or nothing is possible, or all too much
            total = np.float32(np.nan)
        tokens[row], found[row] = token, ONE / total
        found[n + row] = (ONE - exp(max(second - top, LOWEST))) / total
        found[2 * n + row] = np.log(total) - mean / total
        if most:
            ids, probs = array(a[IDS], WHOLES, n * most), array(a[PROBS], FLOATS, n * most)
            ids, probs, held = view(ids, row * most, most), view(probs, row * most, most), 0
            for i in range(vocab):
                if held < most or x[i] > probs[most - 1]:
                    place = min(held, most - 1)
                    while place > 0 and x[i] > probs[place - 1]:
                        ids[place], probs[place] = ids[place - 1], probs[place - 1]
                        place -= 1
                    ids[place], probs[place] = i, x[i]
                    held = min(held + 1, most)
            for i in range(most):
                probs[i] = exp(max(probs[i] - top, LOWEST)) / total


@inlined
def differ(a):
    """Half the sum of the differences of two distributions."""
    n, vocab = a[COUNT], a[VOCAB]
    first, second, found = array(a[FIRST], WHOLES, n), array(a[SECOND], WHOLES, n), array(a[FOUND], FLOATS, n)
    scales = array(a[SCALES], FLOATS, n)
    begin, end = share(n)
    for row in range(begin, end):
        p, q = array(first[row], FLOATS, vocab), array(second[row], FLOATS, vocab)
        p_top, q_top, scale = highest(p), highest(q), scales[row]
        p_part, q_part, apart = ONE / total_of(p, p_top, scale), ONE / total_of(q, q_top, scale), 0.0
        for start in range(0, vocab, SPAN):
            part, length = ZERO, min(SPAN, vocab - start)
            here, there = view(p, start, length), view(q, start, length)
            for i in range(length):
                p_here, q_here = exp((here[i] - p_top) * scale), exp((there[i] - q_top) * scale)
                part += abs(p_here * p_part - q_here * q_part)
            apart += part
        finite = abs(p_top) < np.float32(np.inf) and abs(q_top) < np.float32(np.inf)
        finite = finite and all_are_numbers(p) and all_are_numbers(q)
        found[row] = np.float32(0.5 * apart) if finite else np.float32(np.nan)


@cache
def _summarise() -> Team:
    state = source()

    def forward(arguments):
        state  # noqa: B018 - other code is another function
        summarise(carray(arguments, ARGUMENTS))

    return compiled(forward)


@cache
def _differ() -> Team:
    state = source()

    def forward(arguments):
        state  # noqa: B018
        differ(carray(arguments, ARGUMENTS))

    return compiled(forward)


def summarize(logits: Tensor | Lines, top: int) -> Summary:
    """See `fsgen.probs.summarize`; logits [n, vocab]."""
    rows, vocab = _addresses(logits), logits.shape[-1]
    n, most = len(rows), min(top, vocab)
    tokens, found = np.empty(n, np.int64), np.empty((3, n), np.float32)
    ids, probs = np.empty((n, most), np.int64), np.empty((n, most), np.float32)
    kept: dict[int, NDArray[Any]] = {TOKENS: tokens, FOUND: found, IDS: ids, PROBS: probs}
    call(_summarise(), ARGUMENTS, {COUNT: n, VOCAB: vocab, TOP: most, FIRST: rows, **kept})
    return Summary(*map(torch.from_numpy, (tokens, *found, ids, probs)))


def variation(p: Tensor | Lines, q: Tensor | Lines, temperatures: Sequence[float] | None) -> Tensor:
    """See `fsgen.probs.variation`; logits [n, vocab]."""
    n, found = len(p), np.empty(len(p), np.float32)
    scales = np.ones(n, np.float32) if temperatures is None else (1 / np.array(temperatures)).astype(np.float32)
    told: dict[int, int | NDArray[Any]] = {COUNT: n, VOCAB: p.shape[-1], FIRST: _addresses(p), SECOND: _addresses(q)}
    call(_differ(), ARGUMENTS, told | {FOUND: found, SCALES: scales})
    return torch.from_numpy(found)


def _addresses(logits: Tensor | Lines) -> NDArray[np.int64]:
    """Where the logits [vocab] of each position lie."""
    if isinstance(logits, Tensor):
        return logits.data_ptr() + logits.element_size() * logits.stride(0) * np.arange(len(logits), dtype=np.int64)
    found, last, start, step = [], None, 0, 0
    for tensor, place in zip(logits.tensors, logits.places, strict=True):
        if tensor is not last:  # most lie where the one before does
            last, start, step = tensor, tensor.data_ptr(), tensor.element_size() * tensor.stride(0)
        found.append(start + step * place)
    return np.array(found, np.int64)
