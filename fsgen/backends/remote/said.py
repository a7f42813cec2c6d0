"""What a server has said of a text: its tokens, and at each position the most likely ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Top = Sequence[tuple[int, float]]
"""Token ids and log-probabilities, the most likely first."""

MOST_ENTRIES = 2**24  # log-probabilities that are remembered: 8 bytes each


@dataclass(frozen=True)
class Said:
    """The distributions after a context, and after each of the tokens that follow it.

    Attributes:
        tokens: what follows the context.
        ids, logprobs: [n, k] the most likely tokens, the most likely first; an id of -1 is none. Row 0 is after the
            context, row j after j of the tokens; n is their number, or one more.
    """

    tokens: list[int]
    ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]

    @classmethod
    def of(cls, tokens: Iterable[int], tops: Sequence[Top]) -> Said:
        """From lists."""
        width = max(map(len, tops), default=0)
        ids = np.full((len(tops), width), -1, np.int32)
        logprobs = np.full((len(tops), width), -np.inf, np.float32)
        for place, top in enumerate(tops):
            for rank, (token, logprob) in enumerate(top):
                ids[place, rank], logprobs[place, rank] = token, logprob
        return cls(list(tokens), ids, logprobs)

    def __len__(self) -> int:
        return len(self.ids)


def most_likely(entries: Iterable[tuple[int, float]], count: int, first: int | None = None) -> list[tuple[int, float]]:
    """The most likely entries, at most so many, the most likely first.

    Args:
        entries: some tokens with their log-probabilities, each once.
        count: of them.
        first: a token that comes first among equals.
    """
    return sorted(entries, key=lambda entry: (-entry[1], entry[0] != first))[:count]


class Memory:
    """What was said lately, by context, so that a text that a server wrote is not sent to be read at once."""

    def __init__(self, entries: int = MOST_ENTRIES) -> None:
        self._said: OrderedDict[tuple[int, ...], Said] = OrderedDict()
        self._room = entries

    def add(self, context: Sequence[int], said: Said) -> None:
        """Remember it; what was not read for longest is forgotten where there is no room."""
        key = tuple(context)
        if (old := self._said.pop(key, None)) is not None:
            self._room += old.ids.size + len(key)
        self._said[key] = said
        self._room -= said.ids.size + len(key)
        while self._room < 0 and len(self._said) > 1:
            key, old = self._said.popitem(last=False)
            self._room += old.ids.size + len(key)

    def find(self, context: Sequence[int]) -> Said | None:
        """What was said after this context."""
        key = tuple(context)
        if key in self._said:
            self._said.move_to_end(key)
            return self._said[key]
        return None
