"""Signs of failure: each found where it was put, and not where it was not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from fsgen.analysis.intervals import Estimate
from fsgen.analysis.signs import Sign, change_in_words, routed, signs
from fsgen.backends.identity import Identity
from tests.analysis.made_up import generations, places, trace
from tests.learned import random_router


def texts(count: int, score: NDArray[np.bool_] | None = None) -> pl.DataFrame:
    """Texts of 100 tokens."""
    return generations(count, tokens=100, score=None if score is None else score.astype(float))


def named(found: tuple[Sign, ...], sign: str) -> Sign:
    return next(one for one in found if one.sign == sign)


def test_a_router_applied_by_hand() -> None:
    # two texts of six tokens: mismatches at 0, 3 and at 1
    prob = np.array([0.9, 0.2, 0.2, 0.2, 0.9, 0.9, 0.2, 0.2, 0.9, 0.9, 0.9, 0.9])
    differs = np.array([1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0], dtype=bool)
    applied = routed(trace(prob, differs, 6), "max-prob:0.5")
    assert applied is not None
    values = {name: getattr(applied, name).value for name in ("consulted_rate", "missed", "needless", "late")}
    assert values == pytest.approx({"consulted_rate": 5 / 12, "missed": 1 / 3, "needless": 3 / 5, "late": 1 / 2})
    assert applied.delay == 1
    assert applied.missed_early is not None
    assert applied.missed_early.value == 0.5
    assert applied.missed_late is not None
    assert applied.missed_late.value == 0


@pytest.mark.parametrize(
    ("router", "rate"),
    [
        ("always", 1.0),
        ("never", 0.0),
        ("margin:0.25", 0.5),
        ("entropy:1", 0.5),
        ("position:2-5", 0.3),
        ("random:0.2", 0.2),
    ],
)
def test_routers_consult_as_they_do_at_work(router: str, rate: float) -> None:
    prob = np.tile([0.4, 0.9], 2000)
    applied = routed(trace(prob, prob < 0.5, 10), router)
    assert applied is not None
    assert applied.consulted_rate is not None
    assert applied.consulted_rate.value == pytest.approx(rate, abs=0.03 if router.startswith("random") else 0)


def test_a_router_that_a_trace_does_not_suffice_for() -> None:
    frame = trace(np.full(10, 0.5), np.zeros(10, dtype=bool), 5)
    assert routed(frame, "learned:a-file") is None
    found = signs(texts(2), texts(2), "learned:a-file", None)
    assert named(found, "too late").found is None
    assert "not known" in named(found, "too few").finding


@pytest.mark.parametrize("kind", ["svm", "logistic", "trees"])
def test_a_learned_router_is_applied(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "router.npz"
    model = random_router(kind, Identity("draft", "d", "v"), top=3)
    model.write(file)
    prob = np.random.default_rng(0).uniform(0.05, 0.98, 400)
    frame = trace(prob, prob < 0.5, 10)
    probs = np.array(frame["draft_top_probs"].to_list())
    score = model.score(probs, frame["draft_prob"], frame["draft_margin"], frame["draft_entropy"], frame["position"])
    middle = float(np.median(score)) + 1e-9
    for threshold in (middle, 0.0):
        applied = routed(frame, f"learned:{file}@{threshold!r}")
        assert applied is not None
        assert applied.consulted_rate is not None
        assert applied.consulted_rate.value == pytest.approx(float((score > threshold).mean()))


def test_too_few() -> None:
    draw = np.random.default_rng(0)
    differs = draw.random(4000) < 0.3
    blind = routed(trace(np.full(4000, 0.9), differs, 40), "max-prob:0.5")
    seeing = routed(trace(np.where(differs, 0.2, 0.9), differs, 40), "max-prob:0.5")
    few, enough = (named(signs(texts(5), texts(5), "max-prob:0.5", x), "too few") for x in (blind, seeing))
    assert few.found is True
    assert "misses 100 %" in few.finding
    assert enough.found is False
    assert enough.numbers["missed"].value == 0


def test_a_lost_score_is_a_sign_of_too_few() -> None:
    worse = signs(texts(80, np.arange(80) % 4 == 0), texts(80, np.arange(80) % 4 < 3), "max-prob:0.5")
    same = signs(texts(80, np.arange(80) % 4 < 3), texts(80, np.arange(80) % 4 < 3), "max-prob:0.5")
    assert named(worse, "too few").found is True
    assert named(worse, "too few").numbers["score_lost"].value == 0.5
    assert named(same, "too few").found is False
    assert named(same, "too few").numbers["score_lost"].value == 0.0


def test_too_many() -> None:
    draw = np.random.default_rng(0)
    differs = draw.random(4000) < 0.1
    wasteful = routed(trace(np.full(4000, 0.2), differs, 40), "max-prob:0.5")
    sparing = routed(trace(np.where(differs, 0.2, 0.9), differs, 40), "max-prob:0.5")
    many, few = (named(signs(texts(9), texts(9), "max-prob:0.5", x), "too many") for x in (wasteful, sparing))
    assert many.found is True
    assert many.numbers["needless"].value == pytest.approx(1 - differs.mean())
    assert few.found is False
    assert "time" not in few.numbers
    assert few.finding.endswith("; whether time is saved is not known: the runs were not repeated.")


def test_too_many_of_what_verifies_everything() -> None:
    def drafted(accepted: int, time: Estimate | None = None) -> Sign:
        made = generations(9, tokens=100, accepted=accepted, recovered=[20 + i % 2 for i in range(9)])
        (found,) = signs(made, texts(9), time=time)
        assert found.sign == "too many", "what verifies everything can miss nothing"
        return found

    slow, fast = Estimate(1.5, 1.4, 1.6), Estimate(0.5, 0.4, 0.6)
    assert drafted(5, slow).found is True
    assert drafted(5, slow).numbers["rejected"].value == pytest.approx(184 / 229)
    assert drafted(5, slow).finding.startswith("80 % [80, 81] of the drafted tokens are rejected; a token takes 1.50 ")
    assert drafted(5, slow).finding.endswith(" times as long as with the target alone, so that no time is saved.")
    assert drafted(80, slow).found is False, "wall clock alone finds nothing"
    assert drafted(80, fast).found is False
    assert drafted(5, fast).found is True
    assert "may save time or not" in drafted(80, Estimate(1.5, 0.9, 2.1)).finding
    assert "whether time is saved is not known" in drafted(80).finding
    (nothing,) = signs(texts(9), texts(9))
    assert nothing.found is False
    assert nothing.finding.startswith("Nothing was drafted; ")


def test_sentences_follow_their_sign() -> None:
    right = np.arange(80) % 4
    words = {
        "falls by 50.0 points [": (right == 0, right < 3),
        "rises by 50.0 points [": (right < 3, right == 0),
        "does not change [-4.6, 4.6]": (right < 3, right < 3),
    }
    for said, (score, alone) in words.items():
        finding = named(signs(texts(80, score), texts(80, alone), "max-prob:0.5"), "too few").finding
        assert f"compared to the target alone, the score {said}" in finding
    assert change_in_words(Estimate(-0.031, -0.08, 0.02)) == "rises by 3.1 points [-2.0, 8.0]"


def test_too_late() -> None:
    _, at = places(50, 40)
    differs = at < 5
    late = routed(trace(np.full(2000, 0.5), differs, 40), "position:20-40")
    early = routed(trace(np.full(2000, 0.5), differs, 40), "position:0-10")
    found = named(signs(texts(5), None, "position:20-40", late), "too late")
    assert found.found is True
    assert found.numbers["late"].value == 1
    assert "in the median by 20 tokens" in found.finding
    assert named(signs(texts(5), None, "position:0-10", early), "too late").found is False


def test_no_mismatch_no_sign() -> None:
    applied = routed(trace(np.full(40, 0.9), np.zeros(40, dtype=bool), 10), "max-prob:0.5")
    assert applied is not None
    assert (applied.missed, applied.needless, applied.late, applied.delay) == (None, None, None, None)
    found = signs(texts(4), texts(4), "max-prob:0.5", applied)
    assert [sign.found for sign in found] == [False, False, False]
    assert "never differ" in named(found, "too few").finding
