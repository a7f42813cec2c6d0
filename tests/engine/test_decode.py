"""The loop against slow references, on models that are tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fsgen import SamplingParams, generate, stream
from fsgen.prompts import encode
from fsgen.replay import replay
from tests.doubles import Letters, Table, group, trio
from tests.engine import reference

PROMPTS = ["abc", "fedcba", "a", "gg", "cabbage", "dad", "fa", "bb"]
LOSSLESS = ["plain", "oracle", "speculative", "contrastive", "proxy", "ensemble", "mixture"]
FUSION_OF = {"plain": "target", "oracle": "target", "speculative": "target"}


def params(n: int = 40, **options: Any) -> SamplingParams:
    return SamplingParams(max_tokens=n, **options)


@pytest.mark.parametrize("method", LOSSLESS)
@pytest.mark.parametrize("k", [None, 1, 2, 5, 8])
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_greedy_is_the_argmax_of_the_fused_distribution(method: str, k: int | None, batch: int) -> None:
    members = trio(seed=7)
    for written, prompt in zip(
        generate(members, PROMPTS, method, draft_tokens=k, sampling=params(), batch_size=batch), PROMPTS, strict=True
    ):
        ids = members.tokenizer.encode(prompt)
        assert written.token_ids == reference.greedy(members, FUSION_OF.get(method, method), ids, 40)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    vocab=st.integers(2, 9),
    noise=st.floats(0.0, 1.5),
    k=st.integers(1, 9),
    budget=st.integers(1, 30),
    method=st.sampled_from(["speculative", "contrastive", "proxy", "ensemble", "mixture"]),
    router=st.sampled_from(["always", "never", "max-prob:0.6", "entropy:0.7", "random:0.5", "position:2-5"]),
)
def test_ending_the_draft_early_never_changes_the_text(
    seed: int, vocab: int, noise: float, k: int, budget: int, method: str, router: str
) -> None:
    members = trio(vocab, seed=seed, noise=noise)
    prompt = [1, vocab - 1, 1]
    (written,) = generate(members, [prompt], method, router=router, draft_tokens=k, sampling=params(budget))
    assert written.token_ids == reference.greedy(members, FUSION_OF.get(method, method), prompt, budget)
    # Both choices are known at every position, also at a bonus; so the frequency does not depend on k.
    assert written.stats.known == written.stats.tokens == len(written.token_ids)
    for token in written.tokens:
        context = [*prompt, *written.token_ids[: token.position]]
        target, draft, base = (reference.logits_of(members, role, context) for role in ("target", "draft", "base"))
        p, q = reference.softmax(draft), reference.fuse(FUSION_OF.get(method, method), target, draft, base)
        assert token.draft_token == int(p.argmax())
        assert token.target_token == token.id
        assert token.draft_prob == pytest.approx(float(p.max()), abs=1e-5)
        assert token.draft_margin == pytest.approx(float(p.topk(2).values.diff().abs()), abs=1e-5)
        assert token.draft_entropy == pytest.approx(float(torch.special.entr(p).sum()), abs=1e-5)
        assert token.target_prob == pytest.approx(float(q.max()), abs=1e-5)
        assert token.target_entropy == pytest.approx(float(torch.special.entr(q).sum()), abs=1e-5)
        assert token.total_variation == pytest.approx(float((p - q).abs().sum()) / 2, abs=1e-5)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 7),
    budget=st.integers(1, 40),
    threshold=st.floats(0.2, 1.0),
    rollback=st.sampled_from([None, 0.05, 0.3, 0.8, 1.0]),
    batch=st.integers(1, 4),
    scale=st.floats(0.5, 3.0),
)
def test_routing_equals_a_slow_reference(
    seed: int, k: int, budget: int, threshold: float, rollback: float | None, batch: int, scale: float
) -> None:
    members = trio(6, seed=seed, scale=scale, noise=0.7)
    method = "route" if rollback is None else f"route:rollback={rollback}"
    prompts = [[1, 2, 3], [4], [5, 5], [2, 1, 2, 1]]
    written = generate(
        members, prompts, method, router=f"max-prob:{threshold:g}", draft_tokens=k, sampling=params(budget),
        batch_size=batch,
    )  # fmt: skip
    limit = float(f"{threshold:g}")
    for text, prompt in zip(written, prompts, strict=True):
        ids, consulted = reference.routed(
            members, lambda p, _: float(p.max()) < limit, prompt, budget, rollback=rollback
        )
        assert text.token_ids == ids
        assert [token.consulted for token in text.tokens] == consulted
        assert [token.source == "trusted" for token in text.tokens] == [not a for a in consulted]
        assert "".join(token.text for token in text.tokens) == text.text


@pytest.mark.parametrize("rollback", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("k", [1, 4, 9])
def test_rollback_goes_back_to_the_first_token_that_falls(rollback: float, k: int) -> None:
    """Texts without an end, a poor draft and rare consultations: many trusted tokens fall at once."""
    for seed in range(8):
        members = replace(trio(6, seed=seed, scale=1.0, noise=1.0), eos_ids=frozenset())
        prompts = [[1, 2, 3], [4], [5, 5]]
        written = generate(
            members, prompts, f"route:rollback={rollback}", router="max-prob:0.4", draft_tokens=k, sampling=params(40)
        )
        for text, prompt in zip(written, prompts, strict=True):
            ids, consulted = reference.routed(members, lambda p, _: float(p.max()) < 0.4, prompt, 40, rollback=rollback)
            assert text.token_ids == ids
            assert [token.consulted for token in text.tokens] == consulted


@pytest.mark.parametrize("fusion", ["contrastive", "proxy", "ensemble", "mixture"])
def test_routing_to_a_fused_distribution(fusion: str) -> None:
    members = trio(8, seed=3, noise=0.8)
    written = generate(members, PROMPTS, f"route:fusion={fusion}", router="entropy:0.9", sampling=params())
    for text, prompt in zip(written, PROMPTS, strict=True):
        ids = members.tokenizer.encode(prompt)
        entropic = lambda p, _: float(torch.special.entr(p).sum()) > 0.9  # noqa: E731
        assert (text.token_ids, [t.consulted for t in text.tokens]) == reference.routed(
            members, entropic, ids, 40, fusion
        )


def test_positions_and_shares_that_routers_consult() -> None:
    members = group(*(Table(8, seed=s, logits=torch.tensor([-9.0, 0, 1, 2, 3, 4, 5, 6])) for s in (1, 2)))
    (text,) = generate(members, ["a"], "route", router="position:3-7", sampling=params(20))
    assert [t.position for t in text.tokens if t.consulted] == [3, 4, 5, 6]
    many = generate(
        members, ["a"] * 20, "route", router="random:0.3", sampling=[params(100, seed=s) for s in range(20)]
    )
    share = sum(t.stats.consulted for t in many) / sum(t.stats.tokens for t in many)
    assert 0.27 < share < 0.33


def test_a_draft_alone_and_a_target_alone_need_no_other_member() -> None:
    members = trio(seed=5)
    (alone,) = generate(group(members.draft), ["abc"], "route", router="never", sampling=params())
    ids = members.tokenizer.encode("abc")
    assert alone.token_ids == reference.greedy(group(target=members.draft), "target", ids, 40)
    assert alone.stats.target_calls == 0
    assert {t.source for t in alone.tokens} == {"trusted"}
    (plain,) = generate(group(target=members.target), ["abc"], "plain", sampling=params())
    assert plain.token_ids == reference.greedy(members, "target", ids, 40)
    with pytest.raises(ValueError, match="needs a draft"):
        generate(group(target=members.target), ["abc"], "speculative")
    with pytest.raises(ValueError, match="base"):
        generate(group(members.draft, members.target), ["abc"], "proxy")


def test_hand_worked_rounds() -> None:
    """The target says b always; the draft says b, but c after two b: accepted, accepted, recovered, ..."""
    end = Letters()
    target = Table(4, logits=torch.tensor([-5.0, 0.0, 3.0, 1.0]), tokenizer=end)

    class Draft(Table):
        def logits(self, context: Any) -> torch.Tensor:
            z = torch.zeros(4)
            z[3 if list(context[-2:]) == [2, 2] and len(context) % 2 else 2] = 2.0
            return z

    members = group(Draft(4, seed=1), target)
    # positions: context lengths 1.. ; the draft errs where the context ends in bb and has odd length: 3, 5, 7, ...
    (text,) = generate(members, [[1]], "speculative", draft_tokens=3, sampling=params(8))
    assert text.text == "bbbbbbbb"
    assert [t.source for t in text.tokens] == [
        "accepted", "accepted", "recovered",  # round 0: drafts b b c
        "accepted", "recovered",              # round 1: drafts b c .
        "accepted", "recovered",              # round 2
        "accepted",                           # round 3: one token left
    ]  # fmt: skip
    assert [t.round for t in text.tokens] == [0, 0, 0, 1, 1, 2, 2, 3]
    assert text.stats.collaboration_frequency == 3 / 8
    assert text.stats.acceptance_rate == 5 / 8
    assert text.stats.target_calls == 4
    assert text.stats.mean_accepted_length == 2.0
    assert text.stats.consulted_rate == 1.0
    assert text.stop_reason == "length"


def test_counts_of_calls_and_tokens() -> None:
    members = trio(seed=11)
    (oracle,) = generate(members, ["abcabc"], "oracle", sampling=params(12, ignore_eos=True))
    stats = oracle.stats
    assert (stats.target_calls, stats.target_tokens) == (12, 12)
    assert (stats.draft_calls, stats.draft_tokens) == (12, 12)
    assert stats.target_calls_per_token == stats.target_tokens_per_token == 1.0
    (routed,) = generate(members, ["abcabc"], "route", router="position:11-12", sampling=params(12, ignore_eos=True))
    # One call, which catches up on the eleven trusted tokens.
    assert (routed.stats.target_calls, routed.stats.target_tokens) == (1, 12)
    assert routed.stats.consulted_rate == 1 / 12


def test_seconds_add_up() -> None:
    texts = generate(trio(), PROMPTS, batch_size=3, sampling=params())
    for stats in (text.stats for text in texts):
        assert 0 < stats.draft_seconds + stats.system2_seconds <= stats.seconds


@pytest.mark.parametrize("method", ["plain", "oracle", "speculative", "contrastive", "route", "route:rollback=0.5"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_stop_strings_wherever_they_end(method: str, temperature: float) -> None:
    members = trio(5, seed=2, scale=1.0)
    free = params(60, temperature=temperature, ignore_eos=True, seed=4)
    (whole,) = generate(members, ["abc"], method, draft_tokens=0 if method == "plain" else 6, sampling=free)
    for length in (1, 2, 3):
        for start in range(0, 40, 3):
            stop = whole.text[start : start + length]
            cut = whole.text.index(stop)
            (text,) = generate(
                members, ["abc"], method, draft_tokens=0 if method == "plain" else 6,
                sampling=params(60, temperature=temperature, ignore_eos=True, seed=4, stop=(stop, "zzz")),
            )  # fmt: skip
            assert text.stop_reason == "stop"
            assert text.text == whole.text[:cut]
            assert "".join(token.text for token in text.tokens) == text.text
            assert len(text.tokens) == len(text.token_ids) == text.stats.tokens
            # The text of whole letters ends with the token that completed the stop string.
            written = members.tokenizer.decode(text.token_ids, skip_special_tokens=True)
            assert written.endswith(stop)


def test_stop_tokens_of_a_row_end_its_text_and_add_nothing() -> None:
    members = trio(8, seed=2)
    (free,) = generate(members, ["abc"], sampling=params(30, ignore_eos=True))
    rows = [params(30, ignore_eos=True, stop_token_ids=[token]) for token in sorted(set(free.token_ids))]
    for text, row in zip(generate(members, ["abc"] * len(rows), sampling=rows), rows, strict=True):
        ended = free.token_ids.index(row.stop_token_ids[0])
        assert text.token_ids == free.token_ids[: ended + 1]
        assert text.text == members.tokenizer.decode(free.token_ids[:ended], skip_special_tokens=True)
        assert text.stop_reason == "stop"


def test_a_stream_holds_back_only_what_a_stop_string_could_cut() -> None:
    members = group(*(Table(4, logits=torch.tensor([-9.0, 0, 5, 1]), seed=s) for s in (1, 2)))
    running = stream(members, "a", draft_tokens=2, sampling=params(9, stop=("bbbc",)))
    assert "".join(token.text for token in running) == "b" * 9


def test_rows_end_by_themselves_and_do_not_disturb_each_other() -> None:
    members = trio(8, seed=21)
    settings = [
        (1, 0.0, 0),
        (30, 1.0, 5),
        (7, 0.7, 6),
        (40, 0.0, 7),
        (2, 1.3, 8),
        (25, 1.0, 9),
        (3, 0.0, 1),
        (40, 1.0, 2),
    ]
    rows = [params(n, temperature=t, seed=s, top_p=0.9) for n, t, s in settings]
    for method in ("speculative", "contrastive", "route:rollback=0.4", "mixture"):
        together = generate(members, PROMPTS, method, draft_tokens=5, sampling=rows)
        for i, text in enumerate(together):
            (alone,) = generate(members, [PROMPTS[i]], method, draft_tokens=5, sampling=rows[i])
            assert (text.token_ids, text.stop_reason) == (alone.token_ids, alone.stop_reason)
            assert [t.source for t in text.tokens] == [t.source for t in alone.tokens]
            a, b = text.stats, alone.stats
            assert (a.target_calls, a.target_tokens, a.draft_calls) == (b.target_calls, b.target_tokens, b.draft_calls)


def test_a_seed_decides_and_another_differs() -> None:
    members = trio(8, seed=1)
    texts = [generate(members, ["abc"], sampling=params(30, temperature=1.0, seed=s))[0].text for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("batch", [1, 4])
def test_replay_equals_the_loop(batch: int, kept: bool) -> None:
    for seed in range(12):
        members = trio(8, seed=seed, noise=0.8)
        sampling = params(25, stop=("ab",))
        loop = generate(members, PROMPTS, "oracle", sampling=sampling, candidates=4)
        plain = generate(group(target=members.target), PROMPTS, "plain", sampling=sampling, keep_logits=kept)
        (again,) = replay([members], PROMPTS, plain, candidates=4, batch_size=batch)
        assert kept == (again[0].stats.system2_seconds == 0)  # what is known is not read again
        for a, b in zip(loop, again, strict=True):
            assert (a.text, a.token_ids, a.stop_reason) == (b.text, b.token_ids, b.stop_reason)
            for x, y in zip(a.tokens, b.tokens, strict=True):
                assert (x.position, x.id, x.text, x.source, x.round) == (y.position, y.id, y.text, y.source, y.round)
                assert (x.draft_token, x.target_token) == (y.draft_token, y.target_token)
                for name in ("draft_prob", "draft_margin", "draft_entropy", "target_prob", "target_entropy",
                             "total_variation"):  # fmt: skip
                    assert getattr(x, name) == pytest.approx(getattr(y, name), abs=1e-4)
                assert [i for i, _ in x.draft_top] == [i for i, _ in y.draft_top]
            same = ("tokens", "known", "differing", "consulted", "accepted", "recovered", "draft_calls",
                    "draft_tokens", "target_calls", "target_tokens")  # fmt: skip
            assert [getattr(a.stats, n) for n in same] == [getattr(b.stats, n) for n in same]


@pytest.mark.parametrize("method", ["plain", "oracle", "speculative", "contrastive"])
def test_logits_of_q_are_kept_on_request(method: str) -> None:
    members = trio(8, seed=4)
    texts = generate(members, PROMPTS, method, sampling=params(12), batch_size=2, keep_logits=True)
    for text in texts:
        assert text.logits is not None
        assert text.logits.shape == (len(text.token_ids), members.vocab_size)
        assert text.logits.argmax(-1).tolist() == text.token_ids
    assert all(text.logits is None for text in generate(members, PROMPTS, method, sampling=params(12)))
    with pytest.raises(ValueError, match="trusts the draft"):
        generate(members, PROMPTS, "route", keep_logits=True)


def test_replay_refuses_what_it_cannot_know() -> None:
    members = trio()
    plain = generate(members, ["abc"], "plain")
    with pytest.raises(ValueError, match="cannot be replayed"):
        replay([members], ["abc"], plain, method="speculative")
    with pytest.raises(ValueError, match="several"):
        replay([members, trio(seed=9)], ["abc"], plain)
    drawn = generate(members, ["abc"], "plain", sampling=params(temperature=1.0))
    with pytest.raises(ValueError, match="sampled"):
        replay([members], ["abc"], drawn)


@pytest.mark.parametrize(
    ("prompts", "sampling", "message"),
    [
        ([[]], params(), "has no tokens"),
        ([[1, 99]], params(), "vocabulary of 8"),
        ([[1] * 500], params(40), "context window of 512"),
        ([[1]], [params(), params()], "1 prompts"),
    ],
)
def test_bad_prompts_are_refused_before_any_call(prompts: Any, sampling: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(trio(), prompts, sampling=sampling)


def test_bad_batches_and_verifiers_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size=0"):
        generate(trio(), ["a"], batch_size=0)
    with pytest.raises(ValueError, match="exact"):
        generate(trio(), ["a"], "speculative:verifier=exact", sampling=params(temperature=1.0))


def test_an_abandoned_stream_leaves_the_members_usable() -> None:
    members = trio()
    started = stream(members, "abc", sampling=params(30))
    next(started)
    started.close()
    assert generate(members, ["abc"])[0].tokens


def test_stream_gives_the_tokens_of_generate_and_returns_the_generation() -> None:
    members = trio(seed=4)
    (whole,) = generate(members, ["abc"], draft_tokens=5, candidates=2)
    assert list(stream(members, "abc", draft_tokens=5, candidates=2)) == whole.tokens
    returned = []

    def consume() -> Any:
        returned.append((yield from stream(members, "abc", draft_tokens=5, candidates=2)))

    assert list(consume()) == whole.tokens
    assert (returned[0].text, returned[0].tokens) == (whole.text, whole.tokens)


def test_frames_have_a_row_a_token() -> None:
    (text,) = generate(trio(), ["abc"], candidates=3)
    frame = text.to_frame()
    assert frame.height == len(text.tokens)
    assert frame["id"].to_list() == text.token_ids
    assert frame["draft_top_ids"].list.len().unique().to_list() == [3]
    assert frame["draft_top_ids"].list.first().to_list() == frame["draft_token"].to_list()


def test_the_draft_is_called_once_more_only_where_a_text_ends_with_a_bonus() -> None:
    same = Table(4, logits=torch.tensor([-9.0, 0, 5, 1]))
    members = group(same, same)
    (text,) = generate(members, [[1]], "speculative", draft_tokens=3, sampling=params(7))
    # Rounds of 4 tokens (3 + bonus) and 3 (all drafted, as the budget ends): 3 + 3 draft calls, no closing call.
    assert text.stats.draft_calls == 6
    (text,) = generate(members, [[1]], "speculative", draft_tokens=3, sampling=params(4))
    assert text.stats.draft_calls == 4  # 3, and the one that tells the draft's choice at the bonus


def test_every_stop_reason_is_given_and_order_is_kept() -> None:
    members = trio(seed=6)
    seen: list[int] = []
    texts = generate(members, PROMPTS, batch_size=3, progress=seen.append)
    assert seen == [1] * len(PROMPTS)  # each as it ends, since the next one takes its place
    assert [t.prompt_tokens for t in texts] == [len(p) for p in PROMPTS]
    assert encode(members, "abc") == [1, 2, 3]
