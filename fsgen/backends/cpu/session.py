"""A session that writes greedy tokens by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fsgen.backends.cpu import kernels
from fsgen.backends.cpu.forward import CpuForward
from fsgen.backends.forward import Work
from fsgen.backends.protocol import TokenIds
from fsgen.backends.session import CachedSession, common_prefix
from fsgen.types import Limit

if TYPE_CHECKING:
    from fsgen.types import Ends

# A beginning of fewer tokens is not worth looking for in a neighbour.
WORTH_SHARING = 2 * kernels.BLOCK


class CpuSession(CachedSession):
    """A session on the compiled forward pass (see `fsgen.backends.protocol.Session` and `Writer`).

    Rows that begin alike (worked examples, the instructions of a chat) read their beginning from one of them, so that
    it stays in the processor's cache instead of passing by once for each. That changes no bit of what they compute.
    They copy it when that one is about to write something else there, if ever.
    """

    def __init__(self, forward: CpuForward, name: str, vocab_size: int, context: int, device: torch.device) -> None:
        super().__init__(forward, name, vocab_size, context, device)
        self._lean = forward
        # Where each row reads its beginning, and of how many tokens; None where that is to be found out.
        self._leads: list[tuple[int, int] | None] = [None] * self.rows
        self._owed = [0] * self.rows  # tokens of these that it does not hold itself
        self._read = [0] * self.rows  # tokens of each row that others read there
        self._kept = [0] * self.rows  # tokens of each row that this call leaves as they are

    def begin(self, row: int, prompt: int, longest: int) -> None:
        """A new text starts in this row; see `Session.begin`."""
        super().begin(row, prompt, longest)
        if not self._owed[row]:
            self._leads[row] = None

    def _plan(self, sequences: Sequence[TokenIds | None], last: int | Sequence[int]) -> list[Work]:
        work = super()._plan(sequences, last)
        self._kept = [len(known) for known in self._known]
        for item in work:
            self._kept[item.row] = item.start
        for item in work:  # a beginning that is about to change is nobody's any more
            lead = self._leads[item.row]
            if lead is not None and item.start < lead[1]:
                self._settle(item.row)
            elif item.new >= WORTH_SHARING and not self._owed[item.row]:
                self._leads[item.row] = None
            if item.start < self._read[item.row]:
                for row, lead in enumerate(self._leads):
                    if lead is not None and lead[0] == item.row:
                        self._settle(row)
                self._read[item.row] = 0
        return work

    def _settle(self, row: int) -> None:
        """A row has no lead any more, and holds all its tokens itself."""
        lead = self._leads[row]
        if lead is not None and self._owed[row]:
            self._lean.copy(lead[0], row, self._owed[row])
        self._leads[row], self._owed[row] = None, 0

    def _take(self, donor: int, row: int, length: int) -> None:
        """Whole blocks are read where they are; see `CachedSession._take`."""
        holder, held = self._holder(donor, length)
        if held < WORTH_SHARING or holder == row:
            held = 0
        if held < self._owed[donor]:  # what is copied has to be there
            self._settle(donor)
        self._lean.copy(donor, row, length, held)
        self._leads[row], self._owed[row] = (holder, held) if held else None, held
        self._read[holder] = max(self._read[holder], held)

    def _holder(self, row: int, length: int) -> tuple[int, int]:
        """Who holds the beginning of a row, and how many of its first `length` tokens, in whole blocks."""
        lead = self._leads[row]
        holder, held = lead if lead is not None and self._owed[row] else (row, length)
        return holder, min(held, length, self._kept[holder]) // kernels.BLOCK * kernels.BLOCK

    def _run(self, work: list[Work], keep: int) -> Tensor:
        logits = super()._run(work, keep)
        for item in work:
            self._kept[item.row] = len(item.tokens)
        return logits

    def _prepare(self, work: list[Work], longest: int) -> None:
        super()._prepare(work, longest)
        for item in work:
            item.lead = row, length = self._leads[item.row] or self._find_lead(item)
            self._leads[item.row] = item.lead
            self._read[row] = max(self._read[row], length)

    def _check_length(self, longest: int) -> None:
        if longest > self._context:
            raise ValueError(f"rows of {longest} tokens would be written, and {self._name} takes {self._context}")

    def _find_lead(self, item: Work) -> tuple[int, int]:
        """The first row that holds the most of this one's beginning, in whole blocks; itself where none does."""
        best, most = (item.row, 0), item.start // kernels.BLOCK * kernels.BLOCK
        for row, known in enumerate(self._known):
            if row != item.row and len(known) >= WORTH_SHARING:
                holder, blocks = self._holder(row, min(common_prefix(known, item.tokens), item.start))
                if blocks >= WORTH_SHARING and blocks > best[1] and holder < item.row:
                    best = (holder, blocks)
                    if blocks == most:
                        break
        return best

    @torch.inference_mode()
    def write(
        self,
        sequences: Sequence[TokenIds | None],
        last: Sequence[int],
        steps: Sequence[int],
        limit: Limit | None = None,
        ends: Sequence[Ends] | None = None,
    ) -> tuple[Tensor, Tensor, list[list[int]], list[list[float]]]:
        """Scores, and lets each row write; see `Writer.write`."""
        work = self._work(sequences, last)
        if not work or not any(steps[item.row] for item in work):
            logits = self.score(sequences, last)
            return logits, logits[:, :0], [[] for _ in sequences], [[] for _ in sequences]
        if sum(item.new for item in work) > kernels.MOST:
            return self._write_after(sequences, last, steps, limit, ends)
        keep = max(item.wanted for item in work)
        work.sort(key=lambda item: -steps[item.row])
        logits, further, tokens, sure = self._go_on(work, keep, steps, [1.0] * self.rows, limit, ends)
        self._count(work)
        return logits, further, tokens, sure

    def _write_after(
        self,
        sequences: Sequence[TokenIds | None],
        last: Sequence[int],
        steps: Sequence[int],
        limit: Limit | None,
        ends: Sequence[Ends] | None,
    ) -> tuple[Tensor, Tensor, list[list[int]], list[list[float]]]:
        """Writes where one pass does not take all there is to read first."""
        logits = self.score(sequences, last)
        likeliest, best = logits[:, -1].argmax(-1).tolist(), logits[:, -1].softmax(-1).amax(-1).tolist()
        writing = [row for row, sequence in enumerate(sequences) if sequence is not None and steps[row]]
        tokens = [[token] if row in writing else [] for row, token in enumerate(likeliest)]
        sure = [[one] if row in writing else [] for row, one in enumerate(best)]
        going = [row for row in writing if steps[row] > 1 and not (ends and ends[row][likeliest[row]])]
        going.sort(key=lambda row: -steps[row])
        chances = [1.0 if limit is None else limit.chance(one) for one in best]
        if limit is not None and sum(chances[row] for row in going) <= limit.least:
            going = []
        further = logits.new_zeros(self.rows, max((steps[row] for row in going), default=1) - 1, logits.shape[-1])
        for start in range(0, len(going), kernels.MOST):
            work = [
                Work(row, [*self._known[row], tokens[row][0]], len(self._known[row]), 1, len(self._known[row]))
                for row in going[start : start + kernels.MOST]
            ]
            fewer = [step - 1 for step in steps]
            first, more, written, found = self._go_on(work, 1, fewer, chances, limit, ends)
            self._count(work)
            rows = [item.row for item in work]
            further[rows, 0] = first[rows, 0]
            further[rows, 1 : 1 + more.shape[1]] = more[rows]
            for row in rows:
                tokens[row] += written[row]
                sure[row] += found[row]
        return logits, further[:, : max(map(len, tokens)) - 1], tokens, sure

    def _go_on(
        self,
        work: list[Work],
        keep: int,
        steps: Sequence[int],
        chances: Sequence[float],
        limit: Limit | None,
        ends: Sequence[Ends] | None,
    ) -> tuple[Tensor, Tensor, list[list[int]], list[list[float]]]:
        """Runs what rows need, those with the most steps first, and lets them write; see `Writer.write`."""
        rows, counts = [item.row for item in work], [steps[item.row] for item in work]
        longest = max(len(item.tokens) + max(0, count - 1) for item, count in zip(work, counts, strict=True))
        self._check_length(longest)
        self._prepare(work, longest)
        masks = None if ends is None else [ends[row] for row in rows]
        standing = [chances[row] for row in rows]
        logits, more, written, found = self._lean.write(work, keep, counts, standing, limit, masks)
        if rows == list(range(self.rows)):
            further = more.transpose(0, 1)
        else:
            further = logits.new_zeros(self.rows, len(more), logits.shape[-1])
            further[rows] = more.transpose(0, 1)
        tokens: list[list[int]] = [[] for _ in range(self.rows)]
        sure: list[list[float]] = [[] for _ in range(self.rows)]
        for index, (item, count) in enumerate(zip(work, counts, strict=True)):
            tokens[item.row] = mine = [step[index] for step in written[:count]]
            if masks is not None:
                end = next((j for j, token in enumerate(mine) if masks[index][token]), len(mine))
                del mine[end + 1 :]
            done = len(mine)
            sure[item.row] = [step[index] for step in found[:done]]
            self._known[item.row] = [*item.tokens, *tokens[item.row][:-1]]
            self.usage[item.row].calls += max(0, done - 1)
            self.usage[item.row].tokens += max(0, done - 1)
        return logits, further, tokens, sure
