"""Compiled functions on torch's own threads, which do not keep others from the processor where they wait.

A second pool would fight the first one for the cores, since torch's threads wait for their next work spinning. So
compiled code runs on these, by the OpenMP runtime that torch has loaded; where there is none, on one thread. Within a
function, a thread that waits for the others looks a few times whether it may go on, and then gives way (`sched_yield`)
between two looks: where other processes want the processor too, what it waits for would else not get it. And where they
have waited for each other for a good part of the time, one thread goes on alone for a while.
"""

from __future__ import annotations

import ctypes
import os
import platform
import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

from fsgen.backends.cpu.compilation import address, compiled, source
from fsgen.backends.cpu.memory import OPTIONS, fields, inlined

SPIN = 1000  # looks before a thread gives way: some 25 microseconds
FEW = 8  # positions that one thread has done before two have met
# Seconds that are judged together; the share of them that threads may wait for each other; and seconds that one goes on
# alone if it was more, and if it was more again and again.
JUDGED, WAITING, ALONE, ALONE_MOST = 0.02, 1 / 3, 0.02, 0.2

# What a record begins with: the function; the runtime's functions that tell threads apart; and words by which threads
# meet, in lines of the cache of their own: how many have come to a barrier, barriers passed, nanoseconds waited.
HEADER = [*fields("function thread_number team_size"), *fields("arrived passed waited", (np.int64, (8,)))]
FUNCTION, THREAD_NUMBER, TEAM_SIZE, ARRIVED, PASSED, WAITED = 0, 8, 16, 24, 88, 152


class Thread(NamedTuple):
    """One of the threads that run a function: its number, how many there are, and where their record is."""

    number: int
    team: int
    record: int


@intrinsic
def load(context: Any, address: Any) -> Any:
    """The 64-bit word at an address, by which threads tell each other something."""

    def code(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.load_atomic(_place(builder, arguments), "seq_cst", 8)

    return types.int64(types.int64), code


@intrinsic
def store(context: Any, address: Any, word: Any) -> Any:
    def code(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[1], _place(builder, arguments), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@intrinsic
def add(context: Any, address: Any, number: Any) -> Any:
    """Adds to a word, and gives what it was."""

    def code(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", _place(builder, arguments), arguments[1], "seq_cst")

    return types.int64(types.int64, types.int64), code


def _place(builder: Any, arguments: Any) -> Any:
    return builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())


@intrinsic
def relax(context: Any) -> Any:
    """Tells the processor that this is a loop that waits."""

    def code(context: Any, builder: Any, _: Any, __: Any) -> Any:
        if platform.machine() in ("x86_64", "AMD64"):
            builder.call(_function(builder, "llvm.x86.sse2.pause", ir.VoidType()), [])
        return context.get_dummy_value()

    return types.void(), code


@intrinsic
def clock(context: Any) -> Any:
    """Nanoseconds, from some time on."""

    def code(_: Any, builder: Any, __: Any, ___: Any) -> Any:
        small, whole = ir.IntType(32), ir.IntType(64)
        found = cgutils.alloca_once(builder, whole, 2)
        read = _function(builder, "clock_gettime", small, small, whole.as_pointer())
        builder.call(read, [small(time.CLOCK_MONOTONIC), found])
        seconds, rest = (builder.load(builder.gep(found, [small(i)])) for i in range(2))
        return builder.add(builder.mul(seconds, whole(10**9)), rest)

    return types.int64(), code


@intrinsic
def tell(context: Any, function: Any) -> Any:
    """Calls a function of no arguments by its address, which gives a small number."""

    def code(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        return builder.sext(builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), []), ir.IntType(64))

    return types.int64(types.int64), code


@intrinsic
def invoke(context: Any, function: Any, record: Any, number: Any, team: Any) -> Any:
    """Calls a function by its address."""

    def code(context: Any, builder: Any, _: Any, given: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 3)
        builder.call(builder.inttoptr(given[0], kind.as_pointer()), given[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), code


def _function(builder: Any, name: str, gives: Any, *takes: Any) -> Any:
    known = builder.module.globals.get(name)
    return known or ir.Function(builder.module, ir.FunctionType(gives, takes), name)


give_way = types.ExternalFunction("sched_yield", types.int32())


@njit(**OPTIONS)
def barrier(me):
    """Returns once all threads have come here."""
    if me.team == 1:
        return
    passed = load(me.record + PASSED)
    if add(me.record + ARRIVED, 1) == me.team - 1:
        store(me.record + ARRIVED, 0)
        add(me.record + PASSED, 1)
        return
    for _ in range(SPIN):
        if load(me.record + PASSED) != passed:
            return
        relax()
    began = clock()
    while load(me.record + PASSED) == passed:
        give_way()
    add(me.record + WAITED, clock() - began)


@inlined
def share(me, things):
    """Which of so many things are this thread's: from .. to - 1."""
    return things * me.number // me.team, things * (me.number + 1) // me.team


@cache
def _enter() -> Any:
    """What each thread of the runtime calls."""
    state = source()

    def enter(record):
        state  # noqa: B018 - other code is another function
        number, team = tell(load(record + THREAD_NUMBER)), tell(load(record + TEAM_SIZE))
        invoke(load(record + FUNCTION), record, number, team)
        barrier(Thread(number, team, record))  # so that nobody waits for long in the runtime's own one

    return compiled(enter, types.int64)


class _Stalls:
    """Whether threads have waited for each other, of late, for so long that one is quicker alone."""

    def __init__(self) -> None:
        self._seconds = self._waited = self._until = 0.0
        self._pause = ALONE

    def alone(self, now: float) -> bool:
        return now < self._until

    def learn(self, now: float, seconds: float, waited: float) -> None:
        """Judges calls of so many seconds in all, in which each thread waited for so many, on average."""
        self._seconds += seconds
        self._waited += waited
        if self._seconds < JUDGED:
            return
        if self._waited > WAITING * self._seconds:
            self._until = now + self._pause
            self._pause = min(2 * self._pause, ALONE_MOST)
        else:
            self._pause = ALONE
        self._seconds = self._waited = 0.0


_stalls = _Stalls()


class Parallel:
    """A compiled function, called on every thread that torch would use.

    Args:
        function: of a record, its address, and the number of a thread and of all of them.
        kind: the type of its record, which begins with `HEADER`.
    """

    def __init__(self, function: Callable[..., None], kind: np.dtype[Any]) -> None:
        self._kind = kind
        self._compiled = compiled(function, kind, types.int64, types.int64)  # which holds the code
        self._alone = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(self._compiled.address)
        runtime = ctypes.CDLL(None) if os.name == "posix" else None
        names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
        found = [getattr(runtime, name) for name in names if hasattr(runtime, name)]
        self._parallel = found[0] if len(found) == len(names) else None
        if self._parallel is not None:
            self._enter = ctypes.c_void_p(_enter().address)
            self._tellers = [ctypes.cast(one, ctypes.c_void_p).value for one in found[1:]]

    def record(self, **values: int | float | NDArray[Any] | Tensor) -> NDArray[Any]:
        """A record [1] to call it with; of arrays and tensors it has the addresses, and does not hold them."""
        made = np.zeros(1, self._kind)
        made["function"] = self._compiled.address
        if self._parallel is not None:
            made["thread_number"], made["team_size"] = self._tellers
        for name, value in values.items():
            made[name] = address(value) if isinstance(value, (np.ndarray, Tensor)) else value
        return made

    def __call__(self, record: NDArray[Any], alone: bool = False) -> None:
        """Calls it; `alone`: on this thread only."""
        threads = 1 if alone or self._parallel is None else torch.get_num_threads()
        began = time.perf_counter()
        if threads == 1 or _stalls.alone(began):
            self._alone(record.ctypes.data, 0, 1)
            return
        assert self._parallel is not None
        self._parallel(self._enter, ctypes.c_void_p(record.ctypes.data), threads, 0)
        ended, waited = time.perf_counter(), record["waited"]
        _stalls.learn(ended, ended - began, 1e-9 * float(waited[0, 0]) / (threads - 1))
        waited[0, 0] = 0
