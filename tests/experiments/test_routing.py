"""`routing`: an advantage that is there is found, one that is not is not; and the experiment runs, and resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import fsgen.experiments.cells as cells
from fsgen.analysis.answers import Answer
from fsgen.experiments.budgets import ALWAYS, NEVER
from fsgen.experiments.config import ExperimentConfig, configured
from fsgen.experiments.routing import MAX_PROB, PERFECT, RANDOM, Measured, Options, estimate
from fsgen.methods.learned.file import read
from fsgen.methods.method import parse_router
from tests.experiments.conftest import Ask, Run
from tests.study.ladder import save_model

EXAMPLES, LENGTH = 400, 20
BUDGETS = (0.1, 0.2, 0.5)


def texts(advantage: float = 0.0, flipped: int = 0) -> pl.DataFrame:
    """Texts whose accuracy rises with calls: that of `logistic` by `advantage` more, or in `flipped` examples alone."""
    luck = np.random.default_rng(0).permutation(EXAMPLES) / EXAMPLES
    rows: list[dict[str, Any]] = []

    def add(router: str, budget: float, accuracy: float, calls: float, more: int = 0) -> None:
        right = luck < accuracy
        right[np.flatnonzero(~right)[:more]] = True
        rows.extend(
            {"router": router, "budget": budget, "example": f"e{i:03d}", "score": float(score), "tokens": LENGTH}
            | {"consulted": round(calls * LENGTH), "seconds": 1.0}
            for i, score in enumerate(right)
        )

    add(NEVER, 0.0, 0.2, 0.0)
    add(ALWAYS, 1.0, 0.9, 1.0)
    add(PERFECT, 0.0, 0.9, 0.1)
    for budget in BUDGETS:
        add(MAX_PROB, budget, 0.2 + 0.7 * budget**0.5, budget)
        add(RANDOM, budget, 0.2 + 0.7 * budget, budget)
        add("logistic", budget, 0.2 + 0.7 * budget**0.5 + advantage, budget, flipped)
    return pl.DataFrame(rows)


def measured(written: pl.DataFrame | None, sees: float) -> Measured:
    """Positions of which a tenth differ; `logistic` ranks them like max-prob, and the more it `sees` the better."""
    draw = np.random.default_rng(1)
    count = EXAMPLES * LENGTH
    differs = draw.uniform(size=count) < 0.1
    uncertainty = draw.normal(size=count) + differs
    scores = {MAX_PROB: uncertainty, "logistic": uncertainty + sees * differs, RANDOM: draw.uniform(size=count)}
    return Measured("task, a → b", differs, np.repeat(np.arange(EXAMPLES), LENGTH), scores, "logistic", written)


def answer(advantage: float = 0.0, flipped: int = 0, sees: float = 0.0) -> Answer:
    return estimate([measured(texts(advantage, flipped), sees), measured(None, sees)])


def test_an_advantage_is_found() -> None:
    found = answer(0.1, sees=1.0)
    assert found.holds is True
    assert found.numbers["accuracy over max-prob at equal calls"].value == pytest.approx(0.1, abs=0.01)
    assert found.numbers["gain of logistic over max-prob, task, a → b"].above(0.0) is True
    assert "(logistic) writes better answers" in found.statement


@pytest.mark.parametrize(("advantage", "flipped", "holds"), [(-0.1, 0, False), (0.0, 0, None), (0.0, 1, False)])
def test_no_advantage_is_not_found(advantage: float, flipped: int, holds: bool | None) -> None:
    """Worse; alike in every text, of which there is no interval; better in one text of 400, which is too little."""
    found = answer(advantage, flipped)
    assert found.holds is holds
    assert found.numbers["gain of logistic over max-prob, task, a → b"].value == 0.0
    expected = advantage + flipped / EXAMPLES
    assert found.numbers["accuracy over max-prob at equal calls"].value == pytest.approx(expected, abs=2e-3)


def test_curves_are_compared_at_equal_calls() -> None:
    """A router that asks twice as often as its budget says, and writes what max-prob does with as many calls."""
    frame = texts()
    twice = frame.filter(router=MAX_PROB).with_columns(budget=pl.col("budget") / 2, router=pl.lit("logistic"))
    found = estimate([measured(pl.concat([frame.filter(pl.col("router") != "logistic"), twice]), 0.0)])
    assert found.numbers["accuracy over max-prob at equal calls"].value == pytest.approx(0.0, abs=1e-12)


def test_the_distance_from_a_perfect_router() -> None:
    found = answer(0.05)
    numbers = {name: number.value for name, number in found.numbers.items()}
    expected = 0.2 + 0.7 * 0.1**0.5 - 0.9  # at the calls of the perfect router, a tenth
    assert numbers["accuracy beside a perfect router at its calls, max-prob"] == pytest.approx(expected, abs=5e-3)
    assert numbers["accuracy beside a perfect router at its calls, best other"] == pytest.approx(
        expected + 0.05, abs=5e-3
    )
    needed = numbers["calls of max-prob for the target's accuracy less a point"]
    last = 0.2 + 0.7 * 0.5**0.5  # at half of the calls; from there it is straight to 0.9
    assert needed == pytest.approx(1 - 0.5 * 0.01 / (0.9 - last), abs=5e-3)
    table = next(table for table in found.tables if table.name == "written")
    assert [row[1] for row in table.rows] == ["logistic", MAX_PROB, RANDOM]


# ---- run


@pytest.fixture
def config(ask: Ask, data: str, ladder: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Ask:
    draft = save_model(tmp_path_factory.mktemp("draft"), 0.1)  # it agrees half of the time, so that it can be learned

    def config(**options: Any) -> ExperimentConfig:
        given = {"judged": 4, "budgets": [0.3, 0.6], "kinds": ["logistic", "trees"]} | options
        tasks = [{"name": "pocket_math", "max_tokens": 24, "data": data}]
        pairs = [{"draft": str(draft), "target": ladder["large"]}]
        return ask("routing", given, batch_size=8, candidates=4, tasks=tasks, pairs=pairs)

    return config


def test_it_runs_and_resumes(config: Ask, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(config())
    curves = next(chart for chart in found.charts if chart.name == "accuracy")
    named = {point.series for point in curves.points}
    assert {MAX_PROB, "margin", "entropy", RANDOM, "position", "logistic", "trees"} <= named
    for file in (tmp_path / "measured" / "routers").iterdir():
        assert read(file).record["experiment"] == "routing"
    assert len(list((tmp_path / "measured" / "routers").iterdir())) == 2
    for name in ("generate", "PRESETS"):
        monkeypatch.setattr(cells, name, None)  # nothing is written again
    again = run(config())
    assert again.statement == found.statement
    assert again.tables == found.tables


def test_what_cannot_run_is_refused_before_anything_runs(config: Ask, run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of gsm8k is a task of the study"):
        run(config(on_policy=["gsm8k"]))
    with pytest.raises(ValueError, match="too few to choose on and to judge"):
        run(config(), limit=2)
    with pytest.raises(ValueError, match=r"budgets\.0"):
        run(config(budgets=[2.0]))
    assert not (tmp_path / "traces").exists()


def test_the_shipped_options_are_those_of_the_model() -> None:
    assert Options.model_validate(configured("routing").options) == Options()
    assert parse_router("random:0.02").argument == "0.02"
