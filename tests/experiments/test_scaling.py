"""`scaling`: what it estimates from made-up pairs, which follow a law or do not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np
import polars as pl
import pytest

from fsgen.analysis.scaling.controls import controls
from fsgen.analysis.scaling.judging import by_size, judge, ladders
from fsgen.analysis.scaling.points import SCHEMA
from fsgen.analysis.trainings import of_points
from fsgen.experiments.scaling import estimate

SIZES = (1e5, 3e5, 1e6, 3e6, 1e7)
EXAMPLES = 60
Truth = Callable[[float, float], float]


def points(
    truth: Truth, seed: int = 0, sizes: tuple[float, ...] = SIZES, trainings: int = 1, spread: float = 0.0
) -> pl.DataFrame:
    """Every ordered pair, with frequencies of (draft, target) counted in 40 tokens of each example.

    Trainings differ by `spread`, of the draft and of the target.
    """
    rng = np.random.default_rng(seed)
    models = [(f"m{size:g}-{number}", size) for size in sizes for number in range(trainings)]
    own = {name: spread * rng.standard_normal(2) for name, _ in models}
    rows = []
    for (draft, small), (target, large) in permutations(models, 2):
        chance = float(np.clip(truth(small, large) + own[draft][0] + own[target][1], 0.01, 0.99))
        part = rng.binomial(40, chance, EXAMPLES).astype(float)
        rows.append(
            {
                "family": "", "method": "oracle", "task": "t", "target": target, "draft": draft,
                "target_parameters": large, "draft_parameters": small,
                "collaboration_frequency": part.sum() / (40 * EXAMPLES),
                "part": part.tolist(), "whole": [40.0] * EXAMPLES,
            }
        )  # fmt: skip
    return pl.DataFrame(rows, schema=SCHEMA)


def ratio(slope: float) -> Truth:
    return lambda small, large: 0.2 + slope * np.log(large / small)


def of_the_draft(small: float, large: float) -> float:
    """c S^-a, whatever the target."""
    return float(0.5 * (small / 1e5) ** -0.3)


def test_a_law_that_is_there_is_found() -> None:
    answer = estimate(points(ratio(0.05)))
    assert answer.holds is True
    assert "predicts the pairs of a model" in answer.statement
    assert "does not predict" not in answer.statement
    assert answer.numbers["the same, less that of a constant"].above(0.0) is False
    assert "one is the largest number of trainings that every size has" in answer.remarks[0]


def test_where_sizes_do_not_matter_no_law_is_found() -> None:
    answer = estimate(points(ratio(0.0)))
    assert answer.holds is not True
    assert answer.numbers["the same, less that of a constant"].above(0.0) is not False


@pytest.mark.parametrize("trainings", [1, 3])
def test_the_drafts_size_decides_where_that_is_all(trainings: int) -> None:
    answer = estimate(points(of_the_draft, trainings=trainings, spread=0.01 * (trainings > 1)))
    assert answer.holds is True
    assert "the draft's size decides" in answer.statement


def test_a_law_in_both_sizes_is_found() -> None:
    answer = estimate(points(ratio(0.08), trainings=3, spread=0.005))
    assert answer.holds is True
    assert "It errs less than the draft's size alone" in answer.statement


def test_intervals_contain_what_other_trainings_would_change() -> None:
    few, many = (estimate(points(ratio(0.05), trainings=3, spread=spread)) for spread in (0.0, 0.05))

    def width(name: str, answer: object) -> float:
        found = answer.numbers[name]  # type: ignore[attr-defined]
        return float(found.high - found.low)

    name = "held-out error of the chosen law"
    assert width(name, many) > 3 * width(name, few)
    assert "3 of each are compared, the largest number of trainings that every size has" in many.remarks[0]


def test_a_ladder_has_one_training_of_every_size() -> None:
    pairs = points(ratio(0.05), trainings=2)
    parts = ladders(pairs)
    assert len(parts) == 2
    for number, part in enumerate(parts):
        assert len(part) == len(SIZES) * (len(SIZES) - 1)
        assert all(name.endswith(f"-{number}") for role in ("draft", "target") for name in part[role])


def test_a_law_is_chosen_where_it_is_not_judged() -> None:
    judged = judge(points(ratio(0.05), trainings=2, spread=0.03))
    assert judged.chosen is not None
    laws = {name: drawn for name, drawn in judged.laws.items() if name != "constant"}
    for ladder in range(2):
        best = min(laws, key=lambda name: laws[name][1 - ladder, 0])
        assert judged.choices[ladder] == best
        assert judged.chosen[ladder, 0] == laws[best][ladder, 0]


def with_tuned(pairs: pl.DataFrame, of: str) -> pl.DataFrame:
    """The same with a tuned draft of equal size, which is never overruled."""
    of_base = pairs.filter(draft=of)
    zero = pl.col("part").list.eval(pl.element() * 0)
    tuned = of_base.with_columns(
        draft=pl.lit(f"{of}-tuned"), draft_tuned=pl.lit(True), collaboration_frequency=pl.lit(0.0), part=zero
    )
    return pl.concat([pairs, tuned])


def test_a_tuned_draft_is_no_training_of_its_size() -> None:
    plain = points(ratio(0.05), trainings=2, spread=0.02)
    both = with_tuned(plain, "m100000-0")
    assert len(both) > len(plain)
    assert of_points(both) == of_points(plain)
    assert by_size(both).equals(by_size(plain))
    assert [one.shape for one in ladders(both)] == [one.shape for one in ladders(plain)]
    assert controls(both) == controls(plain)
    assert estimate(both).numbers == estimate(plain).numbers
    unmarked = both.with_columns(draft_tuned=pl.lit(None, pl.Boolean))
    assert of_points(unmarked) != of_points(plain)


def test_four_sizes_are_too_few_to_choose_a_law() -> None:
    answer = estimate(points(ratio(0.08), sizes=SIZES[:4]))
    assert answer.holds is None
    assert "which takes five sizes or several trainings of each" in answer.statement
    several = estimate(points(ratio(0.08), sizes=SIZES[:4], trainings=2, spread=0.005))
    assert "five sizes" not in several.statement


def test_chosen_among_the_other_models_where_each_size_has_one() -> None:
    judged = judge(points(ratio(0.05)))
    assert judged.chosen is not None
    assert judged.chosen.shape == judged.laws["constant"].shape
    assert len(judged.choices) == len(SIZES)


def test_trainings_are_taken_together() -> None:
    pairs = points(ratio(0.05), trainings=2)
    one = by_size(pairs)
    assert len(one) == len(SIZES) ** 2
    row = one.row(0, named=True)
    same = pairs.filter(
        draft_parameters=row["draft_parameters"], target_parameters=row["target_parameters"]
    )  # the trainings of these two sizes
    assert row["collaboration_frequency"] == pytest.approx(same["collaboration_frequency"].mean())
    assert sum(row["part"]) == sum(map(sum, same["part"].to_list()))


def test_the_charts_and_tables_have_every_pair_and_law() -> None:
    answer = estimate(points(ratio(0.05)))
    assert len(answer.charts[0].points) == len(SIZES) * (len(SIZES) - 1) / 2
    assert {row[2] for row in answer.tables[0].rows} >= {"constant", "ratio-power-law", "draft-only"}


def test_too_few_models() -> None:
    with pytest.raises(ValueError, match="pairs that a fit needs"):
        estimate(points(ratio(0.05), sizes=SIZES[:2]))
