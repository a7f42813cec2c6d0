"""Runs are written again for their times alone, in turn, and their intervals are over these repetitions."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fsgen.analysis.study import analyze
from fsgen.analysis.times import over_repetitions, read_times, slowdown
from fsgen.files import DamagedError
from fsgen.study import StudyResult, run_study, times
from fsgen.study.store import Store
from tests.study.ladder import small_study, write_study
from tests.study.tables import tables


def studied(study: dict[str, Any], out: Path, **changes: Any) -> StudyResult:
    config = write_study(out.parent / "study.yaml", study | changes)
    return run_study(config, out, console=Console(file=io.StringIO()))


def stored(out: Path) -> dict[str, dict[str, Any]]:
    return {file.stem: json.loads(file.read_text()) for file in sorted((out / "times").glob("*.json"))}


@pytest.fixture
def study(ladder: dict[str, str], data: str) -> dict[str, Any]:
    """Two methods by the loop, the target and the draft alone, and a replay, which has no time of its own."""
    pair = {"draft": ladder["small"], "target": ladder["large"]}
    grids = [
        {"pairs": [pair], "methods": ["oracle", {"name": "speculative", "draft_tokens": 2}]},
        {"pairs": [pair], "methods": ["route"], "routers": ["max-prob:0.05"]},
    ]
    return small_study(ladder, data, grids=grids)


def test_runs_are_repeated_in_turn(study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    timed = times._timed

    def watched(plan: Any, cell: Any, *rest: Any) -> Any:
        order.append(cell.key)
        return timed(plan, cell, *rest)

    monkeypatch.setattr(times, "_timed", watched)
    once = tables(tmp_path / "out") if studied(study, tmp_path / "out") else {}
    assert not order, "by default nothing is repeated"
    result = studied(study, tmp_path / "out", repeats=2)
    assert result.ran == 0, "the runs themselves are as they were"
    found = stored(tmp_path / "out")
    assert len(order) == 8
    assert order[:4] == order[4:], "all of them once before any of them twice"
    assert (
        set(found)
        == set(order)
        == {row.run for row in result.rows if row.engine == "loop"}
        | {path.stem for path in (tmp_path / "out" / "runs").glob("*-plain-*")}
    )
    for run, content in found.items():
        tokens = int(Store(tmp_path / "out").generations(run)["tokens"].sum())
        assert content["tokens"] == [tokens] * 2, "whole runs"
        assert content["batch_size"] == 4
        assert all(seconds > 0 for seconds in content["seconds"])
    after = tables(tmp_path / "out")
    assert {name: after[name] for name in once if name not in ("study.json", "summary.json")} == {
        name: once[name] for name in once if name not in ("study.json", "summary.json")
    }
    studied(study, tmp_path / "out", repeats=3)
    assert len(order) == 12, "only what is missing is made"
    studied(study, tmp_path / "out", repeats=3, batch_size=5)
    assert len(order) == 24, "times of other batches are not compared with these"
    studied(study, tmp_path / "out", repeats=3, batch_size=5)
    assert len(order) == 24


def test_signs_go_by_repetitions(study: dict[str, Any], tmp_path: Path) -> None:
    result = studied(study, tmp_path / "out")
    analysis = analyze(tmp_path / "out", projections=False)
    many = [sign for run in analysis.runs for sign in run.signs if sign.sign == "too many"]
    assert many
    assert all("the runs were not repeated" in sign.finding and "time" not in sign.numbers for sign in many)
    store = Store(tmp_path / "out")
    speculative = next(row.run for row in result.rows if row.method == "speculative")
    (alone,) = {row["target_alone"] for row in json.loads((tmp_path / "out" / "study.json").read_text())["rows"]}
    for turn in (1.0, 2.0, 3.0):
        store.add_time(speculative, 4, 3.0 * turn + 0.3 * (turn - 2), 10)
        store.add_time(alone, 4, 2.0 * turn, 10)
    analysis = analyze(tmp_path / "out", projections=False)
    sign = next(run.signs[0] for run in analysis.runs if run.run == speculative)
    ratios = np.array([2.7 / 2, 6 / 4, 9.3 / 6])
    assert asdict(sign.numbers["time"]) == pytest.approx(asdict(over_repetitions(ratios)))
    assert sign.found is True
    store.add_time(speculative, 4, 1.0, 10)
    assert slowdown(tmp_path / "out", speculative, alone) == sign.numbers["time"], "those repetitions that both have"


def test_the_interval_of_repetitions() -> None:
    found = over_repetitions(np.array([1.0, 2.0, 3.0]), positive=False)
    assert found.value == 2.0
    assert found.high == pytest.approx(2.0 + 4.302653 / np.sqrt(3)), "by hand, with two degrees of freedom"
    assert found.low == pytest.approx(2.0 - 4.302653 / np.sqrt(3))
    ratios = over_repetitions(np.exp([1.0, 2.0, 3.0]))
    assert found.low is not None
    assert found.high is not None
    assert ratios.low == pytest.approx(np.exp(found.low))
    assert (ratios.value, ratios.high) == pytest.approx((np.exp(2.0), np.exp(found.high)))
    one = over_repetitions(np.array([1.5]))
    assert (one.low, one.high) == (None, None)
    assert one.value == pytest.approx(1.5)


def test_damaged_times(study: dict[str, Any], tmp_path: Path) -> None:
    studied(study, tmp_path / "out", repeats=1)
    for file in (tmp_path / "out" / "times").iterdir():
        file.write_text("{")
        with pytest.raises(DamagedError, match="times"):
            read_times(tmp_path / "out", file.stem)
    studied(study, tmp_path / "out", repeats=1)
    assert all(len(content["seconds"]) == 1 for content in stored(tmp_path / "out").values())
    assert read_times(tmp_path, "another").tolist() == []
