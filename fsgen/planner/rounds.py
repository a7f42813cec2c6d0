"""The rounds of the decode loop along a text that a target wrote, without any model.

Of a greedy text, or of given acceptances, they are those of the loop, token for token: for every draft length, stopping
rule and n-gram. Where a router trusts the draft, the text is the loop's up to the first trusted token that the target
would have chosen otherwise; from there on the target's text stands in for the one that would be written.

What a draft writes after its first rejected token was never computed. That changes nothing of the text; how long it
goes on under a stopping rule is estimated from where the router flags the target's own text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from fsgen.engine.proposers import NgramProposer
from fsgen.engine.sequence import Sequence as Text
from fsgen.methods.method import MAX_ADAPTIVE, Method
from fsgen.planner.reading import Bools, Reading

_NGRAMS = NgramProposer()


class Round(NamedTuple):
    """A round of one text.

    Attributes:
        start: the position of its first token.
        drafted, accepted: drafted tokens, and those of them that the target has verified and kept.
        written: tokens that it adds to the text, and of these `trusted` without verification.
        scored: positions at which the target is asked; 0 where it is not called.
        changed: trusted tokens that the target would have chosen otherwise.
    """

    start: int
    drafted: int
    accepted: int
    written: int
    scored: int
    trusted: int = 0
    changed: int = 0


class Walk:
    """One text on its way, round by round: `begin`, `draft` while it `goes_on`, `finish`.

    Args:
        reading: of the text, by the draft.
        method: with the fusion `target`.
        accepted: which of the draft's tokens would be accepted, by position.
    """

    def __init__(self, reading: Reading, method: Method, accepted: Bools) -> None:
        self.reading, self.method, self.accepted = reading, method, accepted
        self.length = len(reading.text.tokens)
        self.position = 0
        self.most = MAX_ADAPTIVE if method.adaptive else method.draft_tokens
        router = method.stopping_router
        self._flags = None if router is None or method.ngram else reading.flags[str(router)]
        self._text = Text(reading.text.prompt, method) if method.ngram else None
        self.begin()

    @property
    def active(self) -> bool:
        return self.position < self.length

    def begin(self) -> None:
        """A round begins."""
        self.drafted, self.flagged, self._guess = 0, False, list[int]()
        if self._text is not None and self.active:
            self._text.ids = [*self.reading.text.prompt, *self.reading.text.tokens[: self.position]]
            self._guess = _NGRAMS.continuation(self._text, self.most)

    @property
    def _open(self) -> bool:
        """The text goes on after the drafted tokens, as far as they are those that were written."""
        if self.position + self.drafted < self.length:
            return True
        return not self.reading.text.cut and not self._all_accepted()

    def _all_accepted(self) -> bool:
        return self._run() >= min(self.drafted, self.length - self.position)

    def _run(self) -> int:
        """How many of the drafted tokens are accepted."""
        start, stop = self.position, min(self.position + self.drafted, self.length)
        if self._text is not None:
            return _common(self._guess[: stop - start], self.reading.text.tokens[start:stop])
        there = self.accepted[start:stop]
        return stop - start if there.all() else int(np.argmin(there))

    @property
    def goes_on(self) -> bool:
        """Whether it could draft another token."""
        if self._text is not None and not self._guess:
            return False
        return self.active and self.drafted < self.most and not self.flagged and self._open

    @property
    def prob(self) -> float:
        """The draft's probability of the token that it would draft next."""
        place = min(self.position + self.drafted, self.length - 1)
        return 1.0 if self._text is not None else float(self.reading.probs[place])

    def draft(self) -> None:
        """It drafts a token."""
        place = self.position + self.drafted
        self.drafted += 1
        self.flagged = self._flags is not None and place < self.length and bool(self._flags[place])

    def finish(self) -> Round:
        """The round, after which the text is at the next one."""
        found = self._trusting() if self.method.skips_verification else self._verified()
        self.position += found.written
        return found

    def _verified(self) -> Round:
        run, left = self._run(), self.length - self.position
        bonus = self.method.adds_bonus and self._open
        written = min(left, run + (run < self.drafted or bonus))
        return Round(self.position, self.drafted, min(run, written), written, self.drafted + bonus)

    def _trusting(self) -> Round:
        start, written = self.position, min(self.drafted, self.length - self.position)
        trusted = written - self.flagged
        there = self.accepted[start : start + written]
        accepted = int(self.flagged and bool(there[-1]))
        changed = int((~there[:trusted]).sum())
        return Round(start, self.drafted, accepted, written, int(self.flagged), trusted, changed)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two beginnings share."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def rounds(reading: Reading, method: Method, accepted: Bools) -> Iterator[Round]:
    """The rounds of a text. Arguments as of `Walk`; a method that is adaptive is taken with its fixed length."""
    walk = Walk(reading, method.fixed(), accepted)
    while walk.active:
        walk.begin()
        while walk.goes_on:
            walk.draft()
        yield walk.finish()


@dataclass
class Counted:
    """What was counted over texts.

    Attributes:
        tokens, rounds, target_calls: tokens written, rounds, and those of them that called the target.
        drafted, accepted, recovered, bonus, trusted: tokens by what became of them.
        texts, changed: texts, and those with a trusted token that the target would have chosen otherwise.
        verified_at, accepted_at: by the place in the draft, from 0: tokens whose turn came, and those accepted.
    """

    tokens: int = 0
    rounds: int = 0
    target_calls: int = 0
    drafted: int = 0
    accepted: int = 0
    recovered: int = 0
    bonus: int = 0
    trusted: int = 0
    texts: int = 0
    changed: int = 0
    verified_at: list[int] = field(default_factory=list)
    accepted_at: list[int] = field(default_factory=list)

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted / verified drafted tokens."""
        verified = self.accepted + self.recovered
        return self.accepted / verified if verified else None

    @property
    def tokens_per_call(self) -> float | None:
        return self.tokens / self.target_calls if self.target_calls else None

    def add(self, one: Round) -> None:
        self.tokens += one.written
        self.rounds += 1
        self.target_calls += one.scored > 0
        self.drafted += one.drafted
        self.accepted += one.accepted
        self.trusted += one.trusted
        own = one.written - one.accepted - one.trusted  # System 2's own token
        verified = one.drafted - one.trusted
        self.recovered += own if one.accepted < verified else 0
        self.bonus += 0 if one.accepted < verified else own
        if one.trusted == 0 and verified:
            self._place(one.accepted, one.accepted + (own if one.accepted < verified else 0))

    def _place(self, accepted: int, verified: int) -> None:
        missing = verified - len(self.verified_at)
        self.verified_at += [0] * missing
        self.accepted_at += [0] * missing
        for j in range(verified):
            self.verified_at[j] += 1
            self.accepted_at[j] += j < accepted


def count(readings: Sequence[Reading], method: Method, best: bool = False) -> Counted:
    """The counts of a method over texts; `best`: by the upper bounds of what is accepted."""
    total = Counted()
    for number, reading in enumerate(readings):
        changed = 0
        for one in rounds(reading, method, reading.accepted(number, best)):
            total.add(one)
            changed += one.changed
        total.texts, total.changed = total.texts + 1, total.changed + (changed > 0)
    return total
