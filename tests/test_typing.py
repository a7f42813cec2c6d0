"""The types that users see: a small project of theirs under `mypy --strict` and under pyright's strict mode."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
APP = ROOT / "tests" / "typing_project" / "app.py"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project in a folder of its own, with no configuration."""
    (tmp_path / "app.py").write_text(APP.read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def checked(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_mypy_strict_accepts_it(project: Path) -> None:
    cache = ROOT / ".mypy_cache" / "project"
    # Silent: as of an installed package, faults of the package itself are not the project's.
    mypy = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir", str(cache)]
    done = checked([*mypy, "app.py"], project)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = APP.read_text(encoding="utf-8").replace('draft="pocket-0.6m"', "draft=6").replace('["\\n"]', "7")
    (project / "app.py").write_text(wrong, encoding="utf-8")
    done = checked([*mypy, "app.py"], project)
    assert done.stdout.count("[arg-type]") == 2, done.stdout


def test_pyright_accepts_it(project: Path) -> None:
    pytest.importorskip("pyright")
    settings = {"include": ["app.py"], "extraPaths": [str(ROOT)], "typeCheckingMode": "strict"}
    (project / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    done = checked(command, project)
    try:
        found = json.loads(done.stdout)
    except ValueError:
        pytest.skip(f"pyright could not be fetched: {(done.stdout + done.stderr)[-300:]}")
    assert found["summary"]["filesAnalyzed"] == 1
    assert [f"{each['range']['start']['line'] + 1}: {each['message']}" for each in found["generalDiagnostics"]] == []
