"""What a session needs of the forward pass behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor


@dataclass(slots=True)
class Work:
    """What a row needs.

    Attributes:
        row: of the session.
        tokens: its whole sequence.
        start: the first position that has to run.
        wanted: of how many last positions logits are wanted.
        agreed: how many tokens are those that the row held before.
        prefix: a row that holds the beginning of this one too, and of how many tokens; some backends read it there.
    """

    row: int
    tokens: list[int]
    start: int
    wanted: int
    agreed: int
    prefix: tuple[int, int] = (0, 0)

    @property
    def new(self) -> int:
        return len(self.tokens) - self.start


class Chunk(NamedTuple):
    """What a pass runs of a row: its tokens from .. to - 1."""

    work: Work
    start: int
    end: int


def passes(work: list[Work], most: int) -> Iterator[list[Chunk]]:
    """What is to run, row after row, in passes of `most` tokens at most."""
    chunks: list[Chunk] = []
    free = most
    for item in work:
        start, end = item.start, len(item.tokens)
        while start < end:
            until = min(end, start + free)
            chunks.append(Chunk(item, start, until))
            free -= until - start
            start = until
            if not free:
                yield chunks
                chunks, free = [], most
    if chunks:
        yield chunks


class Forward(Protocol):
    """What computes a session's calls, and holds its keys and values.

    Attributes:
        rows: of the session.
    """

    rows: int

    def reserve(self, longest: int) -> None:
        """Makes room for rows of so many tokens."""
        ...

    def run(self, work: list[Work], keep: int) -> Tensor:
        """Logits [rows, keep, vocab], float32, of the last positions of these rows; what is not wanted is finite."""
        ...

    def copy(self, source: int, destination: int, length: int) -> None:
        """The keys and values of the first `length` tokens of a row become those of another."""
        ...
