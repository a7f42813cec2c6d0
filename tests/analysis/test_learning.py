"""Learned routers: scores equal those of scikit-learn, budgets are met, examples are not mixed, effects are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

import fsgen.analysis.learning as learning
from fsgen.analysis.learning import KINDS, Positions, evaluate, learn, part_of, positions, threshold
from fsgen.analysis.ranking import Ranking
from fsgen.methods.learned.file import LearnedModel
from tests.analysis.made_up import drawn, generations, save_run, trace

Floats = NDArray[np.float64]
WHOLE = np.ones((1, 2))  # two examples, each drawn once


def made(examples: int = 120, length: int = 40, seed: int = 0, hidden: bool = False) -> pl.DataFrame:
    """A trace in which the chance of a mismatch follows the largest probability; with `hidden`, only the second one."""
    draw, prob = drawn(examples, length, seed)
    second = (1 - prob) * draw.uniform(0.3, 0.9, len(prob))
    chance = np.clip(1.5 * second / (1 - prob) - 0.5, 0, 1) ** 4 if hidden else (1 - prob) ** 2
    return trace(prob, draw.uniform(size=len(prob)) < chance, length, second=second)


@pytest.fixture(scope="module")
def known() -> Positions:
    return positions(made())


@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_those_of_scikit_learn(kind: str, known: Positions) -> None:
    """The same estimators, fitted here, decide alike: on what they were trained on, and on what they were not."""
    order = np.random.default_rng(5).permutation(len(known))
    x, y = known.x[order], known.differs[order]
    model: Any = {
        "logistic": LogisticRegression(max_iter=500),
        "svm": make_pipeline(
            Nystroem(gamma=1 / x.shape[1], n_components=200, random_state=5), LinearSVC(random_state=5, max_iter=2000)
        ),
        "trees": GradientBoostingClassifier(
            n_estimators=100, learning_rate=0.1, max_depth=3, min_samples_leaf=20, subsample=0.5, random_state=5
        ),
    }[kind]
    expected = make_pipeline(StandardScaler(), model).fit(x, y)
    scorer = learn(known, kind, seed=5)
    others = positions(made(seed=1)).x
    for some in (known.x, others):
        assert scorer.score(some) == pytest.approx(expected.decision_function(some), abs=1e-6)


def test_what_is_there_is_found_and_what_is_not_is_not() -> None:
    """Where the second probability decides, trained scores see it and the largest probability does not."""
    for hidden, kinds in ((True, KINDS), (False, ("logistic",))):
        train, test = (positions(made(100, seed=seed, hidden=hidden)) for seed in (0, 1))
        for kind in kinds:
            model = learned(learn(train, kind), train)
            calls, evaluations = evaluate(model, test)
            by = {one.router: one for one in evaluations}
            assert by["learned"].auroc is not None
            assert by["learned"].beside is None
            assert by["perfect"].beside is not None
            assert by["perfect"].beside.above(0.0) is False
            found = by["max-prob"].beside
            assert found is not None
            assert found.above(0.0) is True if hidden else found.value < 0.01
            exact = roc_auc_score(test.differs, model.scorer.score(test.x))
            assert by["learned"].auroc.value == pytest.approx(exact, abs=2e-3)
            assert calls.value == pytest.approx(0.2, abs=0.03)


def learned(scorer: Any, known: Positions, calls: float = 0.2) -> LearnedModel:
    """A router of a score, with the threshold for a budget of calls on some positions."""
    value = threshold(scorer.score(known.x), known.differs, calls=calls)
    return LearnedModel(scorer, known.top, value, {"name": "draft", "digest": "d"}, "v")


def test_misses_at_equal_calls_by_hand() -> None:
    score = np.array([4.0, 3.0, 2.0, 1.0])
    ranking = Ranking.of(score, np.array([True, False, True, False]), np.array([0, 0, 1, 1]))
    found = [float(ranking.missed(np.array([calls]), WHOLE)[0]) for calls in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert found == pytest.approx([0.5, 0.25, 0.25, 0.0, 0.0])
    assert ranking.auroc().value == 0.75
    perfect = Ranking.of(score, np.array([True, True, False, False]), np.array([0, 0, 1, 1]))
    assert float(perfect.gain(WHOLE)[0]) == pytest.approx(1.0)
    assert (
        float(Ranking.of(-score, np.array([True, True, False, False]), np.array([0, 0, 1, 1])).gain(WHOLE)[0]) == -1.0
    )


def test_thresholds_by_hand() -> None:
    score = np.array([0.9, 0.8, 0.8, 0.5, 0.1])
    differs = np.array([True, False, True, False, True])
    asked = {calls: int((score > threshold(score, differs, calls=calls)).sum()) for calls in (0, 0.2, 0.4, 0.6, 1)}
    assert asked == {0: 0, 0.2: 1, 0.4: 1, 0.6: 3, 1: 5}  # two positions tie: both or none
    missed = {
        budget: int((score > threshold(score, differs, misses=budget)).sum()) for budget in (0, 0.2, 0.4, 0.6, 1.0)
    }
    assert missed == {0: 5, 0.2: 3, 0.4: 1, 0.6: 0, 1.0: 0}


@pytest.mark.parametrize(
    ("budget", "words"),
    [({}, "one budget"), ({"calls": 0.1, "misses": 0.1}, "one budget"), ({"calls": 1.5}, "1.5 is impossible")],
)
def test_budgets_that_are_none(budget: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        threshold(np.array([1.0]), np.array([True]), **budget)


def test_examples_are_in_one_part_each() -> None:
    parts = [part_of(f"example-{i}") for i in range(4000)]
    shares = {part: parts.count(part) / len(parts) for part in learning.PARTS}
    assert shares == pytest.approx(learning.PARTS, abs=0.03)
    assert part_of("example-7") == part_of("example-7")


def test_positions_of_some_examples(known: Positions) -> None:
    some = known.of({"e0003", "e0007", "nobody"})
    assert some.names == ("e0003", "e0007")
    assert len(some) == 80
    assert some.x.tolist() == known.x[[*range(120, 160), *range(280, 320)]].tolist()
    assert some.scores["max-prob"].tolist() == (-known.prob[some_places()]).tolist()


def some_places() -> list[int]:
    return [*range(120, 160), *range(280, 320)]


def test_what_cannot_be_learned(known: Positions) -> None:
    with pytest.raises(ValueError, match="unknown kind 'oracle': choose one of svm, logistic, trees"):
        learn(known, "oracle")
    few = positions(made(1, 8))
    with pytest.raises(ValueError, match="mismatches among 8 positions"):
        learn(few, "logistic")
    with pytest.raises(ValueError, match="keep 1 candidates"):
        positions(made(2, 4).with_columns(pl.col("draft_top_probs").list.head(1)))


# ---- from a study


def study(folder: Path, runs: dict[str, dict[str, Any]]) -> Path:
    """The folder of a study with these runs, by key: the trace, and how the run differs from the usual."""
    for run, how in runs.items():
        frame: pl.DataFrame = how.get("trace", made())
        lengths = frame.group_by("example", maintain_order=True).len()
        counts = dict.fromkeys(("tokens", "known", "compared", "differing", "consulted"), lengths["len"])
        draft = {"name": how.get("draft", "small"), "digest": how.get("digest", "d" * 64), "parameters": 10}
        save_run(
            folder,
            run,
            generations(len(lengths), example=lengths["example"], score=0.5, **counts),
            frame,
            members={"draft": draft, "target": {"name": "large", "digest": "t" * 64, "parameters": 100}},
            method={"name": "oracle", "router": how.get("router", "always"), "draft_tokens": 1}
            | {"fusion": {"name": "target"}},
        )
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_training_from_a_study(kind: str, tmp_path: Path) -> None:
    folder = study(tmp_path, {"gsm8k-oracle-1": {}, "gsm8k-oracle-2": {"trace": made(seed=3)}})
    found = learning.train(folder, kind, misses=0.02)
    model = found.model
    assert (model.draft, model.vocabulary) == ({"name": "small", "digest": "d" * 64}, "v" * 16)
    record = json.loads(json.dumps(model.header))["record"]
    assert record["runs"] == ["gsm8k-oracle-1", "gsm8k-oracle-2"]
    assert record["budget"] == {"misses": 0.02}
    assert record["tasks"] == ["gsm8k"]
    assert record["counts"] == found.counts
    assert sum(part["examples"] for part in found.counts.values()) == 120  # of both runs, each in one part
    assert sum(part["positions"] for part in found.counts.values()) == 2 * 120 * 40
    assert record["held out"]["learned"]["missed"]["value"] == found.evaluations[0].missed.value
    assert found.evaluations[0].missed.value == pytest.approx(0.02, abs=0.01)
    again = learning.train(folder, kind, misses=0.02)
    assert again.model.digest == model.digest
    assert again.model.threshold == model.threshold


def test_what_a_study_does_not_suffice_for(tmp_path: Path) -> None:
    runs: dict[str, dict[str, Any]] = {
        "gsm8k-oracle-1": {},
        "gsm8k-oracle-2": {"draft": "other", "digest": "e" * 64},
        "gsm8k-route-3": {"router": "max-prob:0.5"},
        "gsm8k-oracle-4": {"draft": "unknown", "digest": "None"},
        "gsm8k-oracle-5": {"trace": made(2, 8)},
    }
    folder = study(tmp_path, runs)
    words = r"one draft and one System 2, and these runs have 3; choose one of them:\n- --draft small --target large\n"
    with pytest.raises(ValueError, match=words):
        learning.train(folder)
    with pytest.raises(ValueError, match="does not know which weights unknown has"):
        learning.train(folder, draft="unknown", target="large")
    with pytest.raises(ValueError, match="has the draft 'guess'; there are other, small, unknown"):
        learning.train(folder, draft="guess")
    for chosen, words in (
        (["gsm8k-route"], "did not consult System 2 everywhere: gsm8k-route-3"),
        (["gsm8k-oracle-4"], "does not know which weights unknown has"),
        (["gsm8k-oracle-5"], "leave none for|mismatches among"),
        (["gsm8k-oracle-9"], "is no run of this study"),
    ):
        with pytest.raises(ValueError, match=words):
            learning.train(folder, runs=chosen)
    with pytest.raises(ValueError, match="unknown kind 'forest'"):
        learning.train(folder, "forest")
    with pytest.raises(ValueError, match="one budget"):
        learning.train(folder, calls=0.1, misses=0.1)
    assert learning.train(folder, runs=["gsm8k-oracle-1"]).model.record["budget"] == {"calls": 0.2}
