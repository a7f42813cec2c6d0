"""The documentation is true: the tutorial runs as it stands, its numbers are those that come out, commands parse."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from fsgen.cli import app
from fsgen.study.config import parse_config

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md"])
BLOCK = re.compile(r"^```(\w+)(?: title=\"([\w.-]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """The fenced blocks of a page: language, title, text."""
    return [(language, title, text) for language, title, text in BLOCK.findall(page.read_text(encoding="utf-8"))]


def commands(page: Path) -> list[list[str]]:
    """Every command of fsgen that a page shows, in fences or indented, as words."""
    text = page.read_text(encoding="utf-8")
    fenced = "\n".join(block for language, _, block in blocks(page) if language == "bash")
    indented = "\n".join(line[4:] for line in text.splitlines() if line.startswith("    fsgen "))
    words = []
    for part in (fenced, indented):
        uncommented = re.sub(r"\s#.*$", "", part, flags=re.MULTILINE)
        lexer = shlex.shlex(uncommented, posix=True, punctuation_chars="\n|;&<>")
        lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
        line: list[str] = []
        for word in [*lexer, "\n"]:
            if set(word) <= set("\n|;&<>"):
                words.append(line)
                line = []
            else:
                line.append(word)
    return [line[1:] for line in words if line[:1] == ["fsgen"]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_have_these_options(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root: Any = get_command(app)
    for line in commands(page):
        name, *words = line
        for word in words:  # files of the reader's own
            if re.fullmatch(r"[\w-]+\.(jsonl|yaml|json|txt)", word):
                (tmp_path / word).touch()
        command = root.commands[name]
        if hasattr(command, "commands"):  # a group, such as `router`
            name, *words = words
            command = command.commands[name]
        command.make_context(name, words)  # reads the options, and runs nothing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_configurations_are_studies(page: Path) -> None:
    for language, title, text in blocks(page):
        if language == "yaml" and (title or "methods:" in text) and text.startswith(("name:", "tasks:")):
            parse_config(text, f"{page.name}: {title}")


def compare_tables(shown: str, printed: str) -> None:
    """A table that a page shows is the one that was printed: the same columns and rows, and numbers near the shown."""
    tables = []
    for text in (shown, printed):
        lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
        start = next(number for number, line in enumerate(lines) if line[0] == "draft")
        tables.append(lines[start : start + len(shown.splitlines())])
    head, _, task, *rows = zip(*tables, strict=True)
    assert head[0] == head[1]
    assert task[0] == task[1]
    for mine, theirs in rows:
        assert mine[:2] == theirs[:2]
        for one, other, near in zip(mine[2:], theirs[2:], (1.1, 0.011, 0.011), strict=True):
            assert float(one.split()[0]) == pytest.approx(float(other.split()[0]), abs=near), mine


def test_the_tutorial_runs_as_it_stands(tmp_path: Path) -> None:
    page = DOCS / "tutorial.md"
    (bin_folder := tmp_path / "bin").mkdir()
    shim = bin_folder / "fsgen"
    shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m fsgen "$@"\n')
    shim.chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    (here := tmp_path / "here").mkdir()
    found: dict[str, list[float | None]] = {}
    printed, tables = "", 0
    for language, title, text in blocks(page):
        if title:
            (here / title).write_text(text)
        if language == "bash":
            done = subprocess.run(
                ["sh", "-e", "-c", text], cwd=here, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{text}\n{done.stderr}"
            printed = done.stdout + done.stderr
        if language == "text":
            compare_tables(text, printed)
            tables += 1
        if language == "bash" and "fsgen study" in text:
            for row in json.loads((here / "runs" / "tutorial" / "summary.json").read_text()):
                accuracy = [row[f"{who}accuracy"] for who in ("draft_", "target_", "")]
                if row["method"] == "speculative":
                    calls = [row["collaboration_frequency"], row["target_calls_per_token"]]
                    found[row["draft"]] = [*calls, *accuracy]
                elif row["method"] == "route":
                    found[row["router"]] = [row["consulted_rate"], row["target_tokens_per_token"], accuracy[2]]
    shown = re.findall(r"^\| `([\w.:-]+)` \| (\d.*) \|$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert tables == 1
    assert len(found) == 5
    assert len(shown) == 3, "the thresholds"
    assert "75 of 100 questions, and 25" in page.read_text(encoding="utf-8")
    alone = [found[draft][2] for draft in ("pocket-0.6m", "pocket-0.25m")]
    assert alone == pytest.approx([0.75, 0.25], abs=0.011)
    for name, values in shown:
        assert [float(value) for value in values.split(" | ")] == pytest.approx(found[name], abs=0.011), name
    assert (here / "runs" / "tutorial" / "report.html").is_file()
