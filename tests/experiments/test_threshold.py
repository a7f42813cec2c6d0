"""`threshold`: the knee is where it was put; a threshold carries where tasks are alike, and not where they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import fsgen.experiments.cells as cells
from fsgen.experiments.cells import DRAFT, TARGET
from fsgen.experiments.config import ExperimentConfig, configured
from fsgen.experiments.threshold import CALLS, CHOOSING, JUDGING, RISK, Options, estimate
from fsgen.study import worker
from tests.experiments.conftest import Ask, Run

EXAMPLES, LENGTH = 200, 50
TASKS = ("one", "two", "three")


def times(thresholds: dict[float, float], seconds: float = 0.5) -> pl.DataFrame:
    """Three repetitions, each slower than the one before; a token takes longer the more often the router asks."""
    settings: list[tuple[str, float | None, float]] = [(TARGET, None, 2.0)]
    settings += [("max-prob", value, seconds + value) for value in thresholds]
    return pl.DataFrame(
        [
            {"label": "math, a → b", "router": router, "threshold": value, "repetition": turn}
            | {"seconds": spent * (1 + turn) * (1 + 0.1 * (turn if router == "max-prob" else 0))}
            for router, value, spent in settings
            for turn in range(3)
        ],
        schema_overrides={"threshold": pl.Float64},
    )


def texts(accuracy: dict[float, float]) -> pl.DataFrame:
    """Texts of `max-prob` at thresholds that ask as often as they are large, from a draft of 0.1 to a target of 0.9."""
    luck = {
        half: np.random.default_rng(i).permutation(EXAMPLES) / EXAMPLES for i, half in enumerate((CHOOSING, JUDGING))
    }
    settings: list[tuple[str, float | None, float, float]] = [(DRAFT, None, 0.1, 0.0), (TARGET, None, 0.9, 1.0)]
    settings += [("max-prob", value, right, value) for value, right in accuracy.items()]
    return pl.DataFrame(
        [
            {"label": "math, a → b", "router": router, "threshold": value, "half": half, "example": f"{half}{i:03d}"}
            | {"score": float(luck[half][i] < right), "tokens": LENGTH, "consulted": round(asked * LENGTH)}
            for router, value, right, asked in settings
            for half in (CHOOSING, JUDGING)
            for i in range(EXAMPLES)
        ],
        schema_overrides={"threshold": pl.Float64},
        infer_schema_length=None,
    )


def carried(rates: dict[str, float], promised: float = 0.2, misses: dict[str, float] | None = None) -> pl.DataFrame:
    """What thresholds do: on each task they ask at these shares, and miss at those, from whichever other task."""
    draw = np.random.default_rng(7)
    rows: list[dict[str, Any]] = []
    for source in TASKS:
        for task in TASKS:
            rate = promised if source == task else rates[task]
            asked = draw.binomial(LENGTH, rate, EXAMPLES)
            lost = draw.binomial(LENGTH, 0.02 if source == task else (misses or {}).get(task, 0.02), EXAMPLES)
            rows.extend(
                {
                    "router": "max-prob",
                    "source": source,
                    "task": task,
                    "example": f"{task}{i:03d}",
                    "consulted": int(count),
                }
                | {"missed": int(lost[i]), "tokens": LENGTH, "threshold": 0.7}
                | {"promised_consulted": promised, "promised_missed": 0.02}
                for i, count in enumerate(asked)
            )
    return pl.concat(pl.DataFrame(rows).with_columns(carries=pl.lit(kind)) for kind in (RISK, CALLS))


ALIKE = dict.fromkeys(TASKS, 0.2)
CURVE = {0.1: 0.3, 0.2: 0.7, 0.4: 0.75, 0.7: 0.85}  # farthest above the chord, by 0.44, at 0.2


def test_the_knee_is_where_it_was_put() -> None:
    found = estimate(carried(ALIKE), texts(CURVE), times(CURVE), 0.02, 0.2)
    numbers = found.numbers
    assert numbers["knee of max-prob: threshold"].value == 0.2
    assert numbers["knee of max-prob: calls"].value == pytest.approx(0.2)
    assert numbers["knee of max-prob: accuracy beside the target's"].value == pytest.approx(-0.2, abs=0.01)
    assert numbers["knee of max-prob: accuracy beside the target's"].above(0.0) is False
    slower = numbers["knee of max-prob: seconds beside the target's"]
    logs = np.log(0.35 * np.array([1.0, 1.1, 1.2]))
    assert slower.value == pytest.approx(np.exp(logs.mean()))
    assert slower.high == pytest.approx(np.exp(logs.mean() + 4.303 * logs.std(ddof=1) / np.sqrt(3)), rel=1e-3)
    later = estimate(
        carried(ALIKE), texts(CURVE | {0.2: 0.3, 0.4: 0.88}), times(CURVE | {0.2: 0.3, 0.4: 0.88}), 0.02, 0.2
    )
    assert later.numbers["knee of max-prob: threshold"].value == 0.4


def test_the_knee_is_judged_on_other_examples_than_chose_it() -> None:
    """On the judging examples another threshold would be the knee; the one that was chosen is what is judged."""
    chosen, judged = texts(CURVE), texts(CURVE | {0.2: 0.2, 0.4: 0.88})
    mixed = pl.concat([chosen.filter(half=CHOOSING), judged.filter(half=JUDGING)])
    numbers = estimate(carried(ALIKE), mixed, times(CURVE), 0.02, 0.2).numbers
    assert numbers["knee of max-prob: threshold"].value == 0.2
    assert numbers["knee of max-prob: accuracy beside the target's"].value == pytest.approx(-0.7, abs=0.01)


@pytest.mark.parametrize(
    ("rates", "misses", "holds"),
    [
        (ALIKE, {}, True),
        ({"one": 0.05, "two": 0.4, "three": 0.6}, {}, True),  # other calls, the same risk
        (ALIKE, {"one": 0.0, "two": 0.08, "three": 0.1}, False),
        (ALIKE, {"one": 0.04, "two": 0.04, "three": 0.04}, None),
    ],
)
def test_thresholds_carry_where_the_risk_stays(
    rates: dict[str, float], misses: dict[str, float], holds: bool | None
) -> None:
    found = estimate(carried(rates, misses=misses), texts(CURVE), times(CURVE), 0.02, 0.2)
    assert found.holds is holds
    called = found.numbers["calls of max-prob on other tasks where calls were promised, off by"]
    assert called.value == pytest.approx(np.mean([abs(rates[task] - 0.2) for task in TASKS]), abs=0.01)
    home = found.numbers["misses of max-prob on its own task, off by"]
    assert home.value == pytest.approx(0.0, abs=0.005)
    away = found.numbers["misses of max-prob on other tasks, off by"]
    assert away.value == pytest.approx(np.mean([abs(misses.get(task, 0.02) - 0.02) for task in TASKS]), abs=0.004)


# ---- run


@pytest.fixture
def config(ask: Ask, data: str) -> Ask:
    def config(tasks: int = 2, **options: Any) -> ExperimentConfig:
        every = [{"name": name, "max_tokens": 8, "data": data, "shots": 0} for name in ("pocket_math", "gsm8k")]
        given = {
            "judged": 4,
            "thresholds": {"max-prob": [0.02, 0.1], "entropy": [4, 2]},
            "timed": 2,
            "repeats": 2,
        } | options
        return ask("threshold", given, batch_size=8, candidates=2, tasks=every[:tasks])

    return config


def test_it_runs_and_resumes(config: Ask, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(config())
    bars = next(chart for chart in found.charts if chart.name == "carried")
    assert {(point.series, point.x, point.panel) for point in bars.points} == {
        (source, task, router)
        for source in ("pocket_math", "gsm8k")
        for task in ("pocket_math", "gsm8k")
        for router in ("max-prob", "entropy")
    }
    slower = next(chart for chart in found.charts if chart.name == "seconds")
    assert len(slower.points) == 4, "each router at each threshold"
    assert all(point.low is not None and point.low <= point.y for point in slower.points)
    monkeypatch.setattr(cells, "generate", None)  # nothing is written again
    monkeypatch.setattr(worker, "generate", None)
    assert run(config()).statement == found.statement


def test_what_cannot_run_is_refused_before_anything_runs(config: Ask, run: Run, tmp_path: Path) -> None:
    for wrong, words in (
        (config(tasks=1), "one pair is needed, and two tasks"),
        (config(on_policy=["mbpp"]), "none of mbpp is a task"),
        (config(thresholds={"max-prob": [0.5, 1.5]}), "max-prob:1.5 is impossible"),
        (config(thresholds={"random": [0.5, 0.6]}), "thresholds"),
    ):
        with pytest.raises(ValueError, match=words):
            run(wrong)
    assert not (tmp_path / "traces").exists()


def test_the_shipped_options_are_understood() -> None:
    options = Options.model_validate(configured("threshold").options)
    assert next(iter(options.thresholds)) == "max-prob"
