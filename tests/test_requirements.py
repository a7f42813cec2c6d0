"""The hashes that packages are installed with belong to the versions that the project is tested with."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
EXTRAS = (
    "dev",
    "types",
    "docs",
    "lm-eval",
    "notebook",
    "mlflow",
    "serve",
    "simulate",
    "ray",
    "otel",
    "remote",
    "ladder",
)  # as the Makefile
MACHINE = {"torch"}  # its build depends on the machine


def versions() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def locked(name: str) -> dict[str, tuple[str, list[str]]]:
    """Version and hashes of each package of a file."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", "").splitlines()
    found = {}
    for line in lines:
        if not line.startswith("#") and line.strip():
            package, *hashes = line.split()
            found[package.split("==")[0]] = package.split("==")[1], hashes
    return found


def needed(*extras: str) -> set[str]:
    """All packages that an installation with these extras brings, as far as they are installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    left = [Requirement(each) for each in project["build-system"]["requires"] + project["project"]["dependencies"]]
    left += [Requirement(each) for extra in extras for each in project["project"]["optional-dependencies"][extra]]
    found: dict[str, set[str]] = {}
    while left:
        one = left.pop()
        name = canonicalize_name(one.name)
        if name in found and one.extras <= found[name]:
            continue
        found.setdefault(name, set()).update(one.extras)
        try:
            more = [Requirement(each) for each in requires(name) or []]
        except PackageNotFoundError:
            continue
        if name in MACHINE:  # what a build for GPUs brings comes with it
            more = [each for each in more if not each.marker]
        active = {"", *one.extras}
        left += [each for each in more if not each.marker or any(each.marker.evaluate({"extra": e}) for e in active)]
    return set(found)


@pytest.mark.parametrize(("name", "extras"), [("study", ()), ("test", EXTRAS)])
def test_every_package_has_its_hashes(name: str, extras: tuple[str, ...]) -> None:
    found, known = locked(name), versions()
    assert needed(*extras) - MACHINE <= found.keys() <= needed(*extras) - MACHINE | known.keys()
    for package, (version, hashes) in found.items():
        assert version == known[package], f"{package}: make lock"
        assert hashes
        assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", each) for each in hashes)


def test_versions_are_exact() -> None:
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in versions().values())
    assert not MACHINE & (locked("study").keys() | locked("test").keys())
