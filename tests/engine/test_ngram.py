"""n-grams as the draft: what followed the last tokens before, and texts that do not depend on it."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from fsgen import SamplingParams, generate, load
from fsgen.api import method_for
from fsgen.backends import Members
from fsgen.engine import Engine, Sequence
from fsgen.engine.proposers import NgramProposer
from fsgen.methods.method import parse
from tests.doubles import Markov, Table, group, trio
from tests.engine import reference
from tests.engine.test_sampling import TABLES, g_test


def continuation(ids: list[int], longest: int, count: int) -> list[int]:
    return NgramProposer().continuation(Sequence(ids, f"speculative:ngram={longest}"), count)


@pytest.mark.parametrize(
    ("ids", "longest", "count", "expected"),
    [
        ([1, 2, 3, 1, 2], 2, 1, [3]),  # 1 2 stood before, and 3 followed
        ([1, 2, 3, 4, 2, 5, 1, 2], 2, 2, [3, 4]),  # the longest match: 1 2, though 2 alone stood later
        ([1, 2, 3, 4, 2, 5, 1, 2], 1, 2, [5, 1]),  # of matches of one length the latest
        ([7, 1, 7, 2, 7, 3, 7], 3, 2, [3, 7]),  # shorter ones where no longer one matches
        ([1, 2, 3, 1, 2, 3], 3, 7, [1, 2, 3, 1, 2, 3, 1]),  # a period goes on beyond the end
        ([5, 5], 3, 4, [5, 5, 5, 5]),
        ([1, 2, 3, 4], 3, 4, []),  # nothing stood before
        ([1], 3, 4, []),  # shorter than any match
        ([4, 4, 4, 4], 16, 2, [4, 4]),  # a match longer than what stands before it is none
    ],
)
def test_continuations_by_hand(ids: list[int], longest: int, count: int, expected: list[int]) -> None:
    assert continuation(ids, longest, count) == expected


def test_the_index_grows_with_the_text() -> None:
    """Looked up token by token, a text gives what it gives looked up at once."""
    dice = np.random.default_rng(3)
    ids = [int(token) for token in dice.integers(1, 5, size=120)]
    one, proposer = Sequence(ids[:1], "speculative:ngram=3"), NgramProposer()
    for end in range(2, len(ids)):
        one.ids.append(ids[end - 1])
        assert proposer.continuation(one, 4) == continuation(ids[:end], 3, 4)
        assert len(one.ngrams) <= 3 * end


@pytest.mark.parametrize("method", ["speculative:ngram=1", "speculative:ngram=3", "speculative:ngram=4,draft_tokens=6"])
@pytest.mark.parametrize("batch", [1, 3])
def test_greedy_texts_are_those_of_plain_decoding(method: str, batch: int) -> None:
    prompts = ["abcabcabc", "aaaa", "gfedcba", "a", "bababab"]
    for seed in range(6):
        members = trio(8, seed=seed, order=2)  # texts of so short a memory repeat themselves
        alone = group(target=members.target)
        sampling = SamplingParams(max_tokens=40)
        expected = generate(alone, prompts, "plain", sampling=sampling)
        found = generate(alone, prompts, method, sampling=sampling, batch_size=batch)
        assert [text.token_ids for text in found] == [text.token_ids for text in expected]
        assert [text.text for text in found] == [text.text for text in expected]
        assert {text.stats.draft_calls for text in found} == {0}


def test_a_text_that_repeats_itself_takes_fewer_rounds() -> None:
    """The target goes round in a circle of three: after the first one every draft is right."""
    table = torch.full((4, 4), -5.0)
    table[[1, 2, 3], [2, 3, 1]] = 5.0
    members = group(target=Markov(table))
    sampling = SamplingParams(max_tokens=32, ignore_eos=True)
    (text,) = generate(members, [[1]], "speculative:ngram=3,draft_tokens=4", sampling=sampling)
    assert text.token_ids == ([2, 3, 1] * 11)[:32]
    # Three rounds of one token, until 1 stands twice; then 4 drafted and a bonus in each of 6, of which the last ends.
    assert text.tokens[-1].round + 1 == 3 + 6
    assert text.stats.acceptance_rate == 1.0
    assert [token.source for token in text.tokens[:8]] == ["bonus"] * 3 + ["accepted"] * 4 + ["bonus"]


@cache
def pocket() -> Members:
    return load(draft="ngram:3", target="pocket-0.25m", dtype="float32", device="cpu")


@pytest.mark.parametrize("batch", [1, 4])
def test_greedy_texts_of_a_bundled_model(batch: int) -> None:
    members = pocket()
    prompts = ["Copy: one two three one two three one", "def f(x):\n    return x\n\ndef g(x):", "Question: 2 + 2?"]
    sampling = SamplingParams(max_tokens=48)
    expected = [text.token_ids for text in generate(members, prompts, "plain", sampling=sampling)]
    for length in (None, 1, 5):
        texts = generate(members, prompts, "speculative", None, length, sampling, batch)
        assert [text.token_ids for text in texts] == expected
    assert sum(text.stats.accepted for text in texts) > 0


@pytest.mark.parametrize("transform", [{}, {"temperature": 0.7}, {"top_k": 2}, {"top_p": 0.8}], ids=str)
@pytest.mark.parametrize("verifier", ["rejection", "coupled"])
def test_sampled_texts_are_distributed_as_the_target_says(verifier: str, transform: dict[str, Any]) -> None:
    """Three tokens of a Markov chain after a prompt with matches, against the exact chances of all 64 texts."""
    rows, options = 10_000, {"temperature": 1.0} | transform
    members = group(target=Markov(TABLES[0]))
    sampling = [SamplingParams(max_tokens=3, ignore_eos=True, seed=seed, **options) for seed in range(rows)]
    method = f"speculative:ngram=2,draft_tokens=2,verifier={verifier}"
    texts = generate(members, [[1, 2, 3, 1, 2, 2, 1]] * rows, method, sampling=sampling, batch_size=rows)
    counts = np.zeros((4, 4, 4))
    for text in texts:
        counts[tuple(text.token_ids)] += 1
    q = [reference.transform(reference.softmax(row), **options) for row in TABLES[0]]
    chances = [float(q[1][a] * q[a][b] * q[b][c]) for a, b, c in itertools.product(range(4), repeat=3)]
    assert g_test(counts.ravel(), np.array(chances)) > 1e-4
    assert sum(text.stats.accepted for text in texts) > 0
    assert sum(text.stats.recovered for text in texts) > 0


def test_a_rejected_draft_by_hand() -> None:
    """p is certain of its token: it is accepted with q's probability of it, and else q without it is drawn from."""
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()
    members, rows = group(target=Table(4, logits=logits)), 20_000
    sampling = [SamplingParams(max_tokens=1, ignore_eos=True, temperature=1.0, seed=seed) for seed in range(rows)]
    # After 1 there was a 2: the draft. One token is left, so that no bonus follows.
    method = "speculative:ngram=1,draft_tokens=1,verifier=rejection"
    texts = generate(members, [[1, 2, 1]] * rows, method, sampling=sampling, batch_size=rows)
    tokens = [text.tokens[0] for text in texts]
    accepted = sum(token.source == "accepted" for token in tokens)
    assert accepted / rows == pytest.approx(0.2, abs=0.015)
    assert {token.id for token in tokens if token.source == "accepted"} == {2}
    others = np.bincount([token.id for token in tokens if token.source == "recovered"], minlength=4)
    assert g_test(others, np.array([0.1, 0.4, 0.0, 0.3]) / 0.8) > 1e-4
    assert tokens[0].draft_prob == 1.0
    assert tokens[0].total_variation == pytest.approx(0.8, abs=1e-6)


def test_the_draft_length_is_learned_without_a_draft_model() -> None:
    table = torch.full((4, 4), -5.0)
    table[[1, 2, 3], [2, 3, 1]] = 5.0
    members = group(target=Markov(table))
    generate(members, [[1]], "speculative:ngram=3", sampling=SamplingParams(max_tokens=200, ignore_eos=True))
    (length,) = members.draft_lengths.values()
    assert length.draft_call.known
    assert length.system2_call.known
    assert length.acceptance.chance(1.0) > 0.95


def test_nothing_is_kept_of_a_text_that_has_ended() -> None:
    engine = Engine(group(target=Table(seed=1)), 1)
    one = Sequence([1, 2, 1, 2], "speculative:ngram=3", SamplingParams(max_tokens=6, ignore_eos=True))
    engine.add(one)
    engine.step()
    assert one.ngrams
    while not engine.idle:
        engine.step()
    assert not one.ngrams


# ---- how it is asked for


def test_a_draft_may_be_n_grams() -> None:
    members = pocket()
    assert (members.ngram, members.draft) == (3, None)
    assert load(draft="ngram", target="pocket-0.25m", device="cpu").ngram == 3
    assert method_for(members, "speculative").ngram == 3
    assert method_for(members, "speculative:ngram=2").ngram == 2  # the method's own comes first
    assert method_for(members, "plain").ngram == 0
    assert parse("speculative:ngram=3").roles == ("target",)
    (one,) = generate(members, ["one two one two"], sampling=SamplingParams(max_tokens=12))
    assert one.stats.draft_calls == 0


@pytest.mark.parametrize("method", ["contrastive", "proxy", "ensemble", "mixture", "route", "oracle"])
def test_methods_that_read_a_draft_need_a_model(method: str) -> None:
    with pytest.raises(ValueError, match=r"needs a draft model: n-grams draft for 'speculative' alone"):
        generate(pocket(), ["a"], method)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("contrastive:ngram=3", "needs a draft model: n-grams draft for 'speculative' alone"),
        ("route:ngram=3", "needs a draft model"),
        ("oracle:ngram=3", "needs a draft model"),
        ("plain:ngram=3", "needs a draft model"),
        ("speculative:ngram=17", r"ngram=17 is impossible: 0 \(a draft model\) to 16 tokens"),
        ("speculative:ngram=-1", r"ngram=-1 is impossible"),
        ("speculative:ngram=2.5", r"ngram='2.5' is not a whole number"),
        ("speculative:ngram=x", r"ngram='x' is not a number"),
        ("speculative:ngram=inf", r"ngram='inf' is not a whole number"),
        ("speculative:ngram=nan", r"ngram='nan' is not a whole number"),
    ],
)
def test_impossible_methods_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize("draft", ["ngram:0", "ngram:x", "ngram:-1", "ngram:2.5"])
def test_impossible_drafts_are_refused_before_anything_loads(draft: str) -> None:
    with pytest.raises(ValueError, match=rf"draft='{draft}' is impossible: write 'ngram', or 'ngram:3'"):
        load(draft=draft, target="no-such-model")
