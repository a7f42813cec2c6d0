"""The page of findings says what the stored answers say, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from fsgen.analysis.answers import Answer, Point, Table
from fsgen.analysis.answers import Chart as AnswerChart
from fsgen.analysis.intervals import Estimate
from fsgen.experiments import names
from fsgen.files import write_json
from fsgen.models.bundled import ladder
from fsgen.report.findings import keep, page, read_answers

ROOT = Path(__file__).parents[2]
ONE = Answer(
    statement="It <rises> by 0.200 [0.100, 0.300].",
    holds=True,
    overturn="A fall.",
    numbers={"rise": Estimate(0.2, 0.1, 0.3)},
    charts=(AnswerChart("c", points=(Point(1, 2.0),)),),
    tables=(Table("t", columns=("a",), rows=((1,),)),),
    remarks=("Two sizes.",),
    experiment="one",
    title="One thing",
    question="Does it rise?",
    config={
        "study": {"pairs": [{"draft": "small", "target": "/models/large"}], "tasks": [{"name": "sums", "limit": 3}]}
    },
)


def stored(folder: Path, *answers: Answer) -> Path:
    for answer in answers:
        write_json(folder / answer.experiment / "answers" / f"{answer.experiment}.json", answer.as_dict())
    return folder


def test_the_committed_page_has_the_numbers_of_the_committed_answers() -> None:
    expected = page(read_answers([ROOT / "docs" / "answers"]), names())
    assert (ROOT / "docs" / "findings.md").read_text(encoding="utf-8") == expected, (
        "docs/findings.md is written by `fsgen findings docs/answers --out docs/findings.md`, not by hand"
    )


def test_a_page_tells_what_an_answer_says() -> None:
    text = page([ONE], ["one", "two"])
    for part in (
        "\n\n## One thing\n\nDoes it rise? **yes** (`fsgen experiment one`)\n\nIt <rises> by 0.200 [0.100, 0.300].\n\n",
        "Models and tasks: `small` → `large`; sums (3).\n\n",
        "\n\n- rise: 0.200 [0.100, 0.300]\n\n",
        "\n\nWhat would overturn it: A fall.\n\n",
        "\n\n- Two sizes.\n\n",
        "\n\nWithout a stored answer are: `fsgen experiment two`.\n\n",
    ):
        assert part in text
    changed = page([replace(ONE, numbers={"rise": Estimate(0.25, 0.1, 0.3)}, holds=None)], ["one", "two"])
    assert "- rise: 0.250 [0.100, 0.300]\n" in changed
    assert "**open**" in changed
    assert all(len(line) <= 120 for line in text.splitlines())


def test_answers_are_found_kept_and_told_again(tmp_path: Path) -> None:
    runs = stored(tmp_path / "runs", ONE, replace(ONE, experiment="two", title="Another"))
    kept = tmp_path / "answers"
    answers = read_answers([runs])
    assert [answer.experiment for answer in answers] == ["one", "two"]
    keep(answers, kept)
    again = read_answers([kept])
    assert page(again) == page(answers)
    assert not any(answer.charts or answer.tables for answer in again)


def test_of_an_experiment_that_ran_twice_in_a_folder_the_last_answer_counts(tmp_path: Path) -> None:
    alone, together = tmp_path / "one" / "answers" / "one.json", tmp_path / "answers" / "one.json"
    write_json(alone, replace(ONE, statement="By itself.").as_dict())
    write_json(together, replace(ONE, statement="With all.").as_dict())
    for first, last, statement in ((alone, together, "With all."), (together, alone, "By itself.")):
        os.utime(first, (1000, 1000))
        os.utime(last, (2000, 2000))
        assert [answer.statement for answer in read_answers([tmp_path])] == [statement]


def test_faults(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no answers: run"):
        read_answers([tmp_path])
    with pytest.raises(ValueError, match="the experiment one has two answers"):
        read_answers([stored(tmp_path / "a", ONE), stored(tmp_path / "b", ONE)])


def test_an_answer_says_which_of_its_models_are_not_bundled_any_more(tmp_path: Path) -> None:
    def of(*pairs: Mapping[str, object], models: tuple[str, ...] = ()) -> str:
        return page([replace(ONE, config={"study": {"pairs": pairs}}, ladder=models)])

    gone = {"draft": "pocket-0.25m", "target": "pocket-99m"}
    assert "\n\n**Of a former ladder**: `pocket-99m` is not bundled any more" in of(gone)
    assert "`pocket-98m`, `pocket-99m` are not" in of({"ladder": ["pocket-98m", "pocket-0.6m", "pocket-99m"]})
    former = of({"ladder": "pocket"}, models=("pocket-98m", "pocket-4m"))
    assert "`pocket-98m` is not" in former
    assert "the ladder `pocket-98m`, `pocket-4m`;" in former
    for now in (of({"draft": "pocket-0.25m", "target": "pocket-4m"}), of({"draft": "own-8m", "target": "/far/away"})):
        assert "Of a former ladder" not in now

    keep([replace(ONE, config={"study": {"pairs": [{"ladder": "pocket"}]}})], tmp_path / "answers")
    (kept,) = read_answers([tmp_path / "answers"])
    assert kept.ladder == tuple(ladder())
