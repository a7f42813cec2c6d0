"""One text of a request, on its way between the event loop and the thread that runs the models."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from fsgen.engine import Sequence
from fsgen.methods.method import Method
from fsgen.serve.scoring import Scores
from fsgen.types import SamplingParams, Token


class ServedSequence(Sequence):
    """A text that can sit out a round, and that remembers how many drafted tokens each round had to verify.

    Attributes:
        paused: it takes no part in rounds.
        verified: drafted tokens that System 2 had to verify, by round.
    """

    def __init__(self, prompt_ids: list[int], method: Method, sampling: SamplingParams, candidates: int = 0) -> None:
        self.paused = False
        self.verified: dict[int, int] = {}
        super().__init__(prompt_ids, method, sampling, candidates)

    @property
    def open(self) -> bool:
        return not self.paused and super().open

    def forget_draft(self) -> None:
        if self.drafted and self.to_verify:
            self.verified[self.rounds] = self.to_verify
        super().forget_draft()

    def sit_out(self) -> None:
        """Takes no part in the next rounds; what the draft would have chosen at its last token is not asked for."""
        self.paused, self.pending_bonus = True, None


class FailureError(Exception):
    """Why a text was not finished.

    Attributes:
        kind: `model` (the models failed at this text), `time` (its time is up), `stopping` (the server ends),
            `cancelled` (its client went away).
    """

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)


@dataclass(eq=False, slots=True)
class Job:
    """One text of a request. The event loop makes it and reads it; in between the engine's thread has it.

    Attributes:
        sequence: the text to be written; None where only a prompt is scored.
        client: whose it is, for fairness.
        deadline: when its time is up, by `time.monotonic`.
        changed: set whenever it has something new.
        scores: what is wanted of its prompt, and found; None where nothing is.
        tokens: records that were given out; the engine's thread appends to them.
        known: how many of them the event loop has heard of.
        restarted: it was given to the engine once more, after a round failed in which it was to begin.
        done: nothing more will come.
        failure: why it was not finished.
        arrived, started, first, ended: times, by `time.monotonic`; None where not reached.
    """

    sequence: ServedSequence | None
    client: str
    deadline: float
    changed: asyncio.Event
    scores: Scores | None = None
    tokens: list[Token] = field(default_factory=list)
    known: int = 0
    restarted: bool = False
    done: bool = False
    failure: FailureError | None = None
    arrived: float = field(default_factory=time.monotonic)
    started: float | None = None
    first: float | None = None
    ended: float | None = None

    def hear(self, known: int, done: bool, failure: FailureError | None) -> None:
        """What the engine's thread has for it; in the event loop."""
        self.known, self.done, self.failure = known, done, failure
        self.changed.set()
