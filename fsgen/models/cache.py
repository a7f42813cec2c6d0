"""Where the keys and values of a session's tokens lie: the slot of a token is its position in its row.

Nothing is ever moved or compacted: a row that is rewound simply overwrites. A query at position p sees the slots 0..p
of its own row and no others, and all of them have been written for the current text by the time the query runs. What
an abandoned continuation left behind lies beyond every query until it is overwritten. Pads of a ragged call are
written to the last slot of the buffer, which no query ever sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

GRAIN = 64  # buffers are a multiple of so many slots
GROWTH = 1.5


@dataclass(frozen=True, slots=True)
class Call:
    """One forward pass over the rows first .. first + rows - 1 of a session; new tokens stand at the right.

    Attributes:
        ids: [rows, width] token ids.
        positions: [rows, width], or [1, width] where all rows agree.
        slots: [rows, width] where each new token is written, pads in the trash slot; None where the new tokens of every
            row are start .. start + width - 1.
        first: the first row.
        start: position of the first new token, where all rows agree.
        longest: tokens of the longest row, once the call is done.
        keep: logits are wanted of so many last columns.
    """

    ids: Tensor
    positions: Tensor
    slots: Tensor | None
    first: int
    start: int
    longest: int
    keep: int


def room(longest: int, context: int) -> int:
    """Slots of a buffer for rows of `longest` tokens, the trash slot included."""
    return max(min(longest, context) + 1, min(-(-(longest + 1) // GRAIN) * GRAIN, context + 1))


class Slots:
    """How many slots there are, and the buffers' growth.

    Args:
        rows: of the session.
        context: the longest row there can be, in tokens.
        grow: called with a new capacity, while `capacity` still is the old one.
        device: of the positions.
    """

    def __init__(
        self, rows: int, context: int, grow: Callable[[int], None], device: torch.device | None = None
    ) -> None:
        self.rows, self.context = rows, context
        self.capacity = 0
        self.counting = torch.empty(0, dtype=torch.long, device=device)
        self.numbers = torch.arange(rows, device=device)
        self._grow = grow

    @property
    def trash(self) -> int:
        """The slot that takes pads: always the last one, beyond every row."""
        return self.capacity - 1

    def reserve(self, longest: int) -> None:
        """Makes room for rows of `longest` tokens, beside the trash slot."""
        if longest < self.capacity:
            return
        capacity = room(max(longest, int(self.capacity * GROWTH) - 1), self.context)
        self._grow(capacity)
        self.capacity = capacity
        self.counting = torch.arange(capacity, device=self.counting.device)


class Forward(Protocol):
    """What computes a session's calls, and holds its keys and values."""

    slots: Slots

    def run(self, call: Call) -> Tensor:
        """Logits [rows, keep, vocab] of the last columns, float32, where the tokens are."""
        ...

    def copy(self, source: int, destination: int, length: int) -> None:
        """The keys and values of the first `length` tokens of a row become those of another."""
        ...
