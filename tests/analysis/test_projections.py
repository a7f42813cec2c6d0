"""Projections: clusters that are there are seen, labels are the right way round."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.decomposition import PCA

from fsgen.analysis.projections import ProjectionResult, project
from tests.analysis.made_up import drawn, trace


def by_method(result: ProjectionResult) -> dict[str, float]:
    return {one.method: one.silhouette for one in result.projections}


def test_labels_that_are_separated() -> None:
    draw = np.random.default_rng(0)
    differs = draw.random(300) < 0.4
    prob = np.where(differs, 0.25, 0.9) + draw.normal(0, 0.02, 300)
    found = project(trace(prob, differs, 30))
    assert (found.tokens, found.mismatches, found.candidates) == (300, differs.sum(), 3)
    assert min(by_method(found).values()) > 0.5
    for one in found.projections:
        assert one.mismatch == tuple(differs.tolist()), "in the order of the trace, true for a mismatch"
        assert one.adjusted_rand_index > 0.95
        assert one.davies_bouldin < 0.6
    assert "are separated" in found.finding


def test_labels_that_are_mixed() -> None:
    draw, prob = drawn(10, 30)
    found = project(trace(prob, draw.random(300) < 0.4, 30))
    assert max(map(abs, by_method(found).values())) < 0.1
    assert all(abs(one.adjusted_rand_index) < 0.05 for one in found.projections)
    assert "are mixed" in found.finding


def test_the_projection_is_that_of_the_probabilities() -> None:
    draw, prob = drawn(4, 25)
    frame = trace(prob, draw.random(100) < 0.4, 25)
    points = np.array(frame["draft_top_probs"].to_list())
    found = next(one for one in project(frame).projections if one.method == "pca")
    assert np.column_stack([found.x, found.y]) == pytest.approx(PCA(2, random_state=0).fit_transform(points), abs=1e-9)


def test_a_sample_is_drawn_from_a_seed() -> None:
    draw, prob = drawn(20, 50)
    frame = trace(prob, draw.random(1000) < 0.4, 50)
    one, again, other = (project(frame, sample=100, seed=seed) for seed in (0, 0, 1))
    assert one.tokens == 100
    assert one == again
    assert one != other


def test_what_gives_no_projection() -> None:
    draw, prob = drawn(4, 25)
    differs = draw.random(100) < 0.4
    assert project(trace(prob, np.zeros(100, dtype=bool), 25)).projections == ()
    assert project(trace(prob, differs, 25, draft_top_probs=None)).projections == ()
    none_kept = trace(prob, differs, 25).with_columns(draft_top_probs=pl.lit(None, pl.List(pl.Float32)))
    assert "too few" in project(none_kept).finding
    assert project(none_kept.clear()).tokens == 0
    with pytest.raises(ValueError, match="sample of 5 tokens"):
        project(trace(prob, differs, 25), sample=5)
