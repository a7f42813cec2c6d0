"""Interrupted, without a home, with the plainest locale: a command works, or says what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.inputs.values import Case


@pytest.mark.parametrize(
    ("command", "work"),
    [(("study",), "fsgen.study.run_study"), (("experiment", "threshold"), "fsgen.experiments.run_experiment")],
)
def test_an_interrupted_study_says_how_to_go_on(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: Case, work: str
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(work, interrupted)
    answer = run(*command, "--out", str(tmp_path))
    assert (answer.status, answer.out) == (130, "")
    assert "the same command, without --fresh, goes on from there" in answer.err


@pytest.mark.parametrize("surroundings", [{"LC_ALL": "C"}, {"HOME": "/proc/nothing"}], ids=["plain locale", "no home"])
def test_without_a_home_and_with_the_plainest_locale(places: dict[str, str], surroundings: dict[str, str]) -> None:
    command = [sys.executable, "-m", "fsgen", "generate", "the f\u00f6x \u2713", "--max-tokens", "4", "--json"]
    command += ["--draft", places["draft"], "--target", places["target"]]
    done = subprocess.run(command, env=surroundings, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["tokens"]) == 4


def test_bytes_that_are_no_text_are_refused_by_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "fsgen", "generate", b"a\xffb"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"error: the argument 'a\\udcffb' is not UTF-8\n"
