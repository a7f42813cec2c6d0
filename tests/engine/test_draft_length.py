"""The pace of drafting: it follows the clock and the acceptances, and never touches the text."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from fsgen import SamplingParams, generate
from fsgen.engine.draft_length import AdaptiveDraftLength, LatencyModel
from fsgen.methods.acceptance import Acceptance
from fsgen.methods.method import parse
from tests.doubles import group, trio

Drift = Callable[[int], float]


def run(
    pace: AdaptiveDraftLength,
    rounds: int,
    draft: float,
    call: float,
    chance: float,
    seed: int = 0,
    drift: Drift = lambda number: 1.0,
    slope: float = 0.02,
) -> tuple[float, list[int]]:
    """Rounds of one row with a made-up clock: (seconds a token, tokens drafted in each round).

    `drift`: how much slower than usual the machine is in a round; seconds are given as those of the usual machine.
    """
    dice = random.Random(seed)
    seconds, tokens, lengths = 0.0, 0, []
    for number in range(rounds):
        slow = drift(number)
        pace.begin_round()
        confidences: list[float] = []
        chance_of_all = 1.0
        while pace.goes_on(len(confidences), [chance_of_all]):
            confidences.append(chance)
            chance_of_all *= pace.acceptance.chance(chance)
            pace.draft_call.learn(1, draft * slow)
            assert len(confidences) <= 200
        read = call + slope * call * len(confidences)
        spent = draft * len(confidences) + read
        pace.system2_call.learn(1 + len(confidences), slow * read)
        written = 1
        for confidence in confidences:
            stands = dice.random() < chance
            pace.acceptance.learn(confidence, stands)
            if not stands:
                break
            written += 1
        pace.end_round(slow * spent, written, len(confidences), True, slow * draft * len(confidences))
        seconds, tokens = seconds + spent, tokens + written
        lengths.append(len(confidences))
    return seconds / tokens, lengths


def test_a_good_cheap_draft_is_used_and_further_the_better_it_is() -> None:
    fair, good = run(AdaptiveDraftLength(), 400, 0.05, 1.0, 0.7), run(AdaptiveDraftLength(), 400, 0.05, 1.0, 0.95)
    assert fair[0] < 0.6
    assert good[0] < 0.25
    assert sum(good[1]) > 1.5 * sum(fair[1])


def test_a_bad_draft_costs_next_to_nothing_and_is_tried_again() -> None:
    seconds, lengths = run(AdaptiveDraftLength(), 5000, 0.3, 1.0, 0.02)
    assert seconds < 1.03
    assert any(lengths[1000:]), "never tried again"
    assert sum(map(bool, lengths)) < 200


@pytest.mark.parametrize("phase", [7, 40, 300])
def test_a_machine_whose_speed_drifts_misleads_nobody(phase: int) -> None:
    # Half of the time the machine is slower by half; a draft that is not worth it must not be taken up for that.
    def drift(number: int) -> float:
        return 1.5 if number // phase % 2 else 1.0

    assert run(AdaptiveDraftLength(), 6000, 0.2, 1.0, 0.3, drift=drift, slope=0.15)[0] < 1.03
    assert run(AdaptiveDraftLength(), 6000, 0.05, 1.0, 0.9, drift=drift)[0] < 0.35


def test_a_machine_that_is_held_up_now_and_then_misleads_nobody() -> None:
    dice = random.Random(1)

    def drift(number: int) -> float:
        return 8.0 if dice.random() < 0.02 else dice.uniform(0.9, 1.1)

    assert run(AdaptiveDraftLength(), 6000, 0.2, 1.0, 0.3, drift=drift, slope=0.15)[0] < 1.03
    assert run(AdaptiveDraftLength(), 6000, 0.05, 1.0, 0.9, drift=drift)[0] < 0.35


@pytest.mark.parametrize("seed", range(8))
def test_a_long_pause_within_a_trial_misleads_nobody_for_long(seed: int) -> None:
    dice = random.Random(seed)

    def drift(number: int) -> float:
        return 300.0 if number in (2, 5) or (number > 9 and dice.random() < 0.002) else 1.0

    assert run(AdaptiveDraftLength(), 2000, 0.3, 1.0, 0.05, drift=drift, slope=0.15)[0] < 1.05
    assert run(AdaptiveDraftLength(), 2000, 0.05, 1.0, 0.9, drift=drift)[0] < 0.35


@pytest.mark.parametrize("draft", [0.1, 0.2, 0.3, 0.5])
@pytest.mark.parametrize("chance", [0.2, 0.4, 0.6])
def test_never_slower_than_without_a_draft(draft: float, chance: float) -> None:
    assert run(AdaptiveDraftLength(), 4000, draft, 1.0, chance, slope=0.15)[0] < 1.03


def test_a_draft_that_becomes_good_is_taken_up_again() -> None:
    pace = AdaptiveDraftLength()
    run(pace, 600, 0.1, 1.0, 0.02)
    seconds, _ = run(pace, 2000, 0.1, 1.0, 0.9, seed=1)
    assert seconds < 0.6


def test_where_the_fusion_reads_the_draft_at_least_one_token_is_drafted() -> None:
    _, lengths = run(AdaptiveDraftLength(least=1), 500, 0.3, 1.0, 0.02)
    assert min(lengths) >= 1
    assert sum(lengths[100:]) < 1.5 * len(lengths[100:])


def test_confidences_are_translated_into_the_acceptances_they_had() -> None:
    acceptance = Acceptance()
    for number in range(400):
        acceptance.learn(0.95, True)
        acceptance.learn(0.45, number % 4 == 0)
    assert acceptance.chance(0.97) > 0.9
    assert 0.15 < acceptance.chance(0.42) < 0.4


def test_times_follow_a_line() -> None:
    seconds = LatencyModel()
    for tokens in (1, 3, 6, 2, 5, 4, 1, 6):
        seconds.learn(tokens, 1.0 + 0.1 * tokens)
    assert seconds.of(4) == pytest.approx(1.4, rel=1e-6)
    assert seconds.slope == pytest.approx(0.1, rel=1e-6)
    seconds.learn(1, 100.0)  # something held the machine up
    assert seconds.of(1) < 2


@pytest.mark.parametrize("method", ["speculative", "contrastive", "proxy", "mixture"])
def test_the_texts_are_those_of_any_fixed_length(method: str) -> None:
    members = trio(8, seed=5)
    prompts = ["abc", "de", "f", "abcabc"]
    sampling = SamplingParams(max_tokens=60)
    fixed = [t.token_ids for t in generate(members, prompts, method, draft_tokens=3, sampling=sampling)]
    for _ in range(3):
        adaptive = generate(members, prompts, method, draft_tokens="auto", sampling=sampling, batch_size=2)
        assert [t.token_ids for t in adaptive] == fixed
    assert members.draft_lengths  # what was learned is kept for the next call


@pytest.mark.parametrize("method", ["speculative", "contrastive", "mixture"])
def test_sampled_texts_do_not_depend_on_the_clock(method: str) -> None:
    members = trio(8, seed=5)
    sampling = [SamplingParams(max_tokens=40, temperature=t, top_k=k, seed=3) for t, k in ((0.9, 0), (1.4, 5), (0, 0))]
    prompts = ["abc", "de", "f"]

    def texts(name: str, length: int | str | None, batch: int = 2) -> list[list[int]]:
        return [t.token_ids for t in generate(members, prompts, name, None, length, sampling, batch)]

    adaptive = texts(method, "auto")
    assert members.draft_lengths
    for length in ("auto", 1, 4):
        assert texts(f"{method}:verifier=coupled", length, batch=3) == adaptive
    if method == "speculative":  # nor on the draft, nor on whether there is one
        assert texts("plain:verifier=coupled", None) == adaptive
        others = group(trio(8, seed=6).draft, members.target)
        again = generate(others, prompts, "speculative", sampling=sampling)
        assert [t.token_ids for t in again] == adaptive


def test_a_length_may_be_a_number_or_auto() -> None:
    assert parse("speculative").adaptive
    assert not parse("speculative", draft_tokens=4).adaptive
    assert parse("speculative:draft_tokens=auto").adaptive
    assert parse("speculative:draft_tokens=2").draft_tokens == 2
    assert not parse("speculative").fixed().adaptive
    with pytest.raises(ValueError, match="give a number"):
        parse("route", draft_tokens="auto")
    with pytest.raises(ValueError, match="neither a count nor 'auto'"):
        parse("speculative", draft_tokens="many")
