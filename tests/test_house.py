"""The house: documents that are true, versions that agree, a repository and functions that stay small."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

import fsgen
from fsgen.models.bundled import ROOT as POCKET
from fsgen.models.bundled import bundled

ROOT = Path(__file__).parent.parent
MEGABYTE = 1_000_000


def tracked() -> list[Path]:
    """The files of the repository, those included that are still to be added."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


FILES = tracked()
PAGES = [file for file in FILES if file.suffix == ".md"]
PICTURES = [file for file in FILES if file.suffix == ".svg"]
SOURCES = [file for file in FILES if file.suffix == ".py" and file.is_relative_to(ROOT / "fsgen")]
KERNELS = ROOT / "fsgen" / "backends" / "cpu"  # compiled: a function there is as long as one loop
TEXTS = [
    file for file in FILES if file.suffix in {".py", ".md", ".j2", ".js", ".yaml", ".toml"} or file.stem == "Makefile"
]

LONGEST_FILE, LONGEST_FUNCTION, WIDEST_LINE = 400, 60, 120  # lines, lines without the docstring, columns
# Words that nobody else in this field uses, each with the one that everybody knows.
WORDS = {
    r"foretell\w*|foretold": "predict",
    r"likeliest": "most likely",
    r"doubts?": "uncertainty",
    r"by lot": "at random",
    r"(held|holds?|holding)( \w+)? against": "compare",
    r"(hangs?|hung|hanging) on": "depend",
    r"worked[ _]examples?": "few-shot examples",
    r"as many as prove best": "chosen adaptively",
    r"of all randomness": "random seed",
    r"thousand million": "billion",
    r"slm": "draft",
    r"llm": "target",
    r"amateur": "draft",
}


def shown(file: Path) -> str:
    return str(file.relative_to(ROOT))


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How long a function is, its docstring aside."""
    first = function.body[0]
    docstring = 0
    if ast.get_docstring(function) is not None and first.end_lineno is not None:
        docstring = first.end_lineno - first.lineno + 1
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1 - docstring


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_files_that_architecture_names_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for name in re.findall(r"`([a-z_/]+(?:\.py|/))`", text):
        assert any((root / name).exists() for root in (ROOT, ROOT / "fsgen")), name


def test_the_screen_of_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 1
    assert blocks[0].count("\n") <= 30, "one screen"
    names: dict[str, Any] = {}
    exec(compile(blocks[0], "README.md", "exec"), names)
    assert names["generations"][0].tokens
    assert {name for name in fsgen.__all__ if f"fsgen.{name}" in blocks[0]} >= {"load", "generate", "stream"}
    assert "trusted" in capsys.readouterr().out


def test_the_public_names_are_few_and_there() -> None:
    assert len(fsgen.__all__) <= 10
    assert all(getattr(fsgen, name).__name__ == name for name in fsgen.__all__)
    with pytest.raises(AttributeError, match="guess"):
        getattr(fsgen, "guess")  # noqa: B009  # spelled out, a type checker would refuse it


def test_versions_agree() -> None:
    project = pyproject()["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["version"] == fsgen.__version__ == citation["version"]
    assert f"\n## {fsgen.__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert project["license"] == citation["license"] == "Apache-2.0"


@pytest.mark.parametrize("file", SOURCES, ids=shown)
def test_files_and_functions_are_short(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST_FILE
    if not file.is_relative_to(KERNELS):
        nodes = ast.walk(ast.parse(text))
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        assert {each.name: n for each in functions if (n := lines_of(each)) > LONGEST_FUNCTION} == {}


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_lines_of_pages_are_readable(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    # An address cannot be broken.
    wide = [n for n, line in enumerate(lines, 1) if len(line) > WIDEST_LINE and "://" not in line]
    assert wide == []


@pytest.mark.parametrize("file", [file for file in TEXTS if file != Path(__file__)], ids=shown)
def test_words_are_those_of_the_field(file: Path) -> None:
    text = " ".join(file.read_text(encoding="utf-8").split())  # a line may break inside of them
    text = text.replace("vllm.LLM(", "")  # a class of vLLM's
    found = {
        match[0]: better
        for word, better in WORDS.items()
        for match in re.finditer(rf"(?<![a-z])(?:{word})(?![a-z])", text, flags=re.IGNORECASE)
    }
    assert found == {}


@pytest.mark.parametrize("picture", PICTURES, ids=shown)
def test_pictures_need_nothing_from_elsewhere(picture: Path) -> None:
    text = picture.read_text(encoding="utf-8")
    namespaces = ('xmlns="http://www.w3.org/2000/svg"', 'xmlns:xlink="http://www.w3.org/1999/xlink"')
    for namespace in namespaces:
        text = text.replace(namespace, "")
    assert not re.search(r"https?:|url\((?!#)|@import|<script|<image", text)
    assert ElementTree.fromstring(picture.read_text(encoding="utf-8")).tag.endswith("svg")


def test_the_repository_stays_small() -> None:
    assert sum(file.stat().st_size for file in FILES) <= 60 * MEGABYTE


def test_the_bundled_models_are_a_ladder() -> None:
    assert sum(file.stat().st_size for file in POCKET.rglob("*") if file.is_file()) <= 45 * MEGABYTE
    listed = {info.name: info for info in bundled()}
    assert sum(info.tuned_from is None for info in listed.values()) >= 5
    assert all(info.tuned_from is None or info.tuned_from in listed for info in listed.values())
    shared = [name for name, info in listed.items() if "vocab" not in info.family]  # two drafts have another one
    tokenizers = {(POCKET / name / "tokenizer.json").read_bytes() for name in shared}
    assert len(tokenizers) == 1


def test_notice_names_every_bundled_data_file() -> None:
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    folders = (ROOT / "fsgen" / "tasks" / "data", ROOT / "fsgen" / "analysis" / "data", ROOT / "ladder" / "data")
    data = [file for folder in folders for file in folder.iterdir() if file in FILES]
    made_here = {f"{name}.jsonl.gz" for name in ("chains", "facts", "lookup", "pocket_math", "tiny_python")} | {
        "predictor.json"
    }
    assert data
    assert [file.name for file in data if file.name not in made_here and shown(file) not in notice] == []


def test_the_package_carries_its_data() -> None:
    patterns = pyproject()["tool"]["setuptools"]["package-data"]["fsgen"]
    carried = {file for pattern in patterns for file in (ROOT / "fsgen").glob(pattern)}
    inside = [file for file in FILES if file.is_relative_to(ROOT / "fsgen") and file.suffix != ".py"]
    assert [shown(file) for file in inside if file not in carried] == []


def test_ci_runs_what_people_run() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "make test" in script.read_text(encoding="utf-8")
