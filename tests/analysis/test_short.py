"""The five answers say what the numbers are, and compare nothing at the floor."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest

from fsgen.analysis.frequency import SummaryRow, estimates
from fsgen.analysis.intervals import mean_change, wilson
from fsgen.analysis.pairs import default_pair, oracles
from fsgen.analysis.scaling import compare_laws
from fsgen.analysis.short import ShortAnswer, in_short
from fsgen.analysis.suspects import FLOOR, chance, loops, suspects
from tests.analysis.made_up import generations
from tests.analysis.test_scaling import FORMULAS, PAIRS, SIZES, frame
from tests.report.rows import ladder_rows, row


@pytest.mark.parametrize(("count", "of"), [(0, 64), (64, 64), (7, 64), (1, 2)])
def test_shares_have_wilsons_interval(count: int, of: int) -> None:
    expected = binomtest(count, of).proportion_ci(method="wilson")
    found = wilson(count, of)
    assert (found.value, found.low, found.high) == pytest.approx((count / of, expected.low, expected.high), abs=1e-6)


def test_scores_that_are_all_wrong_have_an_interval() -> None:
    wrong = estimates(generations(64, tokens=10, score=0.0))["accuracy"]
    assert wrong == wilson(0, 64)
    assert wrong.high == pytest.approx(0.0566, abs=1e-4)
    same = mean_change(np.zeros(64))
    assert same is not None
    assert (same.low, same.high) == pytest.approx((-0.0566, 0.0566), abs=1e-4)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the sum is 3. " * 4, True),
        ("So we have 5 apples. " + " and so on" * 6 + " and", True),
        ("x" * 24, True),
        ("." * 12, False),
        ("Each of the 12 children has 3 apples, and 12 times 3 is 36. #### 36", False),
        ("no no no", False),
        ("", False),
    ],
)
def test_loops(text: str, found: bool) -> None:
    assert loops(text) is found


def test_chance_is_what_one_answer_to_all_gets() -> None:
    assert chance("AABB") == pytest.approx(1 / 3)
    assert chance(["1", "2", "3"]) == 0
    assert chance([None, None]) == chance(["1"]) == 0


def texts(score: Any, **columns: Any) -> pl.DataFrame:
    """64 different texts, most of them cut."""
    made = {"stop_reason": "length", "answer": None, "note": None, "text": [f"text {i}" for i in range(64)]} | columns
    return generations(64, tokens=10, score=score, **made)


def answers(rows: list[SummaryRow], tables: dict[str, pl.DataFrame], **more: Any) -> dict[str, ShortAnswer]:
    """By question; the texts of runs that are not given answer and are right half of the time."""
    usual = texts(np.arange(64) % 2.0, stop_reason="eos", answer="1")
    alone = {each.run: "alone" for each in rows}

    def made(run: str) -> pl.DataFrame:
        return tables.get(run, usual)

    found = in_short(rows, made, alone, suspects(rows, made, lambda run: None), more.get("laws", ()))
    assert len(found) == 5
    return {one.question: one for one in found}


def test_five_answers() -> None:
    rows = ladder_rows(["gsm8k", "mbpp"])
    changes = {"accuracy": 0.5, "target_accuracy": 0.5, "intervals": {"target_accuracy": (0.4, 0.6)}}
    rows.append(
        row(
            **changes,
            run="routed",
            method="route",
            router="entropy:1",
            draft="small",
            target="large",
            target_calls_per_token=0.25,
        )
    )
    better = texts((np.arange(64) % 2 == 1) | (np.arange(64) < 8))
    found = answers(rows, {"routed": better.with_columns(score=pl.col("score").cast(pl.Float64))})
    frequency = found["Collaboration frequency"]
    assert frequency.answer == (
        "Of the tokens that small drafts, large would replace 19.0 % [17.0, 21.0] on gsm8k and "
        "19.0 % [17.0, 21.0] on mbpp."
    )
    assert frequency.numbers["gsm8k"].value == pytest.approx(0.19, abs=1e-3)
    assert found["Under 20 %"].answer == (
        "The frequency is that low for 2 of 6 pairs (1 of 3 on gsm8k and 1 of 3 on mbpp), for 0 of them with the "
        "whole interval."
    )
    router = found["Router that saves most"]
    assert "entropy:1 with small for large on gsm8k: 0.250 calls of the target for each token" in router.answer
    assert "the score rises by 6.2 points [" in router.answer
    assert router.numbers["score_lost"].value == pytest.approx(-4 / 64)
    assert found["Held-out models"].answer.startswith("Not predicted")
    assert "gsm8k: " in found["Suspect"].answer


def test_nothing_is_compared_at_the_floor() -> None:
    routed = row(method="route", router="max-prob:0.5", accuracy=0.03, target_accuracy=0.0)
    found = answers([row(), routed], {routed.run: texts(0.0)})
    router = found["Router that saves most"].answer
    assert router == "No score of the target alone lies above floor or chance, so what a router costs cannot be seen."
    assert answers([row()], {})["Router that saves most"].answer.startswith("Not known: no run has a router")


def test_other_runs_measure_the_frequency_where_there_is_no_oracle() -> None:
    routed = row(method="route", router="max-prob:0.5", collaboration_frequency=0.1)
    fused = row(method="contrastive")
    nothing = answers([routed, fused], {})
    for question in ("Collaboration frequency", "Under 20 %"):
        assert "no run compared a draft with the target alone at every position" in nothing[question].answer
    drawn = [
        row(run=name, method=name, sampling="temperature=1", collaboration_frequency=0.1)
        for name in ("speculative", "oracle")
    ]
    said = answers([routed, fused, *drawn], {})
    assert said["Collaboration frequency"].answer == (
        "Of the tokens that pocket-0.6m drafts, pocket-4m would replace 10.0 % [27.0, 33.0] on gsm8k, in texts that "
        "were sampled (temperature=1)."
    )
    greedy = row(method="speculative", collaboration_frequency=0.4)
    said = answers([routed, fused, *drawn, greedy], {})
    assert "would replace 40.0 % [27.0, 33.0] on gsm8k." in said["Collaboration frequency"].answer
    assert said["Under 20 %"].answer == "The frequency is that low for 0 of 1 pairs on gsm8k."
    both = [greedy, row(collaboration_frequency=0.3)]
    assert "would replace 30.0 %" in answers(both, {})["Collaboration frequency"].answer, "the oracle is before others"


def test_what_has_no_score() -> None:
    scored = row(run="scored", target_accuracy=0.9, draft_accuracy=0.9, intervals={})
    bare = row(run="bare", task="mt_bench", accuracy=None, target_accuracy=None, draft_accuracy=None)
    table = {"bare": texts(None, stop_reason="eos", answer="1")}
    assert answers([bare], table)["Suspect"].answer == (
        "Nothing: texts end by themselves. No score is known for mt_bench."
    )
    assert answers([scored, bare], table)["Suspect"].answer == (
        "Nothing: texts end by themselves, give answers and score above the floor. No score is known for mt_bench."
    )


def test_texts_beside_likelihoods_are_not_suspect() -> None:
    (found,) = suspects(
        [row(target_accuracy=0.9, draft_accuracy=0.9)],
        lambda run: texts(1.0, note="by likelihood; acc_norm=1", text="x" * 30),
        lambda run: None,
    )
    assert str(found) == ""
    assert (found.texts, found.scored) == (0, True)


def test_what_is_suspect() -> None:
    rows = [row(target_accuracy=0.0, draft_accuracy=0.5, intervals={"draft_accuracy": (0.4, 0.6)})]
    made = texts(0.0, text=[f"{i} and on and on and on and on and on and on" for i in range(64)])
    (found,) = suspects(rows, lambda run: made, lambda run: None)
    assert (found.texts, found.cut, found.looping, found.unanswered) == (64, 1.0, 1.0, 1.0)
    assert (found.level, list(found.low), found.models) == (FLOOR, ["pocket-4m"], 2)
    assert str(found) == (
        "100 % cut at the limit, 100 % in a loop, 100 % without an answer, not pocket-4m above the floor (0.05)"
    )
    references = pl.DataFrame({"reference": ["A", "B"] * 32})
    (choices,) = suspects(rows, lambda run: made, lambda run: references)
    assert choices.level == pytest.approx(31 / 63)
    assert str(choices).endswith("no model above chance (0.49)")
    (sound,) = suspects(
        [row(target_accuracy=0.9, draft_accuracy=0.9)],
        lambda run: texts(1.0, stop_reason="eos", answer="1"),
        lambda run: None,
    )
    assert str(sound) == ""


def test_which_law_predicts_held_out_models() -> None:
    draw = np.random.default_rng(0).normal(0, 0.002, len(PAIRS))
    both = FORMULAS["log-separable"](SIZES.draft, SIZES.target, 0.1, -0.02, 0.03) + draw
    said = answers([row()], {}, laws=compare_laws(frame(both), resamples=20))["Held-out models"]
    assert said.answer.startswith("log-separable predicts their pairs best, with an error of ")
    assert said.answer.endswith("less than by the draft's size alone.")
    assert said.numbers["less"].value > 1
    alone = FORMULAS["draft-only"](SIZES.draft, SIZES.target, 0.15, 0.4) + draw
    said = answers([row()], {}, laws=compare_laws(frame(alone), resamples=20))["Held-out models"]
    assert "no law in both sizes predicts better than the draft's size alone" in said.answer
    assert said.numbers["less"].value > 0


def test_what_is_not_identified_leads_the_sentence() -> None:
    step = FORMULAS["ratio-power-law"](SIZES.draft, SIZES.target, 0.25, -0.2, 8.0)
    sets = compare_laws(frame(step), resamples=50)
    assert sets[0].best == "ratio-power-law"
    said = answers([row()], {}, laws=sets)["Held-out models"].answer
    assert said.startswith("Not identified: ")
    assert sets[0].finding.startswith("With ")


def test_the_pair_that_stands_for_a_study() -> None:
    rows = ladder_rows(["gsm8k"])
    assert default_pair(oracles(rows), rows) == ("small", "large"), "the pair with the most runs"
    assert default_pair(oracles(rows[:3]), rows[:3]) == ("small", "large"), "the middle draft of the largest target"
    assert default_pair([*rows, row()], [*rows, row()]) == ("pocket-0.6m", "pocket-4m"), "the bundled default"


def test_a_study_without_runs_has_no_answers() -> None:
    assert in_short((), lambda run: pl.DataFrame(), {}, (), ()) == ()
