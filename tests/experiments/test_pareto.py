"""`pareto`: frontiers, random mixes, costs, and what is concluded from texts whose answer is known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from fsgen.analysis.frontier import on_frontier, random_mix
from fsgen.experiments import configured
from fsgen.experiments.pareto import ALONE, COUNTED, Settings, estimate
from tests.experiments.conftest import Ask, Run


def setting(name: str, kind: str, right: float, cost: float, examples: int = 80, seed: int = 0) -> pl.DataFrame:
    """Texts of which a share is right, at a cost that varies a little; by calls, operations and price."""
    rng = np.random.default_rng([seed, len(name)])
    scores = (np.random.default_rng(7).permutation(examples) < right * examples).astype(float)
    costs = {each: cost * rng.uniform(0.9, 1.1, examples) for each in COUNTED}
    ids = [f"e{i:03d}" for i in range(examples)]
    return pl.DataFrame({"setting": name, "kind": kind, "example": ids, "score": scores, **costs})


def made(*others: pl.DataFrame) -> pl.DataFrame:
    """A draft that is right in 20 % at a cost of 1, a target in 90 % at 10, and what works together."""
    return pl.concat([setting("small alone", ALONE, 0.2, 1.0), setting("large alone", ALONE, 0.9, 10.0), *others])


def seconds(texts: pl.DataFrame, **other: float) -> pl.DataFrame:
    """Three repetitions of each setting, each slower than the one before: what its price says, or another mean."""
    means = texts.group_by("setting", maintain_order=True).agg(pl.col("price").mean()).rows()
    rows = [
        {"setting": name, "repetition": turn, "seconds": other.get(name, mean) * (1 + 0.1 * turn)}
        for name, mean in means
        for turn in range(3)
    ]
    return pl.DataFrame(rows)


def timed(texts: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    return texts, seconds(texts)


def shares(texts: pl.DataFrame) -> dict[str, list[float]]:
    table = next(table for table in estimate(texts, seconds(texts)).tables if table.name == "methods")
    return {str(row[0]): [float(str(cell)) for cell in row[1:]] for row in table.rows}


def test_what_is_better_than_a_random_mix_is_found() -> None:
    texts = made(setting("route max-prob:0.5", "route max-prob", 0.85, 3.0))
    answer = estimate(texts, seconds(texts))
    assert answer.holds is True
    assert answer.statement.startswith("Working together beats a random mix")
    gain = answer.numbers["best over a random mix, by operations"]
    assert gain.value == pytest.approx(0.85 - (0.2 + 0.7 * 2 / 9), abs=0.03)
    assert "Every method is on a frontier" in answer.statement


def test_what_is_worse_than_a_random_mix_is_found_too() -> None:
    texts = made(setting("ensemble", "ensemble", 0.3, 8.0))
    answer = estimate(texts, seconds(texts))
    assert answer.holds is False
    assert answer.statement.startswith("Working together does not beat a random mix")
    assert answer.numbers["best over a random mix, by price"].value < -0.3


def test_what_is_a_random_mix_itself_stays_open() -> None:
    # Half of the texts by each model: on the line between them, and so on the frontier without being worth anything.
    half = setting("route random:0.5", "route random", 0.55, 5.5)
    answer = estimate(made(half), seconds(made(half)))
    assert answer.holds is None
    assert all(share > 0.9 for share in shares(made(half))["route random"])


def test_a_method_that_another_one_always_beats_is_named() -> None:
    good = setting("route max-prob:0.5", "route max-prob", 0.85, 3.0)
    texts = made(good, setting("ensemble", "ensemble", 0.6, 9.0), setting("ensemble:w=0.8", "ensemble", 0.5, 8.0))
    answer = estimate(texts, seconds(texts))
    assert "Never on a frontier: ensemble." in answer.statement
    assert shares(texts) == {"route max-prob": [1.0] * 4, "ensemble": [0.0] * 4}


def test_one_cost_alone_may_be_worth_it() -> None:
    texts = made(setting("speculative", "speculative", 0.9, 12.0)).with_columns(
        target_calls=pl.when(pl.col("setting") == "speculative").then(2.0).otherwise("target_calls")
    )
    answer = estimate(texts, seconds(texts))
    assert answer.numbers["best over a random mix, by calls of the target"].above(0.0) is True
    assert answer.numbers["best over a random mix, by operations"].above(0.0) is not True
    assert answer.holds is not True
    assert shares(texts)["speculative"] == [1.0, 0.0, 0.0, 0.0]


def test_seconds_alone_decide_nothing() -> None:
    texts = made(setting("route", "route max-prob", 0.85, 3.0))
    answer = estimate(texts, seconds(texts, route=90.0))
    assert answer.holds is True
    assert answer.numbers["best over a random mix, by seconds"].value < 0
    texts = made(setting("ensemble", "ensemble", 0.15, 8.0))
    answer = estimate(texts, seconds(texts, ensemble=0.1))
    assert answer.holds is False
    assert "Never on a frontier: ensemble." in answer.statement


def test_intervals_of_seconds_are_over_repetitions() -> None:
    texts = made(setting("route", "route max-prob", 0.85, 3.0))
    times = seconds(texts, route=3.0)
    even = estimate(texts, times).numbers["best over a random mix, by seconds"]
    assert even.high is not None
    assert even.low == pytest.approx(even.high), "all are slower by one factor, which changes nothing"
    lone = estimate(texts, times.filter(repetition=0)).numbers["best over a random mix, by seconds"]
    assert lone.low is None, "one repetition has no interval"
    assert lone.value == pytest.approx(even.value)
    assert Settings(texts, times).seconds.shape == (3, 3)
    never = estimate(texts, times.clear())
    assert not [name for name in never.numbers if "seconds" in name], "and without any, nothing is said of time"
    assert "seconds" not in never.tables[0].columns


def test_frontier() -> None:
    accuracy = np.array([[0.2, 0.5, 0.5, 0.4, 0.9, 0.9]])
    costs = np.array([[1.0, 2.0, 3.0, 2.5, 9.0, 9.0]])
    assert on_frontier(accuracy, costs).tolist() == [[True, True, False, False, True, True]]


def test_random_mixes() -> None:
    accuracy, costs = np.array([[0.2, 0.3, 0.9]]), np.array([[1.0, 5.0, 9.0]])
    at = np.array([[0.5, 1.0, 3.0, 5.0, 9.0, 20.0]])
    assert random_mix(accuracy, costs, at)[0].tolist() == pytest.approx([0.0, 0.2, 0.375, 0.55, 0.9, 0.9])
    # A dear model that is worse than a cheap one buys nothing.
    assert random_mix(np.array([[0.8, 0.3]]), np.array([[1.0, 5.0]]), np.array([[3.0]])).tolist() == [[0.8]]


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="models alone"):
        estimate(*timed(setting("route", "route", 0.5, 1.0)))
    with pytest.raises(ValueError, match="other settings"):
        estimate(*timed(made()))
    other = setting("route", "route", 0.5, 1.0).with_columns(example=pl.lit("x") + pl.col("example"))
    with pytest.raises(ValueError, match="0 examples in common"):
        estimate(*timed(made(other)))


def test_from_models_to_the_answer(ask: Ask, run: Run, ladder: dict[str, str]) -> None:
    three = [{"draft": ladder["small"], "target": ladder["large"], "base": ladder["middle"]}]
    methods = ["route", {"name": "speculative", "draft_tokens": 2}, {"name": "proxy", "draft_tokens": 2}]
    prices = {"target_price": 3.0, "draft_price": 1.0}
    answer = run(ask("pareto", prices, max_tokens=6, pairs=three, methods=methods, repeats=2))
    table = answer.tables[0]
    rows = {str(row[0]): dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert list(rows) == [
        "small alone", "large alone", "route max-prob:0.5 k=5", "speculative k=2", "proxy k=2",
    ]  # fmt: skip
    assert rows["small alone"]["calls of the target"] == 0
    assert all(float(str(row["seconds"])) > 0 for row in rows.values())
    assert rows["large alone"]["accuracy"] == rows["speculative k=2"]["accuracy"]
    alone = rows["small alone"], rows["large alone"]
    # The two are of one size, write 6 tokens each at the most, and read the same prompts.
    operations = [float(str(row["operations"])) for row in alone]
    assert operations[0] == pytest.approx(operations[1], rel=0.1)
    assert float(str(alone[1]["price"])) == pytest.approx(3 * float(str(alone[0]["price"])), rel=0.1)
    assert float(str(rows["proxy k=2"]["operations"])) > float(str(rows["speculative k=2"]["operations"]))


def test_what_is_refused(ask: Ask, run: Run) -> None:
    with pytest.raises(ValueError, match="the oracle is a measurement"):
        run(ask("pareto"))
    with pytest.raises(ValueError, match="no method of the study has a draft"):
        run(ask("pareto", methods=["plain"]))
    with pytest.raises(ValueError, match="draft_price"):
        run(ask("pareto", {"draft_price": -1}, methods=["route"]))
    assert configured("pareto").study is not None
