"""Calls as `transformers` takes them: a rectangle of tokens, where what is new in each row is at the right.

The pads before it are written where nothing reads them. Rows that have far more to run than others have a pass of their
own, so that others are not padded to them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fsgen.backends.forward import Work
from fsgen.backends.transformers.slots import Slots

# Rows with more new tokens than this, and twice those of others, run apart.
WIDE = 16


@dataclass(frozen=True, slots=True)
class Call:
    """One forward pass over the rows first .. first + rows - 1 of a session; new tokens are at the right.

    Attributes:
        ids: [rows, width] token ids.
        positions: [rows, width], or [1, width] where all rows agree.
        slots: [rows, width] where each new token is written, pads in the trash slot; None where the new tokens of every
            row are start .. start + width - 1.
        first: the first row.
        start: position of the first new token, where all rows agree.
        longest: tokens of the longest row, once the call is done.
        keep: logits are wanted of so many last columns.
    """

    ids: Tensor
    positions: Tensor
    slots: Tensor | None
    first: int
    start: int
    longest: int
    keep: int


class PaddedForward(ABC):
    """Runs calls as passes over the rows from the first active one to the last (see `fsgen.backends.forward.Forward`).

    Args:
        slots: of the keys and values.
        vocab_size, device: of the model.
    """

    def __init__(self, slots: Slots, vocab_size: int, device: torch.device) -> None:
        self.slots = slots
        self.rows = slots.rows
        self._vocab, self._device = vocab_size, device

    @abstractmethod
    def one_pass(self, call: Call) -> Tensor:
        """Logits [rows, keep, vocab] of the last columns, float32, on the device."""

    def reserve(self, longest: int) -> None:
        self.slots.reserve(longest)

    def run(self, work: list[Work], keep: int) -> Tensor:
        groups = _similar(work)
        if len(groups) == 1 and work[-1].row - work[0].row + 1 == self.rows:
            return self.one_pass(self._call(work, keep))
        logits = torch.zeros(self.rows, keep, self._vocab, device=self._device)
        for group in groups:
            first, end = group[0].row, group[-1].row + 1
            wanted = max(item.wanted for item in group)
            part = self.one_pass(self._call(group, wanted))
            if end - first == len(group):
                logits[first:end, keep - wanted :] = part
            else:  # rows between them may be another group's
                rows = [item.row for item in group]
                logits[rows, keep - wanted :] = part[[row - first for row in rows]]
        return logits

    def _call(self, work: list[Work], keep: int) -> Call:
        lead, slots, device = work[0], self.slots, self._device
        first, rows = lead.row, work[-1].row - lead.row + 1
        width, longest, even = lead.new, len(lead.tokens), len(work) == rows
        for item in work[1:]:
            even = even and item.start == lead.start and len(item.tokens) == longest
            width = max(width, item.new)
            longest = max(longest, len(item.tokens))
        if even:  # every row gets the same positions: no pads, no slots, often no mask
            ids = torch.tensor([item.tokens[item.start :] for item in work], device=device)
            positions = slots.counting[lead.start : longest][None]
            return Call(ids, positions, None, first, lead.start, longest, keep)
        inputs = np.zeros((3, rows, width), dtype=np.int64)  # ids, positions, slots; a pad is token 0 at position 0
        inputs[2] = slots.trash
        for item in work:
            column, end = width - item.new, len(item.tokens)
            inputs[0, item.row - first, column:] = item.tokens[item.start :]
            inputs[1:, item.row - first, column:] = np.arange(item.start, end)
        ids, positions, where = torch.from_numpy(inputs).to(device, non_blocking=True)
        return Call(ids, positions, where, first, lead.start, longest, keep)


def _similar(work: list[Work]) -> list[list[Work]]:
    """Groups of rows that share a pass: those with few new tokens, and neighbours with about as many."""
    widest, narrowest = max(item.new for item in work), min(item.new for item in work)
    if widest <= max(WIDE, 2 * narrowest):
        return [work]
    bound = max(WIDE, 2 * narrowest)
    groups = [[item for item in work if item.new <= bound]]
    for item in work:
        if item.new <= bound:
            continue
        group = groups[-1] if len(groups) > 1 else []
        adjoins = bool(group) and item.row == group[-1].row + 1
        if adjoins and max(item.new, group[0].new) <= 2 * min(item.new, group[0].new):
            group.append(item)
        else:
            groups.append([item])
    return groups
