"""`families`: one law or several, from made-up frequencies whose law is known."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
import pytest

from fsgen.analysis.scaling import families as family_laws
from fsgen.analysis.scaling.families import compare, sets_of
from fsgen.analysis.scaling.laws import LOG_SEPARABLE
from fsgen.analysis.scaling.points import SCHEMA
from fsgen.experiments.config import ExperimentConfig
from fsgen.experiments.families import Options, estimate
from tests.experiments.conftest import Ask, Run

SIZES = {"a": (1e6, 3e6, 1e7, 3e7, 1e8), "b": (2e6, 5e6, 2e7, 5e7)}
LAW = (0.1, -0.02, 0.03)  # c, a, b of log-separable


def points(
    laws: Mapping[str, tuple[float, float, float]],
    noise: float = 0.002,
    by_model: float = 0.0,
    examples: int = 0,
    sizes: Mapping[str, tuple[float, ...]] = SIZES,
    seed: int = 0,
) -> pl.DataFrame:
    """All pairs of each family, by c + a ln S + b ln L; errors of pairs and of models; counts of examples if asked."""
    rng = np.random.default_rng(seed)
    rows = []
    for family, (c, a, b) in laws.items():
        odd = by_model * rng.standard_normal(len(sizes[family]))
        for (i, small), (j, large) in combinations(enumerate(sizes[family]), 2):
            frequency = c + a * np.log(small / 1e9) + b * np.log(large / 1e9)
            frequency += noise * rng.standard_normal() + odd[i] + odd[j]
            counts = rng.binomial(40, np.clip(frequency, 0, 1), examples) if examples else None
            rows.append(
                {
                    "family": family, "method": "oracle", "task": "t", "target": f"{large:g}", "draft": f"{small:g}",
                    "target_parameters": large, "draft_parameters": small,
                    "collaboration_frequency": frequency if counts is None else counts.sum() / (40 * examples),
                    "part": None if counts is None else counts.astype(float).tolist(),
                    "whole": None if counts is None else [40.0] * examples,
                }
            )  # fmt: skip
    return pl.DataFrame(rows, schema=SCHEMA)


def p_value(made: pl.DataFrame) -> float:
    [pairs] = sets_of(made)
    found = compare(pairs, LOG_SEPARABLE).p
    assert found is not None
    return found


@pytest.mark.parametrize("other", [(0.2, -0.02, 0.03), (0.1, -0.045, 0.03)])  # another level; another slope
@pytest.mark.parametrize("examples", [0, 100])
def test_families_with_laws_of_their_own_are_told_apart(other: tuple[float, float, float], examples: int) -> None:
    answer = estimate(points({"a": LAW, "b": other}, examples=examples), LOG_SEPARABLE.name)
    assert answer.holds is False
    assert answer.statement.startswith("One law does not hold for all families (a, b)")
    assert answer.numbers["one law over a law for each, held-out error"].value > 1.5


def test_families_of_one_law_are_not() -> None:
    answer = estimate(points({"a": LAW, "b": LAW}, noise=0.0, examples=100), LOG_SEPARABLE.name)
    ratio = answer.numbers["one law over a law for each, held-out error"]
    assert answer.holds is not False
    assert ratio.value < 1
    assert estimate(points({"a": LAW, "b": LAW}, noise=0.01), LOG_SEPARABLE.name).holds is True  # without intervals


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer simulations for a p-value, where many p-values are wanted."""
    monkeypatch.setattr(family_laws, "SIMULATED", 99)


@pytest.mark.usefixtures("few")
def test_the_test_keeps_its_level_and_has_power() -> None:
    """Under one law p is below 0.05 about that often, whatever part of the errors is of models; else mostly."""
    for by_model in (0.0, 0.002):
        under = [p_value(points({"a": LAW, "b": LAW}, by_model=by_model, seed=seed)) for seed in range(50)]
        assert np.mean([p < 0.05 for p in under]) <= 0.12
        assert np.mean(under) > 0.35
    apart = [p_value(points({"a": LAW, "b": (0.12, -0.02, 0.03)}, seed=seed)) for seed in range(10)]
    assert np.mean([p < 0.05 for p in apart]) >= 0.8


@pytest.mark.usefixtures("few")
def test_unlike_noise_is_not_taken_for_unlike_laws() -> None:
    """A noisy family of few pairs beside an exact one of many: the plain F-test would err here."""
    found = []
    for seed in range(40):
        exact, noisy = points({"a": LAW}, noise=0.0005, seed=seed), points({"b": LAW}, noise=0.01, seed=seed)
        found.append(p_value(pl.concat([exact, noisy])))
    assert np.mean([p < 0.05 for p in found]) <= 0.15


def test_shared_examples_are_no_difference_of_families() -> None:
    """What the drawn examples do to all measured pairs alike is no law of theirs, beside a table's values."""
    rng = np.random.default_rng(3)
    made = points({"a": LAW, "b": LAW}, noise=0.0005)
    hard = 0.15 * rng.standard_normal(30)  # few examples, some with many mismatches, in all pairs
    measured = made.filter(pl.col("family") == "a").with_columns(
        pl.col("collaboration_frequency").map_elements(
            lambda frequency: [40 * max(0.0, frequency + more) for more in hard], pl.List(pl.Float64)
        ).alias("part"),
        whole=pl.lit([40.0] * 30),
    )  # fmt: skip
    measured = measured.with_columns(collaboration_frequency=pl.col("part").list.mean() / 40)
    whole = pl.concat([measured.select(*SCHEMA), made.filter(pl.col("family") == "b")])
    assert p_value(whole) > 0.05
    nothing = pl.lit(None, pl.List(pl.Float64))
    assert p_value(whole.with_columns(part=nothing, whole=nothing)) < 0.05  # unless the examples are taken as fixed


def test_a_small_family_is_tested_but_has_no_model_to_leave_out() -> None:
    sizes = {**SIZES, "b": SIZES["b"][:3]}
    made = points({"a": LAW, "b": (0.2, -0.02, 0.03)}, sizes=sizes)
    answer = estimate(made, LOG_SEPARABLE.name)
    assert p_value(made) < 0.05
    assert answer.holds is None
    assert "the families differ in sizes, too" in answer.statement


def test_families_measured_on_other_texts_are_not_told_apart() -> None:
    here = points({"a": LAW, "b": (0.2, -0.02, 0.03)}, examples=50)
    nothing = pl.lit(None, pl.List(pl.Float64))
    elsewhere = here.filter(family="b").with_columns(part=nothing, whole=nothing)
    answer = estimate(pl.concat([here.filter(family="a"), elsewhere]), LOG_SEPARABLE.name)
    assert estimate(here, LOG_SEPARABLE.name).holds is False
    assert answer.holds is None
    assert "prompts and data" in answer.statement


def test_a_family_of_two_models_is_too_small() -> None:
    tiny = {**SIZES, "b": SIZES["b"][:2]}
    with pytest.raises(ValueError, match="as many pairs as a law has parameters"):
        estimate(points({"a": LAW, "b": LAW}, sizes=tiny), LOG_SEPARABLE.name)


def test_families_that_are_left_out_are_named() -> None:
    sizes = {**SIZES, "c": (3e6, 6e6)}
    answer = estimate(points({"a": LAW, "b": LAW, "c": LAW}, sizes=sizes), LOG_SEPARABLE.name)
    assert "families (a, b)" in answer.statement or "(a, b):" in answer.statement
    assert "Left out: c, with fewer pairs than log-separable" in answer.statement
    assert "Left out" not in estimate(points({"a": LAW, "b": LAW}), LOG_SEPARABLE.name).statement


def test_a_ladder_of_two_models_is_refused(ask: Ask, run: Run, ladder: dict[str, str]) -> None:
    pairs = [{"ladder": [ladder["small"], ladder["large"]]}]
    with pytest.raises(ValueError, match="the ladder of tiny has 2 models: a law of the sizes needs 3"):
        run(ask("families", {"names": ["tiny"], "tables": ["published"]}, pairs=pairs))


def test_the_law_is_chosen_by_left_out_models() -> None:
    answer = estimate(points({"a": LAW, "b": LAW}))
    assert "log-separable errs" in answer.statement
    laws = {row[2] for row in answer.tables[0].rows}
    assert "ratio-power-law" in laws
    assert "constant" not in laws
    others = next(table for table in answer.tables if table.name == "others")
    assert [row[2] for row in others.rows] == ["a", "b"]


def test_two_and_two_tells_which_family_is_another() -> None:
    sizes = {**SIZES, "c": (3e6, 6e6, 2e7, 6e7)}
    answer = estimate(points({"a": LAW, "b": LAW, "c": (0.2, -0.02, 0.03)}, sizes=sizes), LOG_SEPARABLE.name)
    assert answer.holds is False
    assert "one law is not refused for a and b, which may be" in answer.statement
    table = next(table for table in answer.tables if table.name == "two")
    assert [row[0] for row in table.rows] == ["a and b", "a and c", "b and c"]


def test_from_models_and_a_table_to_the_answer(
    ask: Ask, run: Run, ladder: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = ["method,task,large_billion,small_billion,collaboration_frequency"]
    rows += [f"oracle,pocket_math,{2 * i},{i / 2},{0.2 + i / 50}" for i in range(1, 6)]
    table = tmp_path_factory.mktemp("tables") / "elsewhere.csv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")

    def config(**options: Any) -> ExperimentConfig:
        return ask("families", options, limit=3, max_tokens=5, pairs=[{"ladder": [*ladder.values()]}])

    answer = run(config(names=["tiny"], tables=[str(table)], law="constant"))
    assert "(tiny, elsewhere)" in answer.statement
    assert {point.series for point in answer.charts[0].points} == {"tiny", "elsewhere"}
    assert len(answer.charts[0].points) == 3 + 5

    for options, fault in (
        ({"names": ["tiny"]}, "only one family, tiny"),
        ({"names": ["tiny", "more"]}, "a ladder for each of the families tiny, more"),
        ({"names": ["elsewhere"], "tables": [str(table)]}, "two families have one name"),
        ({"names": ["tiny"], "tables": ["nowhere.csv"]}, "neither a CSV file"),
    ):
        with pytest.raises(ValueError, match=fault):
            run(config(**options))


def test_unknown_laws_are_refused() -> None:
    with pytest.raises(ValueError, match="log-separable"):
        Options.model_validate({"names": ["a"], "law": "linear"})
