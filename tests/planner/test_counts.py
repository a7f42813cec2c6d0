"""Rounds counted from a target's texts are those of the decode loop; sampled texts have the expected acceptance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import fsgen
from fsgen import SamplingParams
from fsgen.backends import Members
from fsgen.generation import Generation
from fsgen.methods.method import Method, parse
from fsgen.metrics import Counts
from fsgen.planner.reading import Reading, ngram_reading, read
from fsgen.planner.rounds import Round, count, rounds
from fsgen.planner.texts import Written
from fsgen.probs import total_variation
from tests.doubles import Table, group

LENGTHS = (1, 2, 3, 5, 8, 16)
ROUTERS = ("max-prob:0.4", "max-prob:0.7", "margin:0.2", "entropy:1", "position:3-9", "random:0.3")
PROMPTS = [[1 + (5 * i + j) % 7 for j in range(2 + i % 4)] for i in range(24)]


@pytest.fixture(scope="module")
def members() -> Members:
    target = Table(order=2, seed=1, scale=3.0)
    return group(draft=Table(order=2, seed=2, near=target, noise=0.6), target=target)


@pytest.fixture(scope="module")
def written(members: Members) -> list[Generation]:
    """Some end by themselves, the others at their limit."""
    found = fsgen.generate(members, PROMPTS, "plain", sampling=SamplingParams(40))
    assert {text.stop_reason for text in found} == {"eos", "length"}
    return found


def as_texts(written: Sequence[Generation], temperature: float = 0.0) -> list[Written]:
    return [
        Written(tuple(prompt), tuple(text.token_ids), temperature, cut=text.stop_reason == "length")
        for prompt, text in zip(PROMPTS, written, strict=True)
    ]


def sources(found: Sequence[Round]) -> list[tuple[int, str]]:
    """The round and the source of each token."""
    tokens: list[tuple[int, str]] = []
    for number, one in enumerate(found):
        verified = one.drafted - one.trusted
        own = one.written - one.accepted - one.trusted
        names = ["trusted"] * one.trusted + ["accepted"] * one.accepted
        names += ["recovered" if one.accepted < verified else "bonus"] * own
        tokens += [(number, name) for name in names]
    return tokens


def assert_the_same(members: Members, texts: Sequence[Written], readings: Sequence[Reading], method: Method) -> None:
    looped = fsgen.generate(members, PROMPTS, method, sampling=SamplingParams(40), batch_size=5)
    for number, (one, reading, text) in enumerate(zip(looped, readings, texts, strict=True)):
        assert tuple(one.token_ids) == text.tokens
        found = list(rounds(reading, method, reading.accepted(number)))
        assert sources(found) == [(token.round, token.source) for token in one.tokens]
        assert sum(each.scored > 0 for each in found) == one.stats.target_calls
    total, counted = Counts.total(one.stats for one in looped), count(readings, method)
    assert (counted.tokens, counted.accepted, counted.recovered) == (total.tokens, total.accepted, total.recovered)
    assert counted.acceptance_rate == total.acceptance_rate
    assert counted.tokens_per_call == total.mean_accepted_length


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("router", ["always", *ROUTERS])
def test_counts_are_those_of_the_loop(members: Members, written: list[Generation], length: int, router: str) -> None:
    method = parse("speculative", router, length)
    assert members.draft is not None
    readings = read(members.draft, as_texts(written), [method.router], members.vocab_size, batch_size=5)
    assert_the_same(members, as_texts(written), readings, method)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("ngram", [1, 3])
def test_counts_of_ngrams_are_those_of_the_loop(
    members: Members, written: list[Generation], length: int, ngram: int
) -> None:
    method = parse(f"speculative:ngram={ngram}", None, length)
    alone = group(target=members.target)
    readings = [ngram_reading(text) for text in as_texts(written)]
    assert_the_same(alone, as_texts(written), readings, method)
    counted = count(readings, method)
    assert counted.accepted > 0
    total = Counts.total(
        one.stats for one in fsgen.generate(alone, PROMPTS, method, sampling=SamplingParams(40), batch_size=5)
    )
    scored = sum(each.scored for i, one in enumerate(readings) for each in rounds(one, method, one.accepted(i)))
    assert abs(scored - total.target_tokens) <= len(PROMPTS)  # the last drafted token of a text is not run


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("router", ROUTERS)
def test_a_trusting_router_is_counted_up_to_the_first_token_that_differs(
    members: Members, written: list[Generation], length: int, router: str
) -> None:
    method, texts = parse("route", router, length), as_texts(written)
    assert members.draft is not None
    readings = read(members.draft, texts, [method.router], members.vocab_size)
    looped = fsgen.generate(members, PROMPTS, method, sampling=SamplingParams(40))
    whole = compared = 0
    for number, (one, reading) in enumerate(zip(looped, readings, strict=True)):
        found = sources(list(rounds(reading, method, reading.accepted(number))))
        same = [a == b for a, b in zip(one.token_ids, reading.text.tokens, strict=False)]
        until = same.index(False) if False in same else min(len(one.token_ids), len(reading.text.tokens))
        assert found[:until] == [(token.round, token.source) for token in one.tokens[:until]]
        compared += until
        changed = sum(each.changed for each in rounds(reading, method, reading.accepted(number)))
        assert (changed == 0) == (one.token_ids == list(reading.text.tokens))
        whole += changed == 0
    assert compared > len(PROMPTS)
    assert count(readings, method).changed == len(PROMPTS) - whole


def test_of_sampled_texts_the_expected_acceptance_is_one_minus_the_total_variation(members: Members) -> None:
    assert members.draft is not None
    assert members.target is not None
    sampling = [SamplingParams(60, temperature=1.0, seed=seed, ignore_eos=True, logprobs=0) for seed in range(24)]
    drawn = fsgen.generate(members, PROMPTS, "plain", sampling=sampling)
    texts = [
        Written(tuple(prompt), tuple(text.token_ids), 1.0, False, tuple(next(iter(each.values())) for each in given))
        for prompt, text in zip(PROMPTS, drawn, strict=True)
        if (given := text.logprobs) is not None
    ]
    assert all(text.exact for text in texts)
    readings = read(members.draft, texts, vocab=members.vocab_size)
    found = np.concatenate([reading.low for reading in readings])
    true = []
    for text in texts:
        ids = [*text.prompt, *text.tokens[:-1]]
        p, q = (
            model.session(1).score([ids], len(text.tokens))[0].softmax(-1) for model in (members.draft, members.target)
        )
        true.append(1 - total_variation(p, q).double().numpy())
    expected = np.concatenate(true)
    spread = (found - expected).std() / np.sqrt(len(found))
    assert abs(found.mean() - expected.mean()) < 4 * spread + 1e-6
    # As many tokens a call as rejection sampling has.
    method = parse("speculative", None, 4)
    looped = fsgen.generate(members, PROMPTS * 4, method, sampling=[*sampling, *(
        SamplingParams(60, temperature=1.0, seed=seed, ignore_eos=True) for seed in range(100, 172)
    )])  # fmt: skip
    loop, mine = Counts.total(one.stats for one in looped), count(readings, method)
    assert loop.acceptance_rate is not None
    assert mine.acceptance_rate == pytest.approx(loop.acceptance_rate, abs=0.05)
    assert mine.tokens_per_call == pytest.approx(loop.mean_accepted_length, rel=0.08)


def test_without_log_probabilities_acceptance_is_bounded(members: Members) -> None:
    assert members.draft is not None
    sampling = [SamplingParams(60, temperature=1.0, seed=seed, ignore_eos=True, logprobs=0) for seed in range(24)]
    drawn = fsgen.generate(members, PROMPTS, "plain", sampling=sampling)
    blind = as_texts(drawn, 1.0)
    assert not any(text.exact for text in blind)
    seen = [
        Written(text.prompt, text.tokens, 1.0, False, tuple(next(iter(each.values())) for each in one.logprobs or ()))
        for text, one in zip(blind, drawn, strict=True)
    ]
    pairs = zip(read(members.draft, blind), read(members.draft, seen), strict=True)
    for bounded, exact in pairs:
        assert (bounded.low <= exact.low + 1e-9).all()
        assert (exact.low <= bounded.high).all()
