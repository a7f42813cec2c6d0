"""What the tests of sessions share: the plain forward pass of one text, and how sequences change from call to call."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from fsgen.backends.cpu import threads

LONG = 120


def alone(model: Any, tokens: list[int], last: int) -> torch.Tensor:
    """The plain forward pass of one text, without any cache: logits [last, vocab]."""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([tokens]), use_cache=False).logits[0, -last:]
    return logits


def edited(tokens: list[int], rng: random.Random) -> list[int]:
    """A sequence as a decode loop might hand it over next: grown, rewound, rewritten, repeated or replaced."""

    def fresh(most: int) -> list[int]:
        return [rng.randrange(96) for _ in range(rng.randint(1, most))]

    kind = rng.randrange(6)
    if kind == 0:
        new = tokens + fresh(1)
    elif kind == 1:
        new = tokens + fresh(30)
    elif kind == 2:  # a rejected draft
        new = tokens[: -rng.randint(1, 5)] + fresh(1)
    elif kind == 3:  # another continuation from anywhere
        new = tokens[: rng.randint(0, len(tokens))] + fresh(8)
    elif kind == 4:
        new = tokens[: rng.randint(1, max(1, len(tokens)))]
    else:
        new = fresh(40) if rng.random() < 0.2 else list(tokens)
    return new[:LONG] or [5]


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Compiled code runs on so many threads, also where they wait for each other."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "_stalls", threads._Stalls())
        patch.setattr(threads, "WAITING", math.inf)
        try:
            torch.set_num_threads(count)
            yield
        finally:
            torch.set_num_threads(before)
