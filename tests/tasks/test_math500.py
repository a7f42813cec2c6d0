"""MATH answers: what is extracted, and what counts as the same."""

import pytest

from fsgen.tasks import get, source
from fsgen.tasks.math500 import is_equal

TASK = get("math500")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{\sqrt{\frac{2}{3}}}", r"\sqrt{\frac{2}{3}}"),
        (r"\boxed{\left\{1, 2\right\}}", r"\left\{1, 2\right\}"),
        (r"\boxed 5", "5"),
        (r"\fbox{7}", "7"),
        (r"\boxed{7}" + "\nProblem: next\nSolution: \\boxed{8}", "7"),
        ("Final Answer: The final answer is $3.5$. I hope it is correct.", "$3.5$"),
        (r"\boxed{never closed", None),
        (r"\boxed{}", None),
        ("It is 5.", None),
        ("", None),
    ],
)
def test_extraction(text: str, expected: str | None) -> None:
    assert TASK.extract(text) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\frac12", "1/2"),
        (r"\dfrac{1}{2}", "0.5"),
        (r"\frac{-1}{2}", r"-\frac{1}{2}"),
        (r"-1/2", r"-\frac{1}{2}"),
        (r"1\frac{4}{5}", "9/5"),
        (r"2/4", r"\frac{1}{2}"),
        ("18.00", "18"),
        ("1,000", "1000"),
        (r"10,\!080", "10080"),
        (r"\$32,\!348", "32348"),
        (".5", "0.5"),
        (r"90^\circ", "90"),
        ("50\\%", "50"),
        (r"5.4 \text{ cents}", "5.4"),
        (r"864 \mbox{ inches}^2", "864"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"\text{(C)}", "C"),
        (r"11\sqrt2", r"11 \sqrt{2}"),
        (r"x=5", "5"),
        (r"x \in [-2,7]", "[-2,7]"),
        ("$7$.", "7"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"),
        (r"\left(\frac{3}{2}, -13\right)", "(1.5, -13)"),
        (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"\begin{pmatrix}\frac{1}{5}\\-\frac{18}{5}\end{pmatrix}"),
        (r"4210_{5}", "4210_5"),
        ("\u22123", "-3"),
        ("1, -2", "1,-2"),
    ],
)
def test_the_same(one: str, other: str) -> None:
    assert is_equal(one, other)
    assert is_equal(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2,000", "1,000"),
        ("5", "-5"),
        ("(1,2)", "(2,1)"),
        ("(1,2)", "[1,2]"),
        ("(1,2)", "1,2"),
        ("(1,2)", "(1,2,3)"),
        ("12", "1,2"),
        (r"\sqrt{8}", r"2\sqrt{2}"),
        ("52_8", "528"),
        ("x+1", "x-1"),
        (r"\frac{1}{2}", r"\frac{2}{1}"),
        ("", "0"),
        ("0.33", "1/3"),
    ],
)
def test_not_the_same(one: str, other: str) -> None:
    assert not is_equal(one, other)
    assert not is_equal(other, one)


def test_the_reference_solutions_are_right() -> None:
    rows = source.rows(None, TASK.bundled, TASK.fields)
    for example in TASK.load():
        assert TASK.score(example, rows[int(example.id.split("/")[1])]["solution"]).value == 1.0
