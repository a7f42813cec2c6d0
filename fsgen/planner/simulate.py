"""Requests that arrive at a rate, on one machine or several: what latency and throughput come to, with a draft or not.

A discrete-event simulation (simpy) of continuous batching: a machine writes for as many requests as it has rows, round
by round; a request that comes joins at the next round where a row is free, on the machine with the fewest requests.
Seconds of a round are those of `fsgen.planner.times`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fsgen.planner.times import Times
from fsgen.types import as_dict

ROUND_SECONDS = 3e-4  # beside the calls
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


@dataclass(frozen=True)
class Fleet:
    """What serves them.

    Attributes:
        target, draft: times of the models; no draft is plain decoding.
        draft_tokens, acceptance: tokens drafted in a round, and the chance that each is accepted.
        rows: requests that a machine writes for at a time.
        machines: how many.
    """

    target: Times
    draft: Times | None = None
    draft_tokens: int = 0
    acceptance: float = 0.0
    rows: int = 16
    machines: int = 1

    def __post_init__(self) -> None:
        if self.rows < 1 or self.machines < 1:
            raise ValueError(f"{self.machines} machines of {self.rows} rows are impossible: at least one of each")
        if not 0 <= self.acceptance <= 1:
            raise ValueError(f"an acceptance of {self.acceptance} is impossible: choose 0 to 1")
        if (self.draft is None) != (self.draft_tokens == 0) or self.draft_tokens < 0:
            raise ValueError("a draft and its draft tokens go together: at least one token, or neither")

    def seconds(self, rows: int, context: float, read: int) -> float:
        """Of a round of so many requests; `read`: tokens of prompts that are read in it."""
        found = ROUND_SECONDS + self.target.call(rows, self.draft_tokens + 1, context)
        found += self.target.reading(read) if read else 0.0
        if self.draft is not None:
            found += self.draft_tokens * self.draft.call(rows, 1, context) + (self.draft.reading(read) if read else 0.0)
        return found


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

    def arrivals(self) -> Generator[Any, Any, None]:
        """Requests come, each to the machine with the fewest."""
        random = np.random.default_rng([self.load.seed, 0])
        for number in range(self.load.requests):
            yield self.env.timeout(random.exponential(1 / self.load.rate))
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
        accepted = int((self.random.random(self.fleet.draft_tokens) < self.fleet.acceptance).cumprod().sum())
        one.first = one.first or self.env.now
        one.written += accepted + 1
        if one.written >= one.wanted:
            one.ended = self.env.now


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
