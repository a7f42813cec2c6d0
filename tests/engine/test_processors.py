"""Penalties, biases, least lengths, log-probabilities and several texts a prompt: exact in every method and batch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from fsgen import Members, SamplingParams, generate, stream
from fsgen.engine import Engine
from fsgen.engine import Sequence as Text
from fsgen.probs import choice_seed, uniforms
from fsgen.processors import LogitsProcessor
from tests.doubles import Markov, Table, group, trio
from tests.engine import reference
from tests.engine.test_sampling import TABLES, g_test
from tests.tiny import shaken, tiny_member

OUT = -1e9  # never chosen: an independent number for what is forbidden
METHODS = ["plain", "oracle", "speculative", "contrastive", "proxy", "ensemble", "mixture"]
FUSION = {"plain": "target", "oracle": "target", "speculative": "target"}
ROUTERS = ["always", "never", "max-prob:0.6", "entropy:0.7", "random:0.5", "position:2-5"]
PENALTIES: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.7, 3.0]),
    presence_penalty=st.sampled_from([0.0, 0.8, -0.5]),
    frequency_penalty=st.sampled_from([0.0, 0.6, -0.3]),
    min_tokens=st.sampled_from([0, 3, 9]),
    logit_bias=st.dictionaries(st.integers(0, 5), st.sampled_from([2.5, -1.5, -math.inf]), max_size=2),
    stop_token_ids=st.sampled_from([(), (3,)]),
)


def processed(z: Tensor, prompt: Sequence[int], written: Sequence[int], s: SamplingParams) -> Tensor:
    """One position's logits, token by token and in float64, straight from the definitions."""
    z, bias = z.double().clone(), dict(s.logit_bias)
    for token in range(len(z)):
        value = float(z[token]) + (bias[token] if bias.get(token, OUT) > OUT else 0.0)
        if token in prompt or token in written:
            value = value * s.repetition_penalty if value < 0 else value / s.repetition_penalty
        times = list(written).count(token)
        value -= s.frequency_penalty * times + s.presence_penalty * (times > 0)
        ends = token in s.stop_token_ids or (token == 0 and not s.ignore_eos)
        if bias.get(token) == -math.inf or (ends and len(written) < s.min_tokens):
            value = OUT
        z[token] = value
    return z


def token_by_token(members: Members, method: str, prompt: list[int], s: SamplingParams) -> list[int]:
    """Plain argmax decoding of the fusion of the processed logits."""
    out: list[int] = []
    while len(out) < s.max_tokens:
        z = [reference.logits_of(members, role, [*prompt, *out]) for role in ("target", "draft", "base")]
        each = [processed(logits, prompt, out, s) for logits in z]
        out.append(int(reference.fuse(FUSION.get(method, method), *each).argmax()))
        if out[-1] in s.stop_token_ids or (out[-1] == 0 and not s.ignore_eos):
            break
    return out


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    k=st.sampled_from([None, 1, 2, 5]),
    method=st.sampled_from(METHODS),
    router=st.sampled_from(ROUTERS),
    penalties=PENALTIES,
    ignore_eos=st.booleans(),
)
def test_greedy_texts_are_those_of_the_processed_models(
    seed: int, k: int | None, method: str, router: str, penalties: dict[str, Any], ignore_eos: bool
) -> None:
    members, prompt = trio(6, seed=seed, noise=0.5), [1, 4, 1, 5]
    sampling = SamplingParams(max_tokens=16, ignore_eos=ignore_eos, **penalties)
    drafts = {} if method == "plain" else {"router": router, "draft_tokens": k}
    written = generate(members, [prompt], method, sampling=sampling, **drafts)[0]  # type: ignore[arg-type]
    assert written.token_ids == token_by_token(members, method, prompt, sampling)
    if method != "plain":
        assert [token.target_token for token in written.tokens] == written.token_ids
    ngram = generate(members, [prompt], "speculative:ngram=2", sampling=sampling)[0]
    assert ngram.token_ids == token_by_token(members, "plain", prompt, sampling)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), each=st.lists(PENALTIES, min_size=3, max_size=6), method=st.sampled_from(METHODS))
def test_rows_of_a_batch_have_their_own_settings(seed: int, each: list[dict[str, Any]], method: str) -> None:
    members = trio(6, seed=seed, noise=0.5)
    sampling = [SamplingParams(max_tokens=12, **options) for options in ({}, *each)]
    prompts = [[1 + i % 5] * (1 + i) for i in range(len(sampling))]
    k = None if method == "plain" else 3
    texts = generate(members, prompts, method, draft_tokens=k, sampling=sampling)
    for prompt, params, text in zip(prompts, sampling, texts, strict=True):
        assert text.token_ids == token_by_token(members, method, prompt, params)
        # Other rows change nothing, to the last bit; torch takes logarithms of wide tensors otherwise.
        assert (
            method == "mixture"
            or generate(members, [prompt], method, draft_tokens=k, sampling=params)[0].tokens == text.tokens
        )


@pytest.mark.parametrize("rollback", [None, 0.4])
@pytest.mark.parametrize("penalties", [{"repetition_penalty": 1.5}, {"frequency_penalty": 0.9, "min_tokens": 6}])
def test_routing_is_that_of_the_processed_models(rollback: float | None, penalties: dict[str, Any]) -> None:
    """A model of these settings is a model: routing two of them by their own logits gives the same texts."""

    class Processed(Table):
        """A table whose logits are processed before anybody sees them."""

        def __init__(self, own: Table, prompt: int, sampling: SamplingParams) -> None:
            super().__init__(vocab=own.vocab_size)
            self._own, self._prompt, self._sampling = own, prompt, sampling

        def logits(self, context: Any) -> Tensor:
            written = list(context[self._prompt :])
            return processed(self._own.logits(context), context[: self._prompt], written, self._sampling).float()

    for seed in range(12):
        members, prompt = trio(6, seed=seed), [1, 4, 2]
        sampling = SamplingParams(max_tokens=14, **penalties)
        draft, target = (Processed(model, len(prompt), sampling) for model in (members.draft, members.target))  # type: ignore[arg-type]

        def consult(p: Tensor, position: int) -> bool:
            return float(p.max()) < 0.6

        expected, _ = reference.routed(group(draft, target), consult, prompt, 14, rollback=rollback)
        method = "route" if rollback is None else f"route:rollback={rollback}"
        written = generate(members, [prompt], method, router="max-prob:0.6", sampling=sampling)[0]
        assert written.token_ids == expected


@cache
def tiny() -> Members:
    target = tiny_member("llama", seed=1)
    return Members.of(tiny_member("llama", seed=1, noise=0.4), target, tiny_member("llama", seed=3))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.3}),
        ({"min_tokens": 20}, {"min_new_tokens": 20}),
        ({"logit_bias": {5: 3.0, 7: -4.0}}, {"sequence_bias": {(5,): 3.0, (7,): -4.0}}),
        (
            {"repetition_penalty": 1.8, "min_tokens": 24, "logit_bias": {9: 2.0, 3: -math.inf}},
            {"repetition_penalty": 1.8, "min_new_tokens": 24, "sequence_bias": {(9,): 2.0, (3,): -math.inf}},
        ),
    ],
)
def test_greedy_texts_are_those_of_transformers(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    members, prompts = tiny(), [[0, 5, 9, 2, 40], [0, 7, 7]]
    module: Any = members.target.module  # type: ignore[union-attr]
    sampling = SamplingParams(max_tokens=32, **ours)
    for method in ("plain", "oracle", "speculative", "speculative:ngram=2"):
        texts = generate(members, prompts, method, sampling=sampling)
        for prompt, text in zip(prompts, texts, strict=True):
            given = torch.tensor([prompt])
            out = module.generate(
                given,
                attention_mask=torch.ones_like(given),
                do_sample=False,
                max_new_tokens=32,
                pad_token_id=0,
                **theirs,
            )
            assert text.token_ids == out[0, len(prompt) :].tolist()


def test_logits_are_processed_as_transformers_does() -> None:
    dice = torch.Generator().manual_seed(4)
    z, tokens = torch.randn(5, 20, generator=dice), torch.randint(0, 20, (12,), generator=dice).tolist()
    expected = torch.cat([
        LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.7)])(torch.tensor([tokens[: 8 + i]]), z[i : i + 1])
        for i in range(5)
    ])  # fmt: skip
    processor = LogitsProcessor.of(SamplingParams(repetition_penalty=1.7), 3, [0])
    assert processor is not None
    found = z.clone()
    processor.apply(found, tokens)
    assert torch.equal(found, expected)
    assert LogitsProcessor.of(SamplingParams(logprobs=3, ignore_eos=True, stop_token_ids=[4]), 3, [0, 4]) is None


@pytest.mark.parametrize(
    ("method", "verifier"),
    [
        *((method, "rejection") for method in ("plain", "speculative", "contrastive", "proxy", "mixture", "ngram")),
        *((method, "coupled") for method in ("speculative", "contrastive", "ngram")),
    ],
)
def test_sampled_texts_are_distributed_as_the_processed_q(method: str, verifier: str) -> None:
    """Three tokens of four-token chains, against the exact chances of all 64 texts."""
    rows, prompt = 2_500, [1, 2, 3, 1, 2, 2, 1]
    members = group(*(Markov(TABLES[i], i) for i in (1, 0, 2)))
    options: dict[str, Any] = {
        "max_tokens": 3, "temperature": 0.8, "frequency_penalty": 0.9, "presence_penalty": 0.5,
        "repetition_penalty": 1.2, "min_tokens": 2, "logit_bias": {2: 0.7},
    }  # fmt: skip
    sampling = [SamplingParams(seed=seed, **options) for seed in range(rows)]
    name = "speculative:ngram=2,draft_tokens=2" if method == "ngram" else method
    name += f"{',' if ':' in name else ':'}verifier={verifier}"
    texts = generate(members, [prompt] * rows, name, None, None if method == "plain" else 2, sampling, batch_size=rows)
    counts = np.zeros((4, 4, 4))
    for text in texts:
        counts[tuple([*text.token_ids, 0, 0][:3])] += 1

    def q(written: list[int]) -> Tensor:
        last = (prompt + written)[-1]
        target, draft, base = (processed(TABLES[i][last], prompt, written, sampling[0]) for i in (0, 1, 2))
        fusion = "target" if method in ("plain", "speculative", "ngram") else method
        return reference.transform(reference.fuse(fusion, target, draft, base), temperature=0.8)

    chances = np.zeros((4, 4, 4))
    for a, b, c in itertools.product(range(4), repeat=3):
        chances[a, b, c] = float(q([])[a] * q([a])[b]) * float(q([a, b])[c] if b else c == 0)
    assert chances.sum() == pytest.approx(1.0)
    assert g_test(counts.ravel(), chances.ravel()) > 1e-4
    assert counts[0].sum() == counts[:, 0].sum() == 0  # no end of text among the first two
    if method not in ("plain", "ngram"):
        assert sum(text.stats.accepted for text in texts) > rows / 2


def test_a_penalty_by_hand() -> None:
    """q = (0.1, 0.4, 0.2, 0.3); a written token loses log 4 once, so its part becomes a quarter."""
    members, rows = group(target=Table(4, logits=torch.tensor([0.1, 0.4, 0.2, 0.3]).log())), 8_000
    penalty = math.log(4) / 2
    options: dict[str, Any] = {"presence_penalty": penalty, "frequency_penalty": penalty, "ignore_eos": True}
    sampling = [SamplingParams(max_tokens=2, temperature=1.0, seed=seed, **options) for seed in range(rows)]
    texts = generate(members, [[1]] * rows, "plain", sampling=sampling, batch_size=rows)
    seconds = np.bincount([text.token_ids[1] for text in texts if text.token_ids[0] == 1], minlength=4)
    assert g_test(seconds, np.array([0.1, 0.1, 0.2, 0.3]) / 0.7) > 1e-4


def test_nothing_ends_a_text_before_its_least_length() -> None:
    members = group(target=Table(8, seed=2, order=1))
    free = generate(members, "ab", "plain", sampling=SamplingParams(max_tokens=30, ignore_eos=True))[0]
    stop, token = free.text[1:3], free.token_ids[2]
    for method in ("plain", "speculative:ngram=2"):
        early = generate(members, "ab", method, sampling=SamplingParams(30, stop=stop, ignore_eos=True))[0]
        assert (early.stop_reason, early.text) == ("stop", free.text[:1])
        params = SamplingParams(30, stop=stop, ignore_eos=True, min_tokens=6)
        late = generate(members, "ab", method, sampling=params)[0]
        place = free.text.find(stop, 6 - len(stop))  # the first that is complete with the sixth token, or later
        assert late.text == (free.text[:place] if place >= 0 else free.text)
        never = generate(members, "ab", method, sampling=SamplingParams(30, min_tokens=30))[0]
        assert len(never.token_ids) == 30
        assert 0 not in never.token_ids
        other = SamplingParams(30, stop_token_ids=[token], min_tokens=6, ignore_eos=True)
        written = generate(members, "ab", method, sampling=other)[0].token_ids
        assert len(written) > 6
        assert token not in written[:6]


@pytest.mark.parametrize("method", ["plain", "oracle", "speculative", "contrastive", "route", "speculative:ngram=2"])
def test_log_probabilities_are_those_of_q(method: str) -> None:
    members, prompt = trio(8, seed=5), [1, 2, 1, 2]
    params = SamplingParams(max_tokens=20, logprobs=3, frequency_penalty=0.4, ignore_eos=True)
    text = generate(members, [prompt], method, sampling=params)[0]
    assert text.logprobs is not None
    for position, (token, found) in enumerate(zip(text.tokens, text.logprobs, strict=True)):
        written = text.token_ids[:position]
        z = [reference.logits_of(members, role, [*prompt, *written]) for role in ("target", "draft", "base")]
        target, draft, base = (processed(logits, prompt, written, params) for logits in z)
        fused = reference.fuse("contrastive" if method == "contrastive" else "target", target, draft, base)
        q = fused if token.consulted else reference.softmax(draft)
        best = q.argsort(descending=True)[:3].tolist()
        if (q > 0).sum() >= 3:  # else others are tied at 0
            assert list(found) == list(dict.fromkeys([token.id, *best]))
        assert list(found.values()) == pytest.approx([math.log(q[i]) if q[i] else -math.inf for i in found], abs=1e-5)
    own = generate(members, [prompt], method, sampling=SamplingParams(max_tokens=20, logprobs=0, ignore_eos=True))[0]
    assert own.logprobs is not None
    assert [list(each) for each in own.logprobs] == [[token] for token in own.token_ids]
    assert generate(members, [prompt], method)[0].logprobs is None
    assert own.to_frame()["target_logprob"].drop_nulls().len() == sum(token.consulted for token in own.tokens)


def test_several_texts_of_a_prompt() -> None:
    members, params = trio(8, seed=3), SamplingParams(max_tokens=9, temperature=1.2, seed=11, n=4)
    texts = generate(members, ["abc", "dd"], sampling=[params, SamplingParams(max_tokens=5, temperature=1.0)])
    assert len(texts) == 5
    assert len({tuple(text.token_ids) for text in texts[:4]}) > 1
    for choice, text in enumerate(texts[:4]):
        one = SamplingParams(max_tokens=9, temperature=1.2, seed=choice_seed(11, choice))
        assert generate(members, "abc", sampling=one)[0].token_ids == text.token_ids
    assert choice_seed(11, 0) == 11
    seeds = {choice_seed(seed, choice) for seed in range(50) for choice in range(50)}
    assert len(seeds) == 2500
    numbers = [uniforms(np.array([choice_seed(7, c)], np.uint64), np.array([0]), 0)[0] for c in range(2000)]
    assert np.histogram(numbers, 10, (0, 1))[0].min() > 150
    for refused in (
        lambda: next(stream(members, "abc", sampling=params)),
        lambda: Engine(members).add(Text([1], sampling=params)),
    ):
        with pytest.raises(ValueError, match="n=4 is for"):
            refused()


def test_the_prompt_of_several_texts_is_read_once() -> None:
    members = Members.of(target=shaken_target())
    prompt = [int(token) for token in np.random.default_rng(1).integers(2, 90, 60)]
    params = SamplingParams(max_tokens=4, temperature=1.0, n=4, ignore_eos=True)
    texts = generate(members, [prompt], "plain", sampling=params)
    assert {text.stats.target_tokens for text in texts} <= {4}


def shaken_target() -> Any:
    member = tiny_member("llama", seed=2)
    shaken(member.module, 0.0)
    return member


WRONG: list[dict[str, Any]] = [
    {"n": 0}, {"n": 2}, {"n": 1.0}, {"n": True}, {"n": "2"}, {"min_tokens": -1}, {"min_tokens": 200},
    {"logprobs": -1}, {"logprobs": 1.5}, {"logprobs": "3"}, {"repetition_penalty": 0.0}, {"repetition_penalty": -1.0},
    {"repetition_penalty": math.nan}, {"repetition_penalty": math.inf}, {"repetition_penalty": "1.2"},
    {"repetition_penalty": None}, {"presence_penalty": 2.1}, {"presence_penalty": math.nan},
    {"frequency_penalty": -2.1}, {"frequency_penalty": [1]}, {"logit_bias": {-1: 1.0}}, {"logit_bias": {1: math.inf}},
    {"logit_bias": {1: math.nan}}, {"logit_bias": {1: "x"}}, {"logit_bias": {"x": 1.0}}, {"logit_bias": {1.5: 1.0}},
    {"logit_bias": 5}, {"logit_bias": [1, 2]}, {"logit_bias": [(1, 2.0), (1, 3.0)]}, {"logit_bias": {1: 1e7}},
    {"stop_token_ids": [-1]}, {"stop_token_ids": ["a"]}, {"stop_token_ids": 5}, {"stop_token_ids": [True]},
    {"stop": [5]}, {"stop": 5}, {"ignore_eos": 1}, {"max_tokens": "5"}, {"max_tokens": 5.0}, {"temperature": "hot"},
    {"temperature": None}, {"seed": 1.5}, {"top_k": 2.5}, {"max_tokens": None},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_impossible_settings_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}="):
        SamplingParams(**wrong)


def test_ids_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(ValueError, match="logit_bias has a token id outside the vocabulary of 8: 8"):
        generate(trio(), "a", sampling=SamplingParams(logit_bias={8: 1.0}))
    with pytest.raises(ValueError, match="stop_token_ids has a token id outside the vocabulary of 8: 9"):
        generate(trio(), "a", sampling=SamplingParams(stop_token_ids=[9]))


def test_equal_settings_are_equal() -> None:
    one = SamplingParams(stop="a", stop_token_ids=[3], logit_bias={"7": 1, 2: -math.inf})  # type: ignore[dict-item]
    assert one == SamplingParams(stop=("a",), stop_token_ids=(3,), logit_bias=((2, -math.inf), (7, 1.0)))
    assert hash(one) == hash(SamplingParams(stop=["a"], stop_token_ids=[3], logit_bias=[(7, 1.0), (2, -math.inf)]))  # type: ignore[arg-type]
    assert SamplingParams(stop=None, stop_token_ids=None, logit_bias=None) == SamplingParams()  # type: ignore[arg-type]
    assert str(SamplingParams(repetition_penalty=1.2)) == "greedy,repetition_penalty=1.2"
    assert (
        str(SamplingParams(temperature=0.8, top_p=0.9, presence_penalty=1))
        == "temperature=0.8,top_p=0.9,presence_penalty=1"
    )
