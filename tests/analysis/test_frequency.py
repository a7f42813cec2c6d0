"""The summary's numbers, against those worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from benchmarks.analysis import make_study
from fsgen.analysis.frequency import (
    accuracy,
    estimates,
    read_study,
    read_summary,
    summarize,
    total_counts,
    write_summary,
)
from fsgen.analysis.labels import millions, short_name
from tests.analysis.made_up import generations
from tests.report.rows import row


def frequency_interval(frame: pl.DataFrame) -> tuple[float | None, float | None]:
    found = estimates(frame).get("collaboration_frequency")
    return (None, None) if found is None else (found.low, found.high)


def texts(differing: list[int], known: list[int], sampled: bool = False, **columns: list[Any]) -> pl.DataFrame:
    counts: dict[str, Any] = {"tokens": known, "differing": differing, "known": known, "compared": known}
    return generations(len(known), sampled=sampled, **(counts | columns))


def test_a_frequency_is_a_ratio_of_sums_not_a_mean_of_ratios() -> None:
    counts = total_counts(texts([1, 0], [1, 9]))
    assert counts.collaboration_frequency == 0.1
    assert total_counts(texts([1, 0], [1, 9], sampled=True, variation=[0.5, 4.5])).collaboration_frequency == 0.5
    assert total_counts(pl.DataFrame()).collaboration_frequency is None


def test_the_interval_is_that_of_a_plain_bootstrap() -> None:
    draw = np.random.default_rng(1)
    known = draw.integers(20, 100, 40)
    differing = draw.binomial(known, draw.uniform(0.1, 0.6, 40))
    low, high = frequency_interval(texts(differing.tolist(), known.tolist()))
    ratios = []
    for _ in range(4000):
        chosen = draw.integers(0, 40, 40)
        ratios.append(differing[chosen].sum() / known[chosen].sum())
    assert (low, high) == pytest.approx(np.percentile(ratios, [2.5, 97.5]), abs=0.01)
    assert frequency_interval(texts(differing.tolist(), known.tolist())) == (low, high), "drawn from a seed"


def test_examples_are_drawn_not_texts() -> None:
    """Two turns of one dialogue go together: repeated turns tell nothing new."""
    one = texts([5, 50, 20, 80], [100] * 4)
    two = pl.concat([one, one.with_columns(turn=pl.lit(2, pl.Int64))])
    assert frequency_interval(two) == frequency_interval(one)


def test_the_interval_of_a_sampled_run_is_that_of_the_variation() -> None:
    frame = texts([0, 0, 0], [10, 10, 10], sampled=True, variation=[1.0, 5.0, 9.0])
    low, high = frequency_interval(frame)
    assert low is not None
    assert high is not None
    assert 0.1 <= low < 0.5 < high <= 0.9


@pytest.mark.parametrize("known", [[], [10], [10, 0]])
def test_no_interval_from_less_than_two_examples(known: list[int]) -> None:
    frame = texts([0] * len(known), known) if known else pl.DataFrame()
    assert frequency_interval(frame) == (None, None)


def test_accuracy_is_over_the_texts_that_have_a_score() -> None:
    assert accuracy(texts([0] * 4, [1] * 4, score=[1.0, 0.0, None, 1.0])) == pytest.approx(2 / 3)
    assert accuracy(texts([0], [1])) is None
    assert accuracy(pl.DataFrame()) is None


def test_every_metric_has_an_interval_of_its_own_ratio() -> None:
    frame = texts([1, 4, 2], [10, 20, 30], score=[1.0, 0.0, None]).with_columns(
        consulted=pl.Series([5, 5, 30]),
        accepted=pl.Series([3, 3, 20]),
        recovered=pl.Series([1, 1, 10]),
        target_calls=pl.Series([5, 5, 10]),
        target_tokens=pl.Series([20, 20, 60]),
    )
    found = estimates(frame)
    assert {name: estimate.value for name, estimate in found.items()} == pytest.approx(
        {
            "collaboration_frequency": 7 / 60,
            "consulted_rate": 40 / 60,
            "acceptance_rate": 26 / 38,
            "mean_accepted_length": 3.0,
            "target_calls_per_token": 1 / 3,
            "target_tokens_per_token": 100 / 60,
            "accuracy": 0.5,
        }
    )
    for name, estimate in found.items():
        assert estimate.low is not None, name
        assert estimate.high is not None, name
        assert estimate.low < estimate.value < estimate.high, name
    counts = total_counts(frame)
    assert all(getattr(counts, name) == estimate.value for name, estimate in found.items() if name != "accuracy")


def test_published_definitions_are_chosen(tmp_path: Path) -> None:
    make_study(tmp_path, 4_000)
    assert all(row.published == {} for row in summarize(tmp_path))
    study = read_study(tmp_path)
    (tmp_path / "study.json").write_text(json.dumps(study | {"config": {"definitions": "published"}}))
    rows = summarize(tmp_path)
    routed = [item for item in rows if item.router != "always"]
    assert all(item.published["target_tokens_per_token"] == item.consulted_rate for item in rows)
    assert all(item.published["collaboration_frequency"] == item.collaboration_frequency for item in rows)
    assert routed[0].published["target_tokens_per_token"] < 0.6
    assert routed[0].target_tokens_per_token == 1.0
    write_summary(tmp_path, rows)
    assert read_summary(tmp_path) == rows


def test_a_summary_comes_back(tmp_path: Path) -> None:
    rows = [row(ci_low=None), row(draft=None, accuracy=None), row(intervals={"accuracy": (0.1, 0.2)})]
    write_summary(tmp_path, rows)
    assert read_summary(tmp_path) == rows
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]


def test_a_folder_that_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no study\.json"):
        summarize(tmp_path)
    with pytest.raises(ValueError, match="not finished"):
        read_summary(tmp_path)


def test_labels() -> None:
    assert [short_name(name) for name in ("pocket-4m", "/a/b/", "Qwen/Qwen3-8B", None)] == [
        "pocket-4m",
        "b",
        "Qwen3-8B",
        "-",
    ]
    sizes = (110_000, 420_000, 8_280_000, 7_600_000_000, 12_000, None)
    assert [millions(size) for size in sizes] == ["0.11 M", "0.42 M", "8.28 M", "7.6 B", "12 k", "unknown"]
