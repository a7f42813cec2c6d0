"""Seconds that a method takes for texts, round by round: the rounds are counted, the calls of each are timed.

    seconds of a round = target(rows, tokens, context) + each draft call(rows, tokens, context) + overhead

Texts take rows as the engine gives them, and end where they ended. An adaptive draft length is chosen by the engine's
own rule, which is told these seconds instead of a clock's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from fsgen.engine.draft_length import AdaptiveDraftLength
from fsgen.methods.method import Method
from fsgen.planner.reading import Floats, Reading
from fsgen.planner.rounds import Round, Walk
from fsgen.planner.times import Times

PER_TEXT = 0.6  # of what a round takes beside the calls; the rest does not depend on how many texts are left
UNEVEN = 0.1  # of the difference, that a packed call costs more where rows have different numbers of tokens
LONG = 16  # missing tokens from which on a model reads them as it reads a prompt


@dataclass(frozen=True)
class Loop:
    """What the decode loop adds to calls alone, at one batch size: fitted to a short run of it (`calibrate`).

    Attributes:
        target_plain, target, draft: seconds of a call in the loop over those of a call alone: of the target without a
            draft, of the target that verifies, and of the draft.
        verified: the same of the target by how many tokens a call verifies, as pairs of a number and a factor, the
            fewest tokens first; in between on a line, and beyond as the nearest one. Nothing: `target` for all.
        round_seconds: of a round beside its calls; where it verifies drafted tokens, `verify_seconds` more.
        drafted_seconds: beside each drafted token of a row; where a router or an adaptive length reads its
            probability, `routed_seconds` more.
        error: of the whole, as a part of it (standard deviation).
    """

    target_plain: float = 1.0
    target: float = 1.0
    draft: float = 1.0
    round_seconds: float = 0.0
    verify_seconds: float = 0.0
    drafted_seconds: float = 0.0
    routed_seconds: float = 0.0
    error: float = 0.0
    verified: tuple[tuple[float, float], ...] = ()

    def verifying(self, tokens: float) -> float:
        """Seconds of a call of the target that verifies so many tokens of each text, over those of a call alone."""
        if not self.verified:
            return self.target
        return float(np.interp(tokens, [count for count, _ in self.verified], [each for _, each in self.verified]))

    def slowed(self, factor: float) -> Loop:
        """The loop of a machine on which everything takes so much longer."""
        kept = ("error", "verified")
        taken = {one.name: factor * getattr(self, one.name) for one in fields(self) if one.name not in kept}
        return replace(self, verified=tuple((tokens, factor * each) for tokens, each in self.verified), **taken)


@dataclass
class _Row:
    """A text in its row."""

    number: int
    walk: Walk
    draft_read: int = 0  # tokens that the draft and the target hold, prompt included
    target_read: int = 0
    chance: float = 1.0
    probs: list[float] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Of the text so far, prompt included."""
        return len(self.walk.reading.text.prompt) + self.walk.position


@dataclass
class Parts:
    """Seconds of all calls of both models, without the factors of the loop; how many rounds and draft calls.

    A round with rows that are empty counts as what it takes beside the calls, over that of a full one.
    """

    target: float = 0.0
    draft: float = 0.0
    rounds: float = 0.0
    calls: float = 0.0


class _Batch:
    """A batch on its way; `seconds` by text, `target_seconds` of the target's calls for all."""

    def __init__(self, method: Method, target: Times, draft: Times | None, loop: Loop, count: int) -> None:
        self.method, self.target, self.draft, self.loop = method, target, draft, loop
        self.seconds, self.target_seconds, self.parts = np.zeros(count), 0.0, Parts()
        self.adaptive = AdaptiveDraftLength(int(not method.adds_bonus)) if method.adaptive else None
        self.held: deque[tuple[int, Sequence[int]]] = deque()  # texts whose prompts a session may still hold

    def join(self, row: _Row, rows: int) -> None:
        """A text takes a row; what its prompt shares with one that is held need not be read again."""
        prompt = row.walk.reading.text.prompt
        shared = max((_shared(prompt, other) for number, other in self.held if number != row.number), default=0)
        row.draft_read = row.target_read = min(shared, len(prompt) - 1)
        self.held.append((row.number, prompt))
        if len(self.held) > rows:
            self.held.popleft()

    def round(self, rows: list[_Row], joined: bool, most: int) -> None:
        """One round of all that are active, of `most` rows."""
        for row in rows:
            row.walk.begin()
            row.chance, row.probs = 1.0, []
        if self.adaptive is not None:
            self.adaptive.begin_round()
        drafting, calls = self._propose(rows)
        found: list[tuple[_Row, int, Round]] = []
        for row in rows:
            before = row.tokens
            one = row.walk.finish()
            found.append((row, before, one))
        target = self._verify(found, drafting > 0)
        if self.adaptive is not None:
            self._learn(found, drafting, target, calls, joined, most)
        part = _part(len(rows), most)
        self.parts.rounds, self.parts.calls = self.parts.rounds + part, self.parts.calls + part * calls
        share = (drafting + target + self._beside(calls, len(rows), most)) / len(rows)
        for row in rows:
            self.seconds[row.number] += share

    def _beside(self, calls: int, rows: int, most: int) -> float:
        """Seconds of a round beside the models' calls; a part of them is for each text."""
        found = self.loop.round_seconds
        if calls:
            reads = self.method.adaptive or self.method.stopping_router is not None
            each = 0.0 if self.method.ngram else self.loop.drafted_seconds + reads * self.loop.routed_seconds
            found += self.loop.verify_seconds + calls * each
        return found * _part(rows, most)

    def _propose(self, rows: list[_Row]) -> tuple[float, int]:
        """The draft's calls: their seconds, and how many there are."""
        total, step = 0.0, 0
        while True:
            able = [row for row in rows if row.walk.goes_on]
            if not able or (self.adaptive is not None and not self.adaptive.goes_on(step, [r.chance for r in able])):
                return total, step
            if self.draft is not None and not self.method.ngram:
                missing = [row.tokens + row.walk.drafted - row.draft_read for row in able]
                alone, reading = _call(self.draft, list(zip(able, missing, strict=True)))
                seconds = self.loop.draft * alone + reading
                self.parts.draft += alone + reading
                if self.adaptive is not None and step:
                    self.adaptive.draft_call.learn(1, seconds)
                total += seconds
            for row in able:
                row.draft_read = row.tokens + row.walk.drafted
                if self.adaptive is not None:
                    row.probs.append(row.walk.prob)
                    row.chance *= self.adaptive.acceptance.chance(row.probs[-1])
                row.walk.draft()
            step += 1

    def _verify(self, found: list[tuple[_Row, int, Round]], drafted: bool) -> float:
        """Seconds of the target's call; what both models hold after the round."""
        asked = []
        for row, before, one in found:
            kept = one.trusted + one.accepted
            if one.scored:
                last = before + one.drafted - (one.scored <= one.drafted)  # the last one is not always run
                asked.append((row, max(1, last - row.target_read)))
                row.target_read = min(before + kept, last)
            row.draft_read = min(row.draft_read, before + kept)
        if not asked:
            return 0.0
        tokens = sum(tokens for _, tokens in asked) / len(asked)
        factor = self.loop.verifying(tokens) if drafted or self.method.drafts else self.loop.target_plain
        alone, reading = _call(self.target, asked)
        self.parts.target += alone + reading
        self.target_seconds += factor * alone + reading
        return factor * alone + reading

    def _learn(
        self, found: list[tuple[_Row, int, Round]], drafting: float, target: float, calls: int, joined: bool, most: int
    ) -> None:
        assert self.adaptive is not None
        if not joined:
            self.adaptive.system2_call.learn(max(one.scored for _, _, one in found), target)
        for row, _, one in found:
            for j, prob in enumerate(row.probs[: one.accepted + 1]):
                self.adaptive.acceptance.learn(prob, j < one.accepted)
        beside = min(drafting + target, self._beside(calls, len(found), most))
        tokens = sum(one.written for _, _, one in found)
        usual = not joined and 4 * len(found) >= 3 * most
        self.adaptive.end_round(drafting + target + beside, tokens, 0 if self.method.ngram else calls, usual, drafting)


def _part(rows: int, most: int) -> float:
    """What a round of so many texts takes beside the calls, over that of a full batch."""
    return 1 - PER_TEXT + PER_TEXT * rows / most


def _call(model: Times, asked: Sequence[tuple[_Row, int]]) -> tuple[float, float]:
    """Seconds of a call in which each row reads so many tokens: of the call, and of long beginnings, as of prompts."""
    long = sum(tokens - 1 for _, tokens in asked if tokens > LONG)
    counts = [1 if tokens > LONG else tokens for _, tokens in asked]
    tokens = sum(counts) / len(counts)
    tokens += (UNEVEN if model.packed else 1.0) * (max(counts) - tokens)
    context = sum(row.tokens for row, _ in asked) / len(asked)
    return model.call(len(asked), tokens, context), model.reading(long) if long else 0.0


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def seconds(
    readings: Sequence[Reading],
    method: Method,
    batch_size: int,
    target: Times,
    draft: Times | None = None,
    loop: Loop | None = None,
    best: bool = False,
) -> Floats:
    """Seconds of each text, its share of its batch's.

    Args:
        readings: the texts as the draft reads them.
        method: with the fusion `target`.
        batch_size: how many are written at a time.
        target, draft: how long their calls take; no draft for `plain` and for n-grams.
        loop: what the decode loop adds.
        best: by the upper bounds of what is accepted.
    """
    return _predicted(readings, method, batch_size, target, draft, loop or Loop(), best).seconds


def target_share(
    readings: Sequence[Reading], method: Method, batch_size: int, target: Times, draft: Times | None, loop: Loop
) -> float:
    """The share of the time that the target's calls take; arguments as of `seconds`."""
    found = _predicted(readings, method, batch_size, target, draft, loop, False)
    return found.target_seconds / float(found.seconds.sum())


def parts(
    readings: Sequence[Reading], method: Method, batch_size: int, target: Times, draft: Times | None = None
) -> Parts:
    """What the calls alone would take; arguments as of `seconds`."""
    return _predicted(readings, method, batch_size, target, draft, Loop(), False).parts


def _predicted(
    readings: Sequence[Reading],
    method: Method,
    batch_size: int,
    target: Times,
    draft: Times | None,
    loop: Loop,
    best: bool,
) -> _Batch:
    batch = _Batch(method, target, draft, loop, len(readings))
    if batch.adaptive is not None:  # what it has learned outlives a batch: the second time it knows the texts' kind
        _run(batch, readings, batch_size, best)
        batch.seconds, batch.target_seconds = np.zeros(len(readings)), 0.0
        batch.parts, batch.held = Parts(), deque()
    _run(batch, readings, batch_size, best)
    return batch


def _run(batch: _Batch, readings: Sequence[Reading], batch_size: int, best: bool) -> None:
    # Fewer texts than rows are written several times at once: a batch is as large as it says.
    copies = -(-batch_size // len(readings))
    order = list(range(len(readings))) * copies
    if batch_size < len(readings):  # as `generate` does
        order.sort(key=lambda i: len(readings[i].text.prompt))
    waiting, rows = deque(order), list[_Row]()
    most = batch_size
    while waiting or rows:
        joined = False
        while waiting and len(rows) < most:
            number = waiting.popleft()
            reading = readings[number]
            row = _Row(number, Walk(reading, batch.method, reading.accepted(number, best)))
            batch.join(row, most)
            rows.append(row)
            joined = True
        batch.round(rows, joined, most)
        rows = [row for row in rows if row.walk.active]
    batch.seconds /= copies
    batch.target_seconds /= copies
    sums = batch.parts
    batch.parts = Parts(sums.target / copies, sums.draft / copies, sums.rounds / copies, sums.calls / copies)
