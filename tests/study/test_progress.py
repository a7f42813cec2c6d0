"""The remaining time is learnt for each kind of step, and what is shown fits 80 columns."""

from __future__ import annotations

import io

import polars as pl
import pytest
from rich.console import Console

from fsgen.study.progress import Reporter, summary_table
from fsgen.study.remaining import Remaining, Work, spoken
from tests.analysis.made_up import generations
from tests.report.rows import ladder_rows, row


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_kind_of_step_has_its_own_pace() -> None:
    clock = Clock()
    work = {
        "plain": Work(100, 1.0, "plain"),
        "fast": Work(1000, 1.0, "replay"),
        "slow": Work(100, 4.0, "route"),
    }
    remaining = Remaining(work, clock)
    assert remaining.seconds is None
    clock.now = 100
    remaining.wrote("plain", 100)
    assert remaining.seconds == pytest.approx(1400), "nothing else is known of the other kinds"
    clock.now = 110
    remaining.wrote("fast", 500)
    assert remaining.seconds == pytest.approx(10 + 400 * 110 / 600), "replays go on as they began"
    clock.now = 120
    remaining.wrote("fast", 500)
    clock.now = 170
    remaining.wrote("slow", 25)
    assert remaining.seconds == pytest.approx(150)
    clock.now = 320
    remaining.wrote("slow", 75)
    assert remaining.seconds == 0
    assert remaining.elapsed == 320


def test_a_mix_is_predicted_from_its_middle_on() -> None:
    """Decoding and replays in turn: the remaining time goes down as the time goes on."""
    clock = Clock()
    work = {f"plain{i}": Work(10, 1.0, "plain") for i in range(10)}
    work |= {f"replay{i}": Work(10, 1.0, "replay") for i in range(40)}
    remaining = Remaining(work, clock)
    total = 10 * 30.0 + 40 * 1.0
    order = [
        f"{kind}{i * times + j}"
        for i in range(10)
        for kind, times in (("plain", 1), ("replay", 4))
        for j in range(times)
    ]
    for number, run in enumerate(order):
        clock.now += 30.0 if run.startswith("plain") else 1.0
        remaining.wrote(run, 10)
        if number > 1:
            assert remaining.seconds == pytest.approx(total - clock.now, abs=1e-6)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "0 s"), (99, "99 s"), (100, "2 min"), (5940, "99 min"), (7500, "2 h 5 min")]
)
def test_times_are_said_shortly(seconds: float, said: str) -> None:
    assert spoken(seconds) == said


@pytest.mark.parametrize("terminal", [False, True])
def test_lines_fit_80_columns_and_begin_with_the_time_that_is_left(terminal: bool) -> None:
    out = io.StringIO()
    label = "gsm8k, 8 shots, chat route max-prob:0.5 Qwen2.5-0.5B-Instruct -> Qwen2.5-7B"
    texts = generations(4, tokens=100, score=0.5, known=50, differing=20, draft_calls=9, target_calls=9, consulted=30)
    with Reporter(Console(file=out, width=80, force_terminal=terminal, legacy_windows=False)) as reporter:
        reporter.begin({name: Work(4, 1.0, "route") for name in ("one", "two")}, finished=0)
        for name in ("one", "two"):
            reporter.working(label)
            reporter.wrote(name, 4, 400)
            reporter.finished(label[:40], texts, None)
    lines = out.getvalue().splitlines()
    if terminal:
        assert " left " in out.getvalue()
        assert "tokens/s" in out.getvalue()
    else:
        assert max(map(len, lines)) <= 80
        assert lines[1].startswith("[1/2] 0 s left, gsm8k, 8 shots")
        assert "frequency 0.400" in lines[1]
        assert " left" not in lines[2]


def test_failures_are_never_left_out() -> None:
    out = io.StringIO()
    texts = generations(2, error=["out of memory " * 9, None])
    with Reporter(Console(file=out, width=80)) as reporter:
        reporter.begin({"one": Work(2, 1.0, "plain")}, finished=3)
        reporter.wrote("one", 2, 0)
        reporter.finished("label", texts, None)
        reporter.finished("label", pl.DataFrame(), "no such model " * 9)
    shown = out.getvalue()
    assert "3 runs are finished already" in shown
    assert f"1 texts failed ({'out of memory ' * 9})" in shown
    assert "failed, no such model" in shown


def test_the_table_at_the_end_has_the_best_and_fits() -> None:
    rows = ladder_rows(["gsm8k", "mbpp"])
    rows += [row(draft=f"draft-{i}", target="large", collaboration_frequency=0.2 + i / 10) for i in range(5)]
    out = io.StringIO()
    Console(file=out, width=80).print(summary_table(rows))
    shown = out.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    assert "19.0 [17.0, 21.0]" in shown
    assert "draft-4" not in shown
    assert shown.count("max-prob:0.5") == 1
    assert "by large" in shown
