"""A session whose rows read common beginnings in one place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fsgen.backends.cpu.arguments import BLOCK
from fsgen.backends.cpu.forward import CpuForward
from fsgen.backends.forward import Work
from fsgen.backends.protocol import TokenIds
from fsgen.backends.session import CachedSession, common_prefix

# A prefix of fewer tokens is not worth looking for in another row.
WORTH_SHARING = 2 * BLOCK


class CpuSession(CachedSession):
    """A session on the compiled forward pass (see `fsgen.backends.protocol.Session`).

    Rows that begin alike (few-shot examples, the instructions of a chat) read their prefix in one of them, so that it
    stays in the processor's cache instead of passing by once for each. That changes no bit of what they compute. They
    copy it when that one is about to write something else there, if ever.
    """

    def __init__(self, forward: CpuForward, name: str, vocab_size: int, context: int, device: torch.device) -> None:
        super().__init__(forward, name, vocab_size, context, device)
        self._cpu = forward
        # Where each row reads its prefix, and of how many tokens; None where that is not known yet.
        self._prefixes: list[tuple[int, int] | None] = [None] * self.rows
        self._missing = [0] * self.rows  # tokens of these that it does not hold itself
        self._lent = [0] * self.rows  # tokens of each row that others read there
        self._stable = [0] * self.rows  # tokens of each row that this call leaves as they are

    def begin(self, row: int, prompt: int, longest: int) -> None:
        """A new text starts in this row; see `Session.begin`."""
        super().begin(row, prompt, longest)
        if not self._missing[row]:
            self._prefixes[row] = None

    def _plan(self, sequences: Sequence[TokenIds | None], last: int | Sequence[int]) -> list[Work]:
        work = super()._plan(sequences, last)
        self._stable = [len(known) for known in self._known]
        for item in work:
            self._stable[item.row] = item.start
        for item in work:  # a prefix that is about to change is no longer shared
            prefix = self._prefixes[item.row]
            if prefix is not None and item.start < prefix[1]:
                self._detach(item.row)
            elif item.new >= WORTH_SHARING and not self._missing[item.row]:
                self._prefixes[item.row] = None
            if item.start < self._lent[item.row]:
                for row, prefix in enumerate(self._prefixes):
                    if prefix is not None and prefix[0] == item.row:
                        self._detach(row)
                self._lent[item.row] = 0
        return work

    def _detach(self, row: int) -> None:
        """A row holds all its tokens itself, and shares its prefix no more."""
        prefix = self._prefixes[row]
        if prefix is not None and self._missing[row]:
            self._cpu.copy(prefix[0], row, self._missing[row])
        self._prefixes[row], self._missing[row] = None, 0

    def _take(self, donor: int, row: int, length: int) -> None:
        """Whole blocks are read where they are; see `CachedSession._take`."""
        holder, held = self._holder(donor, length)
        if held < WORTH_SHARING or holder == row:
            held = 0
        if held < self._missing[donor]:  # what is copied has to be there
            self._detach(donor)
        self._cpu.copy(donor, row, length, held)
        self._prefixes[row], self._missing[row] = (holder, held) if held else None, held
        self._lent[holder] = max(self._lent[holder], held)

    def _holder(self, row: int, length: int) -> tuple[int, int]:
        """Who holds the beginning of a row, and how many of its first `length` tokens, in whole blocks."""
        prefix = self._prefixes[row]
        holder, held = prefix if prefix is not None and self._missing[row] else (row, length)
        return holder, min(held, length, self._stable[holder]) // BLOCK * BLOCK

    def _run(self, work: list[Work], keep: int) -> Tensor:
        for item in work:
            item.prefix = row, length = self._prefixes[item.row] or self._find_prefix(item)
            self._prefixes[item.row] = item.prefix
            self._lent[row] = max(self._lent[row], length)
        logits = super()._run(work, keep)
        for item in work:
            self._stable[item.row] = len(item.tokens)
        return logits

    def _find_prefix(self, item: Work) -> tuple[int, int]:
        """The first row that holds the most of this one's beginning, in whole blocks; itself where none does."""
        best, most = (item.row, 0), item.start // BLOCK * BLOCK
        for row, known in enumerate(self._known):
            if row != item.row and len(known) >= WORTH_SHARING:
                holder, held = self._holder(row, min(common_prefix(known, item.tokens), item.start))
                if held >= WORTH_SHARING and held > best[1] and holder < item.row:
                    best = (holder, held)
                    if held == most:
                        break
        return best
