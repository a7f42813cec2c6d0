"""Chains: calculations of one to eight steps, of which exactly one, at a random place, is hard.

Example problem:

    Start with 47, add 25, multiply by 6, subtract 8.
    47+25=72
    72*6=420+12=432
    432-8=424
    #### 424

An easy step adds or subtracts a number of one or two digits, or doubles a number up to 50. The hard one (its place,
counted from 0, is `metadata["hard"]`) adds or subtracts a number of three digits, or multiplies a number of two digits
by 3 to 9, which is written as tens and ones. All numbers are from 0 to 999. Made by `ladder/graded/chains.py`: the line
of a test problem's hard step is in no training text.

Scoring: the answer is the last number marked by `####`; without one there is none. Each line is scored as well, and the
note of the score lists the right ones. A line is right when its first number is the result of the line before, its
operation is that of its step, and its results are true: so one wrong line does not spoil the next.
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from fsgen.tasks.base import Judge, Row, Score, Task, cut, match
from fsgen.types import Example

Step = tuple[str, int]  # `+`, `-` or `*`, and its operand

_TOLD = {"+": "add {}", "-": "subtract {}", "*": "multiply by {}"}
_LINE = re.compile(r"(\d+)([-+*])(\d+)=(?:(\d+)\+(\d+)=)?(\d+)")
_ANSWER = re.compile(r"####\s*(\d+)")


def prompt(start: int, steps: Sequence[Step]) -> str:
    """The plain prompt of one problem; the completion is `worked(start, steps)`."""
    told = ", ".join(_TOLD[operator].format(operand) for operator, operand in steps)
    return f"Start with {start}, {told}.\n"


def apply(value: int, step: Step) -> int:
    """The result of one step."""
    operator, operand = step
    return value + operand if operator == "+" else value - operand if operator == "-" else value * operand


def line(value: int, step: Step) -> str:
    """One step as it is written: `47+25=72`, `72*6=420+12=432`."""
    operator, operand = step
    parts = f"{value // 10 * 10 * operand}+{value % 10 * operand}=" if operator == "*" and value > 9 else ""
    return f"{value}{operator}{operand}={parts}{apply(value, step)}"


def worked(start: int, steps: Sequence[Step]) -> str:
    """All lines and the marked answer."""
    value, lines = start, []
    for step in steps:
        lines.append(line(value, step))
        value = apply(value, step)
    return "\n".join([*lines, f"#### {value}"])


def right_lines(start: int, steps: Sequence[Step], text: str) -> list[bool]:
    """For each step whether its line of a completion is right; a missing line is wrong."""
    before, found = str(start), []
    written = text.strip().split("\n")
    for number, step in enumerate(steps):
        parts = _LINE.fullmatch(written[number].strip()) if number < len(written) else None
        found.append(parts is not None and parts[1] == before and parts[0] == line(int(parts[1]), step))
        before = parts[6] if parts else ""
    return found


class Chains(Task):
    """Calculations of one to eight steps with one hard step, 0 shots."""

    name: ClassVar[str] = "chains"
    max_tokens: ClassVar[int] = 160
    stop: ClassVar[tuple[str, ...]] = ("\n\n", "\nStart with")
    fields: ClassVar[tuple[str, ...]] = ("start", "steps", "hard")
    bundled: ClassVar[str] = "chains.jsonl.gz"

    def example(self, row: Row, number: int, shots: int) -> Example:
        """The example of one row; the reference is the last result."""
        start, steps = int(row["start"]), [(str(operator), int(operand)) for operator, operand in row["steps"]]
        asked = prompt(start, steps)
        metadata: dict[str, Any] = {"start": start, "steps": steps, "hard": int(row["hard"])}
        return Example(
            id=f"{self.name}/{number}",
            prompt=asked,
            messages=(("user", f'{asked}\nWrite one line for each step, and end with "####" and the result.'),),
            reference=worked(start, steps).rsplit(" ", 1)[-1],
            metadata=metadata,
        )

    def extract(self, text: str) -> str | None:
        """The last number marked by `####`."""
        found = _ANSWER.findall(cut(text, self.stop))
        return str(int(found[-1])) if found else None

    def score(self, example: Example, text: str, *, judge: Judge | None = None) -> Score:
        """Score one completion; the note lists the right lines, from 1."""
        answer = self.extract(text)
        steps = [(operator, operand) for operator, operand in example.metadata["steps"]]
        right = right_lines(example.metadata["start"], steps, cut(text, self.stop))
        listed = ", ".join(str(number) for number, is_right in enumerate(right, 1) if is_right) or "none"
        scored = match(answer, answer == example.reference)
        return Score(scored.value, answer, "; ".join(filter(None, [scored.note, f"right lines: {listed}"])))
