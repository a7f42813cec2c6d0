"""Killed at any moment and started again, a study ends with the tables of one that was not killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fsgen import files
from fsgen.study import run_study
from tests.study.ladder import small_study, write_study
from tests.study.tables import tables

ROOT = Path(__file__).parent.parent.parent
SERVER = """
import os, sys
from transformers.models.llama import modeling_llama
from fsgen.backends.transformers import model as hf
from fsgen.study import run_study
for line in sys.stdin:
    config, out = line.rstrip().split("\\t")
    child = os.fork()
    if child == 0:
        run_study(config, out)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Studies:
    """Runs studies, each in a process of its own; all are forks of one, because its imports take seconds."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _line(self) -> int:
        assert self._server.stdout is not None
        for line in self._server.stdout:
            if line.strip().lstrip("-").isdecimal():  # the studies print too
                return int(line)
        raise AssertionError("the studies' process is gone")

    def start(self, config: Path, out: Path) -> int:
        """The process that runs it."""
        assert self._server.stdin is not None
        self._server.stdin.write(f"{config}\t{out}\n")
        self._server.stdin.flush()
        return self._line()

    def wait(self) -> int:
        """The exit code of the study that runs."""
        return self._line()

    def close(self) -> None:
        self._server.communicate()


@pytest.fixture
def studies() -> Iterator[Studies]:
    started = Studies()
    yield started
    started.close()


def parts(out: Path) -> int:
    return len(list(out.rglob("*.parquet")))


def test_killed_many_times(studies: Studies, ladder: dict[str, str], data: str, tmp_path: Path) -> None:
    config = write_study(tmp_path / "study.yaml", small_study(ladder, data))
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "killed"
    studies.start(config, undisturbed)
    assert studies.wait() == 0
    every = parts(undisturbed)
    draw = random.Random(0)
    kills = 0
    while kills < 5 and parts(out) < every:
        child = studies.start(config, out)
        # At a random moment of the whole study, not from the time that it takes to begin.
        wanted = parts(out) + draw.randrange(1, every // 4)
        while parts(out) < min(wanted, every):
            time.sleep(0.01)
        time.sleep(draw.random() * 0.02)
        os.kill(child, signal.SIGKILL)
        assert studies.wait() in (-signal.SIGKILL, 0)
        kills += 1
    assert kills > 2
    studies.start(config, out)
    assert studies.wait() == 0
    assert tables(out) == tables(undisturbed)


@pytest.fixture(scope="module")
def undisturbed(
    ladder: dict[str, str], data: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A study of replays, whose targets are timed, and its tables."""
    folder = tmp_path_factory.mktemp("undisturbed")
    study = small_study(ladder, data, repeats=2)
    study["grids"] = study["grids"][:1]
    config = write_study(folder / "study.yaml", study)
    run_study(config, folder / "out")
    return config, tables(folder / "out")


@pytest.mark.parametrize("moment", [0, 1, 2, 3, 10, 27, 44])
def test_killed_between_two_files(
    moment: int, undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same in one process: the n-th file is left unfinished, and what comes after it never happens."""
    config, expected = undisturbed

    class Killed(BaseException):
        pass

    count = 0
    whole = files.atomically

    def breaking(path: Path, write: object) -> str:
        nonlocal count
        count += 1
        if count > moment:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.part").write_bytes(b"half")
            raise Killed
        return whole(path, write)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "atomically", breaking)
    with pytest.raises(Killed):
        run_study(config, tmp_path / "killed")
    monkeypatch.undo()
    run_study(config, tmp_path / "killed")
    assert tables(tmp_path / "killed") == expected


def test_the_command_is_killed(undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """`kill -9` of the command at random moments, of its start and its report too; FSGEN_KILLS says how many."""
    config, expected = undisturbed
    out, draw = tmp_path / "out", random.Random(int(os.environ.get("FSGEN_KILLS_SEED", "0")))
    command = [sys.executable, "-m", "fsgen", "study", str(config), "--out", str(out)]
    kills, wanted, span = 0, int(os.environ.get("FSGEN_KILLS", "3")), 10.0
    while True:
        started = time.perf_counter()
        limit = draw.random() * span if kills < wanted else None
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            _, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            continue
        assert process.returncode == 0, errors
        found = tables(out)
        assert found.pop("report.html")
        assert found == expected
        if limit is None:
            break
        span = time.perf_counter() - started
        shutil.rmtree(out)  # it was finished: kill another one
    assert kills == wanted
