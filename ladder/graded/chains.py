"""Problems of `fsgen.tasks.chains`: the split is by the line of the hard step."""

from __future__ import annotations

import random
from collections.abc import Iterator

from fsgen.tasks import chains
from fsgen.tasks.chains import Step
from ladder.graded import Made, Split, split_of

LONGEST = 8
HIGHEST = 999


def _easy(rng: random.Random, value: int) -> Step:
    while True:
        if value <= 50 and rng.random() < 0.15:
            return "*", 2
        operator = rng.choice("+-")
        operand = rng.randint(1, 9) if rng.random() < 0.5 else rng.randint(10, 99)
        if 0 <= chains.apply(value, (operator, operand)) <= HIGHEST:
            return operator, operand


def _hard(rng: random.Random, value: int) -> Step:
    if 10 <= value <= 99 and rng.random() < 0.7:
        return "*", rng.randint(3, 9)
    while True:
        operator = rng.choice("+-" if value >= 100 else "+")
        operand = rng.randint(100, 999)
        if 0 <= chains.apply(value, (operator, operand)) <= HIGHEST:
            return operator, operand


def draw(rng: random.Random) -> tuple[int, list[Step], int, str]:
    """A random problem of any split: start, steps, the place of the hard step, and its line."""
    length = rng.randint(1, LONGEST)
    hard = rng.randrange(length)
    while True:
        start = rng.randint(10, 99) if rng.random() < 0.6 else rng.randint(100, 899)
        value, steps, hard_line = start, list[Step](), ""
        for number in range(length):
            if number == hard and value > HIGHEST - 100:
                break
            steps.append((_hard if number == hard else _easy)(rng, value))
            hard_line = chains.line(value, steps[-1]) if number == hard else hard_line
            value = chains.apply(value, steps[-1])
        else:
            if value <= HIGHEST:
                return start, steps, hard, hard_line


def problems(split: Split, seed: int) -> Iterator[Made]:
    """Endless problems of one split, no two of them the same in the test."""
    rng = random.Random(f"chains/{split}/{seed}")
    seen: set[str] = set()
    while True:
        start, steps, hard, hard_line = draw(rng)
        asked = chains.prompt(start, steps)
        if split_of(hard_line) != split or (split == "test" and asked in seen):
            continue
        if split == "test":
            seen.add(asked)
        row = {"start": start, "steps": [list(step) for step in steps], "hard": hard}
        yield Made(row, asked, chains.worked(start, steps))
