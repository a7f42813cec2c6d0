"""A session that writes greedy tokens by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from fsgen.models.base import TokenIds
from fsgen.models.lean import kernels
from fsgen.models.lean.forward import LeanForward
from fsgen.models.session import CachedSession


class LeanSession(CachedSession):
    """A session on the compiled forward pass (see `fsgen.models.base.Session` and `Writer`)."""

    @torch.inference_mode()
    def write(
        self, sequences: Sequence[TokenIds | None], last: Sequence[int], steps: Sequence[int]
    ) -> tuple[Tensor, Tensor, list[list[int]]]:
        """Scores, and lets each row write; see `Writer.write`."""
        logits = self.score(sequences, last)
        tokens: list[list[int]] = [[] for _ in sequences]
        active = [row for row, sequence in enumerate(sequences) if sequence is not None and steps[row]]
        if not active:
            return logits, logits[:, :0], tokens
        for row, token in zip(active, logits[active, -1].argmax(-1).tolist(), strict=True):
            tokens[row].append(token)
        going = sorted((row for row in active if steps[row] > 1), key=lambda row: -steps[row])
        most = max(steps[row] for row in active) - 1
        forward = cast("LeanForward", self._forward)
        whole = len(going) == self.rows <= kernels.MOST and min(steps) == max(steps)
        further = logits[:, :0] if whole else logits.new_zeros(self.rows, most, logits.shape[-1])
        for start in range(0, len(going), kernels.MOST):
            rows = going[start : start + kernels.MOST]
            lengths = [len(self._known[row]) for row in rows]
            counts = [steps[row] - 1 for row in rows]
            longest = max(length + count for length, count in zip(lengths, counts, strict=True))
            if longest > self._context:
                raise ValueError(f"rows of {longest} tokens would be written, and {self._name} takes {self._context}")
            forward.reserve(max(self._expected, longest))
            more, written = forward.write(rows, [tokens[row][0] for row in rows], lengths, counts)
            if whole:  # sorted, they are still in the order of the session
                further = more.transpose(0, 1)
            else:
                further[rows, : counts[0]] = more.transpose(0, 1)
            for index, (row, count) in enumerate(zip(rows, counts, strict=True)):
                tokens[row] += [step[index] for step in written[:count]]
                self._known[row] = self._known[row] + tokens[row][:-1]
                self.usage[row].calls += count
                self.usage[row].tokens += count
        return logits, further, tokens
