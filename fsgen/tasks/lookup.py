"""Lookup: following arrows through a list in the prompt; what counts is the context alone.

Example problem:

    Map: fox > oak, ant > red, oak > pen, bed > red.
    2 steps: fox > oak > pen

Levels reach from one step in a list of 2 pairs to four steps in a list of 16; the pairs off the path are distractors,
and some of them lead to words of the path. The completion begins after `fox >`. Made by `ladder/graded/lookup.py`: no
pair of a test problem's path is a pair of any training text.

Scoring: the answer is the last word of the completion's first line; it is right when it is where the path ends.
`metadata` has the numbers of `pairs` and `steps`.
"""

import re
from collections.abc import Sequence
from typing import ClassVar

from fsgen.tasks.base import Judge, Row, Score, Task, cut, match
from fsgen.types import Example

_WORD = re.compile(r"[a-z]+")


def prompt(pairs: Sequence[Sequence[str]], start: str, steps: int) -> str:
    """The plain prompt of one problem; the completion begins with a space."""
    listed = ", ".join(f"{key} > {value}" for key, value in pairs)
    return f"Map: {listed}.\n{steps} step{'s' * (steps > 1)}: {start} >"


def path(pairs: Sequence[Sequence[str]], start: str, steps: int) -> list[str]:
    """The words that the steps lead to, in order."""
    arrows = {pair[0]: pair[1] for pair in pairs}
    words = [start]
    for _ in range(steps):
        words.append(arrows[words[-1]])
    return words[1:]


class Lookup(Task):
    """Following one to four arrows among 2 to 16 pairs of words, 0 shots."""

    name: ClassVar[str] = "lookup"
    max_tokens: ClassVar[int] = 24
    stop: ClassVar[tuple[str, ...]] = ("\n",)
    fields: ClassVar[tuple[str, ...]] = ("pairs", "start", "steps")
    bundled: ClassVar[str] = "lookup.jsonl.gz"

    def example(self, row: Row, number: int, shots: int) -> Example:
        """The example of one row; the reference is where the path ends."""
        pairs, start, steps = row["pairs"], str(row["start"]), int(row["steps"])
        asked = prompt(pairs, start, steps)
        return Example(
            id=f"{self.name}/{number}",
            prompt=asked,
            messages=(("user", f"{asked}\n\nGo on with the arrows from {start} and end with the last word."),),
            reference=path(pairs, start, steps)[-1],
            metadata={"pairs": len(pairs), "steps": steps},
        )

    def extract(self, text: str) -> str | None:
        """The last word of the first line."""
        found = _WORD.findall(cut(text.lstrip("\n"), self.stop))
        return found[-1] if found else None

    def score(self, example: Example, text: str, *, judge: Judge | None = None) -> Score:
        """Score one completion."""
        answer = self.extract(text)
        return match(answer, answer == example.reference)
