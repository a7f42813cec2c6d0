"""Draft and target of different tokenizers: greedy texts are the target's own, sampled ones have its distribution."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fsgen import SamplingParams, generate, stream
from fsgen.api import finished
from fsgen.backends import Members
from fsgen.backends.codec import codec
from fsgen.backends.translated import TranslatedModel
from fsgen.backends.translation import Translation
from fsgen.engine import Engine, Sequence
from fsgen.methods.method import parse
from fsgen.replay import replay
from fsgen.verify import verify
from tests.backends.test_translated import lettered
from tests.doubles import Table
from tests.unlike import KINDS, TEXTS, Reciter, table, tokenizer_of

PAIRS = sorted(permutations(KINDS, 2))
EXACT = [pair for pair in PAIRS if not {"unigram", "wordpiece", "characters"} & {*pair}]  # others change a text
LOSSLESS = ["speculative", "oracle", "speculative:draft_tokens=1", "speculative:draft_tokens=7"]


def greedy_text(target: Table, prompt: list[int], sampling: SamplingParams) -> tuple[list[int], str]:
    """What the target alone writes, token by token, without the engine."""
    ids = list(prompt)
    while len(ids) - len(prompt) < sampling.max_tokens:
        ids.append(int(target.logits(ids).argmax()))
        if ids[-1] in target.eos_ids and not sampling.ignore_eos:
            return ids[len(prompt) :], "eos"
    return ids[len(prompt) :], "length"


def prompt_of(target: Table, text: str) -> list[int]:
    return list(target.tokenizer.encode(text)) or [0]


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_greedy_texts_are_the_targets_own(pair: tuple[str, str]) -> None:
    draft, target = table(pair[0], seed=1), table(pair[1], seed=2, scale=1.0)
    members = Members.of(draft, target)
    sampling = SamplingParams(16, ignore_eos=True)
    prompts = [prompt_of(target, text[:n]) for text, n in zip(TEXTS, (40, 3, 60), strict=False)]
    expected = [greedy_text(target, prompt, sampling) for prompt in prompts]
    for method in LOSSLESS:
        texts = generate(members, prompts, method, sampling=sampling, batch_size=2)
        assert [(text.token_ids, text.stop_reason) for text in texts] == expected, method


@given(
    pair=st.sampled_from(PAIRS),
    seed=st.integers(0, 10**6),
    texts=st.lists(
        st.text(st.sampled_from("the nation THE.\n 1é\u0301🙂👍🏽\u200d価<s>/"), max_size=25), min_size=1, max_size=4
    ),
    method=st.sampled_from(LOSSLESS),
    router=st.sampled_from([None, "max-prob:0.3", "entropy:2", "random:0.5"]),
    ignore_eos=st.booleans(),
    look_ahead=st.integers(0, 4),
)
@settings(max_examples=80, deadline=None)
def test_greedy_texts_whatever_the_draft_and_the_text(
    pair: tuple[str, str],
    seed: int,
    texts: list[str],
    method: str,
    router: str | None,
    ignore_eos: bool,
    look_ahead: int,
) -> None:
    draft, target = table(pair[0], seed=seed), table(pair[1], seed=seed + 1)
    members = Members.of(draft, target)
    assert isinstance(members.draft, TranslatedModel)
    members.draft.look_ahead = look_ahead
    sampling = SamplingParams(12, ignore_eos=ignore_eos)
    prompts = [prompt_of(target, text) for text in texts]
    written = generate(members, prompts, method, router, sampling=sampling, batch_size=2)
    assert [(text.token_ids, text.stop_reason) for text in written] == [
        greedy_text(target, prompt, sampling) for prompt in prompts
    ]


@pytest.mark.parametrize("pair", EXACT, ids="-".join)
def test_a_draft_that_knows_the_text_is_accepted(pair: tuple[str, str]) -> None:
    """Whatever its tokens: the text is the target's, so that nearly all of it is drafted."""
    text = (TEXTS[3] + " " + TEXTS[0] + TEXTS[2]).encode()
    target, draft = Reciter(pair[1], text), Reciter(pair[0], text)
    members = Members.of(draft, target)
    prompt = target.tokenizer.encode(TEXTS[3][:18])
    [found] = generate(members, [prompt], "speculative", draft_tokens=5, sampling=SamplingParams(450))
    expected, reason = greedy_text(target, prompt, SamplingParams(450))
    assert (found.token_ids, found.stop_reason) == (expected, reason)
    assert reason == "eos"
    assert found.stats.acceptance_rate is not None
    assert found.stats.acceptance_rate > 0.98
    assert found.stats.draft_calls < 2.5 * len(codec(draft.tokenizer).encode(text))


@pytest.mark.parametrize(
    "pair", [("bytes", "bpe"), ("bpe-prefix-space", "bytes"), ("bpe", "sentencepiece")], ids="-".join
)
def test_what_the_router_trusts_is_the_drafts_own_text(pair: tuple[str, str]) -> None:
    text = (TEXTS[3] + TEXTS[2]).encode()
    draft, target = Reciter(pair[0], text), table(pair[1], seed=5)
    members = Members.of(draft, target)
    [found] = generate(members, [TEXTS[3][:18]], "route", "max-prob:0", sampling=SamplingParams(300))
    assert {token.source for token in found.tokens} == {"trusted"}
    assert TEXTS[3][:18] + found.text == text.decode()
    assert found.stop_reason == "eos"
    [mixed] = generate(members, [TEXTS[3][:18]], "route:rollback=0.5", "entropy:1", sampling=SamplingParams(40))
    assert mixed.tokens


def test_streams_are_the_texts() -> None:
    text = (TEXTS[2] * 2).encode()
    members = Members.of(Reciter("bpe", text), Reciter("bytes", text))
    tokens = list(stream(members, TEXTS[2][:5], "speculative", sampling=SamplingParams(120)))
    assert (
        TEXTS[2][:5] + "".join(token.text for token in tokens) == (TEXTS[2] * 2)[: 5 + sum(len(t.text) for t in tokens)]
    )
    assert all("\ufffd" not in token.text for token in tokens[:-1])


def test_texts_that_join_and_leave_are_those_written_alone() -> None:
    draft, target = table("bpe", seed=1), table("sentencepiece", seed=2)
    members = Members.of(draft, target)
    sampling = [SamplingParams(15, temperature=t, seed=i) for i, t in enumerate((0.0, 0.8, 1.0, 0.0, 1.2))]
    prompts = [prompt_of(target, text[:20]) for text in TEXTS]
    alone = [
        generate(members, [prompt], "speculative", draft_tokens=4, sampling=[params])[0].token_ids
        for prompt, params in zip(prompts, sampling, strict=True)
    ]
    engine = Engine(members, 2)
    texts = [Sequence(p, "speculative:draft_tokens=4", s) for p, s in zip(prompts, sampling, strict=True)]
    cancelled = Sequence(prompts[0], "speculative", SamplingParams(50))
    engine.add(texts[0])
    number = engine.add(cancelled)
    engine.step()
    engine.cancel(number)
    for text in texts[1:]:
        engine.add(text)
    while not engine.idle:
        engine.step()
    assert [finished(text, []).token_ids for text in texts] == alone


@pytest.mark.parametrize("look_ahead", [0, 4])
@pytest.mark.parametrize("verifier", ["rejection", "coupled"])
def test_sampled_tokens_are_distributed_as_the_targets(look_ahead: int, verifier: str) -> None:
    """Two tokens of four: the draft writes them in other pieces, and lacks one."""
    draft = lettered(("<e>", "a", "b", "c"), (0.02, 0.5, 0.38, 0.1))
    p = torch.tensor([0.1, 0.35, 0.35, 0.2])
    target = Table(4, logits=p.log(), tokenizer=lettered(("<end>", "b", "ab", "a"), tuple(p.tolist())).tokenizer)
    members = Members.of(draft, target)
    assert isinstance(members.draft, TranslatedModel)
    members.draft.look_ahead = look_ahead
    n = 3000
    sampling = [SamplingParams(2, temperature=1.0, seed=seed, ignore_eos=True) for seed in range(n)]
    method = f"speculative:draft_tokens=2,verifier={verifier}"
    texts = generate(members, [[3]] * n, method, sampling=sampling, batch_size=500)
    seen = Counter(tuple(text.token_ids) for text in texts)
    expected = {(a, b): n * float(p[a] * p[b]) for a in range(4) for b in range(4)}
    assert stats.chisquare([seen[pair] for pair in expected], list(expected.values())).pvalue > 1e-3
    assert sum(text.stats.accepted for text in texts) > n / 2


def test_sampled_texts_of_models_are_distributed_as_the_targets() -> None:
    """The first tokens of tiny models, with top-k and a temperature, beside those of the target alone."""
    draft, target = table("bpe", seed=1, scale=1.5), table("bytes", seed=2, scale=2.5)
    members = Members.of(draft, target)
    n = 1500
    sampling = [SamplingParams(2, temperature=0.7, top_k=3, seed=seed) for seed in range(n)]
    prompts = [prompt_of(target, "the na")] * n
    ours, theirs = (
        Counter(tuple(t.token_ids) for t in generate(members, prompts, method, sampling=sampling, batch_size=500))
        for method in ("speculative:draft_tokens=3,verifier=rejection", "plain")
    )
    pairs = sorted(ours.keys() | theirs.keys())
    found = stats.chi2_contingency([[ours[pair] for pair in pairs], [theirs[pair] for pair in pairs]])
    assert len(pairs) > 5
    assert found.pvalue > 1e-3


@pytest.mark.parametrize("method", ["contrastive:missing=0.5", "ensemble:missing=0.5", "mixture:missing=0.5"])
def test_mixtures_go_over_the_tokens_that_both_have(method: str) -> None:
    """Greedy texts are those of q worked out at each step, whatever the draft length."""
    draft, target = table("bpe", seed=1), table("bpe-prefix-space", seed=2)
    members = Members.of(draft, target)
    there = Translation(draft.tokenizer, target.tokenizer, draft.eos_ids, target.eos_ids, 420, target.vocab_size)
    prompt = target.tokenizer.encode("the nation of the international")
    fusion, ids = parse(method).fusion, list(prompt)
    shared = list(there.shared.items())
    for _ in range(12):
        text = b"".join(codec(target.tokenizer).spell(ids, first=True))
        z = draft.logits([piece.id for piece in there.to_draft(text)])
        q = fusion(target.logits(ids)[[b for _, b in shared]], z[[a for a, _ in shared]], None)
        ids.append(shared[int(q.argmax())][1])
    for k in (1, 2, 5):
        sampling = SamplingParams(12, ignore_eos=True)
        [found] = generate(members, [prompt], method, draft_tokens=k, sampling=sampling)
        assert found.token_ids == ids[len(prompt) :], k


def test_mixtures_of_too_few_tokens_are_refused_with_what_was_measured() -> None:
    members = Members.of(table("bpe"), table("bytes"))
    with pytest.raises(ValueError, match=r"share too few tokens.*0\.\d+ of the probability of bpe-0.*is missing=0.05"):
        generate(members, ["the"], "contrastive")
    with pytest.raises(ValueError, match="share too few tokens"):
        list(stream(members, "the", "ensemble"))
    with pytest.raises(ValueError, match=r"missing=2.0 is impossible"):
        generate(members, ["the"], "contrastive:missing=2")
    with pytest.raises(ValueError, match=r"mixes the probabilities.*bpe-0 and bytes-0 have different tokenizers"):
        Engine(members).add(Sequence([5], "contrastive"))
    with pytest.raises(ValueError, match="only runs in sessions"):
        verify(members, ["the"], "contrastive:missing=1")


def test_proxy_tuning_across_tokenizers() -> None:
    draft, base, target = table("bpe", seed=1), table("bpe", seed=3), table("bpe-prefix-space", seed=2)
    members = Members.of(draft, target, base)
    texts = [
        generate(members, ["the nation"], "proxy:missing=0.6", draft_tokens=k, sampling=SamplingParams(10))
        for k in (1, 4)
    ]
    assert texts[0][0].token_ids == texts[1][0].token_ids
    with pytest.raises(ValueError, match="a base needs the tokenizer of its draft"):
        Members.of(draft, target, target)


def test_logits_that_are_not_finite_are_named() -> None:
    draft = table("bpe", logits=torch.full((len(tokenizer_of("bpe")),), torch.nan))
    members = Members.of(draft, table("bytes"))
    with pytest.raises(ValueError, match=r"logits of the draft bpe-0 are not finite"):
        generate(members, ["the"], "speculative", draft_tokens=2)


def test_replay_is_refused() -> None:
    members = Members.of(table("bpe"), table("bytes"))
    written = generate(members, ["the"], "plain", sampling=SamplingParams(4))
    with pytest.raises(ValueError, match="is not what the loop asks it where tokenizers differ"):
        replay([members], ["the"], written)
