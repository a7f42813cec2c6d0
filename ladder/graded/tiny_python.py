"""Problems of `fsgen.tasks.tiny_python`: the split is by the operations in their order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fsgen.tasks import tiny_python
from ladder.graded import Made, Split, bucket, split_of

MOST = 5
TESTS = 8
_IN_TURN = (1, 2, 3, 4, 5, 2, 3, 4, 5)  # operations of the test problems: there are few different single ones
_COUNTS = (3, 2, 2, 2, 1)  # how often one to five operations are drawn
_AFTER = 0.25  # the share of neighbours that are told in the other order


@dataclass(frozen=True)
class Operation:
    """One operation: what it takes and gives, its expression of x (and of k), and how it is told."""

    takes: str
    gives: str
    code: str
    told: tuple[str, ...]

    @property
    def has_number(self) -> bool:
        """Whether it has a number k."""
        return "{k}" in self.code


def _operations(lines: str) -> tuple[Operation, ...]:
    made = []
    for row in lines.strip().splitlines():
        types, code, told = (part.strip() for part in row.split("|", 2))
        takes, gives = types.split(">")
        made.append(Operation(takes, gives, code, tuple(part.strip() for part in told.split("|"))))
    return tuple(made)


OPERATIONS = _operations("""
list>list | sorted(x) | sort it | put it in ascending order
list>list | sorted(x, reverse=True) | sort it from high to low | put it in descending order
list>list | x[::-1] | reverse it | turn its order around
list>list | list(dict.fromkeys(x)) | drop repeats | keep only the first of equal numbers
list>list | [v + {k} for v in x] | add {k} to each number | increase every number by {k}
list>list | [v - {k} for v in x] | subtract {k} from each number | lower every number by {k}
list>list | [v * {k} for v in x] | multiply each number by {k} | take every number {k} times
list>list | [v * v for v in x] | square each number | multiply each number by itself
list>list | [-v for v in x] | negate each number | change every sign
list>list | [abs(v) for v in x] | take absolute values | drop the signs
list>list | [v for v in x if v > {k}] | keep the numbers above {k} | drop all up to {k}
list>list | [v for v in x if v < {k}] | keep the numbers below {k} | drop all from {k} on
list>list | [v for v in x if v != {k}] | drop every {k} | remove all that equal {k}
list>list | [v for v in x if v % 2 == 0] | keep the even numbers | drop the odd numbers
list>list | [v for v in x if v % 2 == 1] | keep the odd numbers | drop the even numbers
list>list | x[:{k}] | keep the first {k} | cut it after {k} numbers
list>list | x[{k}:] | drop the first {k} | leave out {k} numbers at the start
list>list | x[-{k}:] | keep the last {k} | take {k} numbers from the end
list>list | x[::2] | keep every second number | skip every other number
list>list | x + [{k}] | append {k} | put {k} at the end
list>list | [{k}] + x | put {k} in front | begin with {k}
list>number | sum(x) | take the sum | add all up
list>number | max(x, default=0) | take the largest | find the maximum
list>number | min(x, default=0) | take the smallest | find the minimum
list>number | len(x) | count the numbers | take its length
list>number | x.count({k}) | count how often {k} occurs | tell how many equal {k}
list>string | '-'.join(map(str, x)) | join it with dashes | write it as text with dashes
string>string | x.upper() | make it upper case | write it in capitals
string>string | x.lower() | make it lower case | write it in small letters
string>string | x[::-1] | reverse it | turn its order around
string>string | x.replace(' ', '') | remove the spaces | close all gaps
string>string | x.replace(' ', '-') | turn spaces into dashes | write dashes for spaces
string>string | x.strip() | strip it | remove spaces at both ends
string>string | ''.join(c for c in x if c not in 'aeiou') | remove the vowels | leave out a, e, i, o and u
string>string | ''.join(sorted(x)) | sort its letters | put its letters in order
string>string | x * {k} | repeat it {k} times | write it {k} times
string>string | x[:{k}] | keep the first {k} | cut it after {k} letters
string>string | x[{k}:] | drop the first {k} | leave out {k} letters at the start
string>string | x[-{k}:] | keep the last {k} | take {k} letters from the end
string>string | x + '!' | add an exclamation mark | end it with !
string>number | len(x) | count its letters | take its length
string>list | [len(w) for w in x.split()] | take the lengths of its words | count the letters of each word
""")
_BY_INPUT = {kind: [item for item in OPERATIONS if item.takes == kind] for kind in ("list", "string", "number")}

Chosen = tuple[Operation, int]


def draw(rng: random.Random) -> list[Chosen]:
    """One to five operations that fit each other, each with its number."""
    [count] = rng.choices(range(1, MOST + 1), _COUNTS)
    kind = rng.choice(("list", "list", "string"))
    chosen: list[Chosen] = []
    while len(chosen) < count:
        last = len(chosen) == count - 1
        operation = rng.choice([item for item in _BY_INPUT[kind] if last or item.gives != "number"])
        if operation.gives != operation.takes and not last and rng.random() < 0.5:
            continue  # lists and strings mix, but not all the time
        if chosen and chosen[-1][0] is operation:
            continue
        chosen.append((operation, rng.randint(2, 12)))
        kind = operation.gives
    return chosen


def code(chosen: list[Chosen]) -> str:
    """The program: a line for each operation."""
    written = [operation.code.replace("{k}", str(number)) for operation, number in chosen]
    return "\n".join(["def f(x):", *(f"    x = {part}" for part in written[:-1]), f"    return {written[-1]}"])


def describe(rng: random.Random, chosen: list[Chosen]) -> str:
    """The operations in words; of some neighbours the second is told first."""
    told = [rng.choice(operation.told).replace("{k}", str(number)) for operation, number in chosen]
    parts, at = [], 0
    while at < len(told):
        if at + 1 < len(told) and rng.random() < _AFTER:
            parts.append(f"before you {told[at + 1]}, {told[at]}")
            at += 2
        else:
            parts.append(told[at])
            at += 1
    return ", then ".join(parts)


def split(chosen: list[Chosen]) -> Split:
    """By the operations in their order; a single one by its number, and without one it is only trained on."""
    operation, number = chosen[0]
    if len(chosen) == 1:
        splits: tuple[Split, ...] = ("test", "held_out", "train", "train")
        return splits[bucket(f"{operation.code}/{number}", 4)] if operation.has_number else "train"
    return split_of(" | ".join(f"{operation.takes} {operation.code}" for operation, _ in chosen))


def _input(rng: random.Random, kind: str) -> Any:
    if kind == "list":
        return [rng.randint(-9, 20) for _ in range(rng.randint(1, 9))] + [rng.randint(2, 9)] * rng.randint(0, 2)
    letters = "abcdeiou RSTA lmnop"
    return "".join(rng.choice(letters) for _ in range(rng.randint(4, 14)))


def _tests(rng: random.Random, kind: str, program: str) -> list[str]:
    """Asserts on random inputs; none where the results hardly differ, since many programs would pass them."""
    names: dict[str, Any] = {}
    exec(program, names)  # our own program
    function: Callable[[Any], Any] = names["f"]
    inputs = [_input(rng, kind) for _ in range(TESTS)]
    results = [repr(function(given)) for given in inputs]
    if len(set(results)) < TESTS // 2:
        return []
    return [f"assert f({given!r}) == {result}" for given, result in zip(inputs, results, strict=True)]


def problems(wanted: Split, seed: int) -> Iterator[Made]:
    """Endless problems of one split; those of the test have one to five operations, and no two are the same."""
    rng = random.Random(f"tiny_python/{wanted}/{seed}")
    seen: set[str] = set()
    while True:
        chosen = draw(rng)
        if split(chosen) != wanted or (wanted == "test" and len(chosen) != _IN_TURN[len(seen) % len(_IN_TURN)]):
            continue
        kind, program, description = chosen[0][0].takes, code(chosen), describe(rng, chosen)
        row: dict[str, Any] = {}
        if wanted == "test":
            tests = _tests(rng, kind, program)
            if description in seen or not tests:
                continue
            seen.add(description)
            row = {
                "kind": kind,
                "description": description,
                "operations": [operation.code.replace("{k}", str(number)) for operation, number in chosen],
                "code": program,
                "tests": tests,
            }
        yield Made(row, tiny_python.prompt(kind, description), f"{program}\n[DONE]")
