"""`fsgen simulate`: what can be worked out by hand comes out, and a draft helps as far as it should."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fsgen.planner.predict import Loop
from fsgen.planner.simulate import ROUND_SECONDS, Fleet, Load, read_trace, simulate
from tests.conftest import Finished
from tests.planner.test_times import Constant


def test_a_request_alone_takes_its_rounds() -> None:
    pytest.importorskip("simpy")
    found = simulate(Fleet(Constant(0.1), rows=4), Load(1e-6, [(10, 20)], 3))
    assert found.latency[50] == pytest.approx(20 * (0.1 + ROUND_SECONDS))
    assert found.first_token[99] == pytest.approx(0.1 + ROUND_SECONDS)
    assert found.rows == 1.0
    # All is accepted: five tokens a round.
    drafting = simulate(Fleet(Constant(0.1), Constant(0.01), 4, 1.0), Load(1e-6, [(10, 20)], 3))
    assert drafting.latency[50] == pytest.approx(4 * (0.1 + 4 * 0.01 + ROUND_SECONDS))


def test_the_loop_and_the_request_take_time_too() -> None:
    pytest.importorskip("simpy")
    loops = {1: Loop(2.0, 3.0, 4.0, 0.01, 0.02, 0.03), 3: Loop(4.0, 5.0, 6.0, 0.03, 0.04, 0.05)}
    plain = Fleet(Constant(0.1), rows=4, loops=loops, request_seconds=0.5)
    assert plain.seconds(1, 10, 0) == pytest.approx(0.01 + 2 * 0.1)
    assert plain.seconds(2, 10, 0) == pytest.approx(0.02 + 3 * 0.1)
    assert plain.seconds(4, 10, 0) == pytest.approx(0.03 + 4 * 0.1)
    found = simulate(plain, Load(1e-6, [(10, 20)], 3))
    assert found.latency[50] == pytest.approx(20 * 0.21 + 0.5)
    assert found.first_token[50] == pytest.approx(0.21 + 0.5)
    drafting = Fleet(Constant(0.1), Constant(0.01), 2, (1.0, 0.0), loops=loops)
    assert drafting.seconds(1, 10, 0) == pytest.approx(0.01 + 0.02 + 3 * 0.1 + 2 * (4 * 0.01 + 0.03))
    # The first drafted token is always accepted, the second never: two tokens a round.
    assert simulate(drafting, Load(1e-6, [(10, 20)], 3)).latency[50] == pytest.approx(10 * drafting.seconds(1, 10, 0))


def test_arrivals_are_those_of_a_poisson_process() -> None:
    arrivals = Load(4.0, [(1, 1)], 4000, seed=3).arrivals()
    between = np.diff([0.0, *arrivals])
    assert between.mean() == pytest.approx(0.25, rel=0.05)
    assert between.std() == pytest.approx(0.25, rel=0.05)


def test_a_load_beyond_what_a_machine_can_waits() -> None:
    pytest.importorskip("simpy")
    load = Load(100.0, [(10, 20), (5, 40)], 200)
    one, four = (simulate(Fleet(Constant(0.1), rows=8, machines=count), load) for count in (1, 4))
    assert one.busy == pytest.approx(1, abs=0.02)
    assert one.rows > 7
    assert one.latency[90] > 2 * four.latency[90]
    assert one.tokens_per_second == pytest.approx(8 / (0.1 + ROUND_SECONDS), rel=0.1)
    assert simulate(Fleet(Constant(0.1), rows=8), load) == one  # the same seed


def test_impossible_loads_and_fleets() -> None:
    with pytest.raises(ValueError, match="at 0 a second is impossible"):
        Load(0.0, [(1, 1)])
    with pytest.raises(ValueError, match="at least one token"):
        Load(1.0, [(0, 1)])
    with pytest.raises(ValueError, match="go together"):
        Fleet(Constant(1.0), draft_tokens=3)
    with pytest.raises(ValueError, match="an acceptance of 2 is impossible"):
        Fleet(Constant(1.0), Constant(1.0), 3, 2)
    with pytest.raises(ValueError, match="2 acceptances do not fit 3 drafted tokens"):
        Fleet(Constant(1.0), Constant(1.0), 3, (0.5, 0.5))
    with pytest.raises(ValueError, match="loops are by numbers of rows"):
        Fleet(Constant(1.0), loops={})


def test_lengths_of_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    lines = [
        {"prompt_tokens": 5, "completion_tokens": 7},
        {"response": {"usage": {"prompt_tokens": 1, "completion_tokens": 2}}},
        {"prompt_tokens": 3, "stats": {"tokens": 4}},  # of fsgen generate
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert read_trace(path) == [(5, 7), (1, 2), (3, 4)]
    path.write_text("{}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 1 .* has no lengths"):
        read_trace(path)
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match="is empty"):
        read_trace(path)


def test_the_command(run: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simpy")
    asked = ("simulate", "--target", "random:7B", "--draft", "random:0.5B", "--requests", "50")
    found = run(*asked, "--hardware", "H100", "--rate", "2", "--acceptance", "0.8", "--json")
    assert found.status == 0, found.err
    content = json.loads(found.out)
    assert content["drafting"]["latency"]["50"] < content["plain"]["latency"]["50"]
    assert run(*asked, "--hardware", "H100").status == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    refused = run(*asked)
    assert (refused.status, refused.out) == (2, "")
    assert "fsgen profile random:7B" in refused.err


@pytest.mark.parametrize("hardware", ["H100", "measured"])
def test_without_simpy_the_extra_is_named(
    run: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch, hardware: str
) -> None:
    monkeypatch.setitem(sys.modules, "simpy", None)
    found = run("simulate", "--target", "random:7B", "--hardware", hardware)
    assert (found.status, found.out) == (2, "")
    assert found.err == "error: fsgen simulate needs simpy: pip install 'fsgen[simulate]'\n"
