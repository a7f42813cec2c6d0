"""`window`: what it plans, and what it estimates from texts whose answer is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from fsgen.experiments.cells import DRAFT, TARGET
from fsgen.experiments.window import (
    FIRST,
    LAST,
    MIDDLE,
    RANDOM,
    UNCERTAIN,
    Options,
    Planned,
    estimate,
    scattered,
    windows,
)
from tests.experiments.conftest import Ask, Run

PLACES = {FIRST: 0.0, MIDDLE: 0.5, LAST: 1.0}


def texts(right: Mapping[str, float], spent: Mapping[str, int] | None = None, examples: int = 60) -> pl.DataFrame:
    """Texts of 40 tokens; so large a share of them is right, and 10 tokens are asked for where nothing else is said."""
    rng = np.random.default_rng(1)
    hard = rng.permutation(examples)  # the same examples are hard wherever help comes
    settings = {DRAFT: 0.1, FIRST: 0.3, MIDDLE: 0.3, LAST: 0.3, RANDOM: 0.3, UNCERTAIN: 0.3, TARGET: 0.95, **right}
    rows = [
        {
            "task": "t", "draft": "a/small", "target": "large", "where": where,
            "budget": 0.0 if where in (DRAFT, TARGET) else 0.25, "place": PLACES.get(where), "example": f"e{i:03d}",
            "tokens": 40, "consulted": {DRAFT: 0, TARGET: 40, **(spent or {})}.get(where, 10),
            "score": float(hard[i] < share * examples),
        }
        for where, share in settings.items()
        for i in range(examples)
    ]  # fmt: skip
    return pl.DataFrame(rows)


@pytest.mark.parametrize(
    ("right", "holds", "said"),
    [
        ({FIRST: 0.8, LAST: 0.2}, True, "Early help is worth more than late help"),
        ({FIRST: 0.2, LAST: 0.8}, False, "Late help is worth more than early help"),
        ({FIRST: 0.5, LAST: 0.5}, None, "stays open"),
    ],
)
def test_early_or_late(right: dict[str, float], holds: bool | None, said: str) -> None:
    answer = estimate(texts(right))
    assert answer.holds is holds
    assert said in answer.statement
    assert answer.numbers["first part over last"].value == pytest.approx(right[FIRST] - right[LAST])
    best = FIRST if right[FIRST] >= right[LAST] else LAST
    assert f"small → large: {PLACES[best]:g} with budget 0.25" in answer.statement


@pytest.mark.parametrize(
    ("uncertain", "said"),
    [(0.9, "it is worth more"), (0.1, "it is worth less"), (0.5, "not clearly worth more or less")],
)
def test_where_uncertain_against_the_best_part(uncertain: float, said: str) -> None:
    answer = estimate(texts({MIDDLE: 0.5, UNCERTAIN: uncertain}))
    assert said in answer.statement
    assert answer.numbers["where uncertain over best part"].value == pytest.approx(uncertain - 0.5)


def test_what_is_spent_is_counted_and_not_taken_as_planned() -> None:
    answer = estimate(texts({UNCERTAIN: 0.9}, spent={UNCERTAIN: 4}))
    assert answer.numbers["consultations per token, where uncertain"].value == pytest.approx(0.1)
    assert answer.numbers["consultations per token, parts"].value == pytest.approx(0.25)
    table = answer.tables[0]
    row = next(row for row in table.rows if row[2] == UNCERTAIN)
    assert row[table.columns.index("gain")] == pytest.approx((0.9 - 0.1) / 4)


def test_texts_without_a_score_are_left_out_and_none_is_an_error() -> None:
    some = texts({FIRST: 0.8, LAST: 0.2}).with_columns(
        score=pl.when(pl.col("example") == "e000").then(None).otherwise("score")
    )
    assert estimate(some).holds is True
    with pytest.raises(ValueError, match="no scored texts"):
        estimate(some.with_columns(score=pl.lit(None, pl.Float64)))


def test_windows_stand_where_they_should_and_spend_alike() -> None:
    lengths = np.array([8, 12, 3])
    planned = {place: windows(lengths, 0.25, place) for place in (0.0, 0.5, 1.0)}
    assert [flags.sum(axis=1).tolist() for flags in planned.values()] == [[2, 3, 1]] * 3
    assert np.flatnonzero(planned[0.0][1]).tolist() == [0, 1, 2]
    assert np.flatnonzero(planned[0.5][0]).tolist() == [3, 4]
    assert [int(np.flatnonzero(row)[-1]) for row in planned[1.0]] == [7, 11, 2]


def test_scattered_positions_spend_the_same_inside_of_each_text() -> None:
    lengths = np.array([8, 12, 3] * 200)
    flags = scattered(lengths, 0.25, seed=0)
    assert flags.sum(axis=1).tolist() == [2, 3, 1] * 200
    assert not flags[lengths == 3, 3:].any()
    often = flags[lengths == 12].mean(axis=0)
    assert np.abs(often - 0.25).max() < 0.13  # everywhere alike
    assert not np.array_equal(flags, scattered(lengths, 0.25, seed=1))


def test_a_plan_is_kept_for_each_text_and_ends() -> None:
    router = Planned(np.array([[True, False, True], [False, True, False]]))
    logits = torch.zeros(4, 5)
    seeds = np.array([0, 1, 1, 0], dtype=np.uint64)
    assert router.consult(logits, np.array([0, 0, 1, 3]), seeds) == [True, False, True, False]


def test_options() -> None:
    Options()
    for wrong in ({"places": (0.5, 1.0)}, {"budgets": (0.0,)}, {"budgets": ()}, {"choosing": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Options.model_validate(wrong)


def test_from_models_to_the_answer(ask: Ask, run: Run, tmp_path: Path) -> None:
    config = ask("window", {"budgets": [0.5]}, limit=6)
    answer = run(config)
    rows = {row[2]: row for row in answer.tables[0].rows}
    assert set(rows) == {DRAFT, TARGET, FIRST, MIDDLE, LAST, RANDOM, UNCERTAIN}
    assert {row[3] for row in rows.values()} == {4}  # two of six choose
    assert rows[DRAFT][4] == 0
    assert rows[TARGET][4] == 1
    for where in (FIRST, MIDDLE, LAST, RANDOM):
        share = rows[where][4]
        assert isinstance(share, float)
        assert 0.2 < share <= 0.75  # as planned by the draft's own text, which the text written need not be like
    tables = sorted((tmp_path / "measured" / "window").glob("*.parquet"))
    assert len(tables) == 5
    before = [table.stat().st_mtime_ns for table in tables]
    assert run(config) == answer
    assert [table.stat().st_mtime_ns for table in tables] == before


def test_other_methods_are_refused(ask: Ask, run: Run) -> None:
    with pytest.raises(ValueError, match="this experiment has the method oracle alone, and greedy texts"):
        run(ask("window", {"budgets": [0.5]}, methods=["contrastive"]))
