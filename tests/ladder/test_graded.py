"""The graded tasks' generators: deterministic, split by content, and what they ship is what they make."""

from __future__ import annotations

import itertools
import re
from types import ModuleType

import pytest

from fsgen.tasks import chains as chains_task
from ladder.files import TASK_DATA, read_jsonl
from ladder.graded import Made, Split, chains, facts, lookup, tiny_python
from ladder.graded.__main__ import TEST_PROBLEMS, TEST_SEED

_MODULES = [chains, facts, lookup, tiny_python]
_modules = pytest.mark.parametrize("module", _MODULES, ids=lambda module: module.__name__.rsplit(".", 1)[-1])


def _take(module: ModuleType, split: Split, count: int, seed: int = 3) -> list[Made]:
    return list(itertools.islice(module.problems(split, seed), count))


@_modules
def test_a_seed_makes_the_same_problems(module: ModuleType) -> None:
    assert _take(module, "train", 200) == _take(module, "train", 200)
    assert _take(module, "train", 200) != _take(module, "train", 200, seed=4)


@_modules
def test_the_shipped_problems_are_those_of_the_recipe(module: ModuleType) -> None:
    made = [problem.row for problem in _take(module, "test", TEST_PROBLEMS, TEST_SEED)]
    assert made == read_jsonl(TASK_DATA / f"{module.__name__.rsplit('.', 1)[-1]}.jsonl.gz")
    assert len(made) == TEST_PROBLEMS


@_modules
def test_no_prompt_is_in_two_splits(module: ModuleType) -> None:
    prompts = [{made.prompt for made in _take(module, split, count)} for split, count in _COUNTS.items()]
    for one, other in itertools.combinations(prompts, 2):
        assert not one & other


_COUNTS: dict[Split, int] = {"train": 6_000, "held_out": 500, "test": 500}


def test_hard_lines_of_the_test_are_nowhere_in_training() -> None:
    def lines(split: Split, count: int) -> set[str]:
        rows = [made.row for made in _take(chains, split, count)]
        return {_hard_line(row["start"], row["steps"], row["hard"]) for row in rows}

    assert not lines("test", 500) & lines("train", 6_000)


def _hard_line(start: int, steps: list[list[object]], hard: int) -> str:
    pairs = [(str(operator), int(str(operand))) for operator, operand in steps]
    return chains_task.worked(start, pairs).split("\n")[hard]


def test_chains_have_one_hard_step_and_stay_in_bounds() -> None:
    places = set()
    for made in _take(chains, "train", 2_000):
        numbers = [int(number) for number in re.findall(r"\d+", made.completion)]
        assert max(numbers) <= chains.HIGHEST
        hard = [
            number
            for number, (operator, operand) in enumerate(made.row["steps"])
            if operand >= 100 or (operator == "*" and operand > 2)
        ]
        assert hard == [made.row["hard"]]
        places.add((len(made.row["steps"]), hard[0]))
    assert len(places) == sum(range(1, chains.LONGEST + 1))


def test_arrows_of_test_paths_are_nowhere_in_training() -> None:
    trained = {tuple(pair) for made in _take(lookup, "train", 6_000) for pair in made.row.get("pairs", [])}
    assert len(trained) > 3_000
    for made in _take(lookup, "test", 500):
        arrows, word = dict(made.row["pairs"]), made.row["start"]
        assert len(arrows) == len(made.row["pairs"])
        for _ in range(made.row["steps"]):
            assert (word, arrows[word]) not in trained
            word = arrows[word]


def test_lists_in_another_order_keep_to_the_arrows_of_training() -> None:
    again = [made for made in _take(lookup, "train", 4_000) if not made.row]
    arrows = {tuple(arrow.split(" > ")) for made in again for arrow in made.completion.strip(" .").split(", ")}
    assert all(lookup._SPLITS[key, value] == "train" for key, value in arrows)


_FORMS: dict[Split, int] = {"train": 40_000, "held_out": 1_800, "test": 3_600}


def test_a_fact_is_tested_in_a_form_that_training_never_has() -> None:
    forms = {}
    for split, count in _FORMS.items():
        rows = [made.row for made in _take(facts, split, count) if made.row]
        forms[split] = {(row["question"], bool(row["choices"])) for row in rows}
    assert len(forms["test"]) == 2 * len(facts.VALUES) * facts.PEOPLE
    assert not forms["test"] & forms["train"]
    assert not forms["held_out"] & (forms["train"] | forms["test"])


def test_compositions_of_the_test_are_nowhere_in_training() -> None:
    def compositions(split: Split, count: int) -> set[str]:
        made = _take(tiny_python, split, count)
        whole = [re.sub(r"(?<!== )\d+", "k", f"{item.prompt.split(':')[0]} {item.completion}") for item in made]
        return {text for text in whole if text.count("\n") > 2}

    assert not compositions("test", 500) & compositions("train", 20_000)


def test_descriptions_tell_the_program() -> None:
    for made in _take(tiny_python, "test", 300):
        count = len(made.row["operations"])
        assert made.row["code"].count("\n") == count
        assert made.row["description"].count(", then ") + made.row["description"].count("before you") == count - 1
        assert len(made.row["tests"]) == tiny_python.TESTS
