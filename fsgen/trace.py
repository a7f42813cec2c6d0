"""What a trace keeps of p and of q at a position, made for many positions at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fsgen.probs import summarize, total_variation
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
        self._logits: list[tuple[Trace, Tensor, Tensor]] = []
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

    def compare(self, trace: Trace, p: Tensor, q: Tensor) -> None:
        """p's and q's logits [vocab] of a record whose total variation is taken at temperature 1."""
        self._logits.append((trace, p, q))

    def settle(self) -> None:
        """Complete all records."""
        for side, entries in (("draft", self._draft), ("target", self._target)):
            for part in _chunks(entries):
                fields = summaries(torch.stack([logits for _, logits in part]), side, self._top)
                for (trace, _), more in zip(part, fields, strict=True):
                    trace.update(more)
        for pairs in _chunks(self._logits):
            p, q = torch.stack([p for _, p, _ in pairs]), torch.stack([q for _, _, q in pairs])
            for (trace, _, _), distance in zip(pairs, distances(p, q), strict=True):
                trace["total_variation"] = distance
        self._draft, self._target, self._logits, self._held = [], [], [], 0


FIELDS = {"draft": ("token", "prob", "margin", "entropy"), "target": ("token", "prob", None, "entropy")}


def summaries(logits: Tensor, side: str, top: int) -> list[Trace]:
    """What a trace keeps of p (`draft`) or q (`target`) at each position of [n, vocab] logits."""
    records: list[Trace] = []
    for part in torch.split(logits, _rows(logits)):
        *columns, ids, probs = (x.tolist() for x in summarize(part, top))
        kept = {f"{side}_{name}": values for name, values in zip(FIELDS[side], columns, strict=True) if name}
        tops: list[Candidates] = [tuple(zip(*pair, strict=True)) for pair in zip(ids, probs, strict=True)]
        names = (*kept, f"{side}_top")
        records += [dict(zip(names, values, strict=True)) for values in zip(*kept.values(), tops, strict=True)]
    return records


def distances(p: Tensor, q: Tensor) -> list[float]:
    """Total variation at temperature 1 of [n, vocab] logits."""
    found: list[float] = []
    for p_part, q_part in zip(torch.split(p, _rows(p)), torch.split(q, _rows(q)), strict=True):
        found += total_variation(p_part.softmax(-1), q_part.softmax(-1)).tolist()
    return found


def _rows(logits: Tensor) -> int:
    """So many positions make a chunk."""
    return max(1, CHUNK // logits.shape[-1])


def _chunks(entries: list[Any]) -> list[list[Any]]:
    if not entries:
        return []
    size = max(1, CHUNK // max(1, entries[0][1].numel()))
    return [entries[start : start + size] for start in range(0, len(entries), size)]
