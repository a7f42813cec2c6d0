"""What a trace keeps of distributions, and how far two are apart, for many positions in one call.

The same numbers as `fsgen.probs` defines for tensors anywhere, of float32 logits on a CPU. torch takes a dozen passes
over the logits, each from memory; here a position stays in a core's first cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numba import carray
from numpy.typing import NDArray
from torch import Tensor

from fsgen.backends.cpu.arithmetic import ONE, ZERO, all_are_numbers, argmax, exp, highest
from fsgen.backends.cpu.compilation import source
from fsgen.backends.cpu.memory import FLOAT32, INT64, address_of, fields, inlined, pointer, stage, view
from fsgen.backends.cpu.threads import FEW, HEADER, Parallel, Thread, share
from fsgen.probs import Lines, Summary

# What the functions are given: numbers, and the addresses of arrays. p and q: [n] addresses of logits [vocab].
SUMMARIZE = np.dtype([*HEADER, *fields("n vocab top p tokens found top_ids top_probs")])
VARIATION = np.dtype([*HEADER, *fields("n vocab p q scales found")])
LOWEST = np.float32(-1000)  # e to the power of this is as good as 0, and times it still is
SPAN = 1024  # numbers that are summed in float32, and such sums in float64


@inlined
def total_of(logits, n, top, scale):
    total = 0.0
    for start in range(0, n, SPAN):
        part, here = ZERO, view(logits, start, min(SPAN, n - start))
        for i in range(len(here)):
            part += exp((here[i] - top) * scale)
        total += part
    return np.float32(total)


@inlined
def total_and_mean(logits, n, top):
    """Sums of e^(x - top), and of that times x - top."""
    totals, means = 0.0, 0.0
    for start in range(0, n, SPAN):
        total, mean, here = ZERO, ZERO, view(logits, start, min(SPAN, n - start))
        for i in range(len(here)):
            below = max(here[i] - top, LOWEST)
            weight = exp(below)
            total += weight
            mean += weight * below
        totals += total
        means += mean
    return np.float32(totals), np.float32(means)


@inlined
def best_of(x, ids, values):
    """The highest numbers in their order, at ties the first ones."""
    most, held = len(ids), 0
    for i in range(len(x)):
        if held < most or x[i] > values[most - 1]:
            place = min(held, most - 1)
            while place > 0 and x[i] > values[place - 1]:
                ids[place], values[place] = ids[place - 1], values[place - 1]
                place -= 1
            ids[place], values[place] = i, x[i]
            held = min(held + 1, most)


@stage
def summarize_rows(args, me):
    """Greedy token; its probability, its lead, the entropy; the most likely candidates, at ties the first ones."""
    n, vocab, most = args.n, args.vocab, args.top
    tokens, found = pointer(args.tokens, INT64), pointer(args.found, FLOAT32)
    begin, end = share(me, n)
    for row in range(begin, end):
        logits = pointer(pointer(args.p, INT64)[row], FLOAT32)
        x = view(logits, 0, vocab)
        top, token = argmax(x)
        total, mean = total_and_mean(logits, vocab, top)
        second = max(highest(view(logits, 0, token)), highest(view(logits, token + 1, vocab - token - 1)))
        if not (abs(top) < np.float32(np.inf) and all_are_numbers(x)):  # or nothing is possible, or all too much
            total = np.float32(np.nan)
        tokens[row], found[row] = token, ONE / total
        found[n + row] = (ONE - exp(max(second - top, LOWEST))) / total
        found[2 * n + row] = np.log(total) - mean / total
        if most:
            ids, probs = pointer(args.top_ids, INT64), pointer(args.top_probs, FLOAT32)
            values = view(probs, row * most, most)
            best_of(x, view(ids, row * most, most), values)
            for i in range(most):
                values[i] = exp(max(values[i] - top, LOWEST)) / total


@stage
def compare_rows(args, me):
    """Half the sum of the differences of two distributions."""
    vocab, found = args.vocab, pointer(args.found, FLOAT32)
    begin, end = share(me, args.n)
    for row in range(begin, end):
        p_logits, q_logits = (
            pointer(pointer(args.p, INT64)[row], FLOAT32),
            pointer(pointer(args.q, INT64)[row], FLOAT32),
        )
        p, q, scale = view(p_logits, 0, vocab), view(q_logits, 0, vocab), pointer(args.scales, FLOAT32)[row]
        p_top, q_top = highest(p), highest(q)
        p_part = ONE / total_of(p_logits, vocab, p_top, scale)
        q_part = ONE / total_of(q_logits, vocab, q_top, scale)
        apart = 0.0
        for start in range(0, vocab, SPAN):
            part, length = ZERO, min(SPAN, vocab - start)
            here, there = view(p_logits, start, length), view(q_logits, start, length)
            for i in range(length):
                part += abs(exp((here[i] - p_top) * scale) * p_part - exp((there[i] - q_top) * scale) * q_part)
            apart += part
        finite = abs(p_top) < np.float32(np.inf) and abs(q_top) < np.float32(np.inf)
        finite = finite and all_are_numbers(p) and all_are_numbers(q)
        found[row] = np.float32(0.5 * apart) if finite else np.float32(np.nan)


@cache
def _summarize() -> Parallel:
    state = source()

    def forward(arguments, number, team):
        state  # noqa: B018 - other code is another function
        summarize_rows(carray(arguments, 1)[0], Thread(number, team, address_of(arguments)))

    return Parallel(forward, SUMMARIZE)


@cache
def _variation() -> Parallel:
    state = source()

    def forward(arguments, number, team):
        state  # noqa: B018
        compare_rows(carray(arguments, 1)[0], Thread(number, team, address_of(arguments)))

    return Parallel(forward, VARIATION)


def compile() -> None:
    """Makes the functions ready."""
    _summarize()
    _variation()


def summarize(logits: Tensor | Lines, top: int) -> Summary:
    """See `fsgen.probs.summarize`; logits [n, vocab]."""
    rows, vocab = _addresses(logits), logits.shape[-1]
    n, most = len(rows), min(top, vocab)
    tokens, found = np.empty(n, np.int64), np.empty((3, n), np.float32)
    ids, probs = np.empty((n, most), np.int64), np.empty((n, most), np.float32)
    given = _summarize().record(
        n=n, vocab=vocab, top=most, p=rows, tokens=tokens, found=found, top_ids=ids, top_probs=probs
    )
    _summarize()(given, alone=n < FEW)
    return Summary(*map(torch.from_numpy, (tokens, *found, ids, probs)))


def variation(p: Tensor | Lines, q: Tensor | Lines, temperatures: Sequence[float] | None) -> Tensor:
    """See `fsgen.probs.variation`; logits [n, vocab]."""
    n, found, rows = len(p), np.empty(len(p), np.float32), (_addresses(p), _addresses(q))
    scales = np.ones(n, np.float32) if temperatures is None else (1 / np.array(temperatures)).astype(np.float32)
    given = _variation().record(n=n, vocab=p.shape[-1], p=rows[0], q=rows[1], scales=scales, found=found)
    _variation()(given, alone=n < FEW)
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
