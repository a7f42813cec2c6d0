"""However workers are lost and units fail, a study that several workers write has the tables of a local one."""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from rich.console import Console

from fsgen.experiments.lab import Lab
from fsgen.study import Cluster, run_study
from fsgen.study.cluster import Connection
from fsgen.study.config import load_config
from fsgen.study.parallel import LOSSES, RAISES, Lost, Outcome, ParallelRunner, Pool, Raised, Ready, Stored, Writer
from fsgen.study.plan import Plan, make_plan
from fsgen.study.progress import Reporter
from fsgen.study.store import Store
from fsgen.study.units import Step, Unit
from fsgen.study.worker import each_or_error
from tests.study.ladder import small_study
from tests.study.tables import tables

CALM = {"lost": 0.0, "raised": 0.0, "killed": 0.0}


class MadePool(Pool):
    """Workers that come up, end and fail in a random order, all in this process.

    Args:
        draw: of what happens.
        size: the most at a time.
        chances: that a worker is lost with its unit, that a unit raises an error, that this process is killed.
        made: what units become, kept from one pool to the next: they are written once and for all.
    """

    def __init__(self, draw: random.Random, size: int, chances: dict[str, float], made: dict[Any, Outcome]) -> None:
        self.size, self._draw, self._chances, self._made = size, draw, chances, made
        self._coming: list[int] = []
        self._running: dict[int, tuple[Unit, Stored | None]] = {}
        self._alive: dict[int, int] = {}
        self._writer = Writer()
        self.wrong: dict[str, Outcome] = {}  # what always happens to units of a run
        self.submitted: Counter[tuple[str, int]] = Counter()
        self.started: list[int] = []

    def start(self, gpus: int) -> int:
        worker = len(self.started)
        self.started.append(gpus)
        self._alive[worker] = gpus
        self._coming.append(worker)
        assert len(self._alive) <= self.size
        return worker

    def submit(self, worker: int, unit: Unit, stored: Stored | None) -> None:
        assert worker in self._alive
        assert worker not in self._running, "a unit at a time"
        assert worker not in self._coming
        self._running[worker] = unit, stored
        for cell in unit.cells:
            self.submitted[cell.key, unit.start] += 1
        places = [(cell.key, unit.start) for unit, _ in self._running.values() for cell in unit.cells]
        assert len(places) == len(set(places)), "nobody else writes it at this moment"

    def stop(self, worker: int) -> None:
        del self._alive[worker]
        self._running.pop(worker, None)
        self._coming = [each for each in self._coming if each != worker]

    def wait(self) -> list[tuple[Any, Outcome]]:
        if self._draw.random() < self._chances["killed"]:
            raise KeyboardInterrupt
        worker = self._draw.choice([*self._coming, *self._running])
        lost = self._draw.random() < self._chances["lost"]
        if worker in self._coming:
            self._coming.remove(worker)
            return [(worker, Lost("it did not come up") if lost else Ready())]
        unit, stored = self._running.pop(worker)
        if lost:
            return [(worker, Lost("gone"))]
        if self._draw.random() < self._chances["raised"]:
            return [(worker, Raised(RuntimeError("CUDA error")))]
        return [(worker, self._outcome(unit, stored))]

    def _outcome(self, unit: Unit, stored: Stored | None) -> Outcome:
        for cell in unit.cells:
            if cell.key in self.wrong:
                return self.wrong[cell.key]
        place = (*(cell.key for cell in unit.cells), unit.start, unit.stop)
        if place not in self._made:
            self._made[place] = self._writer.write(unit, stored)
        return self._made[place]


class MadeCluster(Cluster, Connection):
    """A cluster with the workers of a pool of the tests."""

    def __init__(self, pool: MadePool, gpus: Any = lambda step: 0) -> None:
        self.__dict__.update(pool=pool, needs=gpus)

    @contextmanager
    def connected(self) -> Iterator[Any]:
        yield self

    def check(self, plan: Plan) -> None:
        pass

    def runner(self, plan: Plan, store: Store, reporter: Reporter) -> ParallelRunner:
        return ParallelRunner(plan, store, reporter, self.__dict__["pool"], self.__dict__["needs"])


def run(study: dict[str, Any], out: Path, pool: MadePool | None, gpus: Any = lambda step: 0) -> Any:
    where = None if pool is None else MadeCluster(pool, gpus)
    return run_study(study, out, console=Console(file=io.StringIO()), cluster=where)


@pytest.fixture(scope="module")
def study(ladder: dict[str, str], data: str) -> dict[str, Any]:
    return small_study(ladder, data, batch_size=2)


@pytest.fixture(scope="module")
def local(study: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("local") / "out"
    run(study, out, None)
    return tables(out)


@pytest.fixture(scope="module")
def made() -> dict[Any, Outcome]:
    return {}


def test_the_tables_are_the_local_ones(
    study: dict[str, Any], local: dict[str, Any], made: dict[Any, Outcome], tmp_path: Path
) -> None:
    pool = MadePool(random.Random(0), 3, CALM, made)
    result = run(study, tmp_path / "out", pool)
    assert (result.ran, result.skipped, result.failed) == (12, 0, {})
    assert tables(tmp_path / "out") == local
    assert set(pool.submitted.values()) == {1}, "each unit is written once"
    assert len(pool.started) == 3
    again = MadePool(random.Random(0), 3, CALM, made)
    assert run(study, tmp_path / "out", again).skipped == 12
    assert not again.started


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_lost_and_nothing_twice(
    seed: int, study: dict[str, Any], local: dict[str, Any], made: dict[Any, Outcome], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Workers are lost and units raise errors at random, and the process that runs the study is killed and started."""
    stored: Counter[tuple[str, int]] = Counter()
    write_part = Store.write_part

    def counted(self: Store, run: str, start: int, stop: int, traces: pa.Table, generations: pa.Table) -> None:
        stored.update((run, place) for place in range(start, stop))
        write_part(self, run, start, stop, traces, generations)

    monkeypatch.setattr(Store, "write_part", counted)
    draw = random.Random(seed)
    chances = {"lost": 0.15, "raised": 0.05, "killed": 0.02}
    while True:
        pool = MadePool(draw, draw.randrange(1, 6), chances, made)
        try:
            result = run(study, tmp_path / "out", pool)
        except (KeyboardInterrupt, RuntimeError):  # killed, or five workers in a row did not come up
            assert not pool._alive
            continue
        if not result.failed:  # three errors at one unit
            break
    assert tables(tmp_path / "out") == local
    assert set(stored.values()) == {1}, "what was stored before is not written again"


def test_a_unit_that_always_fails(
    study: dict[str, Any], local: dict[str, Any], made: dict[Any, Outcome], tmp_path: Path
) -> None:
    """Its run fails, what replays it too, and the others go on; started again, the study ends as it should."""
    plan = make_plan(load_config(study))
    row = plan.rows[0]
    assert row.target_alone is not None
    target = row.target_alone.key
    dependent = {each.cell.key for each in plan.rows[:3] if each.target_alone and each.target_alone.key == target}
    for wrong, tries in (
        (Raised(RuntimeError("CUDA error: out of luck")), RAISES),
        (Raised(ValueError("no such model")), 1),
        (Lost("Out of memory"), LOSSES),
    ):
        out = tmp_path / type(wrong).__name__ / str(tries)
        pool = MadePool(random.Random(0), 1, CALM, made)
        pool.wrong[target] = wrong
        result = run(study, out, pool)
        assert result.failed.keys() == {target, *dependent}
        assert pool.submitted[target, 0] == tries
        assert any(word in result.failed[target] for word in ("out of luck", "no such model", "Out of memory"))
        assert all("the target alone failed" in result.failed[run] for run in dependent)
        assert len(pool.started) == tries + 1, "each time another process"
        run(study, out, MadePool(random.Random(0), 2, CALM, made))
        assert tables(out) == local


def test_workers_hold_as_many_gpus_as_their_step_needs(
    study: dict[str, Any], local: dict[str, Any], made: dict[Any, Outcome], tmp_path: Path
) -> None:
    """A worker of another size makes room; with one worker at a time too."""

    def needs(step: Step) -> int:
        return len({name for cell in step.cells for name in cell.members.values()})

    for size in (1, 4):
        pool = MadePool(random.Random(size), size, CALM, made)
        run(study, tmp_path / str(size), pool, needs)
        assert tables(tmp_path / str(size)) == local
        assert set(pool.started) == {1, 2, 3}


def test_workers_that_never_come_up(study: dict[str, Any], tmp_path: Path) -> None:
    pool = MadePool(random.Random(0), 2, {**CALM, "lost": 1.0}, {})
    with pytest.raises(ValueError, match="no worker can be started: it did not come up"):
        run(study, tmp_path / "out", pool)


def test_a_broken_gpu_is_no_fault_of_a_text() -> None:
    """After such an error, every call of the process fails: nothing of that may be recorded as failed texts."""
    broken = torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700)

    def attempt(items: Any) -> Any:
        raise broken

    with pytest.raises(torch.AcceleratorError):
        each_or_error(attempt, [1, 2])


def test_an_experiment_has_its_studies_run_there(
    study: dict[str, Any], local: dict[str, Any], made: dict[Any, Outcome], tmp_path: Path
) -> None:
    pool = MadePool(random.Random(0), 2, CALM, made)
    store, reporter = Store(tmp_path / "out"), Reporter(Console(file=io.StringIO()))
    lab = Lab(store, "made", load_config(study), reporter, connection=MadeCluster(pool))
    with store.locked():
        found = lab.study()
    assert [row.method for row in found.rows] == ["oracle"] * 3 + ["contrastive", "proxy", "route", "speculative"]
    assert pool.submitted
    traces = {name: table for name, table in tables(tmp_path / "out").items() if name.startswith("traces/")}
    assert traces == {name: table for name, table in local.items() if name.startswith("traces/")}


# ---- errors before any work


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers=0 is impossible"),
        ({"gpus": -1}, "gpus=-1 is impossible"),
        ({"address": "somewhere"}, "'somewhere' is none of a Ray cluster"),
        ({"address": "ray://host:1"}, "none of a Ray cluster"),
    ],
)
def test_clusters_that_there_are_not(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cluster(**options)


def test_without_ray(study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'fsgen\[ray\]'"):
        run_study(study, tmp_path / "out", cluster=Cluster())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "spark"], "the engine 'spark' is unknown: choose local or ray"),
        (["--workers", "2"], "--workers is for --engine ray"),
        (["--address", "auto"], "--address is for --engine ray"),
        (["--engine", "ray", "--workers", "0"], "workers=0 is impossible: at least 1"),
        (["--engine", "ray", "--address", "127.0.0.1:1"], "no Ray cluster answers at '127.0.0.1:1'"),
    ],
)
def test_the_command(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fsgen.cli import main

    with pytest.raises(SystemExit) as end:
        main(["study", "--limit", "1", "--out", str(tmp_path / "out"), *words])
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()
