"""Where the keys and values of a session's tokens are: the slot of a token is its position in its row.

Nothing is ever moved or compacted: a row that is rewound simply overwrites. A query at position p sees the slots 0..p
of its own row and no others, and all of them have been written for the current text by the time the query runs. What
an abandoned continuation left behind is beyond every query until it is overwritten. Pads of a ragged call are
written to the last slot of the buffer, which no query ever sees.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

GRAIN = 64  # buffers are a multiple of so many slots
GROWTH = 1.5


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
