"""A session that writes greedy tokens by itself, and whose rows read common beginnings in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fsgen.backends.cpu import arguments
from fsgen.backends.cpu.arguments import BLOCK
from fsgen.backends.cpu.forward import CpuForward
from fsgen.backends.forward import Work
from fsgen.backends.protocol import TokenIds
from fsgen.backends.session import CachedSession, common_prefix
from fsgen.types import Limit

if TYPE_CHECKING:
    from fsgen.types import Ends

# A prefix of fewer tokens is not worth looking for in another row.
WORTH_SHARING = 2 * BLOCK


class CpuSession(CachedSession):
    """A session on the compiled forward pass (see `fsgen.backends.protocol.Session` and `Writer`).

    Rows that begin alike (few-shot examples, the instructions of a chat) read their prefix in one of them, so that it
    stays in the processor's cache instead of passing by once for each. That changes no bit of what they compute. They
    copy it when that one is about to write something else there, if ever.
    """

    def __init__(self, forward: CpuForward, name: str, vocab_size: int, context: int, device: torch.device) -> None:
        super().__init__(forward, name, vocab_size, context, device)
        self._cpu = forward
        # Where each row reads its prefix, and of how many tokens; None where that is to be found out.
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
        for item in work:  # a prefix that is about to change is read by nobody any more
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
        logits = super()._run(work, keep)
        for item in work:
            self._stable[item.row] = len(item.tokens)
        return logits

    def _prepare(self, work: list[Work], longest: int) -> None:
        super()._prepare(work, longest)
        for item in work:
            item.prefix = row, length = self._prefixes[item.row] or self._find_prefix(item)
            self._prefixes[item.row] = item.prefix
            self._lent[row] = max(self._lent[row], length)

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
        if sum(item.new for item in work) > arguments.MAX_TOKENS:
            return self._write_after(sequences, last, steps, limit, ends)
        keep = max(item.wanted for item in work)
        work.sort(key=lambda item: -steps[item.row])
        logits, further, tokens, probs = self._go_on(work, keep, steps, [1.0] * self.rows, limit, ends)
        self._count(work)
        return logits, further, tokens, probs

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
        best, prob = logits[:, -1].argmax(-1).tolist(), logits[:, -1].softmax(-1).amax(-1).tolist()
        writing = [row for row, sequence in enumerate(sequences) if sequence is not None and steps[row]]
        tokens = [[token] if row in writing else [] for row, token in enumerate(best)]
        probs = [[one] if row in writing else [] for row, one in enumerate(prob)]
        going = [row for row in writing if steps[row] > 1 and not (ends and ends[row][best[row]])]
        going.sort(key=lambda row: -steps[row])
        acceptance = [1.0 if limit is None else limit.chance(one) for one in prob]
        if limit is not None and sum(acceptance[row] for row in going) <= limit.least:
            going = []
        further = logits.new_zeros(self.rows, max((steps[row] for row in going), default=1) - 1, logits.shape[-1])
        for start in range(0, len(going), arguments.MAX_TOKENS):
            work = [
                Work(row, [*self._known[row], tokens[row][0]], len(self._known[row]), 1, len(self._known[row]))
                for row in going[start : start + arguments.MAX_TOKENS]
            ]
            fewer = [step - 1 for step in steps]
            first, more, written, found = self._go_on(work, 1, fewer, acceptance, limit, ends)
            self._count(work)
            rows = [item.row for item in work]
            further[rows, 0] = first[rows, 0]
            further[rows, 1 : 1 + more.shape[1]] = more[rows]
            for row in rows:
                tokens[row] += written[row]
                probs[row] += found[row]
        return logits, further[:, : max(map(len, tokens)) - 1], tokens, probs

    def _go_on(
        self,
        work: list[Work],
        keep: int,
        steps: Sequence[int],
        acceptance: Sequence[float],
        limit: Limit | None,
        ends: Sequence[Ends] | None,
    ) -> tuple[Tensor, Tensor, list[list[int]], list[list[float]]]:
        """Runs what rows need, those with the most steps first, and lets them write; see `Writer.write`."""
        rows, counts = [item.row for item in work], [steps[item.row] for item in work]
        longest = max(len(item.tokens) + max(0, count - 1) for item, count in zip(work, counts, strict=True))
        if longest > self._context:
            raise ValueError(f"rows of {longest} tokens would be written, and {self._name} takes {self._context}")
        self._prepare(work, longest)
        masks = None if ends is None else [ends[row] for row in rows]
        chances = [acceptance[row] for row in rows]
        logits, more, written, found = self._cpu.write(work, keep, counts, chances, limit, masks)
        if rows == list(range(self.rows)):
            further = more.transpose(0, 1)
        else:
            further = logits.new_zeros(self.rows, len(more), logits.shape[-1])
            further[rows] = more.transpose(0, 1)
        tokens: list[list[int]] = [[] for _ in range(self.rows)]
        probs: list[list[float]] = [[] for _ in range(self.rows)]
        for index, (item, count) in enumerate(zip(work, counts, strict=True)):
            tokens[item.row] = mine = [step[index] for step in written[:count]]
            if masks is not None:
                end = next((j for j, token in enumerate(mine) if masks[index][token]), len(mine))
                del mine[end + 1 :]
            done = len(mine)
            probs[item.row] = [step[index] for step in found[:done]]
            self._known[item.row] = [*item.tokens, *tokens[item.row][:-1]]
            self.usage[item.row].calls += max(0, done - 1)
            self.usage[item.row].tokens += max(0, done - 1)
        return logits, further, tokens, probs
