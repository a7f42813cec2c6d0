"""Runs compiled functions on torch's own threads, which leave the processor to others while they wait.

A second pool of threads would fight with torch's for the cores. So compiled code runs on torch's threads, by the OpenMP
runtime that torch has loaded; where none is found, on one thread. A thread that waits for the others spins shortly, and
then calls `sched_yield` between two looks: on a busy machine, what it waits for may need its core. Where threads wait
for each other most of the time, as they do beside other busy processes, one thread works alone for a while.
"""

from __future__ import annotations

import ctypes
import os
import platform
import time
from collections.abc import Callable
from functools import cache, partial
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

SPIN = 1000  # looks before a waiting thread yields: some 25 microseconds
FEW = 8  # positions that one thread has done before two have met
# Waiting is judged over calls of JUDGED seconds. Where it was more than this share of them, one thread works alone for
# ALONE seconds; where that happens again and again, for up to ALONE_MOST.
JUDGED, WAITING, ALONE, ALONE_MOST = 0.02, 1 / 3, 0.02, 0.2

# What a record begins with: the addresses of the function and of those by which the runtime numbers its threads; and
# three words, each in a cache line of its own: threads at the barrier, barriers passed, nanoseconds waited.
HEADER = [*fields("function thread_number team_size"), *fields("arrived passed waited", (np.int64, (8,)))]
FUNCTION, THREAD_NUMBER, TEAM_SIZE, ARRIVED, PASSED, WAITED = (
    offset for _, offset, *_ in (np.dtype(HEADER).fields or {}).values()
)


class Thread(NamedTuple):
    """One of the threads that run a function: its number, how many there are, and where their record is."""

    number: int
    team: int
    record: int


@intrinsic
def atomic_load(context: Any, address: Any) -> Any:
    """The 64-bit word at an address."""

    def code(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.load_atomic(_pointer(builder, arguments), "seq_cst", 8)

    return types.int64(types.int64), code


@intrinsic
def atomic_store(context: Any, address: Any, word: Any) -> Any:
    def code(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[1], _pointer(builder, arguments), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@intrinsic
def atomic_add(context: Any, address: Any, number: Any) -> Any:
    """Adds to a word, and gives what it was."""

    def code(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", _pointer(builder, arguments), arguments[1], "seq_cst")

    return types.int64(types.int64, types.int64), code


def _pointer(builder: Any, arguments: Any) -> Any:
    return builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())


@intrinsic
def cpu_pause(context: Any) -> Any:
    """Lets the other thread of a core run, in a loop that waits."""

    def code(context: Any, builder: Any, _: Any, __: Any) -> Any:
        if platform.machine() in ("x86_64", "AMD64"):
            builder.call(_declare(builder, "llvm.x86.sse2.pause", ir.VoidType()), [])
        return context.get_dummy_value()

    return types.void(), code


@intrinsic
def monotonic_ns(context: Any) -> Any:
    """Nanoseconds, from some time on."""

    def code(_: Any, builder: Any, __: Any, ___: Any) -> Any:
        small, whole = ir.IntType(32), ir.IntType(64)
        found = cgutils.alloca_once(builder, whole, 2)
        read = _declare(builder, "clock_gettime", small, small, whole.as_pointer())
        builder.call(read, [small(time.CLOCK_MONOTONIC), found])
        seconds, rest = (builder.load(builder.gep(found, [small(i)])) for i in range(2))
        return builder.add(builder.mul(seconds, whole(10**9)), rest)

    return types.int64(), code


@intrinsic
def call_int(context: Any, function: Any) -> Any:
    """Calls a function without arguments, by its address: an int of C."""

    def code(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        return builder.sext(builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), []), ir.IntType(64))

    return types.int64(types.int64), code


@intrinsic
def call_function(context: Any, function: Any, record: Any, number: Any, team: Any) -> Any:
    """Calls a compiled function by its address."""

    def code(context: Any, builder: Any, _: Any, given: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 3)
        builder.call(builder.inttoptr(given[0], kind.as_pointer()), given[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), code


def _declare(builder: Any, name: str, gives: Any, *takes: Any) -> Any:
    known = builder.module.globals.get(name)
    return known or ir.Function(builder.module, ir.FunctionType(gives, takes), name)


sched_yield = types.ExternalFunction("sched_yield", types.int32())


@njit(**OPTIONS)
def barrier(me):
    """Returns once all threads have come here. The last one to come counts the barrier as passed."""
    if me.team == 1:
        return
    passed = atomic_load(me.record + PASSED)
    if atomic_add(me.record + ARRIVED, 1) == me.team - 1:
        atomic_store(me.record + ARRIVED, 0)
        atomic_add(me.record + PASSED, 1)
        return
    for _ in range(SPIN):
        if atomic_load(me.record + PASSED) != passed:
            return
        cpu_pause()
    began = monotonic_ns()
    while atomic_load(me.record + PASSED) == passed:
        sched_yield()
    atomic_add(me.record + WAITED, monotonic_ns() - began)


@inlined
def share(me, things):
    """This thread's part of so many things: begin, end."""
    return things * me.number // me.team, things * (me.number + 1) // me.team


@cache
def _enter() -> Any:
    """What each thread of the runtime calls."""
    # A child process has none of the threads, and would wait for them for ever, in torch's own code too.
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))
    state = source()

    def enter(record):
        state  # noqa: B018 - other code is another function
        number, team = call_int(atomic_load(record + THREAD_NUMBER)), call_int(atomic_load(record + TEAM_SIZE))
        call_function(atomic_load(record + FUNCTION), record, number, team)
        barrier(Thread(number, team, record))  # the runtime's own one spins for longer

    return compiled(enter, types.int64)


class _Stalls:
    """Whether threads waited for each other for so long that one is faster alone."""

    def __init__(self) -> None:
        self._seconds = self._waited = self._until = 0.0
        self._pause = ALONE

    def alone(self, now: float) -> bool:
        return now < self._until

    def record(self, now: float, seconds: float, waited: float) -> None:
        """A call took so many seconds, of which each thread waited for so many, on average."""
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
    """A compiled function that runs on every thread that torch would use.

    Args:
        function: of a record's address, a thread's number, and how many threads there are.
        kind: the type of the record, which begins with `HEADER`.
    """

    def __init__(self, function: Callable[..., None], kind: np.dtype[Any]) -> None:
        self._kind = kind
        self._compiled = compiled(function, kind, types.int64, types.int64)  # holds the code
        self._alone = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(self._compiled.address)
        runtime = ctypes.CDLL(None) if os.name == "posix" else None
        names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
        found = [getattr(runtime, name) for name in names if hasattr(runtime, name)]
        self._parallel = found[0] if len(found) == len(names) else None
        if self._parallel is not None:
            self._enter = ctypes.c_void_p(_enter().address)
            self._thread_functions = [ctypes.cast(one, ctypes.c_void_p).value for one in found[1:]]

    def record(self, **values: int | float | NDArray[Any] | Tensor) -> NDArray[Any]:
        """A record [1] to call it with. Arrays and tensors are given by address: the caller keeps them alive."""
        made = np.zeros(1, self._kind)
        made["function"] = self._compiled.address
        if self._parallel is not None:
            made["thread_number"], made["team_size"] = self._thread_functions
        for name, value in values.items():
            made[name] = address(value) if isinstance(value, (np.ndarray, Tensor)) else value
        return made

    def __call__(self, record: NDArray[Any], alone: bool = False) -> None:
        """Runs it; with `alone` on this thread only."""
        threads = 1 if alone or self._parallel is None else torch.get_num_threads()
        began = time.perf_counter()
        if threads == 1 or _stalls.alone(began):
            self._alone(record.ctypes.data, 0, 1)
            return
        assert self._parallel is not None
        self._parallel(self._enter, ctypes.c_void_p(record.ctypes.data), threads, 0)
        ended, waited = time.perf_counter(), record["waited"]
        _stalls.record(ended, ended - began, 1e-9 * float(waited[0, 0]) / (threads - 1))
        waited[0, 0] = 0
