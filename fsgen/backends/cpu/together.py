"""Runs compiled rounds of a target, with or without a draft, and tells what they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fsgen.backends.cpu import kernels as k
from fsgen.backends.cpu import rounds as r
from fsgen.backends.cpu.forward import CpuForward
from fsgen.backends.cpu.race import INVERSE, RACE
from fsgen.backends.forward import Work
from fsgen.backends.protocol import Told
from fsgen.types import Ahead

# Logits of each model that one run may leave behind, if they are of more than one round.
ROOM = 2**21
PENDING = 2  # last tokens of a row that a model may not have run


@dataclass(frozen=True, slots=True)
class CompiledRound:
    """A round that was run; see `protocol.Round`. What its rows were told is made when it is asked for."""

    run: Together
    number: int
    p: Tensor
    q: Tensor
    draft_calls: int
    draft_seconds: float
    target_seconds: float

    def rows(self) -> list[Told | None]:
        """See `Round.rows`."""
        return self.run.rows(self.number)


class Together:
    """A few rounds of decoding.

    Args:
        target: whose sessions' rows these are.
        work: what the target needs of each row that takes part: one token.
        ahead: what the rounds are to be, told by the rows of the session.
    """

    def __init__(self, target: CpuForward, work: list[Work], ahead: Ahead) -> None:
        self._work, self._ahead = work, ahead  # whose masks have to be there
        most, draft_tokens, draws = ahead.rounds, ahead.draft_tokens, ahead.draws
        n = len(work)
        each = (draft_tokens + 1) * n  # lines, and tokens, of a round
        lines = each * max(1, min(most, ROOM // (each * target.width)))
        self._q = torch.empty(lines, target.width)
        self._p = torch.empty(0, 0)
        self._target, self._draft = target, target
        self._state = np.zeros((r.STATES, n), np.int64)
        self._told = np.zeros((most, n, r.FACTS), np.int64)
        self._tokens = np.zeros((most, n, draft_tokens), np.int64)
        self._sure = np.zeros((most, n, draft_tokens), np.float32)
        self._seconds = np.zeros((most + 1, 2))
        self._ids = np.zeros((n, PENDING + most * (draft_tokens + 1)), np.int64)
        self._chances = np.zeros(n, np.float32)
        self._room = (np.zeros((draft_tokens + 2, n), np.int64), np.zeros((draft_tokens, n), np.float32))
        self._judged = np.zeros(each, np.int64)
        self._masks = np.zeros((2, n), np.int64)  # of the rows, and of the pieces of a draft's pass
        self._masks[0] = [ahead.ends[item.row].ctypes.data for item in work]
        state = self._state
        self._rows = [item.row for item in work]
        state[r.SLOT] = self._rows
        state[r.LEFT] = [ahead.left[row] for row in self._rows]
        self._seconds[-1, 0] = ahead.seconds
        state[r.LENGTH] = [len(item.tokens) for item in work]
        state[r.BASE] = np.maximum(0, state[r.LENGTH] - PENDING)
        state[r.LEAD], state[r.SHARED] = zip(*(item.lead for item in work), strict=True)
        for line, item in zip(self._ids, work, strict=True):
            last = item.tokens[-PENDING:]
            line[: len(last)] = last
        target.make_room(each)
        self._arguments = a = np.zeros(r.ARGUMENTS, np.int64)
        order, wrote = self._room[0][-1], self._room[0][:-1]
        numbers = {
            r.MANY: most, r.ROWS: n, r.MOST: draft_tokens, r.ENOUGH: ahead.enough, r.THREADS: torch.get_num_threads(),
            r.TARGET: target.arguments.ctypes.data, r.TARGET_CODE: target.function.address,
            r.TARGET_ALONE: target.alone, r.SPAN: self._ids.shape[1],
            r.Q: self._q.data_ptr(), r.Q_LINES: lines, r.Q_WIDTH: target.width,
        }  # fmt: skip
        arrays = {
            r.ENDS: self._masks, r.IDS: self._ids, r.STATE: state, r.TOLD: self._told, r.TOKENS: self._tokens,
            r.SURE: self._sure, r.SECONDS: self._seconds, r.CHANCES: self._chances, r.ORDER: order, r.WROTE: wrote,
            r.WROTE_SURE: self._room[1], r.JUDGED: self._judged,
        }  # fmt: skip
        # Of the rows, in their order here; and of the pieces of a pass, draft's and target's.
        self._keys, self._scales = np.zeros((2, n), np.uint64), np.zeros((2, n), np.float32)
        self._prompts = np.zeros((2, n), np.int64)
        if draws is not None:
            self._keys[0], self._scales[0] = draws.keys[self._rows], draws.scales[self._rows]
            self._prompts[0] = [draws.prompts[row] for row in self._rows]
            numbers[r.WAY] = RACE if draws.race else INVERSE
            arrays |= {r.KEYS: self._keys, r.SCALES: self._scales, r.PROMPTS: self._prompts}
        numbers |= {field: array.ctypes.data for field, array in arrays.items()}
        a[list(numbers)] = list(numbers.values())

    def with_draft(self, draft: CpuForward, work: list[Work], opened: Sequence[bool]) -> None:
        """The draft takes part.

        Args:
            work: what the draft needs of the same rows: `PENDING` tokens at most.
            opened: whether its logits are wanted at a row's last token too.
        """
        self._draft = draft
        self._p = torch.empty(len(self._q), draft.width)
        state, a, d = self._state, self._arguments, draft.arguments
        state[r.HELD], state[r.OPEN] = [item.start for item in work], opened
        state[r.DRAFT_LEAD], state[r.DRAFT_SHARED] = zip(*(item.lead for item in work), strict=True)
        draft.make_room(PENDING * len(work))
        a[r.DRAFT], a[r.DRAFT_CODE], a[r.DRAFT_ALONE] = d.ctypes.data, draft.function.address, draft.alone
        a[r.P], a[r.P_LINES], a[r.P_WIDTH] = self._p.data_ptr(), len(self._p), draft.width
        draft.end_by(self._ahead.limit)

    def run(self) -> list[CompiledRound]:
        """Does the rounds."""
        a = self._arguments
        r.rounds()(a.ctypes.data, alone=True)
        for forward in (self._target, self._draft):
            forward.arguments[[k.JUDGED, k.STEPS, k.WAY, k.ENDS]] = 0
        done = int(a[r.DONE])
        p, q = self._p[:, : self._draft.vocab], self._q[:, : self._target.vocab]
        calls = self._told[:done, :, r.DRAFTED].max(1, initial=0).tolist()
        return [
            CompiledRound(self, number, p, q, calls[number], *seconds)
            for number, seconds in enumerate(self._seconds[:done].tolist())
        ]

    def rows(self, number: int) -> list[Told | None]:
        """What the rows were told in a round."""
        rows: list[Told | None] = [None] * self._target.rows
        told, tokens, sure = self._told[number].tolist(), self._tokens[number].tolist(), self._sure[number].tolist()
        for row, facts, drafted_tokens, sure_of in zip(self._rows, told, tokens, sure, strict=True):
            verified, ran, drafted, accepted, token, opened, first, second, step, q_first = facts
            if verified:
                rows[row] = Told(
                    drafted_tokens[:drafted] if drafted else (),
                    sure_of,
                    [first, *range(second, second + (drafted - 1) * step, step)] if drafted else (),
                    first - 1 if opened else None,
                    accepted,
                    token if token >= 0 else None,
                    range(q_first, q_first + verified),
                    ran,
                    verified,
                )
        return rows

    def written(self) -> list[tuple[list[int], int]]:
        """Of each row that took part: all its tokens, and how many of them the draft has run."""
        texts = []
        lengths, bases, held = self._state[[r.LENGTH, r.BASE, r.HELD]].tolist()
        for item, ids, length, base, count in zip(self._work, self._ids, lengths, bases, held, strict=True):
            texts.append((item.tokens[:base] + ids[: length - base].tolist(), count))
        return texts
