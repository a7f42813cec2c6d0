"""`prediction`: found where texts tell more than sizes, not where sizes tell all; and from models to the answer."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fsgen.analysis.prediction import Predictor
from fsgen.experiments.prediction import estimate
from tests.analysis.test_prediction import TRUE, pairs
from tests.experiments.conftest import Ask, Run

BY_SIZE = Predictor((0.0, 0.0, 0.0, -0.7, 0.3), 4.5)


def test_where_texts_tell_more_than_sizes() -> None:
    some = pairs()
    answer = estimate(some, replace(TRUE, record={"models": {"other": "another digest"}}))
    assert answer.holds is True
    assert "better than its sizes do" in answer.statement
    numbers = answer.numbers
    own, sizes = (numbers[f"error of {way}, a task and a model left out"].value for way in ("own texts", "sizes alone"))
    assert own < 0.05 < sizes
    assert numbers["error of the predictor that ships, on models that it does not know"].value < 0.02
    assert f"({len(some)} pairs)" in answer.statement


def test_where_sizes_tell_all() -> None:
    some = pairs(BY_SIZE)
    answer = estimate(some, replace(TRUE, record={"models": {"m100000": "d100000"}}))
    assert answer.holds is not True
    rows = {(row[-3], row[-1]) for table in answer.tables if table.name == "pairs" for row in table.rows}
    assert {known for _, known in rows} == {"yes", "no"}


def test_with_four_models_the_sizes_alone_are_a_constant() -> None:
    """Without a pair's two models one pair is left: no law of the sizes, and no number for what was not predicted."""
    some = [pair for pair in pairs() if pair.target != "m10000000"]
    answer = estimate(some, TRUE)
    assert answer.holds is None
    assert "it takes five sizes" in answer.statement
    assert not any("fitted to the task" in name for name in answer.numbers)
    json.dumps(answer.as_dict(), allow_nan=False)
    assert "five sizes" not in estimate(pairs(), TRUE).statement


def test_too_few_pairs() -> None:
    with pytest.raises(ValueError, match="too few pairs to leave out a task"):
        estimate([pair for pair in pairs() if pair.task == "a"], TRUE)


def test_from_models_to_the_answer(ask: Ask, run: Run, ladder: dict[str, str], data: str) -> None:
    tasks = [
        {"name": "pocket_math", "limit": 4, "max_tokens": 12, "data": data},
        {
            "name": "jsonl",
            "data": data,
            "prompt": "Q {question}",
            "answer": "answer",
            "metric": "exact",
            "max_tokens": 12,
        },
    ]
    sizes = [{"draft": ladder[a], "target": ladder[b]} for a, b in (("small", "large"), ("small", "middle"))]
    sizes.append({"draft": ladder["middle"], "target": ladder["large"]})
    with pytest.raises(ValueError, match="too few pairs to leave out a model"):
        run(ask("prediction", tasks=tasks, pairs=sizes, candidates=2))
    with pytest.raises(ValueError, match="fewer than 2 candidates"):
        run(ask("prediction", candidates=0))
