"""The simulation of requests that arrive, beside the server's own thread: with calls that take as long as we say."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from fsgen import generate
from fsgen.backends import Members
from fsgen.planner.simulate import Fleet, Load, simulate
from fsgen.serve.job import Job
from fsgen.serve.limits import Limits
from fsgen.serve.scheduler import Scheduler
from fsgen.types import SamplingParams
from tests.doubles import Table, TableSession, group
from tests.planner.test_times import Constant
from tests.serve.conftest import ended, job, scheduled

TARGET, DRAFT, ROWS, DRAFTED = 0.04, 0.01, 4, 3
PROMPTS = [[1 + i % 7, 1 + i % 5, 1 + i % 3] for i in range(12)]
SAMPLING = SamplingParams(max_tokens=12, ignore_eos=True)


class Slow(Table):
    """Each call takes so many seconds, or more on a busy machine: `calls` says how many each one took."""

    def __init__(self, taken: float, **options: Any) -> None:
        super().__init__(**options)
        self.taken, self.calls = taken, list[float]()

    def usual(self) -> Constant:
        """What its calls took, on average."""
        return Constant(statistics.mean(self.calls))

    def session(self, batch_size: int) -> TableSession:
        return _SlowSession(self, batch_size)


class _SlowSession(TableSession):
    model: Slow

    def score(self, sequences: Any, last: Any) -> Any:
        started = time.monotonic()
        time.sleep(self.model.taken)
        found = super().score(sequences, last)
        self.model.calls.append(time.monotonic() - started)
        return found


def slow(target: float, draft: float) -> tuple[Slow, Slow]:
    """A draft and a target."""
    large = Slow(target, seed=0)
    return Slow(draft, seed=1000, near=large, noise=0.6), large


def acceptances(members: Members) -> list[float]:
    """By the place in the draft, of texts that were written alone."""
    reached, accepted = [0] * DRAFTED, [0] * DRAFTED
    for text in generate(members, PROMPTS, f"speculative:draft_tokens={DRAFTED}", sampling=SAMPLING):
        for number in {token.round for token in text.tokens}:
            sources = [token.source for token in text.tokens if token.round == number]
            kept = sources.count("accepted")
            for place in range(DRAFTED):
                reached[place] += place < kept or (place == kept and "recovered" in sources)
                accepted[place] += place < kept
    return [a / b for a, b in zip(accepted, reached, strict=True)]


def measured(members: Members, load: Load) -> tuple[float, float]:
    """The median latency of the server's thread, and its tokens a second."""

    async def program(scheduler: Scheduler) -> list[Job]:
        started, jobs = time.monotonic(), list[Job]()

        async def one(number: int, arrival: float) -> None:
            await asyncio.sleep(max(0.0, started + arrival - time.monotonic()))
            prompt = PROMPTS[number % len(PROMPTS)]
            jobs.append(job(prompt, f"speculative:draft_tokens={DRAFTED}", SAMPLING))
            scheduler.submit(jobs[-1:])
            await ended(jobs[-1:])

        await asyncio.gather(*[one(number, arrival) for number, arrival in enumerate(load.arrivals())])
        return jobs

    jobs = scheduled(members, program, Limits(rows=ROWS))
    ends = [float(one.ended or 0.0) for one in jobs]
    latency = statistics.median(end - one.arrived for end, one in zip(ends, jobs, strict=True))
    return latency, sum(len(one.tokens) for one in jobs) / (max(ends) - min(one.arrived for one in jobs))


def within(predicted: Sequence[float], found: Sequence[float], bound: float = 0.2) -> bool:
    return all(abs(a / b - 1) < bound for a, b in zip(predicted, found, strict=True))


@pytest.mark.parametrize("rate", [2.0, 6.0, 9.0])
def test_the_simulation_predicts_the_server(rate: float) -> None:
    pytest.importorskip("simpy")
    chances = acceptances(group(*slow(0.0, 0.0)))
    load = Load(rate, [(len(prompt), SAMPLING.max_tokens) for prompt in PROMPTS], 24, seed=1)
    draft, target = slow(TARGET, DRAFT)
    found = measured(group(draft, target), load)
    fleet = Fleet(target.usual(), draft.usual(), DRAFTED, chances, ROWS)
    predicted = simulate(fleet, load)
    assert within((predicted.latency[50], predicted.tokens_per_second), found), (predicted, found)
    # With other times than the server's it does not.
    wrong = simulate(replace(fleet, target=Constant(2 * target.usual().taken)), load)
    assert not within((wrong.latency[50], wrong.tokens_per_second), found)
