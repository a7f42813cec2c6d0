"""The source distribution has all that the check needs, and the wheel that is made of it works alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
LOGITS = """
import hashlib, fsgen
logits = fsgen.load(target="pocket-0.25m").target.session(1).score([[(5 * i) % 96 for i in range(120)]], 120)
print(hashlib.sha256(logits.numpy().tobytes()).hexdigest())
"""
LEFT_OUT = {"__pycache__", "build", "dist", "runs", "work", "trunk"}


def built(kind: str, source: Path, out: Path) -> Path:
    out.mkdir()
    command = [sys.executable, "-c", BUILD, kind, str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the source distribution unpacks to."""
    folder = tmp_path_factory.mktemp("source")
    tree = folder / "tree"
    tree.mkdir()
    for path in ROOT.iterdir():  # built elsewhere, since building leaves files behind
        if path.name not in LEFT_OUT | {".git", ".venv"} and not path.name.endswith((".egg-info", "_cache")):
            (tree / path.name).symlink_to(path)
    with tarfile.open(built("build_sdist", tree, folder / "sdist")) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return unpacked


def files(folder: Path) -> set[str]:
    """All files below a folder that are not made by running or building."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in found if not LEFT_OUT & set(path.parts)}


def test_the_source_distribution_has_everything(source: Path) -> None:
    for folder in ("fsgen", "tests", "docs", "benchmarks", "examples", "ladder", "requirements", ".ci"):
        assert files(ROOT / folder) - files(source / folder) == set(), folder
    whole = ("Makefile", "constraints.txt", "pyproject.toml", "LICENSE", "NOTICE", "SECURITY.md", "mkdocs.yml")
    for name in (*whole, "README.md", "PACKAGE.md"):
        assert (source / name).read_bytes() == (ROOT / name).read_bytes()


def test_the_wheel_works_alone(source: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(built("build_wheel", source, tmp_path / "wheel")) as archive:
        archive.extractall(tmp_path / "alone")
    assert files(source / "fsgen") == files(tmp_path / "alone" / "fsgen")
    (elsewhere := tmp_path / "elsewhere").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "alone"), "OMP_NUM_THREADS": "1"}
    environment.pop("NUMBA_CACHE_DIR", None)

    def finished(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done

    def run(*words: str) -> str:
        return finished(*words).stdout

    assert run("-c", "import fsgen; print(fsgen.__file__)").strip() == str(tmp_path / "alone" / "fsgen" / "__init__.py")
    assert "pocket-4m" in run("-m", "fsgen", "models")
    # Nothing of it was ever compiled. Code from the disk computes what freshly compiled code does, to the last bit.
    first, second = finished("-c", LOGITS), finished("-c", LOGITS)
    assert list((tmp_path / "alone").rglob("*.nbc"))  # so the second one had nothing to compile
    assert first.stdout == second.stdout
    assert first.stderr.count("fsgen: compiling for this machine, once") == 1
    assert "compil" not in second.stderr
    assert json.loads(run("-m", "fsgen", "generate", "Question: 2 + 2?", "--max-tokens", "4", "--json"))["text"]
    study = "tasks: [{name: pocket_math, limit: 2, max_tokens: 4}]\nmethods: [oracle]\n"
    (elsewhere / "study.yaml").write_text(study + "pairs: [{draft: pocket-0.25m, target: pocket-0.6m}]\n")
    assert "report:" in run("-m", "fsgen", "study", "study.yaml", "--out", "runs")
    assert run("-m", "fsgen", "experiment", "--list")
    described = next((tmp_path / "alone").glob("fsgen-*.dist-info/METADATA")).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]*)\)", described.partition("\n\n")[2])
    assert links
    assert all(link.startswith("https://") for link in links)  # an index has no files beside the page
    metadata = next((tmp_path / "alone").glob("fsgen-*.dist-info"))
    assert (metadata / "licenses" / "NOTICE").is_file()
    assert "fsgen = fsgen.cli:main" in (metadata / "entry_points.txt").read_text()
