"""The state of one batch: what each row's tokens are, which of them are computed, and what has to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fsgen.models.base import TokenIds, Usage
from fsgen.models.cache import Call, Forward

# A beginning of so many tokens that another row holds is copied instead of computed.
WORTH_COPYING = 16
# Rows with more new tokens than this, and twice those of others, run apart, so that others are not padded to them.
WIDE = 16


@dataclass(slots=True)
class Work:
    """What a row needs.

    Attributes:
        row: of the session.
        tokens: its whole sequence.
        start: the first position that has to run.
        wanted: of how many last positions logits are wanted.
        agreed: how many tokens are those that the row held before.
    """

    row: int
    tokens: list[int]
    start: int
    wanted: int
    agreed: int

    @property
    def new(self) -> int:
        return len(self.tokens) - self.start


class RowSession:
    """What sessions of every kind know of their rows: the tokens that are computed, and what they have cost.

    Args:
        rows: of the session.
        name, vocab_size, context, device: of the model.
    """

    def __init__(self, rows: int, name: str, vocab_size: int, context: int, device: torch.device) -> None:
        self.usage = [Usage() for _ in range(rows)]
        self.rows = rows
        self._name, self._vocab, self._context, self._device = name, vocab_size, context, device
        self._known: list[list[int]] = [[] for _ in range(rows)]
        self._longest = [0] * rows  # tokens that each row is said to reach
        self._counted = [0] * rows  # the first position whose token counts as used

    def begin(self, row: int, prompt: int, longest: int) -> None:
        """A new text starts in this row; see `Session.begin`."""
        self._longest[row] = min(longest, self._context)
        self.usage[row] = Usage()
        self._counted[row] = prompt - 1

    def _plan(self, sequences: Sequence[TokenIds | None], last: int | Sequence[int]) -> list[Work]:
        rows = self.rows
        if len(sequences) != rows:
            raise ValueError(f"{len(sequences)} sequences for a session of {rows} rows")
        lasts = [last] * rows if isinstance(last, int) else last
        if len(lasts) != rows:
            raise ValueError(f"{len(lasts)} values of last for a session of {rows} rows")
        work = []
        for row, given in enumerate(sequences):
            if given is None:
                continue
            tokens = list(given) if type(given) is list else _as_list(given)
            length, wanted = len(tokens), int(lasts[row])
            if length == 0:
                raise ValueError(f"the sequence of row {row} is empty")
            if length > self._context:
                raise ValueError(
                    f"the sequence of row {row} has {length} tokens, and {self._name} takes {self._context}"
                )
            if not 1 <= wanted <= length:
                raise ValueError(f"last={wanted} is impossible for row {row}: it has {length} tokens")
            agreed = common_prefix(self._known[row], tokens)
            start = min(agreed, length - wanted)
            fresh = tokens[start:]
            if min(fresh) < 0 or max(fresh) >= self._vocab:
                bad = next(token for token in fresh if not 0 <= token < self._vocab)
                raise ValueError(f"token {bad} of row {row} is outside the vocabulary of {self._vocab}")
            work.append(Work(row, tokens, start, wanted, agreed))
        return work


class CachedSession(RowSession):
    """The tokens and the key-value state of one batch (see `fsgen.models.base.Session`).

    A call runs one forward pass over the rows from the first active one to the last; rows that have far more to run
    than others have a pass of their own. What is new in each row stands at the right of the input; the pads before it
    are written where nothing reads them. A beginning that another row holds is copied.

    Args:
        forward: computes, and holds the keys and values.
        name, vocab_size, context, device: of the model.
    """

    def __init__(self, forward: Forward, name: str, vocab_size: int, context: int, device: torch.device) -> None:
        super().__init__(forward.slots.rows, name, vocab_size, context, device)
        self._forward = forward
        self._expected = 0  # tokens of the longest row there will be

    def begin(self, row: int, prompt: int, longest: int) -> None:
        """A new text starts in this row; see `Session.begin`."""
        super().begin(row, prompt, longest)
        self._expected = max(self._expected, self._longest[row])

    @torch.inference_mode()
    def score(self, sequences: Sequence[TokenIds | None], last: int | Sequence[int]) -> Tensor:
        """Logits [rows, max(last), vocab] of the last positions of each row; see `Session.score`.

        They are inference tensors: outside `torch.inference_mode` they are read, not written.
        """
        work = self._plan(sequences, last)
        if not work:
            return torch.empty(self.rows, 0, self._vocab, device=self._device)
        keep = max(item.wanted for item in work)
        if any(item.new - item.wanted >= WORTH_COPYING for item in work):
            self._share(work)
        groups = _alike(work)
        if len(groups) == 1 and work[-1].row - work[0].row + 1 == self.rows:
            logits = self._run(work, keep)
        else:
            logits = torch.zeros(self.rows, keep, self._vocab, device=self._device)
            for group in groups:
                first, end = group[0].row, group[-1].row + 1
                wanted = max(item.wanted for item in group)
                part = self._run(group, wanted)
                if end - first == len(group):
                    logits[first:end, keep - wanted :] = part
                else:  # rows between them may be another group's
                    rows = [item.row for item in group]
                    logits[rows, keep - wanted :] = part[[row - first for row in rows]]
        for item in work:
            usage = self.usage[item.row]
            usage.calls += 1
            usage.tokens += len(item.tokens) - max(item.start, min(self._counted[item.row], len(item.tokens)))
        return logits

    def _share(self, work: list[Work]) -> None:
        """Copies beginnings that another row holds; what several rows are about to compute, one of them does first."""
        long = [item for item in work if item.new - item.wanted >= WORTH_COPYING]
        for item in long:
            self._borrow(item)
        long = [item for item in long if item.new - item.wanted >= WORTH_COPYING]
        if len(long) < 2:
            return
        lead = long[0]
        shared = min(common_prefix(lead.tokens, item.tokens) for item in long[1:])
        shared = min(shared, *(len(item.tokens) - item.wanted for item in long))
        if shared - max(item.start for item in long) < WORTH_COPYING:
            return
        self._run([Work(lead.row, lead.tokens[:shared], lead.start, 1, lead.agreed)], 1)
        lead.start = shared
        for item in long[1:]:
            self._borrow(item)

    def _borrow(self, item: Work) -> None:
        """Takes the keys and values of the row that holds the longest beginning of this one, if that is worth it."""
        bound = len(item.tokens) - item.wanted
        length, donor = max(
            (min(common_prefix(known, item.tokens), bound), row) for row, known in enumerate(self._known)
        )
        if length - item.start >= WORTH_COPYING:
            self._forward.copy(donor, item.row, length)
            self._known[item.row] = item.tokens[:length]
            item.start = length

    def _run(self, work: list[Work], keep: int) -> Tensor:
        """Runs the new tokens of these rows: logits [rows from the first to the last, keep, vocab], float32."""
        for item in work:
            del self._known[item.row][item.start :]  # should the call fail, these slots are no longer trusted
        logits = self._forward.run(self._call(work, keep))
        for item in work:
            self._known[item.row] = item.tokens
        return logits

    def _call(self, work: list[Work], keep: int) -> Call:
        lead, slots, device = work[0], self._forward.slots, self._device
        first, rows = lead.row, work[-1].row - lead.row + 1
        width, longest, even = lead.new, len(lead.tokens), len(work) == rows
        for item in work[1:]:
            even = even and item.start == lead.start and len(item.tokens) == longest
            width = max(width, item.new)
            longest = max(longest, len(item.tokens))
        slots.reserve(max(longest, self._expected))
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


def _alike(work: list[Work]) -> list[list[Work]]:
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


def _as_list(tokens: TokenIds) -> list[int]:
    """Token ids of any sequence (tuple, array, tensor) as a list of int."""
    return list(tokens.tolist()) if hasattr(tokens, "tolist") else list(tokens)


def common_prefix(known: list[int], tokens: list[int]) -> int:
    """How many tokens two lists share at their beginning. Halving, so that slices are compared and no Python loop."""
    low, high = 0, min(len(known), len(tokens))
    if known[:high] == tokens[:high]:
        return high
    while high - low > 1:  # they agree before low, and differ somewhere in low .. high - 1
        middle = (low + high) // 2
        if known[low:middle] == tokens[low:middle]:
            low = middle
        else:
            high = middle
    return low
