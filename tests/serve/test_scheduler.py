"""The thread of the engine: texts join and leave, and what they become depends on nobody else."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import pytest

from fsgen import generate
from fsgen.backends import Members
from fsgen.engine import Engine
from fsgen.methods.method import parse
from fsgen.serve.job import Job, ServedSequence
from fsgen.serve.limits import Limits
from fsgen.serve.scheduler import RefusedError, Scheduler
from fsgen.serve.scoring import Scores
from fsgen.serve.waiting import FairQueue
from fsgen.types import SamplingParams
from tests.doubles import Table, TableSession, group, trio
from tests.serve.conftest import ended, job, scheduled

LONG = SamplingParams(max_tokens=400, ignore_eos=True)


def ids(one: Job) -> list[int]:
    return [token.id for token in one.tokens]


def test_texts_under_load_are_those_of_an_idle_server(pair: Members) -> None:
    dice = random.Random(3)
    prompts = ["Question: Tom has 3 apples.", "def add(a, b):", "The capital of", "Question: 12 + 7 * 2?"]
    methods = ["speculative", "speculative:draft_tokens=3", "route", "contrastive", "plain", "oracle"]
    wanted = []
    for number in range(36):
        greedy = number % 2 == 0
        sampling = SamplingParams(
            max_tokens=dice.randint(4, 40),
            temperature=0.0 if greedy else 0.9,
            seed=number,
            presence_penalty=number % 3 / 4,
        )
        wanted.append((pair.tokenizer.encode(dice.choice(prompts)), dice.choice(methods), sampling))

    async def program(scheduler: Scheduler) -> list[Job]:
        jobs = []
        for number, each in enumerate(wanted):
            jobs.append(job(*each, client=str(number % 3)))
            scheduler.submit(jobs[-1:])
            await asyncio.sleep(dice.random() * 0.02)
        await ended(jobs)
        return jobs

    jobs = scheduled(pair, program, Limits(rows=7))
    assert all(one.failure is None for one in jobs)
    for one, (prompt, method, sampling) in zip(jobs, wanted, strict=True):
        assert ids(one) == generate(pair, prompt, method, sampling=sampling)[0].token_ids


def test_a_text_that_is_cancelled_frees_its_row_within_a_round() -> None:
    members = trio()
    rounds: list[tuple[int, int]] = []

    class Watch:
        def round(self, running: int, waiting: int, tokens: Any, seconds: float) -> None:
            rounds.append((running, waiting))

        def ended(self, one: Job) -> None:
            rounds.append((-1, 0))

    async def program(scheduler: Scheduler) -> tuple[Job, Job]:
        first, second = job([1, 2], sampling=LONG), job([3, 4], sampling=SamplingParams(max_tokens=2))
        scheduler.submit([first])
        while not first.known:
            await asyncio.sleep(0)
        scheduler.submit([second])
        scheduler.cancel([first])
        await ended([first, second])
        return first, second

    first, second = scheduled(members, program, Limits(rows=1), Watch())
    assert first.failure is not None
    assert first.failure.kind == "cancelled"
    assert first.sequence.stop_reason == "cancelled"
    assert len(first.tokens) < LONG.max_tokens
    assert second.failure is None
    end = rounds.index((-1, 0))
    assert rounds[end + 1] in ((1, 0), (-1, 0)), "the other one has the row in the same round"


@pytest.mark.parametrize("interval", [0.0, 600.0])
def test_tokens_go_to_the_loop_at_the_beginning_the_end_and_now_and_then(interval: float) -> None:
    heard: list[tuple[int, bool]] = []

    async def program(scheduler: Scheduler) -> Job:
        one = job([1, 2], sampling=SamplingParams(max_tokens=200, ignore_eos=True))
        scheduler.submit([one])
        while not one.done:
            await one.changed.wait()
            one.changed.clear()
            heard.append((one.known, one.done))
        return one

    one = scheduled(trio(), program, Limits(rows=1, interval=interval))
    first, *between, last = heard
    assert 0 < first[0] < 200, "those of a few rounds, before the end"
    assert last == (200, True) == (len(one.tokens), one.done)
    assert bool(between) is (interval == 0.0)


class Faulty(Table):
    """Raises at contexts that hold a token (`bad`), and now and then (`every` calls)."""

    def __init__(self, *arguments: Any, bad: int = -1, every: int = 0, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.bad, self.every, self.calls = bad, every, 0

    def session(self, batch_size: int) -> TableSession:
        return _FaultySession(self, batch_size)


class _FaultySession(TableSession):
    model: Faulty

    def score(self, sequences: Any, last: Any) -> Any:
        self.model.calls += 1
        if self.model.every and self.model.calls % self.model.every == 0:
            raise RuntimeError("the member is away")
        if any(sequence is not None and self.model.bad in sequence for sequence in sequences):
            raise RuntimeError("the member cannot read this")
        return super().score(sequences, last)


def faulty(**options: Any) -> Members:
    target = Faulty(seed=0, **options)
    return group(Table(seed=1000, near=target, noise=0.6), target)


def sound() -> Members:
    return faulty()


def test_a_row_that_fails_fails_alone() -> None:
    members = faulty(bad=7)
    sampling = SamplingParams(max_tokens=12, ignore_eos=True, logit_bias={7: float("-inf")})
    prompts = [[1, 2], [3, 7], [4, 5], [2, 6]]

    async def program(scheduler: Scheduler) -> list[Job]:
        jobs = [job(prompt, sampling=sampling) for prompt in prompts]
        scheduler.submit(jobs)
        await ended(jobs)
        return jobs

    jobs = scheduled(members, program)
    for one, prompt in zip(jobs, prompts, strict=True):
        if 7 in prompt:
            assert one.failure is not None
            assert (one.failure.kind, str(one.failure)) == ("model", "the member cannot read this")
        else:
            assert one.failure is None
            assert ids(one) == generate(sound(), prompt, sampling=sampling)[0].token_ids


def test_a_member_that_raises_now_and_then_costs_rounds_and_no_text() -> None:
    sampling = [SamplingParams(max_tokens=30, ignore_eos=True, temperature=n % 2 * 1.0, seed=n) for n in range(12)]

    async def program(scheduler: Scheduler) -> list[Job]:
        jobs = [job([1 + n % 7, 2], "speculative:draft_tokens=3", params) for n, params in enumerate(sampling)]
        scheduler.submit(jobs)
        await ended(jobs)
        return jobs

    members = faulty(every=23)
    jobs = scheduled(members, program)
    failed = [one for one in jobs if one.failure is not None]
    assert members.target.calls > 46, "it did raise"  # type: ignore[union-attr]
    assert failed == []
    for n, (one, params) in enumerate(zip(jobs, sampling, strict=True)):
        assert ids(one) == generate(sound(), [1 + n % 7, 2], "speculative:draft_tokens=3", sampling=params)[0].token_ids


def test_a_member_that_always_raises_fails_every_text_and_the_server_goes_on() -> None:
    async def program(scheduler: Scheduler) -> list[Job]:
        found = []
        for _ in range(2):
            jobs = [job([1, 2]) for _ in range(6)]
            scheduler.submit(jobs)
            await ended(jobs)
            found += jobs
        assert scheduler.fault is None
        return found

    jobs = scheduled(faulty(every=1), program)
    assert [one.failure and one.failure.kind for one in jobs] == ["model"] * 12


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    async def program(scheduler: Scheduler) -> None:
        jobs = [job([1, 2], sampling=LONG) for _ in range(5)]
        scheduler.submit(jobs)  # two rows, three wait
        with pytest.raises(RefusedError, match="too many") as refused:
            scheduler.submit([job([1])])
        assert refused.value.full
        assert 1 <= refused.value.seconds <= 60
        with pytest.raises(RefusedError):
            scheduler.submit([job([1])])
        scheduler.cancel(jobs)
        await ended(jobs)
        late = [job([1, 2], sampling=SamplingParams(max_tokens=1))]
        scheduler.submit(late)
        await ended(late)
        assert late[0].failure is None

    scheduled(trio(), program, Limits(rows=2, queue=3))


def test_clients_take_turns() -> None:
    async def program() -> list[str]:
        queue = FairQueue()
        queue.add([job([1], client="many") for _ in range(4)])
        queue.add([job([1], client=name) for name in ("a", "b", "a")])
        assert len(queue) == 7
        return [queue.next().client for _ in range(len(queue))]

    assert asyncio.run(program()) == ["many", "a", "b", "many", "a", "many", "many"]


def test_time_is_bounded() -> None:
    async def program(scheduler: Scheduler) -> list[Job]:
        jobs = [job([1, 2], sampling=LONG, seconds=0.05), job([1, 2], sampling=LONG, seconds=0.05)]
        scheduler.submit(jobs)  # one runs, one waits
        await ended(jobs)
        return jobs

    class Slow(Table):
        def logits(self, context: Any) -> Any:
            time.sleep(0.005)
            return super().logits(context)

    jobs = scheduled(group(Slow(seed=1), Slow(seed=2)), program, Limits(rows=1))
    assert [one.failure and one.failure.kind for one in jobs] == ["time", "time"]


def test_draining_finishes_what_is_there_and_takes_nothing_new() -> None:
    async def program(scheduler: Scheduler) -> list[Job]:
        jobs = [job([1, n % 7]) for n in range(9)]
        scheduler.submit(jobs)
        scheduler.drain()
        with pytest.raises(RefusedError, match="ending") as refused:
            scheduler.submit([job([1])])
        assert not refused.value.full
        await ended(jobs)
        return jobs

    jobs = scheduled(trio(), program, Limits(rows=2))
    assert all(one.failure is None and one.tokens for one in jobs)


def test_draining_has_an_end() -> None:
    async def program(scheduler: Scheduler) -> list[Job]:
        jobs = [job([1, 2], sampling=LONG) for _ in range(3)]
        scheduler.submit(jobs)
        scheduler.drain()
        await ended(jobs)
        return jobs

    jobs = scheduled(trio(), program, Limits(rows=1, drain=0.0))
    assert "stopping" in {one.failure.kind for one in jobs if one.failure is not None}


@pytest.mark.parametrize("method", ["speculative", "speculative:draft_tokens=2", "route", "plain"])
def test_long_prompts_are_read_in_pieces_while_others_go_on(pair: Members, method: str) -> None:
    text = pair.tokenizer.encode("Question: Tom has 3 apples and buys 4 more. How many has he?\n" * 30)[:500]
    spread: list[int] = []

    async def program(scheduler: Scheduler) -> list[Job]:
        stream = job(pair.tokenizer.encode("def add"), method, SamplingParams(max_tokens=60, ignore_eos=True))
        scheduler.submit([stream])
        while not stream.known:
            await asyncio.sleep(0)
        late = job(text, method)
        scheduler.submit([late])
        before = stream.known
        while not late.known:
            await asyncio.sleep(0)
        spread.append(stream.known - before)
        await ended([stream, late])
        return [stream, late]

    _stream, late = scheduled(pair, program, Limits(rows=2, piece=64))
    assert spread[0] >= 5, "the other text went on between the pieces"
    expected = generate(pair, text, method, sampling=SamplingParams(max_tokens=24))[0]
    assert ids(late) == expected.token_ids
    if "draft_tokens" in method or method == "plain":
        assert late.sequence is not None
        assert late.sequence.usage["target"].calls == expected.stats.target_calls


@pytest.mark.parametrize("methods", [("speculative", "speculative"), ("plain", "speculative:draft_tokens=2")])
def test_pieces_of_several_prompts_are_read_in_one_call(methods: tuple[str, str]) -> None:
    members, prompts = faulty(), [[1 + i % 7 for i in range(60)], [1 + i % 5 for i in range(50)]]
    sampling = SamplingParams(max_tokens=12, ignore_eos=True)
    texts = [ServedSequence(prompt, parse(method), sampling) for prompt, method in zip(prompts, methods, strict=True)]
    engine, target = Engine(members, 2), members.target
    assert isinstance(target, Faulty)
    numbers = []
    for one in texts:
        one.paused = True
        numbers.append(engine.add(one))
    assert engine.step() == []
    for count in (20, 40):
        before = target.calls
        engine.read(dict.fromkeys(numbers, count))
        assert target.calls == before + 1
    tokens: dict[int, list[int]] = {number: [] for number in numbers}
    for one in texts:
        one.paused = False
    while not engine.idle:
        for number, token in engine.step():
            tokens[number].append(token.id)
    engine.close()
    for one, prompt, method in zip(texts, prompts, methods, strict=True):
        alone = generate(sound(), prompt, method, sampling=sampling)[0]
        assert tokens[one.number] == alone.token_ids
        if method != "speculative":  # whose draft lengths depend on how long calls take
            assert one.usage["target"].calls == alone.stats.target_calls


def test_prompts_are_scored_beside_texts_that_run(pair: Members) -> None:
    text = pair.tokenizer.encode("Question: Tom has 3 apples and buys 4 more. How many has he?\n" * 3)

    async def program(scheduler: Scheduler) -> tuple[Job, Job, Job]:
        running, scored, only = job([5, 6]), job(text), job(text)
        assert running.sequence is not None
        scored.scores = Scores(text, running.sequence.method, 3)
        only.scores, only.sequence = Scores(text, running.sequence.method, 3), None
        scheduler.submit([running, scored, only])
        await ended([running, scored, only])
        return running, scored, only

    running, scored, only = scheduled(pair, program, Limits(rows=3, piece=16))
    assert running.failure is scored.failure is only.failure is None
    assert ids(scored) == generate(pair, text, sampling=SamplingParams(max_tokens=24))[0].token_ids
    assert scored.scores is not None
    assert only.scores is not None
    assert scored.scores.found == only.scores.found
    session = pair.target.session(1)  # type: ignore[union-attr]
    expected = session.score([text[:-1]], len(text) - 1)[0].log_softmax(-1)
    for place, (token, found) in enumerate(zip(text[1:], only.scores.found, strict=True)):
        assert found[0] == (token, pytest.approx(float(expected[place, token]), abs=1e-6))
        assert [each for each, _ in found[1:]] == expected[place].topk(3).indices.tolist()
        assert only.scores.ranks[place] == 1 + int((expected[place] > expected[place, token]).sum())


def test_beginnings_are_computed_once_though_others_came_between(pair: Members) -> None:
    system = pair.tokenizer.encode("You count apples, and nothing else. Be short, and show how you count.\n" * 4)
    read: list[int] = []

    async def program(scheduler: Scheduler) -> None:
        target = pair.target
        assert target is not None
        for prompt in ([*system, 30], [5, 6, 7], [8, 9], [*system, 40, 41]):
            one = job(prompt, "plain", SamplingParams(max_tokens=1))
            scheduler.submit([one])
            await ended([one])
            session: Any = scheduler._engine._batch.session("target")  # type: ignore[union-attr]
            read.append(max(len(known) for known in session._known))

    scheduled(pair, program, Limits(rows=3))
    assert min(read) >= len(system), "the row of the first one was not taken by those between"
