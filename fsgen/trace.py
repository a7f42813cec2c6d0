"""What a trace keeps of p and of q at a position, made for many positions at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from fsgen.probs import summarize, variation
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
        self._draft: list[tuple[Trace, Tensor]] = []
        self._target: list[tuple[Trace, Tensor]] = []
        self._logits: list[tuple[Trace, Tensor, Tensor, float]] = []
        self._held = 0

    def hold(self, logits: Tensor) -> None:
        """Count logits of a round, [rows, n, vocab], that records refer to."""
        self._held += logits.numel()

    @property
    def full(self) -> bool:
        return self._held > HOLD

    def draft(self, trace: Trace, p: Tensor) -> None:
        """p's logits [vocab] of a record."""
        self._draft.append((trace, p))

    def target(self, trace: Trace, q: Tensor) -> None:
        """q's logits [vocab] of a record."""
        self._target.append((trace, q))

    def compare(self, trace: Trace, p: Tensor, q: Tensor, temperature: float) -> None:
        """p's and q's logits [vocab] of a record, and the temperature at which their total variation is taken."""
        self._logits.append((trace, p, q, temperature))

    def settle(self) -> None:
        """Complete all records."""
        for side, entries in (("draft", self._draft), ("target", self._target)):
            for part in _chunks(entries):
                names, columns = _columns([logits for _, logits in part], side, self._top)
                for (trace, _), values in zip(part, zip(*columns, strict=True), strict=True):
                    trace.update(zip(names, values, strict=True))
        for pairs in _chunks(self._logits):
            traces, p, q, temperatures = zip(*pairs, strict=True)
            for trace, distance in zip(traces, variation(p, q, temperatures).tolist(), strict=True):
                trace["total_variation"] = distance
        self._draft, self._target, self._logits, self._held = [], [], [], 0


FIELDS = {"draft": ("token", "prob", "margin", "entropy"), "target": ("token", "prob", None, "entropy")}


def summaries(logits: Tensor | Sequence[Tensor], side: str, top: int) -> list[Trace]:
    """What a trace keeps of p (`draft`) or q (`target`) at each position of [n, vocab] logits, or n times [vocab]."""
    records: list[Trace] = []
    for part in _parts(logits):
        names, columns = _columns(part, side, top)
        records += [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    return records


def _columns(logits: Tensor | Sequence[Tensor], side: str, top: int) -> tuple[list[str], list[list[Any]]]:
    """The names of what a trace keeps, and of each the values at all positions."""
    *columns, ids, probs = (x.tolist() for x in summarize(logits, top))
    tops: list[Candidates] = [()] * len(ids)
    if top:
        tops = [tuple(zip(*pair, strict=True)) for pair in zip(ids, probs, strict=True)]
    kept = {f"{side}_{name}": values for name, values in zip(FIELDS[side], columns, strict=True) if name}
    return [*kept, f"{side}_top"], [*kept.values(), tops]


def distances(p: Tensor, q: Tensor) -> list[float]:
    """Total variation at temperature 1 of [n, vocab] logits."""
    pairs = zip(_parts(p), _parts(q), strict=True)
    return [distance for p_part, q_part in pairs for distance in variation(p_part, q_part).tolist()]


def _parts(logits: Tensor | Sequence[Tensor]) -> Iterator[Tensor | Sequence[Tensor]]:
    size = max(1, CHUNK // logits[0].shape[-1]) if len(logits) else 1
    for start in range(0, len(logits), size):
        yield logits[start : start + size]


def _chunks(entries: list[Any]) -> list[list[Any]]:
    if not entries:
        return []
    size = max(1, CHUNK // max(1, entries[0][1].numel()))
    return [entries[start : start + size] for start in range(0, len(entries), size)]
