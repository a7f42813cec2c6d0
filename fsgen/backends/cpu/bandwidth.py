"""How many bytes a second this machine reads from memory: what all its threads together reach, by compiled code."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numba
import numpy as np
import torch

from fsgen.backends.cpu.memory import advise_huge_pages

SIZE = 2**27  # whole numbers of eight bytes, so that no cache holds a part of them worth mentioning
TIMES = 5


@cache
def readers() -> tuple[Callable[[Any], int], ...]:
    """Functions that add up an array: one place after the other, and at two and four places at a time.

    What suits the processor's own reading ahead best differs; sums of whole numbers need no order, so that the compiler
    makes vector instructions of them.
    """

    def at_one(a: Any) -> int:
        total = 0
        for i in range(a.shape[0]):
            total += a[i]
        return total

    def at_two(a: Any) -> int:
        n = a.shape[0] // 2
        b, c = a[:n], a[n:]
        first = second = 0
        for i in range(n):
            first += b[i]
            second += c[i]
        return first + second

    def at_four(a: Any) -> int:
        n = a.shape[0] // 4
        b, c, d, e = a[:n], a[n : 2 * n], a[2 * n : 3 * n], a[3 * n :]
        first = second = third = fourth = 0
        for i in range(n):
            first += b[i]
            second += c[i]
            third += d[i]
            fourth += e[i]
        return first + second + third + fourth

    made = tuple(numba.njit(nogil=True)(function) for function in (at_one, at_two, at_four))
    for reader in made:
        reader(np.ones(8, np.int64))
    return made


def bandwidth(numbers: np.ndarray[Any, Any] | None = None) -> float:
    """Bytes a second that all threads together read: the best of the readers, each the best of several times.

    Args:
        numbers: to be read; made where none are given.
    """
    numbers = block() if numbers is None else numbers
    parts = np.array_split(numbers, torch.get_num_threads())
    best = float("inf")
    with ThreadPoolExecutor(len(parts)) as pool:
        for reader in readers():
            for _ in range(TIMES):
                started = time.perf_counter()
                total = sum(pool.map(reader, parts))
                best = min(best, time.perf_counter() - started)
                assert total == len(numbers)
    return numbers.nbytes / best


def block() -> np.ndarray[Any, Any]:
    """Numbers that lie in memory as weights do."""
    numbers = torch.empty(SIZE, dtype=torch.int64)
    advise_huge_pages(numbers)
    found: np.ndarray[Any, Any] = numbers.fill_(1).numpy()
    return found
