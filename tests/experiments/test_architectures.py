"""`architectures` on made-up counts: what one family adds is found, and what only drafts and targets bring is not."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from fsgen.analysis.answers import Answer, Value
from fsgen.analysis.design import Design, Pair
from fsgen.experiments import ExperimentConfig, configured
from fsgen.experiments.architectures import EXPERIMENT, estimate, several_trainings
from fsgen.models.bundled import bundled, recipe
from tests.experiments.conftest import Ask, Run

FAMILIES = ("llama", "neox", "mamba")
DRAFTS = {f"{family}-{size}": family for family in FAMILIES for size in ("s", "m")}
TARGETS = {f"{family}-l": family for family in FAMILIES}
# Neither drafts nor targets of the families are alike: mamba's drafts are poor, and the texts of its target easy.
DRAFT = {"llama": 0.0, "neox": 0.25, "mamba": 0.6}
TARGET = {"llama": 0.1, "neox": 0.0, "mamba": -0.4}
LOSSES = {name: 2.0 + DRAFT[family] for name, family in (DRAFTS | TARGETS).items()}


def made(
    same: float, *, own: Mapping[str, float] | None = None, noise: float = 0.0, examples: int = 60, seed: int = 0
) -> pl.DataFrame:
    """Counts of all pairs on two tasks; one family adds `same` to the logarithm of the frequency."""
    random = np.random.default_rng(seed)
    rows = []
    for task, level in (("sums", math.log(0.1)), ("words", math.log(0.3))):
        texts = random.normal(0, 0.2, examples)  # some examples are harder than others, for every pair
        for draft, target in ((draft, target) for target in TARGETS for draft in DRAFTS):
            size = -0.5 if draft.endswith("-m") else 0.0
            log = level + size + DRAFT[DRAFTS[draft]] + TARGET[TARGETS[target]] + random.normal(0, noise)
            if DRAFTS[draft] == TARGETS[target]:
                log += same + (own or {}).get(DRAFTS[draft], 0.0)
            for example in range(examples):
                share = min(1.0, math.exp(log + texts[example]))
                rows.append((task, draft, target, f"{task}/{example}", int(random.binomial(100, share)), 100))
    return pl.DataFrame(rows, schema=["task", "draft", "target", "example", "differing", "known"], orient="row")


SEVERAL = dict.fromkeys(DRAFTS | TARGETS, 10)  # all are trainings of one size
SINGLE = {name: number for number, name in enumerate(DRAFTS | TARGETS)}


def estimated(counts: pl.DataFrame, parameters: Mapping[str, int] = SEVERAL) -> Answer:
    return estimate(counts, DRAFTS | TARGETS, LOSSES, [], [], parameters)


def test_with_one_training_of_each_model_it_stays_open() -> None:
    answer = estimated(made(-0.25), SINGLE)
    assert answer.numbers["the same over models"].above(1.0) is False
    assert answer.holds is None
    assert "is not shown to agree more often" in answer.statement
    assert "one training" in answer.statement


def test_where_the_recipes_differ_it_stays_open() -> None:
    def told(second: int) -> Answer:
        versions = {"llama": (2, second), "neox": (1, 0)}  # of mamba nothing is known
        recipes = {name: versions[of] for name, of in (DRAFTS | TARGETS).items() if of in versions}
        return estimate(made(-0.25), DRAFTS | TARGETS, LOSSES, [], [], SEVERAL, recipes)

    answer = told(25_000_000)
    assert answer.holds is None
    assert any("llama: version 2, a second stage of 25" in remark for remark in answer.remarks)
    assert any("neox: version 1, one stage" in remark for remark in answer.remarks)
    same = dict.fromkeys(DRAFTS | TARGETS, (2, 25_000_000))
    assert estimate(made(-0.25), DRAFTS | TARGETS, LOSSES, [], [], SEVERAL, same).holds is True


def test_the_bundled_families_have_unlike_recipes() -> None:
    recipes = {info.name: recipe(info) for info in bundled()}
    assert recipes["pocket-0.6m"] == (2, 25_000_000)
    assert recipes["pocket-neox-0.6m"] == recipes["pocket-mamba2-0.6m"] == (1, 0)


def test_tuned_models_are_no_trainings() -> None:
    families = {"a": "x", "a-tuned": "x"}
    assert several_trainings(families, {"a": 5, "a-tuned": 5})
    assert not several_trainings(families, {"a": 5})


def test_what_one_family_adds_is_found() -> None:
    answer = estimated(made(-0.25))
    for found in answer.numbers.values():
        assert found.low is not None
        assert found.high is not None
        assert found.low < math.exp(-0.25) < found.high < 1.0
    assert answer.holds is True
    assert "agrees more often than a pair of two" in answer.statement


def test_where_one_family_agrees_less_that_is_said() -> None:
    answer = estimated(made(0.25, noise=0.03))
    assert answer.holds is False
    assert "agrees less often" in answer.statement


def test_drafts_and_targets_alone_are_no_effect_of_the_family() -> None:
    counts = made(0.0, noise=0.03)
    # Taken as they are, pairs of one family do differ from the others of their task.
    shares = counts.group_by("draft", "target").agg(pl.col("differing").sum() / pl.col("known").sum())
    logs = shares.with_columns(one=pl.col("draft").str.head(3) == pl.col("target").str.head(3))
    without = (
        logs.filter(~pl.col("draft").str.starts_with("mamba")).group_by("one").agg(pl.col("differing").log().mean())
    )
    assert abs(np.diff(without["differing"].to_numpy())[0]) > 0.03
    answer = estimated(counts)
    found = answer.numbers["one family over two"]
    assert found.value == pytest.approx(1.0, abs=0.06)
    assert answer.holds is None
    assert "is not shown to" in answer.statement


def test_pairs_that_differ_for_other_reasons_leave_it_open() -> None:
    """Between examples everything is certain, between pairs it is not."""
    answer = estimated(made(-0.05, noise=0.3, seed=4))
    spread = answer.numbers["the same over models"]
    assert spread.low is not None
    assert spread.high is not None
    assert spread.low < 1.0 < spread.high
    assert answer.holds is None


def test_the_interval_over_models_holds_the_truth_at_least_as_often_as_it_says() -> None:
    """Where a draft's kinship with its own family is its own: all of its pairs share that."""
    pairs = [Pair(draft, target) for target in TARGETS for draft in DRAFTS]
    design = Design.of(pairs, DRAFTS | TARGETS)
    random = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        kinship = {draft: random.normal(0.2, 0.1) for draft in DRAFTS}
        own = np.array([kinship[pair.draft] for pair in pairs])
        ends = design.over_models(own * design.same + random.normal(0, 0.05, len(pairs)))
        assert ends is not None
        held += ends[0] < 0.2 < ends[1]
    assert held >= 90


def test_each_family_has_its_own_number() -> None:
    numbers = estimated(made(0.0, own={"mamba": -0.5})).numbers
    assert numbers["mamba with mamba"].value == pytest.approx(math.exp(-0.5), abs=0.05)
    assert numbers["llama with llama"].value == pytest.approx(1.0, abs=0.06)
    assert numbers["mamba with mamba"].above(1.0) is False


def test_with_two_families_only_their_common_number_is_known() -> None:
    two = made(-0.3).filter(~pl.col("draft").str.starts_with("mamba"), ~pl.col("target").str.starts_with("mamba"))
    numbers = estimated(two).numbers
    assert set(numbers) == {"one family over two", "the same over models"}
    assert numbers["one family over two"].value == pytest.approx(math.exp(-0.3), abs=0.06)


def test_what_cannot_be_told_is_refused() -> None:
    counts = made(-0.3)
    with pytest.raises(ValueError, match="cannot tell one family from two"):
        estimated(counts.filter(pl.col("target") == "llama-l"))
    with pytest.raises(ValueError, match="mamba-m with neox-l lacks a task"):
        estimated(
            counts.filter(
                ~((pl.col("draft") == "mamba-m") & (pl.col("target") == "neox-l") & (pl.col("task") == "words"))
            )
        )


def test_charts_and_tables_show_every_pair() -> None:
    answer = estimated(made(-0.25))
    by_loss, by_family = answer.charts
    assert len(by_loss.points) == len(DRAFTS) * len(TARGETS)
    assert {point.panel for point in by_loss.points} == {f"{name} ({family})" for name, family in TARGETS.items()}
    assert len(by_family.points) == len(FAMILIES) ** 2
    for point in by_family.points:
        assert (point.y < 1.0) == (point.panel == f"target: {point.x}")
    by_task, pairs = answer.tables
    assert [row[0] for row in by_task.rows] == ["sums", "words"]
    one = pairs.columns.index("one family")
    assert sum(row[one] == "yes" for row in pairs.rows) == len(DRAFTS)


def test_the_shipped_pairs_can_tell() -> None:
    config = configured("architectures")
    assert config.study is not None
    pairs = [Pair(pair["draft"], pair["target"]) for pair in config.study.model_dump()["pairs"]]
    families = EXPERIMENT.checked(config).families
    assert len(set(families.values())) == 3
    assert set(families) == {name for pair in pairs for name in (pair.draft, pair.target)}
    files = {info.name: info.family for info in bundled()}
    assert len({(families[name], files[name]) for name in families}) == 3  # they only call the families otherwise
    design = Design.of(pairs, families)
    assert design.by_family(design.same) == pytest.approx(np.ones(3))


@pytest.fixture
def config(ask: Ask, ladder: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Ask:
    small, middle, large = ladder.values()
    other = str(shutil.copytree(large, tmp_path_factory.mktemp("models") / "other"))
    pairs = [{"draft": one, "target": two} for one, two in itertools.product((small, middle), (large, other))]

    def config(options: dict[str, Any] | None = None, **study: Any) -> ExperimentConfig:
        given = {"families": {small: "odd", other: "odd"}, "rewound": 2} if options is None else options
        return ask("architectures", given, max_tokens=5, **{"pairs": pairs, **study})

    return config


def _column(answer: Answer, table: str, column: str) -> list[Value]:
    [found] = [one for one in answer.tables if one.name == table]
    return [row[found.columns.index(column)] for row in found.rows]


def test_it_runs_on_any_models(config: Ask, run: Run, tmp_path: Path) -> None:
    answer = run(config())
    assert answer.title == "Architectures"
    assert "one family over two" in answer.numbers
    assert len(_column(answer, "pairs", "draft")) == 4
    assert all(isinstance(loss, float) and 0 < loss < 20 for loss in _column(answer, "alone", "loss"))
    assert _column(answer, "rewinding", "as the target alone") == _column(answer, "rewinding", "texts")
    measured = sorted((tmp_path / "measured" / "losses").iterdir())
    assert len(measured) == 4
    times = [file.stat().st_mtime_ns for file in measured]
    assert run(config()).numbers == answer.numbers
    assert [file.stat().st_mtime_ns for file in measured] == times


def test_what_cannot_run_is_refused_before_anything_runs(config: Ask, run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="families names nobody"):
        run(config({"families": {"nobody": "odd"}}))
    with pytest.raises(ValueError, match="cannot tell one family from two"):
        run(config({}))
    with pytest.raises(ValueError, match=r"speculative .*: this experiment has the method oracle alone"):
        run(config(methods=["speculative"]))
    with pytest.raises(ValueError, match="rewound"):
        run(config({"rewound": -1}))
    assert not list(tmp_path.glob("generations/*"))
