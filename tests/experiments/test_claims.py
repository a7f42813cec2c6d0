"""`claims`: each verdict both ways, on made-up pairs and texts; the published values; a run on tiny models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import polars as pl
import pytest

from fsgen.analysis import claims
from fsgen.analysis.answers import Answer
from fsgen.analysis.intervals import Estimate
from fsgen.analysis.scaling import PUBLISHED, read_points
from fsgen.experiments.claims import Options, estimate
from tests.experiments.conftest import Ask, Run
from tests.experiments.test_scaling import Truth
from tests.experiments.test_scaling import points as pairs

PAPER = read_points(PUBLISHED).frame
METHODS = ("oracle", "contrastive", "proxy alpha=0.5")


def power(small: float, large: float) -> float:
    """A law of the ratio alone that is below a fifth."""
    return float(0.18 * (1 - (large / small) ** -0.5))


def often(small: float, large: float) -> float:
    return 0.3 + 0.05 * float(np.log(large / small))


def points(truth: Truth, methods: Sequence[str] = METHODS, **given: Any) -> pl.DataFrame:
    """Forward pairs of every method, all by one rule."""
    made = pairs(truth, **given).filter(pl.col("draft_parameters") < pl.col("target_parameters"))
    return pl.concat(made.with_columns(method=pl.lit(method)) for method in methods)


def tenths(first: Mapping[str, float], methods: Sequence[str] = METHODS, examples: int = 60) -> pl.DataFrame:
    """Texts whose first tenth has this much more mismatches, by task, than the 0.2 of the rest."""
    rng = np.random.default_rng(0)
    rows = [
        (task, method, draft, "t", f"e{example}", early, tokens, int(rng.binomial(tokens, 0.2 + more * early)))
        for (task, more), method, draft, example in product(first.items(), methods, ("a", "b"), range(examples))
        for early, tokens in ((True, 10), (False, 90))
    ]
    names = ["task", "method", "draft", "target", "example", "early", "tokens", "differing"]
    return pl.DataFrame(rows, schema=names, orient="row")


def nats(more: float, examples: int = 60) -> pl.DataFrame:
    """Entropies of which the draft's is above the target's by so much at mismatches, and not at matches."""
    rng = np.random.default_rng(1)
    rows = []
    for example, differs in product(range(examples), (False, True)):
        tokens = 10 if differs else 80
        target = tokens * (1 + 0.1 * rng.normal())
        draft = target + tokens * ((more if differs else 0.0) + 0.05 * rng.normal())
        rows.append(("t", "oracle", "a", "t", f"e{example}", differs, tokens, draft, target, tokens // 2))
    names = ["task", "method", "draft", "target", "example", "differs", "tokens", "draft_nats", "target_nats", "higher"]
    return pl.DataFrame(rows, schema=names, orient="row")


SURE = {"t": Estimate(0.8, 0.75, 0.85), "u": Estimate(0.7, 0.6, 0.8)}
EARLY = tenths({"t": 0.3, "u": 0.2})


def answered(**changes: Any) -> Answer:
    projected = [
        {"task": "t", "projection": "pca", "silhouette": 0.4, "adjusted Rand index": 0.5},
        {"task": "t", "projection": "t-sne", "silhouette": 0.3, "adjusted Rand index": 0.4},
    ]
    given: dict[str, Any] = {
        "points": points(power), "tenths": EARLY, "nats": nats(0.5), "projected": projected, "areas": SURE,
        "options": Options(shots={"gsm8k": 8}), "trainings": (), "published": PAPER.filter(task="gsm8k"),
    }  # fmt: skip
    return estimate(**given | changes)


def verdicts(answer: Answer) -> dict[str, Any]:
    rows = next(table for table in answer.tables if table.name == "claims").rows
    return {str(row[0])[:30]: row[1] for row in rows}


def test_where_all_is_as_the_paper_says_it_holds() -> None:
    answer = answered()
    found = verdicts(answer)
    assert [*found.values()] == ["yes", "yes", "yes", "yes", "yes", "yes", "yes", "not measured", "not measured"]
    assert answer.holds is True
    assert "Of 7 claims 7 hold on these models, 0 do not, and 0 stay open." in answer.statement


def test_where_it_is_not_it_does_not() -> None:
    other = answered(
        points=points(often),
        tenths=tenths({"t": 0.3, "u": -0.1}),
        nats=nats(-0.5),
        projected=[{"task": "t", "projection": "pca", "silhouette": 0.1, "adjusted Rand index": 0.0}],
        areas=SURE | {"u": Estimate(0.4, 0.3, 0.45)},
    )
    assert other.holds is False
    few, _, early, ranked, clustered, entropies, *_ = verdicts(other).values()
    assert [few, early, ranked, clustered, entropies] == ["no"] * 5


def test_the_published_share() -> None:
    """138 of 168 values are under a fifth."""
    found = claims.few(points(power), PAPER)
    assert found.values["all"].value == pytest.approx(138 / 168)
    assert found.values["all"].low is None
    assert found.values["oracle"].value == pytest.approx(68 / 74)
    assert found.published is True
    assert claims.on_task(points(power), PAPER, "mt_bench").values["all"].value == pytest.approx(
        (PAPER.filter(task="mt_bench")["collaboration_frequency"] < 0.2).mean()
    )


def test_a_share_has_the_examples_and_the_trainings_in_its_interval() -> None:
    def near(small: float, large: float) -> float:
        return 0.195

    alone = claims.share_below(points(near))
    assert alone.low is not None
    assert alone.high is not None
    assert alone.low < 0.5 < alone.high, "all frequencies are close to a fifth: the examples decide on which side"
    spread = claims.share_below(points(near, trainings=3, spread=0.05))
    assert spread.low is not None
    assert spread.high is not None
    assert spread.low < spread.value < spread.high


def test_the_law_is_refused_where_the_drafts_size_decides() -> None:
    def of_the_draft(small: float, large: float) -> float:
        return float(0.5 * (small / 1e5) ** -0.3)

    assert claims.law(points(of_the_draft, sizes=(1e5, 3e5, 1e6, 3e6, 1e7, 3e7)), PAPER).holds is False


def test_the_law_is_open_where_four_sizes_choose_none() -> None:
    found = claims.law(points(power, sizes=(1e5, 3e5, 1e6, 3e6)), PAPER)
    assert found.holds is None
    assert [*found.numbers] == ["error of the ratio law", "less that of a constant"]
    answer = answered(points=points(power, sizes=(1e5, 3e5, 1e6, 3e6)))
    assert verdicts(answer)["The frequency follows a power "] == "open"


def test_methods_with_other_signs_are_not_common() -> None:
    mixed = pl.concat([points(power, METHODS[:1]), points(often, METHODS[1:])])
    assert claims.common(mixed, PAPER, EARLY, ()).holds is False
    assert claims.common(points(power, METHODS[:1]), PAPER, EARLY.filter(method="oracle"), ()).holds is None


def test_few_shot_settings_are_judged_where_all_of_them_ran() -> None:
    made = points(power, METHODS[:1])
    there = [made.with_columns(task=pl.lit(task)) for task in ("gsm8k, 8 shots", "mbpp, 10 shots")]
    shots = {"gsm8k": 8, "mbpp": 10}
    assert claims.few_shot(pl.concat(there), shots).holds is not False
    assert claims.few_shot(there[0], shots).holds is None
    high = points(often, METHODS[:1]).with_columns(task=pl.lit("gsm8k, 8 shots"))
    assert claims.few_shot(pl.concat([high, there[1]]), shots).holds is False


def test_clusters() -> None:
    def run(*silhouettes: float) -> bool | None:
        return claims.clustered([("t", "pca", value, 0.0) for value in silhouettes]).holds

    assert (run(0.3, 0.5), run(0.1, 0.2), run(0.1, 0.5), run()) == (True, False, None, None)


def test_the_distance_of_two_distributions() -> None:
    one = np.random.default_rng(0).normal(size=4000)
    assert claims.distance(one, one) == 0.0
    assert claims.distance(one, one + 10) == 1.0
    assert claims.distance(one, one + 1) == pytest.approx(0.383, abs=0.03)  # 2 Phi(1/2) - 1


def test_it_runs_on_tiny_models(ask: Ask, run: Run) -> None:
    config = ask("claims", {"projected": 40}, drafts=("small", "middle"), max_tokens=12, candidates=4)
    found = run(config)
    assert verdicts(found)
    again = run(config)
    assert again == found


def test_what_cannot_run_is_refused(ask: Ask, run: Run) -> None:
    with pytest.raises(ValueError, match="fewer than 2 candidates"):
        run(ask("claims", candidates=0))
    with pytest.raises(ValueError, match="no method oracle"):
        run(ask("claims", methods=["contrastive"], candidates=4))
    with pytest.raises(ValueError, match="greedy texts"):
        run(ask("claims", methods=["route"], candidates=4))
