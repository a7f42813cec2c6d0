"""How long forward calls take, by their number of tokens."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np

from benchmarks.tree.drafted import NODES, Floats, Ints
from benchmarks.tree.forms import Form
from fsgen import Members
from fsgen.backends import Model

CONTEXT = 200  # tokens before those that are timed
WARM = 3  # calls that do not count


@dataclass(frozen=True)
class Times:
    """Measured seconds of forward calls at context CONTEXT.

    Attributes:
        target: by new tokens, of 1 .. NODES + 1.
        first: the draft's first call of a round, one token behind a call of the target, which has taken its cache.
        draft: its further calls, by the nodes 1 .. NODES that they continue at once: as rows of a batch or as tokens of
            one row, whichever is faster.
    """

    target: Floats
    first: float
    draft: Floats

    def of(self, form: Form, starts: Ints) -> Floats:
        """Seconds of each round."""
        further = np.concatenate([[0.0], self.draft])[np.minimum(form.widths[starts, 1:], NODES)]
        total: Floats = self.first + further.sum(1) + self.target[form.nodes[starts]]
        return total


def measure(members: Members, repeats: int) -> Times:
    """The medians of `repeats` calls of each kind. Every draft call stands behind a first one, and that behind a
    target call, as in a round."""
    tokens = [1 + (7919 * i) % (members.vocab_size - 1) for i in range(CONTEXT + NODES + 1)]
    rounds = [_Call(members.target, 1, new) for new in range(1, NODES + 2)]
    first = _Call(members.draft, 1, 1)
    alone = [_Call(members.draft, 1, new) for new in range(1, NODES + 1)]
    batches = [_Call(members.draft, rows, 1) for rows in range(1, NODES + 1)]
    for repeat in range(WARM + repeats):
        for number, further in enumerate([*alone, *batches]):
            for call in (rounds[(number + repeat) % len(rounds)], first, further):
                call.run(tokens)
    by_nodes = [min(a.median, b.median) for a, b in zip(alone, batches, strict=True)]
    return Times(np.array([call.median for call in rounds]), first.median, np.array(by_nodes))


class _Call:
    """A call of `new` tokens in each of `rows` rows, and how long it took."""

    def __init__(self, model: Model | None, rows: int, new: int) -> None:
        assert model is not None
        self._session = model.session(rows)
        self._rows, self._new = rows, new
        self._seconds: list[float] = []

    def run(self, tokens: list[int]) -> None:
        sequences = [tokens[: CONTEXT + self._new]] * self._rows
        before = self._session.usage[0].tokens
        started = time.perf_counter()
        self._session.score(sequences, self._new)
        self._seconds.append(time.perf_counter() - started)
        if (ran := self._session.usage[0].tokens - before) != self._new and before:
            raise AssertionError(f"a call meant for {self._new} tokens ran {ran}")

    @property
    def median(self) -> float:
        return statistics.median(self._seconds[WARM:])
