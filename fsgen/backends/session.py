"""The state of one batch: what each row's tokens are, which of them are computed, and what has to run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fsgen.backends.forward import Forward, Work
from fsgen.backends.protocol import TokenIds, Usage

# A beginning of so many tokens that another row holds is copied instead of computed.
WORTH_COPYING = 16
# Rejected drafts make two lists differ within so many tokens of their ends, so this is compared first.
NEAR = 16


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
    """The tokens and the key-value state of one batch (see `fsgen.backends.protocol.Session`).

    A call runs what is new in each row; a beginning that another row holds is copied.

    Args:
        forward: computes, and holds the keys and values.
        name, vocab_size, context, device: of the model.
    """

    def __init__(self, forward: Forward, name: str, vocab_size: int, context: int, device: torch.device) -> None:
        super().__init__(forward.rows, name, vocab_size, context, device)
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
        self._share(work)
        logits = self._run(work, max(item.wanted for item in work))
        for item in work:
            usage = self.usage[item.row]
            usage.calls += 1
            usage.tokens += len(item.tokens) - max(item.start, min(self._counted[item.row], len(item.tokens)))
        return logits

    def _share(self, work: list[Work]) -> None:
        """Copies beginnings that another row holds; what several rows are about to compute, one of them does first."""
        long = [item for item in work if item.new - item.wanted >= WORTH_COPYING]
        for item in long:
            self._borrow(item, range(self.rows))
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
            self._borrow(item, [lead.row])

    def _borrow(self, item: Work, donors: Iterable[int]) -> None:
        """Takes the keys and values of the row that holds the longest beginning of this one, if that is worth it."""
        bound, length, donor = len(item.tokens) - item.wanted, 0, item.row
        for row in donors:
            known = self._known[row]
            if min(len(known), bound) > length and (shared := min(common_prefix(known, item.tokens), bound)) > length:
                length, donor = shared, row
        if length - item.start >= WORTH_COPYING:
            self._take(donor, item.row, length)
            self._known[item.row] = item.tokens[:length]
            item.start = length

    def _take(self, donor: int, row: int, length: int) -> None:
        """The keys and values of the first `length` tokens of a row become those of another."""
        self._forward.copy(donor, row, length)

    def _run(self, work: list[Work], keep: int) -> Tensor:
        """Runs the new tokens of these rows: logits [rows, keep, vocab], float32."""
        self._forward.reserve(max(self._expected, *(len(item.tokens) for item in work)))
        for item in work:
            del self._known[item.row][item.start :]  # should the call fail, these are no longer trusted
        logits = self._forward.run(work, keep)
        for item in work:
            self._known[item.row] = item.tokens
        return logits


def _as_list(tokens: TokenIds) -> list[int]:
    """Token ids of any sequence (tuple, array, tensor) as a list of int."""
    return list(tokens.tolist()) if hasattr(tokens, "tolist") else list(tokens)


def common_prefix(known: Sequence[int], tokens: Sequence[int]) -> int:
    """How many tokens (or bytes) two sequences share at their beginning. Halving, so that slices are compared."""
    low, high = 0, min(len(known), len(tokens))
    if (known if len(known) == high else known[:high]) == (tokens if len(tokens) == high else tokens[:high]):
        return high
    near = high - NEAR
    if near > 0 and known[:near] == tokens[:near]:
        low = near
    while high - low > 1:  # they agree before low, and differ somewhere in low .. high - 1
        middle = (low + high) // 2
        if known[low:middle] == tokens[low:middle]:
            low = middle
        else:
            high = middle
    return low
