"""Likelihoods of given texts by q: compared with what the tables say, in any batch; what has none is refused."""

from __future__ import annotations

import pytest
import torch

from fsgen.backends import Members
from fsgen.backends.protocol import Capabilities
from fsgen.likelihood import encode_pair, log_likelihoods, prefix_token, within
from fsgen.methods.fusions import Contrastive, Fusion, Mixture, Proxy, Target
from tests.doubles import Table, group, trio

PAIRS = [([1, 2], [3]), ([1, 2], [4]), ([1, 2], [3, 5, 1]), ([7], [2, 2]), ([1, 2, 3, 4, 5], [6, 1])]


def by_hand(members: Members, fusion: Fusion, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """Token by token, from the tables."""
    total, greedy, ids = 0.0, True, list(context)
    for token in continuation:
        draft, target, base = (model.logits(ids) for model in (members.draft, members.target, members.base))  # type: ignore[union-attr]
        q = fusion(target, draft, base).double().log_softmax(-1)
        total, greedy = total + float(q[token]), greedy and int(q.argmax()) == token
        ids.append(token)
    return total, greedy


@pytest.mark.parametrize("batch_size", [1, 2, 16])
@pytest.mark.parametrize(
    ("method", "fusion"),
    [
        *((name, Target()) for name in ("plain", "speculative", "oracle")),
        ("contrastive:beta=0.3", Contrastive(0.1, 0.3)),
        ("proxy", Proxy()),
        ("mixture:w=0.3", Mixture(0.3)),
    ],
)
def test_likelihoods_are_those_of_q(method: str, fusion: Fusion, batch_size: int) -> None:
    members = trio()
    for (context, continuation), found in zip(PAIRS, log_likelihoods(members, PAIRS, method, batch_size), strict=True):
        logprob, greedy = by_hand(members, fusion, context, continuation)
        assert found.logprob == pytest.approx(logprob, abs=1e-4)
        assert found.greedy == greedy


def test_what_greedy_decoding_writes_is_greedy() -> None:
    members = trio()
    ids = [1, 2]
    for _ in range(4):
        ids.append(int(members.target.logits(ids).argmax()))  # type: ignore[union-attr]
    (found,) = log_likelihoods(members, [(ids[:2], ids[2:])])
    assert found.greedy


def test_what_pairs_share_is_read_once() -> None:
    target = Table()
    members = Members.of(target=target)
    seen: list[int] = []
    log_likelihoods(members, [([1, 2, 3], [token]) for token in range(1, 7)], progress=seen.append)
    assert sum(seen) == 6
    assert seen == [6]  # one text, in one batch


def test_a_contrastive_choice_that_the_target_finds_impossible_is_minus_infinity() -> None:
    members = group(Table(logits=torch.zeros(8)), Table(logits=torch.tensor([9.0] + [0.0] * 7)))
    (found,) = log_likelihoods(members, [([1], [2])], "contrastive")
    assert found == (-torch.inf, False)


@pytest.mark.parametrize(
    ("pairs", "method", "fault"),
    [
        ([([], [1])], "plain", "pair 0 has an empty context"),
        ([([1], [2]), ([1], [])], "plain", "pair 1 has an empty continuation"),
        ([([1], [99])], "plain", "outside the vocabulary of 8"),
        ([([1] * 512, [1, 1])], "plain", "pair 0 has 514 tokens, and the context window is 512"),
        ([([1], [2])], "route", "trusts tokens that System 2 never sees"),
        ([([1], [2])], "guess", "unknown method 'guess'"),
    ],
)
def test_what_has_no_likelihood_is_refused(pairs: list[tuple[list[int], list[int]]], method: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        log_likelihoods(trio(), pairs, method)


@pytest.mark.parametrize("role", ["draft", "target"])
def test_a_model_that_tells_some_tokens_only_has_no_likelihoods(role: str) -> None:
    members = trio()
    getattr(members, role).capabilities = Capabilities(full_logits=False)
    name = members.names()[role]
    with pytest.raises(ValueError, match=f"the {role} {name} tells the probabilities of the most likely tokens only"):
        log_likelihoods(members, PAIRS, "contrastive" if role == "draft" else "plain")
    if role == "draft":  # q of these does not read it
        assert len(log_likelihoods(members, PAIRS, "speculative")) == len(PAIRS)


def test_a_missing_member_is_named() -> None:
    with pytest.raises(ValueError, match="needs a draft"):
        log_likelihoods(Members.of(target=Table()), [([1], [2])], "contrastive")


def test_texts_are_cut_into_context_and_continuation() -> None:
    members = trio()
    assert encode_pair(members, "ab", "c") == ([1, 2], [3])
    assert encode_pair(members, "", "c") == ([prefix_token(members)], [3])
    assert prefix_token(members) == 0
    assert within(members, ([1] * 600, [2, 3])) == ([1] * 511, [2, 3])
    assert within(members, ([1, 2], [3])) == ([1, 2], [3])
