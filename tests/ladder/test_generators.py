"""The generators of the ladder: every worked answer is right, and the splits do not meet."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from fractions import Fraction

import pytest

from fsgen.tasks.mmlu_stem import few_shot_examples
from ladder import multiple_choice, word_problems
from ladder.files import POCKET_MATH, read_jsonl
from ladder.overlap import without_names
from ladder.word_problems import SCENARIOS, Split

_EQUATION = re.compile(r"(?<![\w.])(-?\d+(?: [-+*/] -?\d+)+) = (-?\d+)(?![\w/])")


def _value(expression: str) -> Fraction:
    tokens = expression.split()
    terms = [Fraction(tokens[0])]
    signs = [1]
    for operator, token in zip(tokens[1::2], tokens[2::2], strict=True):
        if operator == "*":
            terms[-1] *= int(token)
        elif operator == "/":
            terms[-1] /= int(token)
        else:
            terms.append(Fraction(token))
            signs.append(1 if operator == "+" else -1)
    return sum((sign * term for sign, term in zip(signs, terms, strict=True)), Fraction(0))


def _check_equations(text: str) -> list[str]:
    found: list[tuple[str, str]] = _EQUATION.findall(text)
    for left, right in found:
        assert _value(left) == int(right), f"{left} = {right} in {text!r}"
    return [right for _, right in found]


def test_word_problems_are_worked_right() -> None:
    for problem in itertools.islice(word_problems.problems("train", 11), 1500):
        results = _check_equations(problem.steps)
        assert len(results) == len(problem.steps.splitlines())
        assert 2 <= len(results) <= 3
        assert int(results[-1]) == problem.answer
        assert problem.worked.endswith(f"\n#### {problem.answer}")
        assert all(2 <= int(result) <= 200 for result in results)
        assert "{" not in problem.question + problem.steps


def test_every_scenario_is_used_and_they_are_varied() -> None:
    drawn = list(itertools.islice(word_problems.problems("train", 12), 1500))
    assert {problem.identity.split(":")[0] for problem in drawn} == {scenario.key for scenario in SCENARIOS}
    assert len(SCENARIOS) >= 25


def test_splits_share_no_problem_even_under_other_names() -> None:
    identities: dict[Split, set[str]] = {
        split: {problem.identity for problem in itertools.islice(word_problems.problems(split, 3), 400)}
        for split in ("train", "dev", "test")
    }
    assert identities["train"].isdisjoint(identities["dev"])
    assert identities["train"].isdisjoint(identities["test"])
    assert identities["dev"].isdisjoint(identities["test"])


def test_bundled_problems_are_right_and_not_in_training() -> None:
    rows = read_jsonl(POCKET_MATH)
    assert len(rows) == len({row["question"] for row in rows}) == 500
    for row in rows:
        steps, answer = row["answer"].rsplit("\n#### ", 1)
        assert _check_equations(steps)[-1] == answer
    bundled = {without_names(row["question"]) for row in rows}
    drawn = itertools.islice(word_problems.problems("train", 20240612), 5000)
    assert bundled.isdisjoint(without_names(problem.question) for problem in drawn)


def test_problems_depend_on_the_seed_alone() -> None:
    first, again = (list(itertools.islice(word_problems.problems("dev", 5), 20)) for _ in range(2))
    assert first == again


def test_choice_questions_are_sound() -> None:
    letters: Counter[int] = Counter()
    for item in itertools.islice(multiple_choice.questions(4), 3000):
        assert len(set(item.choices)) == 4
        _check_equations(item.reasoning)
        assert few_shot_examples(item.subject)  # a subject of MMLU-STEM
        letters[item.answer] += 1
    assert set(letters) == {0, 1, 2, 3}
    assert max(letters.values()) < 1.15 * min(letters.values()) * 1.05


def test_arithmetic_is_worked_right() -> None:
    pytest.importorskip("reasoning_gym")
    from ladder import arithmetic

    problems = arithmetic.problems(400, 9)
    assert len({question for question, _ in problems}) == len(problems) > 350
    for _, answer in problems:
        _check_equations(answer)
        assert re.search(r"\n#### -?\d+$", answer)
