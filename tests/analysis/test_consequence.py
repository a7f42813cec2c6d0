"""Classes of mismatches, by hand."""

from __future__ import annotations

import polars as pl

from fsgen.analysis.consequence import CLASSES, classified


def test_each_mismatch_has_one_class() -> None:
    rows = [
        # score, kept_score, gap, loop, cut
        (1.0, 0.0, 0.1, True, True, "harmful"),
        (0.0, 1.0, 0.1, True, False, "helpful"),
        (1.0, 1.0, 0.1, True, False, "neutral, loop or cut"),
        (0.0, 0.0, 0.1, False, True, "neutral, loop or cut"),
        (1.0, 1.0, 0.99, False, False, "neutral, near-tie"),
        (1.0, 1.0, 1.0, False, False, "neutral, other"),
        (1.0, 1.0, float("inf"), False, False, "neutral, other"),
    ]
    table = pl.DataFrame(rows, ["score", "kept_score", "gap", "loop", "cut", "expected"], orient="row")
    assert classified(table)["class"].to_list() == table["expected"].to_list()
    assert set(table["expected"]) == set(CLASSES)
