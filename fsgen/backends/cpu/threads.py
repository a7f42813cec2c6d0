"""Compiled functions on several threads, which wait for each other without keeping others from the processor.

A thread that waits looks a few times whether it may go on, and then gives way (`sched_yield`) between two looks: where
other processes want the processor too, what it waits for would else not get it. For the same reason these are threads
of our own: torch's wait for their next work spinning for milliseconds.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from fsgen.backends.cpu.compilation import address, compiled, source
from fsgen.backends.cpu.memory import OPTIONS, inlined

SPIN = 60  # looks before a thread gives way: about two microseconds
IDLE = 4000  # looks of a worker for its next call, before it goes to sleep: about a millisecond
WAKING = 2000  # looks for a worker that was asleep, before the others go on without it
MOST_WORKERS = 127
FEW = 8  # positions that one thread has done before two have met

# Of a worker: what it does, and its next call. Where each word is, in bytes; workers are far enough apart.
STATE, FUNCTION, ARGUMENTS, NUMBER, COUNT, _APART = 0, 8, 16, 24, 32, 128
ASLEEP, READY, CLAIMED, WORKING = range(4)
# Of all who run a function: how many have come to a barrier, barriers passed, how many are done.
ARRIVED, PASSED, DONE, _ALL = 0, 128, 256, 384


class Thread(NamedTuple):
    """One of the threads that run a function: its number, how many there are, and the words by which they meet."""

    number: int
    team: int
    words: int


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


@intrinsic
def replace(context: Any, address: Any, old: Any, new: Any) -> Any:
    """Replaces a word where it is still the old one, and tells whether it was."""

    def code(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        place = _place(builder, arguments)
        return builder.extract_value(builder.cmpxchg(place, arguments[1], arguments[2], "seq_cst", "seq_cst"), 1)

    return types.boolean(types.int64, types.int64, types.int64), code


def _place(builder: Any, arguments: Any) -> Any:
    return builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())


@intrinsic
def relax(context: Any) -> Any:
    """Tells the processor that this is a loop that waits."""

    def code(context: Any, builder: Any, _: Any, __: Any) -> Any:
        if platform.machine() in ("x86_64", "AMD64"):
            name = "llvm.x86.sse2.pause"
            known = builder.module.globals.get(name)
            builder.call(known or ir.Function(builder.module, ir.FunctionType(ir.VoidType(), []), name), [])
        return context.get_dummy_value()

    return types.void(), code


@intrinsic
def invoke(context: Any, function: Any, arguments: Any, number: Any, count: Any, words: Any) -> Any:
    """Calls a function by its address."""

    def code(context: Any, builder: Any, _: Any, given: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 4)
        builder.call(builder.inttoptr(given[0], kind.as_pointer()), given[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), code


give_way = types.ExternalFunction("sched_yield", types.int32()) if os.name == "posix" else relax


@inlined
def pause(looks):
    """Between two looks at what is waited for; counts them."""
    if looks < SPIN:
        relax()
    else:
        give_way()
    return looks + 1


@njit(**OPTIONS)
def barrier(me):
    """Returns once all threads have come here."""
    if me.team == 1:
        return
    passed, looks = load(me.words + PASSED), 0
    if add(me.words + ARRIVED, 1) == me.team - 1:
        store(me.words + ARRIVED, 0)
        add(me.words + PASSED, 1)
        return
    while load(me.words + PASSED) == passed:
        looks = pause(looks)


@inlined
def share(me, things):
    """Which of so many things are this thread's: from .. to - 1."""
    return things * me.number // me.team, things * (me.number + 1) // me.team


@cache
def _serve() -> Any:
    """A worker takes one call after the other, until it has waited in vain for a while."""
    state = source()

    def serve(worker, words):
        state  # noqa: B018 - other code is another function
        store(worker + STATE, READY)
        looks = 0
        while looks < IDLE or not replace(worker + STATE, READY, ASLEEP):
            if load(worker + STATE) == WORKING:
                number, count = load(worker + NUMBER), load(worker + COUNT)
                invoke(load(worker + FUNCTION), load(worker + ARGUMENTS), number, count, words)
                store(worker + STATE, READY)
                add(words + DONE, 1)
                looks = 0
            looks = pause(looks)

    return compiled(serve, types.int64, types.int64)


@cache
def _lead() -> Any:
    """Calls a function on this thread, and on as many workers as are wanted and ready."""
    state = source()

    def lead(function, arguments, workers, wanted, words):
        state  # noqa: B018
        count = 1
        for worker in range(workers, workers + wanted * _APART, _APART):
            looks = 0
            while looks < WAKING and load(worker + STATE) == ASLEEP:
                looks = pause(looks)
            if replace(worker + STATE, READY, CLAIMED):
                store(worker + NUMBER, count)
                count += 1
        store(words + DONE, 0)
        for worker in range(workers, workers + wanted * _APART, _APART):
            if load(worker + STATE) == CLAIMED:
                store(worker + FUNCTION, function)
                store(worker + ARGUMENTS, arguments)
                store(worker + COUNT, count)
                store(worker + STATE, WORKING)
        invoke(function, arguments, 0, count, words)
        looks = 0
        while load(words + DONE) < count - 1:
            looks = pause(looks)

    return compiled(lead, *[types.int64] * 5)


class _Workers:
    """Threads beside the one that calls: started when they are first wanted, asleep where nothing is called."""

    def __init__(self) -> None:
        self._lead = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 5)(_lead().address)
        self._serve = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 2)(_serve().address)
        self._most = MOST_WORKERS
        self._memory = np.zeros((_ALL + _APART * self._most) // 8, np.int64)
        self._words = address(self._memory)
        self._states = self._memory[_ALL // 8 :: _APART // 8]
        self._alarms: list[threading.Event] = []
        self._taken = threading.Lock()
        atexit.register(self._rest)

    def run(self, function: int, arguments: int, threads: int) -> bool:
        """Calls a function on so many threads, or on fewer; not where another call has them."""
        if not self._taken.acquire(blocking=False):
            return False
        try:
            wanted = self._wake(threads - 1)
            self._lead(function, arguments, self._words + _ALL, wanted, self._words)
        finally:
            self._taken.release()
        return True

    def _wake(self, wanted: int) -> int:
        while len(self._alarms) < min(wanted, self._most):
            self._start()
        for alarm, state in zip(self._alarms[:wanted], self._states[:wanted].tolist(), strict=False):
            if state == ASLEEP:
                alarm.set()
        return min(wanted, self._most)

    def _start(self) -> None:
        worker, alarm = self._words + _ALL + _APART * len(self._alarms), threading.Event()

        def work() -> None:
            while alarm.wait():
                alarm.clear()
                self._serve(worker, self._words)

        try:
            threading.Thread(target=work, name="fsgen", daemon=True).start()
        except RuntimeError:  # no more can be started
            self._most = len(self._alarms)
        else:
            self._alarms.append(alarm)

    def _rest(self) -> None:
        """Waits until none runs compiled code, which goes when the process ends."""
        for _ in range(100):
            if not self._states.any():
                return
            time.sleep(0.001)


@cache
def workers() -> _Workers:
    """Those of this process."""
    return _Workers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=workers.cache_clear)


class Parallel:
    """A compiled function, called on every thread that torch would use.

    Args:
        function: of a record, and of a `Thread`: its number, how many there are, and the words by which they meet.
        record: the type of its record.
    """

    def __init__(self, function: Callable[..., None], record: np.dtype[Any]) -> None:
        workers()
        self._function = compiled(function, record, *[types.int64] * 3)  # which holds the code
        self._address: int = self._function.address
        self._alone = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(self._address)

    def __call__(self, arguments: np.ndarray[Any, Any], alone: bool = False) -> None:
        """Calls it with a record [1]; `alone`: on this thread only."""
        threads = 1 if alone else torch.get_num_threads()
        given = arguments.ctypes.data
        if threads == 1 or not workers().run(self._address, given, threads):
            self._alone(given, 0, 1, 0)
