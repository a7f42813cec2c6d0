"""`scaling`: what it estimates from made-up pairs, which follow a law or do not."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import polars as pl
import pytest

from fsgen.analysis.scaling.points import SCHEMA
from fsgen.experiments.scaling import estimate

SIZES = (1e5, 3e5, 1e6, 3e6, 1e7)
EXAMPLES = 60


def points(slope: float, seed: int = 0, sizes: tuple[float, ...] = SIZES) -> pl.DataFrame:
    """All pairs, with frequencies 0.2 + slope ln R, counted in 40 tokens of each example."""
    rng = np.random.default_rng(seed)
    rows = []
    for small, large in combinations(sizes, 2):
        part = rng.binomial(40, 0.2 + slope * np.log(large / small), EXAMPLES).astype(float)
        rows.append(
            {
                "family": "", "method": "oracle", "task": "t", "target": f"m{large:g}", "draft": f"m{small:g}",
                "target_parameters": large, "draft_parameters": small,
                "collaboration_frequency": part.sum() / (40 * EXAMPLES),
                "part": part.tolist(), "whole": [40.0] * EXAMPLES,
            }
        )  # fmt: skip
    return pl.DataFrame(rows, schema=SCHEMA)


def test_a_law_that_is_there_is_found() -> None:
    answer = estimate(points(slope=0.05))
    assert answer.holds is True
    assert "predicts the pairs of a model left out of the fit" in answer.statement
    assert "does not predict" not in answer.statement
    assert answer.numbers["best over constant"].above(1.0) is False


def test_where_sizes_do_not_matter_no_law_is_found() -> None:
    answer = estimate(points(slope=0.0))
    assert answer.holds is not True
    assert answer.numbers["best over constant"].above(1.0) is not False


def test_the_charts_and_tables_have_every_pair_and_law() -> None:
    answer = estimate(points(slope=0.05))
    assert len(answer.charts[0].points) == len(list(combinations(SIZES, 2)))
    assert {row[2] for row in answer.tables[0].rows} >= {"constant", "ratio-power-law", "log-separable"}


def test_too_few_models() -> None:
    with pytest.raises(ValueError, match="pairs that a fit needs"):
        estimate(points(slope=0.05, sizes=SIZES[:2]))
