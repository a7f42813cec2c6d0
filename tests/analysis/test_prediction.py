"""The predictor finds the model that made the data, and what it leaves out is left out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fsgen.analysis.prediction import (
    FEATURES,
    SIZES,
    PairTexts,
    Predictor,
    accepted,
    fit,
    fit_for_use,
    held_out,
    open_predictor,
    shipped,
)

TRUE = Predictor((-1.0, 0.2, 0.5, -0.7, 0.3), 5.0)


def made_up(task: str, draft: int, target: int, seed: int, true: Predictor = TRUE, tokens: int = 4000) -> PairTexts:
    """A pair of models of so many parameters, whose mismatches a predictor draws."""
    rng = np.random.default_rng(seed)
    pair = PairTexts(
        task, f"m{draft}", f"m{target}", draft, target, float(rng.uniform(0.3, 2)), rng.exponential(3, tokens),
        rng.gamma(1.0, 0.5, tokens), np.arange(tokens) // 40, digests=(f"d{draft}", f"d{target}"),
    )  # fmt: skip
    return replace(pair, differs=rng.random(tokens) < true.mismatch(pair))


def pairs(true: Predictor = TRUE) -> list[PairTexts]:
    sizes = [100_000, 300_000, 1_000_000, 3_000_000, 10_000_000]
    both = [(task, s, b) for task in ("a", "b", "c") for i, s in enumerate(sizes) for b in sizes[i + 1 :]]
    return [made_up(*each, seed=place, true=true) for place, each in enumerate(both)]


def test_the_model_that_made_the_data_is_found() -> None:
    many = [
        made_up("t", s, b, seed) for seed, (s, b) in enumerate([(10**5, 10**6), (10**5, 10**7), (10**6, 10**7)] * 20)
    ]
    found = fit(many)
    assert found.weights == pytest.approx(TRUE.weights, abs=0.1)
    other = made_up("u", 5 * 10**5, 2 * 10**7, seed=999)
    assert found.frequency(other) == pytest.approx(other.frequency, abs=0.03)
    sizes = fit(many, SIZES)
    assert [place for place, weight in enumerate(sizes.weights) if weight] == list(SIZES)


def test_what_is_left_out_is_not_seen() -> None:
    some = pairs()
    seen: list[tuple[PairTexts, list[PairTexts]]] = []
    for by in ("task", "model", "both"):
        seen.clear()
        held_out(some, by, lambda left, pair: seen.append((pair, list(left))))
        assert len(seen) == len(some)
        for pair, left in seen:
            expected = [
                other
                for other in some
                if (by == "model" or other.task != pair.task) and (by == "task" or not other.models & pair.models)
            ]
            assert left == expected
    values = held_out(some[:2], "model", lambda left, pair: 0.5)
    assert np.isnan(values).all()  # both have the first draft


def test_the_chance_that_drafted_tokens_stand() -> None:
    mismatch, text = np.array([0.5, 0.2, 0.1, 0.4, 0.3]), np.array([0, 0, 0, 1, 1])
    one, two, three = accepted(mismatch, text, 3)
    assert one == pytest.approx((0.5 + 0.8 + 0.9 + 0.6 + 0.7) / 5)
    assert two == pytest.approx((0.5 * 0.8 + 0.8 * 0.9 + 0.6 * 0.7) / 3)
    assert three == pytest.approx(0.5 * 0.8 * 0.9)
    assert accepted(mismatch, text, 5)[3:] == [0, 0]


def test_a_predictor_says_what_it_was_fitted_on_and_is_read_again(tmp_path: Path) -> None:
    some = pairs()
    found = fit_for_use(some)
    assert found.record["pairs"] == len(some)
    assert set(found.record["models"]) == {name for pair in some for name in pair.models}
    assert 0 < found.record["error"]["mean"] < 0.05 < 0.05 + found.record["error"]["nine in ten"]
    assert found.knows(some[0])
    assert not found.knows(replace(some[0], digests=("x", "y")))
    assert found.knows(replace(some[0], digests=("", "y"))), "what cannot be told may be known"
    found.write(tmp_path / "p.json")
    assert open_predictor(tmp_path / "p.json") == found
    content = json.loads((tmp_path / "p.json").read_text())
    (tmp_path / "q.json").write_text(json.dumps({"features": content["features"][:2], "weights": [1, 2], "bias": 0}))
    with pytest.raises(ValueError, match="is no predictor of this version"):
        open_predictor(tmp_path / "q.json")


def test_too_little_to_fit() -> None:
    one = made_up("t", 10**5, 10**6, 0)
    for few in ([one], [replace(one, differs=np.zeros(4000, dtype=bool))] * 3):
        with pytest.raises(ValueError, match="too little to fit"):
            fit(few)


def test_what_ships_has_the_features_and_its_errors() -> None:
    found = shipped()
    assert len(found.weights) == len(FEATURES)
    assert found.weights[0] < 0, "a larger gap of the target means fewer mismatches"
    assert found.weights[2] > 0, "an uncertain draft is overruled more often"
    assert 0 < found.record["error"]["mean"] < found.record["error"]["nine in ten"] < 0.2
