"""Prompts for checks: as many as are wanted, from real tasks, no two alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fsgen import tasks
from fsgen.tasks.prompts import from_file, from_tasks


def test_a_task_gives_its_own_prompts_first() -> None:
    found = from_tasks("mt_bench", 50)
    assert found.texts == [example.prompt for example in tasks.get("mt_bench").load()][:50]
    assert found.sources == {"mt_bench": 50}
    assert found.left_out == {}


def test_more_prompts_than_there_are_examples_are_other_prompts() -> None:
    found = from_tasks("mt_bench", 9000)
    assert len(found.texts) == len(set(found.texts)) == 9000
    assert sum(found.sources.values()) == 9000
    names = list(found.sources)
    assert names[0] == "mt_bench"
    assert set(names[1 : len(tasks.names())]) == set(tasks.names()) - {"mt_bench"}
    assert names[len(tasks.names())] == "mt_bench cut at 75%"
    whole = {example.prompt for name in tasks.names() for example in tasks.get(name).load()}
    cut = found.texts[sum(found.sources[name] for name in tasks.names()) :]
    assert not whole & set(cut)
    assert all(any(text.startswith(part) for text in whole) for part in cut[:50])
    assert found.left_out["seen before"] > 0  # MMLU asks some questions twice


def test_prompts_that_do_not_fit_are_left_out_and_counted() -> None:
    everything = [example.prompt for example in tasks.get("mt_bench").load()]
    short = [text for text in everything if len(text) < 300]
    found = from_tasks("mt_bench", len(short), lambda text: len(text) < 300)
    assert found.texts == short
    assert found.left_out.get("too long", 0) <= len(everything) - len(short)


@pytest.mark.parametrize(
    ("task", "count", "words"),
    [("gsm9k", 1, "unknown task 'gsm9k'"), ("gsm8k", 0, "prompts=0"), ("gsm8k", 10**6, "prompts=1000000")],
)
def test_what_there_is_not(task: str, count: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        from_tasks(task, count)


def test_a_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    lines = ["one", "", json.dumps("two\nlines"), '"a quote" begins it', "one", "12"]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = from_file(file, None)
    assert found.texts == ["one", "two\nlines", '"a quote" begins it', "12"]
    assert found.sources == {"prompts.txt": 4}
    assert found.left_out == {"seen before": 1}
    assert from_file(file, 2).texts == ["one", "two\nlines"]


def test_a_file_with_too_few(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("one\none\n")
    with pytest.raises(ValueError, match="1 different prompts that fit, and 2 are needed"):
        from_file(file, 2)
    with pytest.raises(ValueError, match="0 different"):
        from_file(file, None, lambda text: False)
