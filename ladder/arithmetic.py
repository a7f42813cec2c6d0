"""Arithmetic with worked answers: chains in words of our own, and problems from reasoning-gym with steps added.

reasoning-gym's `gsm_symbolic` is left out on purpose: its templates are questions of the GSM8K *test* split.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import reasoning_gym
from reasoning_gym.arithmetic.leg_counting import ANIMALS

Worked = tuple[str, str]  # question, worked answer that ends in "#### N"


def _easy(left: int, operator: str, right: int) -> int | None:
    if operator == "+":
        value = left + right
    elif operator == "-":
        value = left - right
    elif operator == "*":
        value = left * right if max(left, right) <= 12 or min(left, right) <= 3 else -1
    else:
        value = left // right if left % right == 0 and left // right <= 20 else -1
    return value if 1 <= value <= 200 else None


_WORDS = {
    "+": ("add {n}", "plus {n}"),
    "-": ("subtract {n}", "take away {n}"),
    "*": ("multiply by {n}", "take it {n} times"),
    "/": ("divide by {n}", "split it into {n} equal parts"),
}


def _chain(rng: random.Random) -> Worked:
    """Two to four easy operations, told in words or as a list."""
    value = rng.randint(2, 99)
    start, told, lines = value, [], []
    for _ in range(rng.randint(2, 4)):
        while True:
            operator = rng.choice("++--**/")
            operand = rng.randint(2, 99) if operator in "+-" else rng.randint(2, 12)
            result = _easy(value, operator, operand)
            if result is not None:
                break
        told.append(rng.choice(_WORDS[operator]).format(n=operand))
        lines.append(f"{value} {operator} {operand} = {result}")
        value = result
    opening = rng.choice(("Start with {s}, then {t}. What is the result?", "Take {s}, {t}. Which number comes out?",
                          "Think of {s}; {t}. What do you get?"))  # fmt: skip
    return opening.format(s=start, t=", then ".join(told)), "\n".join(lines) + f"\n#### {value}"


def _several(rng: random.Random) -> Worked:
    """Several independent easy operations; the answer is the last one."""
    shown, lines = [], []
    value = 0
    for _ in range(rng.randint(2, 5)):
        while True:
            operator = rng.choice("+-*/")
            if operator in "+-":
                left, right = rng.randint(2, 120), rng.randint(2, 99)
            else:
                left, right = rng.randint(2, 12), rng.randint(2, 12)
                left = left * right if operator == "/" else left
            result = _easy(left, operator, right)
            if result is not None:
                break
        value = result
        shown.append(f"{left} {operator} {right}")
        lines.append(f"{left} {operator} {right} = {value}")
    question = rng.choice(("Compute {s}.", "Work out {s}.", "What are {s}?"))
    return question.format(s=", ".join(shown[:-1]) + " and " + shown[-1]), "\n".join(lines) + f"\n#### {value}"


def _chain_sum(size: int, seed: int) -> Iterator[Worked]:
    dataset = reasoning_gym.create_dataset(
        "chain_sum", size=size, seed=seed, min_terms=2, max_terms=4, min_digits=1, max_digits=2
    )
    for item in dataset:
        tokens = item["metadata"]["expression"].split()
        value, lines = int(tokens[0]), []
        for operator, term in zip(tokens[1::2], tokens[2::2], strict=True):
            result = value + int(term) if operator == "+" else value - int(term)
            lines.append(f"{value} {operator} {term} = {result}")
            value = result
        if str(value) != item["answer"]:
            raise ValueError(f"reasoning-gym says {item['answer']} for {item['question']!r}, we say {value}")
        yield item["question"].strip(), "\n".join(lines) + f"\n#### {value}"


def _leg_counting(size: int, seed: int) -> Iterator[Worked]:
    dataset = reasoning_gym.create_dataset(
        "leg_counting", size=size, seed=seed, min_animals=2, max_animals=4, max_instances=12
    )
    for item in dataset:
        total, lines = 0, []
        for animal, count in item["metadata"]["animals"].items():
            legs = ANIMALS[animal]
            lines.append(
                f"{animal}: {count} * {legs} = {count * legs}, {total} + {count * legs} = {total + count * legs}"
            )
            total += count * legs
        if str(total) != item["answer"]:
            raise ValueError(f"reasoning-gym says {item['answer']} for {item['question']!r}, we say {total}")
        yield item["question"].strip().split("\n\n")[-1], "\n".join(lines) + f"\n#### {total}"


def _gcd(size: int, seed: int) -> Iterator[Worked]:
    for item in reasoning_gym.create_dataset("gcd", size=size, seed=seed, min_value=4, max_value=150):
        a, b = sorted(item["metadata"]["numbers"], reverse=True)
        lines = []
        while b:
            lines.append(f"{a} - {a // b} * {b} = {a % b}")
            a, b = b, a % b
        if str(a) != item["answer"]:
            raise ValueError(f"reasoning-gym says {item['answer']} for {item['question']!r}, we say {a}")
        yield item["question"].split(" Give only")[0], "\n".join(lines) + f"\n#### {a}"


def _products(size: int, seed: int) -> Iterator[Worked]:
    for item in reasoning_gym.create_dataset("products", size=size, seed=seed, min_digits=1, max_digits=2):
        a, b = (int(token) for token in item["metadata"]["expression"].split(" * "))
        if b % 10 and b >= 10:
            tens, ones = b // 10 * 10, b % 10
            steps = f"{a} * {tens} = {a * tens}\n{a} * {ones} = {a * ones}\n{a * tens} + {a * ones} = {a * b}"
        else:
            steps = f"{a} * {b} = {a * b}"
        if str(a * b) != item["answer"]:
            raise ValueError(f"reasoning-gym says {item['answer']} for {item['question']!r}, we say {a * b}")
        yield item["question"].split(" Give only")[0], f"{steps}\n#### {a * b}"


def problems(size: int, seed: int) -> list[Worked]:
    """About `size` different worked problems: 70 % our own chains, 30 % from reasoning-gym."""
    rng = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < size * 7 // 10:
        question, answer = (_chain if rng.random() < 0.6 else _several)(rng)
        found[question] = answer
    share = size // 10
    for part in (
        _chain_sum(share, seed),
        _leg_counting(share, seed),
        _gcd(share // 2, seed),
        _products(share // 2, seed),
    ):
        found.update(part)
    return list(found.items())
