"""Requests that arrive at a rate, on one machine or several: what latency and throughput come to, with a draft or not.

A discrete-event simulation (simpy) of continuous batching: a machine writes for as many requests as it has rows, round
by round; a request that comes joins at the next round where a row is free, on the machine with the fewest requests.
Seconds of a round are those of the calls (`fsgen.planner.times`) and of what the decode loop adds to them, where that
was measured (`fsgen.planner.calibrate`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fsgen.planner.predict import Loop
from fsgen.planner.times import Times
from fsgen.types import as_dict

ROUND_SECONDS = 3e-4  # beside the calls, where nobody has measured it
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Load:
    """What comes in.

    Attributes:
        rate: requests a second, at random (a Poisson process).
        lengths: tokens of prompt and completion of each request, in their order; repeated as needed.
        requests: how many.
        seed: of all that is drawn.
    """

    rate: float
    lengths: Sequence[tuple[int, int]]
    requests: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf or self.requests < 1:
            raise ValueError(f"a load of {self.requests} requests at {self.rate:g} a second is impossible")
        if not self.lengths or any(min(pair) < 1 for pair in self.lengths):
            raise ValueError("every request needs a prompt and a completion of at least one token")

    def arrivals(self) -> list[float]:
        """When each request arrives, in seconds."""
        between = np.random.default_rng([self.seed, 0]).exponential(1 / self.rate, self.requests)
        return [float(each) for each in np.cumsum(between)]


@dataclass(frozen=True)
class Fleet:
    """What serves them.

    Attributes:
        target, draft: times of the models; no draft is plain decoding.
        draft_tokens, acceptance: tokens drafted in a round, and the chance that each is accepted where those before it
            are; one for all, or one for each place.
        rows: requests that a machine writes for at a time.
        machines: how many.
        loops: what the decode loop adds at some numbers of rows; in between a line is drawn.
        request_seconds: of a request beside its rounds: connection, reading, answer.
    """

    target: Times
    draft: Times | None = None
    draft_tokens: int = 0
    acceptance: float | Sequence[float] = 0.0
    rows: int = 16
    machines: int = 1
    loops: Mapping[int, Loop] = field(default_factory=lambda: {1: Loop(round_seconds=ROUND_SECONDS)})
    request_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.rows < 1 or self.machines < 1:
            raise ValueError(f"{self.machines} machines of {self.rows} rows are impossible: at least one of each")
        if not all(0 <= chance <= 1 for chance in np.atleast_1d(self.acceptance)):
            raise ValueError(f"an acceptance of {self.acceptance} is impossible: choose 0 to 1")
        if (self.draft is None) != (self.draft_tokens == 0) or self.draft_tokens < 0:
            raise ValueError("a draft and its draft tokens go together: at least one token, or neither")
        if np.size(self.acceptance) not in (1, self.draft_tokens):
            raise ValueError(f"{np.size(self.acceptance)} acceptances do not fit {self.draft_tokens} drafted tokens")
        if not self.loops or min(self.loops) < 1 or not self.request_seconds >= 0:
            raise ValueError("loops are by numbers of rows from 1, at least one; request_seconds are at least 0")

    def seconds(self, rows: int, context: float, read: int) -> float:
        """Of a round of so many requests; `read`: tokens of prompts that are read in it."""
        reading = sum(model.reading(read) for model in (self.target, self.draft) if model) if read else 0.0
        known = sorted(self.loops)
        return reading + float(
            np.interp(rows, known, [self._decoding(self.loops[each], rows, context) for each in known])
        )

    def _decoding(self, loop: Loop, rows: int, context: float) -> float:
        """Of the round's calls and the loop around them."""
        verify = self.target.call(rows, self.draft_tokens + 1, context)
        if self.draft is None:
            return loop.round_seconds + loop.target_plain * verify
        drafted = loop.draft * self.draft.call(rows, 1, context) + loop.drafted_seconds
        beside = loop.round_seconds + loop.verify_seconds
        return beside + loop.verifying(self.draft_tokens + 1.0) * verify + self.draft_tokens * drafted


@dataclass(frozen=True)
class Served:
    """What came of it; seconds by percentile.

    Attributes:
        latency: from a request's arrival to its last token; first_token: to its first ones.
        tokens_per_second: of all machines together, from the first arrival to the last token.
        busy: the share of the time in which machines wrote.
        rows: requests that a round wrote for, in the mean.
    """

    latency: dict[int, float]
    first_token: dict[int, float]
    tokens_per_second: float
    busy: float
    rows: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return as_dict(self)


@dataclass
class _Request:
    arrived: float
    prompt: int
    wanted: int
    written: int = 0
    first: float = 0.0
    ended: float = 0.0


class _Simulation:
    """One run: machines, their queues, and what is counted."""

    def __init__(self, fleet: Fleet, load: Load, env: Any, queues: list[Any]) -> None:
        self.fleet, self.load, self.env, self.queues = fleet, load, env, queues
        self.waiting = [0] * fleet.machines  # requests of each machine, those that it writes for included
        self.done: list[_Request] = []
        self.busy, self.rounds, self.rows = 0.0, 0, 0
        self.random = np.random.default_rng([load.seed, 1])
        self.chances = np.broadcast_to(fleet.acceptance, fleet.draft_tokens)

    def arrivals(self) -> Generator[Any, Any, None]:
        """Requests come, each to the machine with the fewest."""
        for number, arrived in enumerate(self.load.arrivals()):
            yield self.env.timeout(arrived - self.env.now)
            prompt, wanted = self.load.lengths[number % len(self.load.lengths)]
            machine = int(np.argmin(self.waiting))
            self.waiting[machine] += 1
            self.queues[machine].put(_Request(self.env.now, prompt, wanted))

    def machine(self, number: int) -> Generator[Any, Any, None]:
        """Writes round by round, as long as there is a request."""
        queue, active = self.queues[number], list[_Request]()
        while True:
            new: list[_Request] = []
            while (not active and not new) or (queue.items and len(active) + len(new) < self.fleet.rows):
                new.append((yield queue.get()))
            active += new
            context = sum(one.prompt + one.written for one in active) / len(active)
            seconds = self.fleet.seconds(len(active), context, sum(one.prompt - 1 for one in new))
            yield self.env.timeout(seconds)
            self.busy, self.rounds, self.rows = self.busy + seconds, self.rounds + 1, self.rows + len(active)
            for one in active:
                self._write(one)
            ended = [one for one in active if one.ended]
            active = [one for one in active if not one.ended]
            self.waiting[number] -= len(ended)
            self.done += ended

    def _write(self, one: _Request) -> None:
        """What a round adds to a text: the accepted tokens, and one of the target's own."""
        accepted = int((self.random.random(len(self.chances)) < self.chances).cumprod().sum())
        given = self.env.now + self.fleet.request_seconds
        one.first = one.first or given
        one.written += accepted + 1
        if one.written >= one.wanted:
            one.ended = given


def require_simpy() -> None:
    """Raises ValueError where simpy is not installed, naming the extra that has it."""
    try:
        import simpy  # noqa: F401  # here, for only simulations need it
    except ImportError:
        raise ValueError("fsgen simulate needs simpy: pip install 'fsgen[simulate]'") from None


def simulate(fleet: Fleet, load: Load) -> Served:
    """Runs a load on a fleet until all is written. Raises ValueError where simpy is not installed."""
    require_simpy()
    import simpy

    env = simpy.Environment()
    run = _Simulation(fleet, load, env, [simpy.Store(env) for _ in range(fleet.machines)])
    env.process(run.arrivals())
    for number in range(fleet.machines):
        env.process(run.machine(number))
    env.run()
    tokens = sum(one.wanted for one in run.done)
    start, end = min(one.arrived for one in run.done), max(one.ended for one in run.done)
    return Served(
        _percentiles([one.ended - one.arrived for one in run.done]),
        _percentiles([one.first - one.arrived for one in run.done]),
        tokens / (end - start),
        run.busy / (end - start) / fleet.machines,
        run.rows / run.rounds,
    )


def _percentiles(values: Sequence[float]) -> dict[int, float]:
    return {each: float(np.percentile(values, each)) for each in PERCENTILES}


def read_trace(path: Path) -> list[tuple[int, int]]:
    """Lengths of requests from JSON lines with `prompt_tokens` and `completion_tokens`, or a `usage` that has them.

    Raises:
        ValueError: an empty file, or a line without these numbers, by its number.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            counts = (record.get("response") or record).get("usage") or record.get("stats") or {}
            prompt = record.get("prompt_tokens", counts.get("prompt_tokens"))
            written = record.get("completion_tokens", counts.get("completion_tokens", counts.get("tokens")))
            found.append((int(prompt), int(written)))
        except (ValueError, TypeError, AttributeError):
            why = "it needs prompt_tokens and completion_tokens, or a usage with them"
            raise ValueError(f"line {number} of {str(path)!r} has no lengths: {why}") from None
    if not found:
        raise ValueError(f"{str(path)!r} is empty: a line for each request is needed")
    return found
