"""Who may import whom (docs/architecture.md): read from the source, so that an import in a function counts too."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "fsgen").rglob("*.py"))

# Each module or package of fsgen, and what it may import besides itself: arrows go down only.
DECODING = {"types", "metrics", "generation", "probs", "methods", "backends", "engine"}
MAY_IMPORT: dict[str, set[str]] = {
    "types": set(),
    "metrics": {"types"},
    "render": {"types", "metrics"},
    "generation": {"types", "metrics", "render"},
    "probs": {"types"},
    "methods": {"types", "probs"},
    "models": {"types"},
    "backends": {"types", "probs", "models"},
    "engine": DECODING,
    "api": DECODING,
    "verify": DECODING | {"api"},
    "tasks": {"types"},
    "analysis": {"types", "metrics", "methods"},
    "study": DECODING | {"api", "models", "tasks", "analysis"},
    "experiments": DECODING | {"api", "models", "tasks", "analysis", "study"},
    "report": {"types", "metrics", "analysis", "render"},
    "cli": DECODING | {"api", "verify", "render", "models", "tasks", "analysis", "study", "experiments", "report"},
    "__init__": {"api", "backends", "generation", "methods", "types"},
}

# Libraries that live in one place.
HOMES = {
    "transformers": "backends/transformers",
    "tokenizers": "backends/transformers",
    "safetensors": "backends",
    "huggingface_hub": "backends",
    "numba": "backends/cpu",
    "llvmlite": "backends/cpu",
    "datasets": "tasks/source.py",
    "altair": "report",
    "vl_convert": "report",
    "jinja2": "report",
    "typer": "cli",
}
WITHOUT_TORCH = ("types", "metrics", "generation", "models", "tasks", "methods/learned", "analysis", "report", "render")


def imports(file: Path) -> Iterator[str]:
    """The full name of everything that a file imports when it runs; what only type checkers read is left out."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    ignored = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in ignored:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(file: Path) -> str:
    """The module or package of fsgen that a file belongs to."""
    return file.relative_to(ROOT / "fsgen").parts[0].removesuffix(".py")


def ours(file: Path) -> Iterator[str]:
    """The parts of fsgen that a file imports."""
    for name in imports(file):
        steps = name.split(".")
        if steps[0] == "fsgen" and len(steps) > 1:
            yield steps[1]


def modules(file: Path) -> Iterator[Path]:
    """The files of fsgen that a file imports, and those of the packages around them."""
    for name in imports(file):
        steps = name.split(".")
        for n in range(2, len(steps) + 1) if steps[0] == "fsgen" else ():
            path = ROOT.joinpath(*steps[:n])
            for found in (path.with_suffix(".py"), path / "__init__.py"):
                if found.is_file():
                    yield found


def libraries(file: Path) -> set[str]:
    """The top-level packages that a file imports."""
    return {name.split(".")[0] for name in imports(file)}


def test_every_part_has_a_rule() -> None:
    assert {part(file) for file in FILES} <= MAY_IMPORT.keys()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_follow_the_table(file: Path) -> None:
    allowed = MAY_IMPORT[part(file)] | {part(file)}
    assert set(ours(file)) <= allowed


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_package_itself_is_imported_for_its_version_alone(file: Path) -> None:
    if "fsgen" in imports(file):
        used = {
            node.attr
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "fsgen"
        }
        assert used <= {"__version__"}


@pytest.mark.parametrize(("library", "home"), HOMES.items())
def test_libraries_that_live_in_one_place(library: str, home: str) -> None:
    users = {file.relative_to(ROOT / "fsgen") for file in FILES if library in libraries(file)}
    assert all(user.is_relative_to(home) for user in users), sorted(map(str, users))


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_parts_without_torch(name: str) -> None:
    found = {file for file in FILES if file.with_suffix("").is_relative_to(ROOT / "fsgen" / name)}
    while more := {other for file in found for other in modules(file)} - found:
        found |= more
    assert found
    assert not [file for file in found if "torch" in libraries(file)]


def test_commands_that_compute_nothing_are_quick() -> None:
    program = (
        "import sys, fsgen.cli\n"
        "for arguments in (['--help'], ['generate', '--help'], ['models'], ['models', '--json']):\n"
        "    try: fsgen.cli.main(arguments)\n"
        "    except SystemExit as end: assert end.code == 0, arguments\n"
        "slow = {'torch', 'transformers', 'polars', 'altair'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def test_every_library_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = {
        canonicalize_name(Requirement(text).name)
        for text in [*project["dependencies"], *extras.get("hub", []), *extras.get("multi-gpu", [])]
    }
    owners = metadata.packages_distributions()
    used = {name for file in FILES for name in libraries(file)} - sys.stdlib_module_names - {"fsgen"}
    for library in sorted(used):
        names = {canonicalize_name(owner) for owner in owners.get(library, [library])}
        assert names & declared, f"{library} is imported, but not among the dependencies"


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(line.split("==")[0]): line for line in lines if "==" in line}
    extras = project["optional-dependencies"]
    wanted = [text for name in ("hub", "ladder", "dev") for text in extras.get(name, [])]
    for text in [*project["dependencies"], *wanted]:
        requirement = Requirement(text)
        line = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(line.split("==")[1]), line
