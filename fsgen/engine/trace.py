"""What a trace keeps of p and of q at a position, made for many positions at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from fsgen.probs import Lines, summarize, variation
from fsgen.types import Candidates

Trace = dict[str, Any]

CHUNK = 2**18  # logits that are summarised at a time: 1 MiB, which the intermediate tensors share a core's cache with
HOLD = 2**23  # logits that may wait to be summarised


class TraceBuffer:
    """Logits of written tokens, kept until there are enough of them to be summarised at once.

    A summary of a few positions takes as long as one of a hundred. So the loop hands over p and q of each token with
    the record they belong to, and they are filled in later: after so many logits, or when somebody wants to read them.

    Args:
        top: how many candidates of each side a record keeps.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self._forget()

    def _forget(self) -> None:
        self._held = 0
        self._traces: dict[str, list[Trace]] = {"draft": [], "target": [], "both": []}
        self._lines = {"draft": Lines(), "target": Lines()}
        self._pairs, self._temperatures = (Lines(), Lines()), list[float]()

    def hold(self, logits: int) -> None:
        """Count so many logits of a round, that records refer to."""
        self._held += logits

    @property
    def full(self) -> bool:
        return self._held > HOLD

    def draft(self, trace: Trace, p: Tensor, place: int) -> None:
        """p's logits of a record: p[place], [vocab]."""
        self._traces["draft"].append(trace)
        self._lines["draft"].add(p, place)

    def target(self, trace: Trace, q: Tensor, place: int) -> None:
        """q's logits of a record: q[place], [vocab]."""
        self._traces["target"].append(trace)
        self._lines["target"].add(q, place)

    def compare(self, trace: Trace, p: Tensor, p_place: int, q: Tensor, q_place: int, temperature: float) -> None:
        """p's and q's logits of a record, and the temperature at which their total variation is taken."""
        self._traces["both"].append(trace)
        self._pairs[0].add(p, p_place)
        self._pairs[1].add(q, q_place)
        self._temperatures.append(temperature)

    def settle(self) -> None:
        """Complete all records."""
        for side, lines in self._lines.items():
            for part in _parts(lines):
                names, columns = _columns(lines[part], side, self._top)
                for trace, values in zip(self._traces[side][part], zip(*columns, strict=True), strict=True):
                    trace.update(zip(names, values, strict=True))
        p, q = self._pairs
        for part in _parts(p):
            apart = variation(p[part], q[part], self._temperatures[part]).tolist()
            for trace, distance in zip(self._traces["both"][part], apart, strict=True):
                trace["total_variation"] = distance
        self._forget()


FIELDS = {"draft": ("token", "prob", "margin", "entropy"), "target": ("token", "prob", None, "entropy")}


def summaries(logits: Tensor, side: str, top: int) -> list[Trace]:
    """What a trace keeps of p (`draft`) or q (`target`) at each position of [n, vocab] logits."""
    records: list[Trace] = []
    for part in _parts(logits):
        names, columns = _columns(logits[part], side, top)
        records += [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    return records


def _columns(logits: Tensor | Lines, side: str, top: int) -> tuple[list[str], list[list[Any]]]:
    """The names of what a trace keeps, and of each the values at all positions."""
    *columns, ids, probs = (x.tolist() for x in summarize(logits, top))
    tops: list[Candidates] = [()] * len(ids)
    if top:
        tops = [tuple(zip(*pair, strict=True)) for pair in zip(ids, probs, strict=True)]
    kept = {f"{side}_{name}": values for name, values in zip(FIELDS[side], columns, strict=True) if name}
    return [*kept, f"{side}_top"], [*kept.values(), tops]


def distances(p: Tensor, q: Tensor) -> list[float]:
    """Total variation at temperature 1 of [n, vocab] logits."""
    return [distance for part in _parts(p) for distance in variation(p[part], q[part]).tolist()]


def _parts(logits: Tensor | Lines) -> Iterator[slice]:
    """Positions that are summarised at a time."""
    if not len(logits):
        return
    size = max(1, CHUNK // max(1, logits.shape[-1]))
    for start in range(0, len(logits), size):
        yield slice(start, start + size)
