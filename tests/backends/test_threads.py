"""Compiled functions on several threads: they meet at barriers, and wait without keeping others from the processor."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from numba import carray

from fsgen.backends.cpu import threads
from fsgen.backends.cpu.compilation import source
from fsgen.backends.cpu.memory import INT64, address_of, fields, pointer
from fsgen.backends.cpu.threads import HEADER, Parallel, Thread, barrier, monotonic_ns
from tests.backends.scripts import on_threads

MOST, LINE = 4, 8  # threads, and words from one of theirs to the next
RECORD = np.dtype([*HEADER, *fields("rounds stall teams progress mistakes")])


@cache
def rounds() -> Parallel:
    """Each thread notes its progress, and after a barrier finds that of all others the same."""
    state = source()

    def run(record, number, team):  # type: ignore[no-untyped-def]
        state  # noqa: B018
        args, me = carray(record, 1)[0], Thread(number, team, address_of(record))
        progress, mistakes = pointer(args.progress, INT64), pointer(args.mistakes, INT64)
        pointer(args.teams, INT64)[number * LINE] = team
        if number == team - 1:  # the others wait for this one
            end = monotonic_ns() + args.stall
            while monotonic_ns() < end:
                pass
        for round in range(1, args.rounds + 1):
            progress[number * LINE] = round
            barrier(me)
            for other in range(team):
                mistakes[number * LINE] += progress[other * LINE] != round
            barrier(me)

    return Parallel(run, RECORD)


def meet(count: int, stall: float = 0.0) -> list[int]:
    """Runs so many rounds; the size of the team, as each thread of it saw it."""
    teams, progress, mistakes = np.zeros((3, MOST * LINE), np.int64)
    record = rounds().record(rounds=count, stall=int(1e9 * stall), teams=teams, progress=progress, mistakes=mistakes)
    rounds()(record)
    assert not mistakes.any()
    assert record["arrived"][0, 0] == record["waited"][0, 0] == 0  # ready for the next call
    found: list[int] = teams[teams > 0].tolist()
    assert progress[progress > 0].tolist() == [count] * len(found)
    return found


@pytest.mark.parametrize("count", [1, 2, 4])
def test_threads_meet_at_each_barrier(count: int) -> None:
    with on_threads(count):
        for _ in range(20):
            assert meet(100) == [count] * count


def test_two_python_threads_have_teams_of_their_own() -> None:
    with on_threads(2), ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: meet(100), range(40))) == [[2, 2]] * 40


def test_after_a_stall_the_threads_go_on_and_one_works_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "ALONE", 0.5)
    with on_threads(2), pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "WAITING", 1 / 3)
        assert meet(3, stall=0.1) == [2, 2]
        assert meet(3) == [1]
        time.sleep(0.5)
        assert meet(3) == [2, 2]


def test_one_works_alone_for_longer_where_threads_stall_again() -> None:
    stalls, now = threads._Stalls(), 100.0
    pauses = []
    for _ in range(6):
        stalls.record(now, 0.02, 0.01)
        pauses.append(stalls._until - now)
        assert stalls.alone(now + 0.9 * pauses[-1])
        now += pauses[-1] + 1
        assert not stalls.alone(now)
    assert pauses == pytest.approx([0.02, 0.04, 0.08, 0.16, 0.2, 0.2])
    stalls.record(now, 0.02, 0.001)  # a quiet time
    assert not stalls.alone(now)
    stalls.record(now, 0.02, 0.02)
    assert stalls._until - now == pytest.approx(0.02)


def run_apart(code: str) -> str:
    """Runs code in a process of its own, which may hang."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be put on one core here")
def test_a_waiting_thread_yields_the_core_that_another_needs() -> None:
    """On one core, where a thread that only spins costs a time slice at each barrier: 2,000 of them take seconds."""
    code = """
import os, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from tests.backends.test_threads import meet, on_threads
with on_threads(2):
    meet(10)
    before = time.process_time()
    assert meet(1000) == [2, 2]
    print(time.process_time() - before)
"""
    assert float(run_apart(code)) < 1.0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_works_on_one_thread() -> None:
    code = """
import os, torch
from tests.backends.test_threads import meet, on_threads
with on_threads(2):
    assert meet(3) == [2, 2]
    child = os.fork()
    if not child:
        torch.ones(1000, 1000).softmax(-1)  # torch would hang too
        os._exit(0 if meet(3) == [1] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert meet(3) == [2, 2]
"""
    run_apart(code)


def test_torch_with_one_thread_starts_no_team(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        pytest.fail("a team was started")

    monkeypatch.setattr(rounds(), "_parallel", fail)
    with on_threads(1):
        assert meet(3) == [1]


def test_without_a_runtime_one_thread_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds(), "_parallel", None)
    with on_threads(2):
        assert meet(3) == [1]
