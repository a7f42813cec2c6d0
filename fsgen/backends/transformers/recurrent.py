"""Sessions of models that carry a recurrent state (Mamba-2, Falcon-H1, LFM2, Qwen3-Next ...): by snapshots of it.

A state cannot be rewound. So each row keeps a few snapshots, the states after some of its tokens, and where the next
sequence parts from what was run, it goes back to the latest snapshot that still holds and runs the tokens after it
again. These catch-up tokens are counted like all others.

When a state is kept. Pads would enter a state, so it is known only after a pass in which a row had none:

- Where one position is wanted (a draft that writes, plain decoding), a row runs exactly to its end: first all rows
  together as far as the shortest goes, then the longer ones on. Each of these passes leaves a snapshot, so that a
  rejected draft is taken back at no cost.
- Where several are wanted (drafted tokens to verify), all rows run in one pass, padded on the right where nothing
  looks. Only those without pads keep their state, and it holds only if the whole draft is accepted. Else the next
  call starts from the snapshot before the draft, and reads the accepted tokens with its own. Once more than PATIENCE
  tokens would be read again, a pass of their own moves the snapshot on.
- A text that is only read (many positions wanted of a row that is not said to grow) leaves no snapshot.
- A beginning that several rows share is read once, and its state is kept beside those of the rows.
- A model that continues its state by one token at a time alone (Continuation.SINGLE) reads a beginning in one pass,
  since that starts from no state, and everything else token by token, each with its snapshot.

A row holds at most SNAPSHOTS snapshots, fewer where those of all rows would take more than BUDGET bytes, but never
fewer than LEAST. The newest are all there; the older ones lie the further apart, the older they are.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fsgen.backends.forward import Work
from fsgen.backends.protocol import TokenIds
from fsgen.backends.session import WORTH_COPYING, RowSession, common_prefix
from fsgen.backends.transformers.continuation import Continuation
from fsgen.backends.transformers.padded import WIDE
from fsgen.backends.transformers.states import BEGINNING, EMPTY, StateForward, Step

SNAPSHOTS = 8
LEAST = 2
RECENT = 5  # the newest of them all stay; the older ones thin out
BUDGET = 2**30
# So many tokens are read again in every call rather than in a pass of their own.
PATIENCE = 16


@dataclass(slots=True)
class _Snapshots:
    """What one row keeps.

    Attributes:
        after: tokens that each snapshot has read, ascending, with the place where it lies.
        free: places that hold nothing.
    """

    free: list[int]
    after: list[tuple[int, int]] = field(default_factory=list)

    def forget(self, beyond: int) -> None:
        """Drops those that have read more than `beyond` tokens."""
        while self.after and self.after[-1][0] > beyond:
            self.free.append(self.after.pop()[1])
        self.free.sort(reverse=True)  # low places first, so that banks stay small

    def latest(self, bound: int) -> tuple[int, int]:
        """(tokens, place) of the latest that has read at most `bound` tokens; the empty state where there is none."""
        return max((entry for entry in self.after if entry[0] <= bound), default=(0, EMPTY))

    def at(self, tokens: int) -> int | None:
        """The place of the one that has read so many tokens, None where there is none."""
        return next((place for after, place in self.after if after == tokens), None)

    def room(self, tokens: int, limit: int) -> int:
        """A place for one more, after so many tokens; where there are `limit`, the one that is missed least goes."""
        while len(self.after) >= limit:
            newest = max(self.after[-1][0], tokens)
            # An old one is missed little where its neighbours are near, measured by how far back it lies.
            ends = [0, *(after for after, _ in self.after), newest]
            old = range(max(1, len(self.after) - RECENT))
            gone = min(old, key=lambda i: (ends[i + 2] - ends[i]) / max(1, newest - ends[i + 1]))
            self.free.append(self.after.pop(gone)[1])
        return self.free.pop()

    def keep(self, tokens: int, place: int) -> None:
        """What lies there is from now on the state after so many tokens."""
        insort(self.after, (tokens, place))


@dataclass(slots=True, eq=False)
class _Walk:
    """A row on its way through a sequence: what it has read, and where the state lies from which it goes on."""

    work: Work
    at: int
    place: int

    @property
    def end(self) -> int:
        return len(self.work.tokens)

    @property
    def first(self) -> int:
        """The first position whose logits are wanted."""
        return self.end - self.work.wanted


class RecurrentSession(RowSession):
    """The tokens and the snapshots of one batch (see `fsgen.backends.protocol.Session`).

    Usage counts a call for each forward pass that ran a counted token of a row, and every token that it ran, those that
    were run before included.

    Args:
        forward: computes, and holds the snapshots.
        continuation: SEVERAL or SINGLE.
        rows: of the session.
        name, vocab_size, context, device: of the model.
    """

    def __init__(
        self,
        forward: StateForward,
        continuation: Continuation,
        rows: int,
        name: str,
        vocab_size: int,
        context: int,
        device: torch.device,
    ) -> None:
        super().__init__(rows, name, vocab_size, context, device)
        self._forward = forward
        self._single = continuation is Continuation.SINGLE
        self._snapshots = [_Snapshots([2 + row + rows * i for i in reversed(range(SNAPSHOTS))]) for row in range(rows)]
        self._beginning: list[
            int
        ] = []  # the tokens whose state lies in place BEGINNING, their keys in a row of its own
        self._new = [True] * rows  # whether the next call may bring another text; always, where none is announced
        self._limit: int | None = None  # how many snapshots a row may have; known once their size is

    def begin(self, row: int, prompt: int, longest: int) -> None:
        """A new text starts in this row; see `Session.begin`."""
        super().begin(row, prompt, longest)
        self._new[row] = True

    @torch.inference_mode()
    def score(self, sequences: Sequence[TokenIds | None], last: int | Sequence[int]) -> Tensor:
        """Logits [rows, max(last), vocab] of the last positions of each row; see `Session.score`.

        They are inference tensors: outside `torch.inference_mode` they are read, not written.
        """
        work = self._plan(sequences, last)
        logits = torch.zeros(
            self.rows, max((item.wanted for item in work), default=0), self._vocab, device=self._device
        )
        walks = []
        for item in work:
            snapshots = self._snapshots[item.row]
            snapshots.forget(item.agreed)
            self._known[item.row] = item.tokens  # no snapshot reaches beyond what agrees, so that this holds already
            walks.append(_Walk(item, *snapshots.latest(item.start)))
        if walks:
            self._forward.reserve(max(max(walk.end for walk in walks), *self._longest))
        if not self._single:
            self._share(walks)
        for walk in walks:
            self._new[walk.work.row] = self._longest[walk.work.row] == 0
        (self._by_single_tokens if self._single else self._by_several)(walks, logits)
        return logits

    def state(self, row: int) -> list[Tensor]:
        """The latest snapshot of a row: of each recurrent layer its states, each without the axis of rows."""
        return self._forward.snapshot(self._snapshots[row].after[-1][1])

    # ---- what runs together

    def _share(self, walks: list[_Walk]) -> None:
        """What several rows begin with, or one row does twice (worked examples), is read once for all of them."""
        fresh = [walk for walk in walks if walk.at == 0 and self._new[walk.work.row] and not self._borrowed(walk)]
        fresh = [walk for walk in fresh if walk.first >= WORTH_COPYING]
        if not fresh or any(walk.place == BEGINNING for walk in walks):  # which the others are about to go on from
            return
        lead = fresh[0]
        shared = min(walk.first for walk in fresh)
        if len(fresh) == 1:
            shared = min(shared, lead.work.agreed)
        for walk in fresh[1:]:
            shared = min(shared, common_prefix(lead.work.tokens, walk.work.tokens))
        if shared < WORTH_COPYING:
            return
        self._beginning = []
        tokens = lead.work.tokens[:shared]
        ids, positions = torch.tensor([tokens, list(range(shared))], device=self._device)[:, None]
        row = torch.tensor([self.rows], device=self._device)
        self._forward.run(Step(ids, positions, row, positions, [EMPTY], [0], [BEGINNING], shared, 1))
        self._beginning = tokens
        self._count(lead.work.row, 0, shared)
        for walk in fresh:
            self._borrowed(walk)

    def _borrowed(self, walk: _Walk) -> bool:
        """Whether a row could take over the common beginning."""
        length = len(self._beginning)
        if not 0 < length <= walk.first or walk.work.tokens[:length] != self._beginning:
            return False
        self._forward.copy(self.rows, walk.work.row, length)
        walk.at, walk.place = length, BEGINNING
        return True

    def _count(self, row: int, start: int, stop: int) -> None:
        """A pass has run these tokens of a row."""
        counted = stop - max(start, min(self._counted[row], stop))
        self.usage[row].calls += counted > 0
        self.usage[row].tokens += counted

    def _by_several(self, walks: list[_Walk], logits: Tensor) -> None:
        """Passes of several tokens: to the end where one position is wanted, else up to the draft if that is far."""
        goals = {
            walk.work.row: walk.end if walk.work.wanted == 1 else walk.first
            for walk in walks
            if walk.work.wanted == 1 or (walk.first - walk.at > PATIENCE and self._grows(walk))
        }
        walking = [walk for walk in walks if walk.work.row in goals]
        while walking:
            width = min(goals[walk.work.row] - walk.at for walk in walking)
            self._run(walking, [width] * len(walking), logits)
            walking = [
                walk for walk in walking if goals[walk.work.row] - walk.at > (0 if walk.work.wanted == 1 else PATIENCE)
            ]
        self._read_to_the_end([walk for walk in walks if walk.at < walk.end], logits)

    def _by_single_tokens(self, walks: list[_Walk], logits: Tensor) -> None:
        """One pass for what begins, all rows of equal length together; then token by token."""
        for walk in walks:
            # A pass from the beginning is the quicker where it replaces many single tokens.
            if not self._grows(walk) or walk.first - walk.at > max(PATIENCE, walk.at // 4):
                walk.at, walk.place = 0, EMPTY
        fresh = [walk for walk in walks if walk.at == 0]
        self._read_to_the_end([walk for walk in fresh if not self._grows(walk)], logits)
        lengths: dict[int, list[_Walk]] = {}
        for walk in fresh:
            if walk.at == 0:
                lengths.setdefault(max(1, walk.end if walk.work.wanted == 1 else walk.first), []).append(walk)
        for length, some in lengths.items():
            self._run(some, [length] * len(some), logits)
        while walking := [walk for walk in walks if walk.at < walk.end]:
            self._run(walking, [1] * len(walking), logits)

    def _grows(self, walk: _Walk) -> bool:
        """Whether this row's text is expected to go on, so that its state is worth keeping."""
        return walk.work.wanted <= WIDE or walk.end < self._longest[walk.work.row]

    def _read_to_the_end(self, walks: list[_Walk], logits: Tensor) -> None:
        """Passes over all that is left of these rows, those of about equal width together."""
        walks = sorted(walks, key=lambda walk: walk.end - walk.at)
        while walks:
            least = walks[0].end - walks[0].at
            some = [walk for walk in walks if walk.end - walk.at <= max(WIDE, 2 * least)]
            walks = walks[len(some) :]
            some.sort(key=lambda walk: walk.work.row)
            self._run(some, [walk.end - walk.at for walk in some], logits)

    # ---- one forward pass

    def _run(self, walks: list[_Walk], widths: list[int], logits: Tensor) -> None:
        """Runs so many tokens of each row, writes the wanted logits, and keeps the states of rows without pads."""
        width = max(widths)
        kept: list[tuple[_Walk, int]] = []
        for walk, own in zip(walks, widths, strict=True):
            if own == width and self._snapshots[walk.work.row].at(walk.at + own) is None:
                kept.append((walk, self._snapshots[walk.work.row].room(walk.at + own, self._limit or LEAST)))
        # Of how many last columns some row wants the logits.
        keep = max(1, *(width - max(0, walk.first - walk.at) for walk in walks))
        try:
            parts = self._forward.run(self._step(walks, widths, kept, keep))
        except BaseException:
            for walk, place in kept:
                self._snapshots[walk.work.row].free.append(place)
            raise
        for walk, place in kept:
            self._snapshots[walk.work.row].keep(walk.at + width, place)
        for i, (walk, own) in enumerate(zip(walks, widths, strict=True)):
            row, start, stop = walk.work.row, max(walk.at, walk.first), walk.at + own
            if start < stop:
                column = logits.shape[1] - walk.end
                wanted = parts[i, start - walk.at - width + keep : own - width + keep]
                logits[row, column + start : column + stop] = wanted
            self._count(row, walk.at, stop)
            walk.at, walk.place = stop, self._snapshots[row].at(stop) or EMPTY  # padded rows are at their end
        if self._limit is None:
            bytes_each = max(1, self._forward.state_bytes * self.rows)
            self._limit = max(LEAST, min(SNAPSHOTS, BUDGET // bytes_each))

    def _step(self, walks: list[_Walk], widths: list[int], kept: list[tuple[_Walk, int]], keep: int) -> Step:
        device, slots = self._device, self._forward.slots
        inputs = np.zeros((3, len(walks), max(widths)), dtype=np.int64)  # ids, positions, slots; a pad is token 0
        inputs[2] = slots.trash
        for i, (walk, own) in enumerate(zip(walks, widths, strict=True)):
            inputs[0, i, :own] = walk.work.tokens[walk.at : walk.at + own]
            inputs[1:, i, :own] = np.arange(walk.at, walk.at + own)
        ids, positions, where = torch.from_numpy(inputs).to(device, non_blocking=True)
        rows = torch.tensor([walk.work.row for walk in walks], device=device)
        longest = max(walk.at + own for walk, own in zip(walks, widths, strict=True))
        ends = [walks.index(walk) for walk, _ in kept]
        return Step(
            ids=ids,
            positions=positions,
            rows=rows,
            slots=where,
            sources=[walk.place for walk in walks],
            ends=ends,
            places=[place for _, place in kept],
            longest=longest,
            keep=keep,
        )
