"""What a trace keeps of p and of q at a position, made for many positions at once."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fsgen.probs import summarize
from fsgen.types import Candidates


class TraceFields:
    """The trace's fields of one side's logits [rows, n, vocab], moved off the device at once.

    `top` candidates are kept at each position.
    """

    def __init__(self, logits: Tensor, top: int) -> None:
        summary = summarize(logits, top)
        self._token, self._prob, self._margin, self._entropy, self._ids, self._probs = (x.tolist() for x in summary)

    def _top(self, row: int, j: int) -> Candidates:
        return tuple(zip(self._ids[row][j], self._probs[row][j], strict=True))

    def draft(self, row: int, j: int) -> dict[str, Any]:
        return {
            "draft_token": self._token[row][j],
            "draft_prob": self._prob[row][j],
            "draft_margin": self._margin[row][j],
            "draft_entropy": self._entropy[row][j],
            "draft_top": self._top(row, j),
        }

    def target(self, row: int, j: int) -> dict[str, Any]:
        return {
            "target_token": self._token[row][j],
            "target_prob": self._prob[row][j],
            "target_entropy": self._entropy[row][j],
            "target_top": self._top(row, j),
        }
