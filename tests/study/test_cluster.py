"""A study on a Ray cluster of two machines (here, of one) has the tables of the local study, whatever is killed.

FSGEN_KILLS says how often something is killed: a worker, a machine, or the process that runs the study.
"""

from __future__ import annotations

import io
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fsgen.study import run_study
from tests.study.breaking import MARK, Breaking
from tests.study.ladder import NAMES, small_study, write_study
from tests.study.tables import tables

ROOT = Path(__file__).parent.parent.parent
CALM = {  # a machine that is gone is missed after a second or two, not after a minute
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 8,
}


class Machines:
    """A Ray cluster: a head that runs nothing, and two machines of two CPUs."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster()
        self._add(num_cpus=0, include_dashboard=False, _system_config=CALM)
        self.machines = [self.join(), self.join()]

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def join(self) -> Any:
        return self._add(num_cpus=2)

    def _add(self, **settings: Any) -> Any:
        for attempt in range(5):
            try:
                return self.cluster.add_node(object_store_memory=2**27, **settings)
            except Exception as error:  # Ray gives a machine 30 s to start, which a busy one may not keep
                if "timed out during startup" not in str(error) or attempt == 4:
                    raise
        raise AssertionError

    def workers(self) -> list[int]:
        """The processes of the workers of studies, which this cluster has started."""
        raylets = [each.process.pid for machine in self.machines for each in machine.all_processes["raylet"]]
        lists = [file for raylet in raylets for file in Path(f"/proc/{raylet}/task").glob("*/children")]
        found = []
        for child in (child for file in lists for child in file.read_text().split()):
            with suppress(OSError):  # it has just ended
                if Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"ray::Worker"):
                    found.append(int(child))
        return found

    def replace(self, number: int) -> None:
        """A machine is gone at once, with all that it runs; another one comes."""
        self.cluster.remove_node(self.machines[number], allow_graceful=False)
        self.machines[number] = self.join()

    def close(self) -> None:
        self.cluster.shutdown()


@pytest.fixture(scope="module")
def mark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mark") / "mark"


@pytest.fixture(scope="module")
def machines(mark: Path) -> Iterator[Machines]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(MARK, str(mark))  # the workers have it from their machines
        patched.setenv("OMP_NUM_THREADS", "1")
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.chdir(ROOT)
        started = Machines()
        yield started
        started.close()


@pytest.fixture(scope="module")
def config(ladder: dict[str, str], data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = small_study(ladder, data, batch_size=1)
    pair = {"draft": ladder[NAMES[0]], "target": ladder[NAMES[2]]}
    study["grids"].append({"pairs": [pair], "methods": ["speculative"], "routers": [Breaking.name]})
    return write_study(tmp_path_factory.mktemp("config") / "study.yaml", study)


@pytest.fixture(scope="module")
def local(config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("local") / "out"
    run_study(config, out, console=Console(file=io.StringIO()))
    return written(out)


def written(out: Path) -> dict[str, Any]:
    """The tables of a study; how many threads its machine had is no part of them."""
    found = tables(out)
    found.pop("report.html", None)
    for name in found:
        if name.startswith("runs/"):
            del found[name]["hardware"]
    return found


class Killer:
    """Kills what a study needs, at random moments.

    Args:
        kinds: what is killed next.
    """

    def __init__(self, machines: Machines, config: Path, out: Path, draw: random.Random, kinds: Iterator[str]) -> None:
        self.machines, self.config, self.out, self.draw, self.kinds = machines, config, out, draw, kinds
        self.kills = 0
        self.shown = ""

    def parts(self) -> dict[Path, int]:
        """The parts of which both files are there, and the numbers of these files."""
        files = {str(file.relative_to(self.out)): file for file in self.out.glob("*/run=*/part-*.parquet")}
        other = {"traces": "generations", "generations": "traces"}
        both = [file for file in files.values() if "/".join((other[file.parts[-3]], *file.parts[-2:])) in files]
        return {file: file.stat().st_ino for file in both}

    def run(self, wanted: int) -> bool:
        """Start the study; whether it came to its end, having been disturbed while less than `wanted` was killed."""
        before = self.parts()
        words = ["study", str(self.config), "--out", str(self.out), "--engine", "ray", "--workers", "2"]
        process = subprocess.Popen(
            [sys.executable, "-m", "fsgen", *words, "--address", self.machines.address],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name != MARK},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        left = len(before)
        while process.poll() is None and self.kills < wanted:
            left += self.draw.randrange(1, 30)
            while process.poll() is None and len(self.parts()) < left:
                time.sleep(0.02)
            if process.poll() is None:
                self._kill(process)
        _, errors = process.communicate()
        self.shown += errors
        now = self.parts()
        twice = [file for file, number in before.items() if number != now.get(file)]
        assert twice == [], "what was stored before is not written again"
        assert process.returncode in (0, -signal.SIGKILL), errors
        return process.returncode == 0

    def _kill(self, process: subprocess.Popen[str]) -> None:
        kind = next(self.kinds)
        if kind == "study":
            process.kill()
        elif kind == "machine":
            self.machines.replace(self.draw.randrange(2))
        elif workers := self.machines.workers():
            os.kill(self.draw.choice(workers), signal.SIGKILL)
        else:
            return
        self.kills += 1


def test_killed_at_random(machines: Machines, config: Path, local: dict[str, Any], mark: Path, tmp_path: Path) -> None:
    """A worker, a machine and the study are killed, and a GPU breaks once: the tables are the local ones."""
    wanted = int(os.environ.get("FSGEN_KILLS", "3"))
    draw = random.Random(int(os.environ.get("FSGEN_KILLS_SEED", "0")))
    killer = Killer(machines, config, tmp_path / "out", draw, itertools.cycle(["worker", "study", "machine"]))
    mark.touch()
    while True:
        if not killer.run(wanted):
            continue
        assert written(killer.out) == local
        if killer.kills >= wanted:
            break
        shutil.rmtree(killer.out)  # it came to its end: disturb another one
    assert not mark.exists()
    tried = "tried again, AcceleratorError: ('CUDA error"
    if tried not in killer.shown:  # what would have said so was killed just then
        shutil.rmtree(killer.out)
        mark.touch()
        assert killer.run(0)
        assert written(killer.out) == local
    assert tried in killer.shown
    assert "a worker is lost, its unit is written again" in killer.shown
    print(f"{killer.kills} kills")
