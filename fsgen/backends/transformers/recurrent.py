"""Sessions of models that carry a recurrent state (Mamba-2, Falcon-H1, LFM2, Qwen3-Next ...): by snapshots of it.

A state cannot be rewound. So each row keeps a few snapshots, the states after some of its tokens. Where the next
sequence differs from what was run, the row goes back to the latest snapshot that is still valid, and the tokens after
it run again. These catch-up tokens are counted like all others.

When a state is kept. Pads would enter a state, so it is known only after a pass in which a row had none:

- Where one position is wanted (a draft that writes, plain decoding), a row runs exactly to its end: first all rows
  together as far as the shortest goes, then the longer ones on. Each of these passes leaves a snapshot, so that a
  rejected draft costs nothing.
- Where several are wanted (drafted tokens to verify), all rows run in one pass, padded on the right where nothing
  looks. Only those without pads keep their state, and it is valid only if the whole draft is accepted. Else the next
  call starts from the snapshot before the draft, and reads the accepted tokens with its own. Once more than PATIENCE
  tokens would be read again, a pass of their own moves the snapshot on.
- A text that is only read (many positions wanted of a row that is not announced to grow) leaves no snapshot.
- A beginning that several rows share is read once, and its state is kept beside those of the rows.
- A model that continues its state by one token at a time alone (Continuation.SINGLE) reads a beginning in one pass,
  since that starts from no state, and everything else token by token, each with its snapshot.

A row holds at most SNAPSHOTS snapshots, fewer where those of all rows would take more than BUDGET bytes, but never
fewer than LEAST. The newest are all kept; the older ones are the further apart, the older they are.
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
RECENT = 5  # the newest are all kept; the older ones thin out
BUDGET = 2**30
# So many tokens are read again in every call rather than in a pass of their own.
PATIENCE = 16


@dataclass(slots=True)
class _Snapshots:
    """What one row keeps.

    Attributes:
        after: tokens that each snapshot has read, ascending, with its place.
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
        """A place for one more, after so many tokens; where there are `limit`, the one of least use is dropped."""
        while len(self.after) >= limit:
            newest = max(self.after[-1][0], tokens)
            # An old one is of little use where its neighbours are near, relative to how far back it is.
            ends = [0, *(after for after, _ in self.after), newest]
            old = range(max(1, len(self.after) - RECENT))
            gone = min(old, key=lambda i: (ends[i + 2] - ends[i]) / max(1, newest - ends[i + 1]))
            self.free.append(self.after.pop(gone)[1])
        return self.free.pop()

    def keep(self, tokens: int, place: int) -> None:
        """This place holds from now on the state after so many tokens."""
        insort(self.after, (tokens, place))


@dataclass(slots=True, eq=False)
class _Text:
    """How far a row has read its sequence, and the place of the state from which it goes on."""

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
        self._beginning: list[int] = []  # the tokens whose state is in place BEGINNING
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
        texts = []
        for item in work:
            snapshots = self._snapshots[item.row]
            snapshots.forget(item.agreed)
            self._known[item.row] = item.tokens  # no snapshot reaches beyond what agrees, so that this holds already
            texts.append(_Text(item, *snapshots.latest(item.start)))
        if texts:
            self._forward.reserve(max(max(text.end for text in texts), *self._longest))
        if not self._single:
            self._share(texts)
        for text in texts:
            self._new[text.work.row] = self._longest[text.work.row] == 0
        (self._by_single_tokens if self._single else self._by_several)(texts, logits)
        return logits

    def state(self, row: int) -> list[Tensor]:
        """The latest snapshot of a row: of each recurrent layer its states, each without the axis of rows."""
        return self._forward.snapshot(self._snapshots[row].after[-1][1])

    # ---- what runs together

    def _share(self, texts: list[_Text]) -> None:
        """What several rows begin with, or one row does twice (few-shot examples), is read once for all of them."""
        fresh = [text for text in texts if text.at == 0 and self._new[text.work.row] and not self._borrowed(text)]
        fresh = [text for text in fresh if text.first >= WORTH_COPYING]
        if not fresh or any(text.place == BEGINNING for text in texts):  # which the others are about to go on from
            return
        lead = fresh[0]
        shared = min(text.first for text in fresh)
        if len(fresh) == 1:
            shared = min(shared, lead.work.agreed)
        for text in fresh[1:]:
            shared = min(shared, common_prefix(lead.work.tokens, text.work.tokens))
        if shared < WORTH_COPYING:
            return
        self._beginning = []
        tokens = lead.work.tokens[:shared]
        ids, positions = torch.tensor([tokens, list(range(shared))], device=self._device)[:, None]
        row = torch.tensor([self.rows], device=self._device)
        self._forward.run(Step(ids, positions, row, positions, [EMPTY], [0], [BEGINNING], shared, 1))
        self._beginning = tokens
        self._count(lead.work.row, 0, shared)
        for text in fresh:
            self._borrowed(text)

    def _borrowed(self, text: _Text) -> bool:
        """Whether a row could take over the common beginning."""
        length = len(self._beginning)
        if not 0 < length <= text.first or text.work.tokens[:length] != self._beginning:
            return False
        self._forward.copy(self.rows, text.work.row, length)
        text.at, text.place = length, BEGINNING
        return True

    def _count(self, row: int, start: int, stop: int) -> None:
        """A pass has run these tokens of a row."""
        counted = stop - max(start, min(self._counted[row], stop))
        self.usage[row].calls += counted > 0
        self.usage[row].tokens += counted

    def _by_several(self, texts: list[_Text], logits: Tensor) -> None:
        """Passes of several tokens: to the end where one position is wanted, else up to the draft if that is far."""
        goals = {
            text.work.row: text.end if text.work.wanted == 1 else text.first
            for text in texts
            if text.work.wanted == 1 or (text.first - text.at > PATIENCE and self._grows(text))
        }
        unfinished = [text for text in texts if text.work.row in goals]
        while unfinished:
            width = min(goals[text.work.row] - text.at for text in unfinished)
            self._run(unfinished, [width] * len(unfinished), logits)
            unfinished = [
                text
                for text in unfinished
                if goals[text.work.row] - text.at > (0 if text.work.wanted == 1 else PATIENCE)
            ]
        self._read_to_the_end([text for text in texts if text.at < text.end], logits)

    def _by_single_tokens(self, texts: list[_Text], logits: Tensor) -> None:
        """One pass for what begins, all rows of equal length together; then token by token."""
        for text in texts:
            # A pass from the beginning is the quicker where it replaces many single tokens.
            if not self._grows(text) or text.first - text.at > max(PATIENCE, text.at // 4):
                text.at, text.place = 0, EMPTY
        fresh = [text for text in texts if text.at == 0]
        self._read_to_the_end([text for text in fresh if not self._grows(text)], logits)
        lengths: dict[int, list[_Text]] = {}
        for text in fresh:
            if text.at == 0:
                lengths.setdefault(max(1, text.end if text.work.wanted == 1 else text.first), []).append(text)
        for length, some in lengths.items():
            self._run(some, [length] * len(some), logits)
        while unfinished := [text for text in texts if text.at < text.end]:
            self._run(unfinished, [1] * len(unfinished), logits)

    def _grows(self, text: _Text) -> bool:
        """Whether this row's text is expected to go on, so that its state is worth keeping."""
        return text.work.wanted <= WIDE or text.end < self._longest[text.work.row]

    def _read_to_the_end(self, texts: list[_Text], logits: Tensor) -> None:
        """Passes over all that is left of these rows, those of about equal width together."""
        texts = sorted(texts, key=lambda text: text.end - text.at)
        while texts:
            least = texts[0].end - texts[0].at
            some = [text for text in texts if text.end - text.at <= max(WIDE, 2 * least)]
            texts = texts[len(some) :]
            some.sort(key=lambda text: text.work.row)
            self._run(some, [text.end - text.at for text in some], logits)

    # ---- one forward pass

    def _run(self, texts: list[_Text], widths: list[int], logits: Tensor) -> None:
        """Runs so many tokens of each row, writes the wanted logits, and keeps the states of rows without pads."""
        width = max(widths)
        kept: list[tuple[_Text, int]] = []
        for text, own in zip(texts, widths, strict=True):
            if own == width and self._snapshots[text.work.row].at(text.at + own) is None:
                kept.append((text, self._snapshots[text.work.row].room(text.at + own, self._limit or LEAST)))
        # Of how many last columns some row wants the logits.
        keep = max(1, *(width - max(0, text.first - text.at) for text in texts))
        try:
            parts = self._forward.run(self._step(texts, widths, kept, keep))
        except BaseException:
            for text, place in kept:
                self._snapshots[text.work.row].free.append(place)
            raise
        for text, place in kept:
            self._snapshots[text.work.row].keep(text.at + width, place)
        for i, (text, own) in enumerate(zip(texts, widths, strict=True)):
            row, start, stop = text.work.row, max(text.at, text.first), text.at + own
            if start < stop:
                column = logits.shape[1] - text.end
                wanted = parts[i, start - text.at - width + keep : own - width + keep]
                logits[row, column + start : column + stop] = wanted
            self._count(row, text.at, stop)
            text.at, text.place = stop, self._snapshots[row].at(stop) or EMPTY  # padded rows are at their end
        if self._limit is None:
            bytes_each = max(1, self._forward.state_bytes * self.rows)
            self._limit = max(LEAST, min(SNAPSHOTS, BUDGET // bytes_each))

    def _step(self, texts: list[_Text], widths: list[int], kept: list[tuple[_Text, int]], keep: int) -> Step:
        device, slots = self._device, self._forward.slots
        inputs = np.zeros((3, len(texts), max(widths)), dtype=np.int64)  # ids, positions, slots; a pad is token 0
        inputs[2] = slots.trash
        for i, (text, own) in enumerate(zip(texts, widths, strict=True)):
            inputs[0, i, :own] = text.work.tokens[text.at : text.at + own]
            inputs[1:, i, :own] = np.arange(text.at, text.at + own)
        ids, positions, where = torch.from_numpy(inputs).to(device, non_blocking=True)
        rows = torch.tensor([text.work.row for text in texts], device=device)
        longest = max(text.at + own for text, own in zip(texts, widths, strict=True))
        ends = [texts.index(text) for text, _ in kept]
        return Step(
            ids=ids,
            positions=positions,
            rows=rows,
            slots=where,
            sources=[text.place for text in texts],
            ends=ends,
            places=[place for _, place in kept],
            longest=longest,
            keep=keep,
        )
