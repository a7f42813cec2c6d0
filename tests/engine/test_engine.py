"""The engine: texts of different methods join and leave at any time, and each is what it is alone."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from collections.abc import Sequence as List
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fsgen import SamplingParams, generate, load, stream
from fsgen.backends import Members
from fsgen.engine import Engine, Sequence
from fsgen.types import Token
from tests.doubles import Letters, Table, TableSession, group, trio

METHODS = [
    "plain",
    "oracle",
    "speculative:draft_tokens=3",
    "speculative",
    "speculative:ngram=2",
    "speculative:ngram=3,draft_tokens=4",
    "speculative:verifier=coupled,draft_tokens=2",
    "speculative:verifier=rejection,draft_tokens=4",
    "contrastive:draft_tokens=2",
    "proxy",
    "ensemble:draft_tokens=1",
    "mixture",
    "route",
    "route:rollback=0.3",
]
ROUTERS = [None, "entropy:0.8", "position:2-6", "random:0.4"]
SAMPLINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 4},
    {"temperature": 1.3, "top_p": 0.8, "min_p": 0.05},
    {"repetition_penalty": 1.4, "logprobs": 1},
    {"temperature": 0.9, "frequency_penalty": 0.7, "presence_penalty": 0.4, "logit_bias": {2: 1.5, 1: -float("inf")}},
]


def sequence(dice: random.Random, vocab: int, context: int = 40) -> Sequence:
    """A text of a random method, sampling and random seed."""
    method, router = dice.choice(METHODS), dice.choice(ROUTERS)
    sampling = SamplingParams(
        max_tokens=dice.randint(1, 14),
        seed=dice.randrange(1000),
        stop=("ab",) if vocab < 30 and dice.random() < 0.3 else (),
        stop_token_ids=(3,) if dice.random() < 0.2 else (),
        ignore_eos=dice.random() < 0.3,
        **dice.choice(SAMPLINGS),
    )
    prompt = [dice.randrange(1, vocab) for _ in range(dice.randint(1, context))]
    made = Sequence(prompt, method, sampling, candidates=dice.choice([0, 2]))
    if router is not None and made.method.drafts and not made.method.ngram:
        made = Sequence(prompt, replace(made.method, router=dice_router(router)), sampling, made.kept[0])
    return made


@cache
def dice_router(text: str) -> Any:
    from fsgen.methods.method import parse_router

    return parse_router(text)


def alone(members: Members, one: Sequence) -> list[Token]:
    """The records of a text that is written by itself."""
    again = Sequence(one.prompt_ids, one.method, one.sampling, one.kept[0])
    engine = Engine(members, 1)
    engine.add(again)
    return [token for _, token in drained(engine)]


def drained(engine: Engine) -> Iterator[tuple[int, Token]]:
    while not engine.idle:
        yield from engine.step()


def joined(
    members: Members, dice: random.Random, make: Callable[[], Sequence], texts: int, rows: int
) -> dict[int, tuple[Sequence, list[Token], bool]]:
    """Adds and cancels texts between rounds at random: by id (text, its records, whether it was cancelled)."""
    engine = Engine(members, rows, every_round=dice.random() < 0.5)
    found: dict[int, tuple[Sequence, list[Token], bool]] = {}
    live: set[int] = set()
    while len(found) < texts or not engine.idle:
        while len(found) < texts and dice.random() < 0.5:
            one = make()
            number = engine.add(one)
            found[number] = (one, [], False)
            live.add(number)
        if live and dice.random() < 0.08:
            number = dice.choice(sorted(live))
            engine.cancel(number)
            live.discard(number)
            found[number] = (*found[number][:2], True)
        for number, token in engine.step():
            assert number in live
            found[number][1].append(token)
        live -= {number for number in live if found[number][0].finished}
    assert not live
    return found


def written(tokens: list[Token]) -> list[tuple[Any, ...]]:
    return [(t.position, t.id, t.text) for t in tokens]


def same(found: dict[int, tuple[Sequence, list[Token], bool]], members: Members, exact: bool) -> None:
    """Every text is what it is alone; a cancelled one is its beginning."""
    for one, tokens, cancelled in found.values():
        expected = alone(members, one)
        if cancelled:
            expected = expected[: len(tokens)]
        elif not one.method.adaptive:  # whose draft lengths follow a clock
            shown = [(t.source, t.round, t.draft_token, t.target_token, t.draft_top, t.target_top) for t in tokens]
            assert shown == [
                (t.source, t.round, t.draft_token, t.target_token, t.draft_top, t.target_top) for t in expected
            ]
            if exact:  # but for torch's own sums over transformed distributions
                bare = [replace(t, total_variation=None) for t in tokens]
                assert bare == [replace(t, total_variation=None) for t in expected]
                apart = [
                    (t.total_variation or 0.0) - (e.total_variation or 0.0)
                    for t, e in zip(tokens, expected, strict=True)
                ]
                assert max(map(abs, apart), default=0.0) < 1e-6
        assert written(tokens) == written(expected)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_mixed_texts_are_what_they_are_alone(seed: int) -> None:
    dice = random.Random(seed)
    members = trio(vocab=8, seed=seed % 7)
    found = joined(members, dice, lambda: sequence(dice, 8, 8), texts=dice.randint(1, 9), rows=dice.randint(1, 4))
    same(found, members, exact=False)


@pytest.mark.parametrize("seed", range(4))
def test_mixed_texts_of_the_compiled_pass_have_the_same_bits(seed: int) -> None:
    dice = random.Random(seed)
    members = pocket()
    found = joined(members, dice, lambda: sequence(dice, members.vocab_size), texts=14, rows=5)
    same(found, members, exact=True)


@cache
def pocket() -> Members:
    return load(draft="pocket-0.25m", target="pocket-0.6m", base="pocket-0.25m", dtype="float32", device="cpu")


def test_texts_wait_for_a_row_and_a_cancelled_row_is_free_in_the_next_round() -> None:
    members = trio(seed=1)
    engine = Engine(members, 1)
    sampling = SamplingParams(max_tokens=50, ignore_eos=True)
    first, second = (engine.add(Sequence([1, token], "oracle", sampling)) for token in (2, 3))
    assert {number for _ in range(3) for number, _ in engine.step()} == {first}
    engine.cancel(first)
    assert {number for number, _ in engine.step()} == {second}
    engine.cancel(second)
    assert engine.idle
    assert engine.step() == []
    with pytest.raises(ValueError, match="no text with the id 2"):
        engine.cancel(second)


def test_a_longer_text_waits_until_there_is_room_for_it() -> None:
    members = trio(seed=2)  # a row takes 1,000 bytes a token, in each model
    engine = Engine(members, 4, cache_bytes=2 * 4 * 10_000)
    short = [engine.add(Sequence([1], "oracle", SamplingParams(max_tokens=9, ignore_eos=True))) for _ in range(2)]
    engine.step()
    long = engine.add(Sequence([1] * 11, "oracle", SamplingParams(max_tokens=9, ignore_eos=True)))
    order = [number for number, _ in drained(engine)]
    assert sorted(set(order)) == [*short, long]
    assert order.index(long) > max(i for i, number in enumerate(order) if number in short)
    with pytest.raises(ValueError, match="one text of 90 tokens"):
        engine.add(Sequence([1] * 81, "oracle", SamplingParams(max_tokens=9)))
    assert engine.idle


class Failing(Table):
    """A table that raises at some of its calls."""

    def __init__(self, fails: Callable[[int], bool], **options: Any) -> None:
        super().__init__(**options)
        self.fails, self.calls = fails, 0

    def session(self, batch_size: int) -> TableSession:
        return _FailingSession(self, batch_size)


class _FailingSession(TableSession):
    def score(self, sequences: Any, last: Any) -> torch.Tensor:
        model = self.model
        assert isinstance(model, Failing)
        model.calls += 1
        if model.fails(model.calls):
            raise MemoryError("no room")
        return super().score(sequences, last)


@pytest.mark.parametrize("method", ["speculative:draft_tokens=3", "route", "plain", "oracle"])
@pytest.mark.parametrize("role", ["draft", "target"])
def test_a_round_that_raised_is_tried_again(method: str, role: str) -> None:
    dice = random.Random(5)
    tables = {"draft": Table(seed=1), "target": Table(seed=2)}
    expected = generate(group(**tables), [[1, 2], [3]], method, sampling=SamplingParams(20))
    seed = {"draft": 1, "target": 2}[role]
    members = group(**tables | {role: Failing(lambda call: dice.random() < 0.3, seed=seed)})
    engine = Engine(members, 2)
    texts = [Sequence(prompt, method, SamplingParams(20)) for prompt in ([1, 2], [3])]
    for one in texts:
        engine.add(one)
    tokens: dict[int, list[int]] = {1: [], 2: []}
    while not engine.idle:
        try:
            for number, token in engine.step():
                tokens[number].append(token.id)
        except MemoryError:
            continue
    assert list(tokens.values()) == [text.token_ids for text in expected]


class _FailingLetters(Letters):
    """A tokenizer that raises at some of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.dice = random.Random(3)

    def decode(self, ids: List[int], skip_special_tokens: bool = False) -> str:
        if self.dice.random() < 0.2:
            raise UnicodeError("no text")
        return super().decode(ids, skip_special_tokens)


@pytest.mark.parametrize("method", ["oracle", "plain", "speculative:draft_tokens=3", "route:rollback=0.9"])
def test_a_text_that_cannot_be_decoded_for_a_moment_loses_and_repeats_nothing(method: str) -> None:
    def table(seed: int, tokenizer: Letters) -> Table:
        return Table(seed=seed, near=Table(), noise=0.6, tokenizer=tokenizer)

    sampling = SamplingParams(40, ignore_eos=True)
    expected = generate(group(table(1, Letters()), table(2, Letters())), [[1, 2]], method, sampling=sampling)
    letters = _FailingLetters()
    engine = Engine(group(table(1, letters), table(2, letters)), 2)
    one = Sequence([1, 2], method, sampling, keep_logits=not method.startswith("route"))
    engine.add(one)
    tokens: list[Token] = []
    failures = 0
    while not engine.idle:
        try:
            tokens += [token for _, token in engine.step()]
        except UnicodeError:
            failures += 1
    assert failures
    assert [token.id for token in tokens] == expected[0].token_ids
    assert "".join(token.text for token in tokens) == expected[0].text
    assert [token.position for token in tokens] == list(range(len(tokens)))
    assert len(one.logits) in (0, len(tokens))


def test_a_stream_that_is_dropped_half_way_leaves_the_members_usable() -> None:
    members = pocket()
    expected = generate(members, ["Question: 1 + 1?"], "speculative", sampling=SamplingParams(24))[0].token_ids
    for _ in range(3):
        tokens = stream(members, "Question: 1 + 1?", "speculative", sampling=SamplingParams(24))
        next(tokens)
        tokens.close()
    with members.keeping():
        again = stream(members, "Question: 1 + 1?", "speculative", sampling=SamplingParams(24))
        next(again)
        again.close()
        assert generate(members, ["Question: 1 + 1?"], sampling=SamplingParams(24))[0].token_ids == expected


def test_threads_share_members() -> None:
    members = pocket()
    prompts = [f"Question: {n} + {n}?" for n in range(4)]
    jobs = [(prompts[i % 4], method) for i, method in enumerate(["speculative", "plain", "contrastive", "route"] * 2)]
    expected = [
        generate(members, [prompt], method, sampling=SamplingParams(30))[0].token_ids for prompt, method in jobs
    ]
    found: dict[int, list[int]] = {}

    def write(number: int) -> None:
        prompt, method = jobs[number]
        found[number] = generate(members, [prompt], method, sampling=SamplingParams(30))[0].token_ids

    threads = [threading.Thread(target=write, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(len(jobs))] == expected


def test_what_an_engine_refuses() -> None:
    members = trio(seed=1)
    with pytest.raises(ValueError, match="rows=0"):
        Engine(members, 0)
    with pytest.raises(ValueError, match="unknown method"):
        Sequence([1], "speculation")
    with pytest.raises(ValueError, match="has no tokens"):
        Engine(members).add(Sequence([]))
    with pytest.raises(ValueError, match="keep_logits=False"):
        Engine(members).add(Sequence([1], "route", keep_logits=True))
