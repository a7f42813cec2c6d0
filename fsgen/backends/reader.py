"""One model that reads whole texts, many at a time."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from fsgen.backends.protocol import Model, Session


class Reader:
    """Reads texts with one model, a batch at a time, in one session: beginnings that texts share are computed once.

    Args:
        model: a draft or a target; None is refused.
        sequences: prompt and completion of each text, without its last token.
        lengths: tokens of each completion.
        vocab: token ids that the models share.

    Raises:
        ValueError: there is no model.
    """

    def __init__(self, model: Model | None, sequences: list[list[int]], lengths: list[int], vocab: int) -> None:
        if model is None:
            raise ValueError("texts are read by a draft and a target: one of them is missing")
        self._model, self._sequences, self._lengths, self._vocab = model, sequences, lengths, vocab
        self._session: Session | None = None

    def read(self, batch: list[int]) -> tuple[Tensor, float]:
        """Logits [n, vocab] at the completions' positions of these texts, one after the other, and the seconds."""
        started = time.perf_counter()
        if self._session is None:  # the first batch is the largest
            self._session = self._model.session(len(batch))
            longest = max(map(len, self._sequences))
            for row in range(len(batch)):
                self._session.begin(row, longest, longest)
        idle = len(self._session.usage) - len(batch)
        sequences = [*(self._sequences[i] for i in batch), *[None] * idle]
        lengths = [self._lengths[i] for i in batch]
        with torch.inference_mode():
            logits = self._session.score(sequences, [*lengths, *[1] * idle])
            rows = [row[-length:, : self._vocab] for row, length in zip(logits, lengths, strict=False)]
            packed = torch.cat(rows)
        return packed, time.perf_counter() - started
