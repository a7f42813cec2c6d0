"""Who may import whom (docs/architecture.md), read from the source: an import in a function, or for types, counts."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "fsgen").rglob("*.py"))

# Each module or package of fsgen, and what it may import besides itself: arrows go down only.
WRITING = {"types", "prompts", "generation", "methods", "backends", "engine", "api"}  # what it takes to write a text
MAY_IMPORT: dict[str, set[str]] = {
    "types": set(),
    "files": set(),
    "prompts": set(),
    "plugins": set(),
    "metrics": {"types"},
    "render": {"types", "metrics"},
    "generation": {"types", "metrics", "render"},
    "probs": {"types"},
    "bounds": set(),
    "processors": {"types"},
    "models": {"types"},
    "tasks": {"types", "files", "plugins"},
    "methods": {"types", "probs", "plugins"},
    "backends": {"types", "probs", "bounds", "models", "plugins"},
    "engine": {"types", "probs", "bounds", "processors", "methods", "backends"},
    "api": {"types", "prompts", "probs", "metrics", "generation", "methods", "backends", "engine"},
    "replay": {"types", "prompts", "metrics", "generation", "methods", "backends", "engine"},
    "imports": {"types", "prompts", "backends"},
    "verify": WRITING,
    "bench": WRITING | {"metrics", "models", "probs"},
    "pair": WRITING,
    "conversation": WRITING | {"metrics"},
    "jsonl": WRITING,
    "likelihood": WRITING,
    "integrations": WRITING | {"metrics", "probs", "likelihood", "analysis"},
    "predict": WRITING | {"analysis"},
    "planner": WRITING | {"files", "metrics", "models", "probs", "tasks", "analysis", "study", "bench"},
    "analysis": {"types", "files", "metrics", "methods", "models"},
    "study": WRITING | {"files", "metrics", "models", "tasks", "analysis", "replay", "likelihood"},
    "experiments": WRITING | {"files", "metrics", "models", "tasks", "analysis", "probs", "study"},
    "report": {"types", "files", "metrics", "render", "analysis"},
    "serve": WRITING | {"metrics", "probs", "render"},
    "cli": (
        WRITING
        | {"render", "models", "tasks", "verify", "pair", "bench", "jsonl", "conversation", "analysis", "study"}
        | {"experiments", "report", "serve", "integrations", "planner", "predict", "imports"}
    ),
    "__init__": WRITING | {"conversation"},
    "__main__": {"cli"},
}

# Libraries that live in one place.
HOMES: dict[str, str | tuple[str, ...]] = {
    "transformers": ("backends/transformers", "integrations/transformers.py"),
    "tokenizers": "backends/tokenizer.py",
    "safetensors": "backends",
    "huggingface_hub": "backends",
    "llama_cpp": "backends/llama_cpp",
    "httpx2": "backends/remote",
    "numba": "backends/cpu",
    "llvmlite": "backends/cpu",
    "datasets": "tasks/source.py",
    "lm_eval": ("integrations", "tasks/harness.py"),
    "sklearn": "analysis",
    "altair": "report",
    "vl_convert": "report",
    "jinja2": ("report", "backends/chat_template.py"),
    "typer": "cli",
    "fastapi": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
    "prometheus_client": "serve",
    "opentelemetry": "serve/tracing.py",
    "simpy": "planner/simulate.py",
    "ray": "study/cluster.py",
}
# Extras with what fsgen itself imports.
RUNNING = ("hub", "multi-gpu", "llama-cpp", "serve", "lm-eval", "simulate", "remote", "otel", "ray")
PACKAGES = {"llama_cpp": "llama-cpp-python", "lm_eval": "lm-eval"}  # of libraries that may not be installed
WITHOUT_TORCH = (
    *(
        "types",
        "files",
        "prompts",
        "metrics",
        "generation",
        "models",
        "tasks",
        "methods/learned",
        "analysis",
        "report",
        "render",
    ),
)


def imports(file: Path, running: bool = False) -> Iterator[str]:
    """The full name of everything that a file imports; with `running`, without what only type checkers read."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    ignored = {
        id(inner)
        for node in ast.walk(tree)
        if running and isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
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


def file_of(steps: Sequence[str]) -> Path | None:
    """The file of a module or package, None where these steps name something inside one."""
    path = ROOT.joinpath(*steps)
    return next((found for found in (path.with_suffix(".py"), path / "__init__.py") if found.is_file()), None)


def modules(file: Path, running: bool = False, packages: bool = False) -> Iterator[Path]:
    """The files of fsgen that a file imports; with `packages`, also those of the packages around them."""
    for name in imports(file, running):
        steps = name.split(".")
        if steps[0] == "fsgen":
            around = [file_of(steps[:n]) for n in range(2, len(steps) + 1)]
            found = [module for module in around if module is not None]
            yield from found if packages else found[-1:]


def libraries(file: Path, running: bool = False) -> set[str]:
    """The top-level packages that a file imports."""
    return {name.split(".")[0] for name in imports(file, running)}


def test_every_part_has_a_rule() -> None:
    assert {part(file) for file in FILES} <= MAY_IMPORT.keys()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_follow_the_table(file: Path) -> None:
    allowed = MAY_IMPORT[part(file)] | {part(file)}
    assert set(ours(file)) <= allowed


def test_there_is_no_circle_of_imports() -> None:
    graph = {file: {other for other in modules(file) if other != file} for file in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(str(file.relative_to(ROOT)) for file in reversed(error.args[1])))


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
def test_libraries_that_live_in_one_place(library: str, home: str | tuple[str, ...]) -> None:
    homes = (home,) if isinstance(home, str) else home
    users = {file.relative_to(ROOT / "fsgen") for file in FILES if library in libraries(file)}
    assert all(any(user.is_relative_to(home) for home in homes) for user in users), sorted(map(str, users))


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_parts_without_torch(name: str) -> None:
    found = {file for file in FILES if file.with_suffix("").is_relative_to(ROOT / "fsgen" / name)}
    while more := {other for file in found for other in modules(file, running=True, packages=True)} - found:
        found |= more
    assert found
    assert not [file for file in found if "torch" in libraries(file, running=True)]


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


@pytest.mark.parametrize(
    ("module", "absent"),
    [("fsgen.backends", {"torch", "transformers", "numba"}), ("fsgen.api, fsgen.verify", {"transformers", "numba"})],
)
def test_what_runs_models_is_imported_when_it_is_used(module: str, absent: set[str]) -> None:
    program = f"import sys, {module}\nfound = {absent!r} & set(sys.modules)\nassert not found, found\n"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_every_library_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = {
        canonicalize_name(Requirement(text).name)
        for text in [*project["dependencies"], *(line for name in RUNNING for line in extras.get(name, []))]
    }
    owners = metadata.packages_distributions()
    used = {name for file in FILES for name in libraries(file)} - sys.stdlib_module_names - {"fsgen"}
    for library in sorted(used):
        names = {canonicalize_name(owner) for owner in owners.get(library, [PACKAGES.get(library, library)])}
        assert names & declared, f"{library} is imported, but not among the dependencies"


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(line.split("==")[0]): line for line in lines if "==" in line}
    extras = project["optional-dependencies"]
    wanted = [text for name in ("hub", "llama-cpp", "ladder", "dev") for text in extras.get(name, [])]
    for text in [*project["dependencies"], *wanted]:
        requirement = Requirement(text)
        line = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(line.split("==")[1]), line
