"""Numbers are read exactly: nothing else counts as the same number."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsgen.tasks import answers, get

EXTRACT = get("gsm8k").extract


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#### 18", "18"),
        ("The answer is $18.", "18"),
        ("The answer is 18.00", "18"),
        ("The answer is 18.50.", "37/2"),
        ("The answer is 2,000.", "2000"),
        ("The answer is 1,000", "1000"),
        ("The answer is -5.", "-5"),
        ("The answer is \u22125 degrees.", "-5"),
        ("#### - 5", "-5"),
        ("The answer is -$5", "-5"),
        ("The answer is $-5", "-5"),
        ("The answer is 1/2", "1/2"),
        ("The answer is 0.5", "1/2"),
        ("The answer is 2 1/2 cups.", "5/2"),
        (r"The answer is $\frac{1}{2}$.", "1/2"),
        (r"so we get \boxed{2{,}000}", "2000"),
        (r"so we get \boxed{-\frac{3}{4}}", "-3/4"),
        (r"The answer is \$1,450,000.", "1450000"),
        ("The answer is 18%.", "18"),
        ("The answer is 1e3", "1000"),
        ("The answer is 3 x 10^5.", "300000"),
        ("The answer is .25", "1/4"),
        ("The answer is:\n\n**42**", "42"),
        ("answer: 7", "7"),
        ("The answer is 20 + 30 = 50. Check: 50 - 20 = 30", "50"),
        ("The answer is 18, since 9 eggs make that", "18"),
        ("The answer is x = 3", "3"),
        ("The answer is 5. No: the answer is 6.", "6"),
        ("The answer is 5\n#### 6", "6"),
        ("#### 18\n\nQuestion: What is 3 + 4?\nAnswer: 3 + 4 = 7\n#### 7", "18"),
        ("She has 3 left, so 16 - 3 - 4 = 9 and 9 * 2 = 18 dollars.", "18"),
        ("It lies in the range 2-3", "3"),
        ("It took 10 - 5", "5"),
        ("The answer is not known", None),
        ("CO2", None),
        ("", None),
        ("no number", None),
    ],
)
def test_extraction(text: str, expected: str | None) -> None:
    assert EXTRACT(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,2", [1, 2]),
        ("12,3456", [12, 3456]),
        ("1,234,567.5", [Fraction("1234567.5")]),
        ("2-3", [2, 3]),
        ("x-3", [3]),
        ("(-3)", [-3]),
        ("3.", [3]),
        ("5 60/2", [5, 30]),
        ("1/0", [1]),
        ("3rd of 4", [3, 4]),
    ],
)
def test_numbers_in_order(text: str, expected: list[Fraction]) -> None:
    assert list(answers.numbers(text)) == expected


@pytest.mark.parametrize("text", ["", "x", "1,2", "1/0", "2-3", "5 apples", "--"])
def test_what_is_not_one_number_has_no_value(text: str) -> None:
    assert answers.parse_number(text) is None


@given(
    st.decimals(-(10**9), 10**9, places=3, allow_nan=False),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["{}", "${}", "{}.", "{} dollars", "**{}**", "{}%", r"\${}"]),
    st.sampled_from(["#### {}", "The answer is {}", r"Hence \boxed{{{}}}", "I bought 3, so answer: {}"]),
)
def test_every_decimal_is_read_back(value: object, commas: bool, zeros: bool, unit: str, mark: str) -> None:
    number = Fraction(str(value))
    written = f"{value:,f}" if commas else f"{value:f}"
    if not zeros:
        written = written.rstrip("0").rstrip(".") or "0"
    found = EXTRACT(mark.format(unit.format(written)))
    assert found == str(number)


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**4))
def test_every_fraction_is_read_back(above: int, below: int) -> None:
    assert EXTRACT(f"The answer is {above}/{below}.") == str(Fraction(above, below))


@given(st.text(max_size=60))
def test_any_text_is_read_without_error(text: str) -> None:
    EXTRACT(text)
    get("mmlu_stem").extract(text)
    get("math500").extract(text)
    get("mbpp").extract(text)


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_two_integers_are_the_same_only_if_equal(one: int, other: int) -> None:
    assert (EXTRACT(f"#### {one:,}") == EXTRACT(f"#### {other}")) == (one == other)
