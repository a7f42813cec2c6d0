"""What the tests of sessions share: the plain forward pass of one text, and how sequences change from call to call."""

from __future__ import annotations

import random
from typing import Any

import torch

LONG = 120


def alone(model: Any, tokens: list[int], last: int) -> torch.Tensor:
    """The plain forward pass of one text, without any cache: logits [last, vocab]."""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([tokens]), use_cache=False).logits[0, -last:]
    return logits


def edited(tokens: list[int], dice: random.Random) -> list[int]:
    """A sequence as a decode loop might hand it over next: grown, rewound, rewritten, repeated or replaced."""

    def fresh(most: int) -> list[int]:
        return [dice.randrange(96) for _ in range(dice.randint(1, most))]

    kind = dice.randrange(6)
    if kind == 0:
        new = tokens + fresh(1)
    elif kind == 1:
        new = tokens + fresh(30)
    elif kind == 2:  # a rejected draft
        new = tokens[: -dice.randint(1, 5)] + fresh(1)
    elif kind == 3:  # another continuation from anywhere
        new = tokens[: dice.randint(0, len(tokens))] + fresh(8)
    elif kind == 4:
        new = tokens[: dice.randint(1, max(1, len(tokens)))]
    else:
        new = fresh(40) if dice.random() < 0.2 else list(tokens)
    return new[:LONG] or [5]
