"""What is wrong with the file of a study or an experiment is one line, before any work."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fsgen.experiments.config import default_text, names
from tests.inputs.values import STUDY

NO_VALUES = (
    "3",
    "null",
    "[3]",
    "[null]",
    "[[]]",
    "[{}]",
    "{a: 1}",
    "true",
    "1.5",
    ".nan",
    "2026-11-21",
    "[[[a]]]",
    "[]",
    "[true]",
)


def studies() -> Iterator[str]:
    """Texts that are no study."""
    for key in ("tasks", "pairs", "methods", "routers", "sampling", "grids"):
        rest = "".join(line + "\n" for line in STUDY.splitlines() if not line.startswith(key))
        yield from (f"{rest}{key}: {value}" for value in NO_VALUES)
    yield from (
        f"{STUDY}{key}: {value}"
        for key, value in itertools.product(
            ("candidates", "batch_size", "seed", "definitions", "dtype", "device", "replay"),
            ("-1", "x", "[1]", "{a: 1}", ".inf", "null", '"\\ud800"'),
        )
    )
    for values in (
        "limit: 0",
        "limit: x",
        "shots: -1",
        "max_tokens: 0",
        "chat: 7",
        "data: [a]",
        "order: x",
        "order: .inf",
        "name: 3",
    ):
        yield STUDY.replace("[gsm8k]", "[{name: gsm8k, " + values + "}]" if "name" not in values else "[{name: 3}]")
    for values in ("temperature: 1.0e-300", "temperature: .nan", "temperature: 1.0e+300", "top_k: 9223372036854775808",
                   "top_k: -1", "top_p: 0", "min_p: 1", "top_k: 1.5", "top: 3"):  # fmt: skip
        yield STUDY + "sampling: [{" + values + "}]"
    yield from ("", "3", "null", "a", "- a", "---\na: 1\n---\nb: 1", "{", "[" * 5000, "{a: " * 5000, "- " * 5000 + "a",
                "tasks: " + "[" * 5000 + "]" * 5000, "a: &a [*a]", "&a {tasks: *a}", "? [a]\n: b", "? {a: b}\n: c",
                "a: !!int ''", "a: !!timestamp x", "a: !!float x", "a: !!binary é", "a: !!python/name:os.system",
                "a: !guess x", "\t- a",
                f"seed: {'9' * 5000}", "a: *b", "\x00", "\x1b[31m: 1", "seed: 0x" + "f" * 9000)  # fmt: skip
    yield from (STUDY + twice for twice in ("methods: [plain]", "seed: 1\nseed: 1", "'seed': 1\n\"seed\": 2"))
    yield STUDY.replace("target: b", "target: b, target: c")
    yield STUDY + "seed: 18446744073709551616"
    yield STUDY + "#" + "x" * 2**20


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("text", list(studies()), ids=lambda text: ascii(text[-60:]))
def test_what_is_no_study_is_refused_in_one_line(refused: Callable[..., str], text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    refused("study", str(file))
    refused("experiment", "threshold", "--config", str(file))


@pytest.mark.parametrize("name", names())
def test_an_experiment_refuses_the_file_of_another(refused: Callable[..., str], name: str, tmp_path: Path) -> None:
    other = next(each for each in names() if each != name)
    (tmp_path / "mine.yaml").write_text(default_text(other))
    assert f"is for the experiment {other!r}, not {name!r}" in refused("experiment", name, "--config", "mine.yaml")


def test_each_fault_of_a_study_is_in_the_line(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("tasks: [{nam: x}]\npairs: [3]\nmethods: [1]\nextra: 1")
    said = refused("study", "mine.yaml")
    faults = ("tasks.0.nam: unknown key; ", "pairs.0: must be a ", "methods.0: ", "extra: unknown key")
    assert all(fault in said for fault in faults), said
