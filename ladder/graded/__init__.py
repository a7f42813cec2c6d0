"""Problems that are graded by construction: the four tasks whose accuracy is to rise over the whole ladder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

Split = Literal["train", "held_out", "test"]


@dataclass(frozen=True)
class Made:
    """One problem or text: the row of the task's data (empty for a text that asks nothing), prompt and completion."""

    row: dict[str, Any]
    prompt: str
    completion: str


def words(text: str) -> tuple[str, ...]:
    """The words of a list that is written as a text."""
    return tuple(text.split())


def bucket(identity: str, count: int) -> int:
    """A number below `count` that depends on the identity alone."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:4]) % count


def split_of(identity: str) -> Split:
    """The split of a piece of content: one sixteenth is for the test, one for the held-out loss."""
    number = bucket(identity, 16)
    return "test" if number == 0 else "held_out" if number == 1 else "train"
