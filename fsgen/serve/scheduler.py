"""The one thread that owns the engine and the models: texts join and leave between its rounds."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from fsgen.backends import Members
from fsgen.engine import Engine
from fsgen.serve.job import FailureError, Job, ServedSequence
from fsgen.serve.limits import Limits
from fsgen.serve.scoring import Scorer
from fsgen.serve.waiting import FairQueue
from fsgen.types import Token

_log = logging.getLogger(__name__)

MOST_LEARNED = 256  # methods and batch sizes whose best draft lengths are remembered: requests may name any number
Update = tuple[int, bool, FailureError | None]  # how many tokens there are, whether it has ended, what went wrong


class RefusedError(Exception):
    """No new work is taken.

    Attributes:
        full: there is no room; else the server is ending, or its models have failed.
        seconds: after which it is worth trying again.
    """

    def __init__(self, message: str, full: bool, seconds: int) -> None:
        self.full, self.seconds = full, seconds
        super().__init__(message)


class Observer(Protocol):
    """Is told what happens; in the engine's thread."""

    def round(self, running: int, waiting: int, tokens: Sequence[Token], seconds: float) -> None: ...
    def ended(self, job: Job) -> None: ...


class Scheduler:
    """Takes jobs from an event loop, runs them, and gives back what they wrote.

    A round never waits for a reader: what it wrote is handed to the loop, which keeps it. That is done at once where a
    text begins or ends, and else every `Limits.interval` seconds: to wake the loop and to send an event take more time
    than the few tokens of a round may be worth.

    Args:
        members: the models.
        limits: how much is taken on.
        observer: is told of every round and of every job that ends.
    """

    def __init__(self, members: Members, limits: Limits, observer: Observer | None = None) -> None:
        self._members, self._limits, self._observer = members, limits, observer
        self._engine, self._scorer = Engine(members, limits.rows), Scorer(members, limits.piece)
        self._condition = threading.Condition()
        # Shared with the event loop, under the condition:
        self._queue, self._gone, self._draining, self._until = FairQueue(), set[Job](), False, math.inf
        # Of the thread alone, but for their lengths:
        self._scoring: list[Job] = []
        self._reading: dict[Job, int] = {}  # prompts that are read in pieces: how many tokens so far
        self._written: dict[int, Job] = {}  # by the engine's ids
        self._given: list[Token] = []  # in this round
        self._updates: dict[Job, Update] = {}  # not handed over yet
        self._pressing, self._handed = False, -math.inf  # one of them should not wait; when the last ones went
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="fsgen-engine", daemon=True)
        self._seconds = 1.0  # that a text takes, on average
        self.fault: str | None = None

    # ---- for the event loop

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts the thread, which hands what it writes to this loop."""
        self._loop = loop
        self._thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Takes the texts of a request in, all or none. Raises RefusedError."""
        with self._condition:
            if self._draining or self.fault is not None:
                raise RefusedError(self.fault or "the server is ending, and takes no new requests", False, 5)
            room = self._limits.queue + max(0, self._limits.rows - self.running) - len(self._queue)
            if len(jobs) > room:
                seconds = self._seconds * (1 + len(self._queue) / self._limits.rows)
                raise RefusedError("too many requests are waiting", True, min(60, max(1, math.ceil(seconds))))
            self._queue.add(jobs)
            self._condition.notify()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Nobody waits for these any more; their rows are free in the next round."""
        with self._condition:
            self._gone.update(job for job in jobs if not job.done)
            self._condition.notify()

    def drain(self) -> None:
        """Takes no new work; what is there is finished, within the limit, and then the thread ends."""
        with self._condition:
            if not self._draining:
                self._draining, self._until = True, time.monotonic() + self._limits.drain
            self._condition.notify()

    def join(self, seconds: float) -> bool:
        """Waits for the thread to end, so long; whether it did."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def running(self) -> int:
        """Texts that have a row, or whose prompts are being scored."""
        return len(self._written) + len(self._scoring)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def draining(self) -> bool:
        return self._draining

    # ---- the thread

    def _run(self) -> None:
        try:
            while self._wait():
                self._round()
                self._hand_over()
        except Exception as error:  # nobody may be left waiting
            _log.exception("the engine's thread has failed")
            self.fault = f"the engine has failed: {error}"
        with self._condition:
            self._draining = True
            left = [*self._queue, *self._scoring, *self._written.values()]
        for job in left:
            self._end(job, FailureError("model" if self.fault else "stopping", self.fault or "the server has ended"))
        self._hand_over()
        with suppress(Exception):  # after a fault nothing is sure
            self._engine.close()

    def _wait(self) -> bool:
        """Sleeps until there is work; False where the thread is to end."""
        with self._condition:
            while not (self._queue or self._gone or self._draining or self.running):
                self._condition.wait()
            ended = self._draining and not (self._queue or self.running)
            return not ended and time.monotonic() < self._until

    def _round(self) -> None:
        self._drop()
        self._admit()
        started, self._given = time.monotonic(), []
        self._score_piece()
        if not self._engine.idle:
            self._step()
        if self._observer is not None:
            self._observer.round(self.running, self.waiting, self._given, time.monotonic() - started)
        if len(self._members.draft_lengths) > MOST_LEARNED:
            self._members.draft_lengths.clear()

    def _drop(self) -> None:
        """Takes out the jobs that nobody waits for, and those whose time is up."""
        now = time.monotonic()
        with self._condition:
            gone, self._gone = self._gone, set()
            jobs = [*self._queue, *self._scoring, *self._written.values()]
        late = [job for job in jobs if job.deadline <= now and job not in gone]
        for job in gone:
            self._end(job, FailureError("cancelled", "the client went away"))
        for job in late:
            self._end(job, FailureError("time", "the time for this request is up"))

    def _admit(self) -> None:
        """Jobs that wait get the free rows."""
        while True:
            with self._condition:
                if not self._queue or self.running >= self._limits.rows:
                    return
                job = self._queue.next()
                job.started = time.monotonic()
                if job.scores is not None and not job.scores.done:
                    self._scoring.append(job)
                    continue
            self._add(job)

    def _add(self, job: Job) -> None:
        """A text goes to the engine; a long prompt is read in pieces first."""
        one = job.sequence
        if one is None:
            self._end(job, None)
            return
        one.paused = one.prompt_length > self._limits.piece
        try:
            number = self._engine.add(one)
        except Exception as error:  # whatever a member's check raises is this text's alone
            self._end(job, FailureError("model", str(error)))
            return
        with self._condition:
            self._written[number] = job
            if one.paused:
                self._reading[job] = 0

    def _score_piece(self) -> None:
        """Reads the next piece of a prompt that is to be scored; the prompts take turns."""
        if not self._scoring:
            return
        job = self._scoring[0]
        assert job.scores is not None
        failure = None
        try:
            self._scorer.read(job.scores)
        except Exception as error:
            _log.warning("a prompt could not be scored: %s", error)
            failure = FailureError("model", str(error))
        with self._condition:
            del self._scoring[0]
            if failure is None and not job.scores.done:
                self._scoring.append(job)
        if failure is not None:
            self._end(job, failure)
        elif job.scores.done:
            self._add(job)

    def _read_prompts(self) -> None:
        """Reads the next piece of each long prompt that has its row, ahead of the round that needs it."""
        pieces: dict[int, int] = {}
        for job, read in list(self._reading.items()):
            one = job.sequence
            if one is None or not one.usage:
                continue  # it has no row yet
            self._reading[job] = read = read + self._limits.piece
            if read + self._limits.piece >= one.prompt_length:
                del self._reading[job]
                one.paused = False  # the round reads the rest
            pieces[one.number] = min(read, one.prompt_length - 1)
        if pieces:
            self._engine.read(pieces)

    def _step(self) -> None:
        """A round of the engine. Where it fails, each text has a round alone, and those that fail again end."""
        try:
            self._read_prompts()
            self._collect(self._engine.step())
        except Exception as error:
            _log.warning("a round failed, and each text goes on alone: %s", error)
            self._one_by_one(error)

    def _one_by_one(self, error: Exception) -> None:
        texts = [(job, job.sequence) for job in self._written.values() if job.sequence is not None]
        for job, one in texts:
            one.sit_out()
            if not one.usage:  # it has no row: it begins anew, or fails where it failed to get one twice
                self._restart(job, one, error)
        for job, one in texts:
            if job.ended is None and one.usage:
                one.paused = False
                self._reading.pop(job, None)
                try:
                    self._collect(self._engine.step())
                except Exception as fault:
                    self._end(job, FailureError("model", str(fault)))
                one.sit_out()
        for _, one in texts:
            one.paused = False

    def _restart(self, job: Job, one: ServedSequence, error: Exception) -> None:
        """A text that has not begun waits again; the second time it fails."""
        if job.restarted:
            self._end(job, FailureError("model", str(error)))
            return
        self._engine.cancel(one.number)
        job.restarted = True
        job.sequence = ServedSequence(one.prompt_ids, one.method, one.sampling, one.kept[0])
        with self._condition:
            self._written.pop(one.number)
            self._reading.pop(job, None)
            self._queue.back(job)

    def _collect(self, given: list[tuple[int, Token]]) -> None:
        """Tokens go to their jobs, and jobs that have ended leave."""
        fresh, now = list[Job](), time.monotonic()
        for number, token in given:
            if (job := self._written.get(number)) is not None:
                if not fresh or fresh[-1] is not job:
                    fresh.append(job)
                    if job.first is None:
                        job.first, self._pressing = now, True
                job.tokens.append(token)
                self._given.append(token)
        for job in fresh:
            one = job.sequence
            if one is not None and one.finished and len(job.tokens) == one.written:
                self._end(job, None)
            else:
                self._updates[job] = len(job.tokens), False, None

    def _end(self, job: Job, failure: FailureError | None) -> None:
        """A job leaves, wherever it is; twice is once."""
        if job.ended is not None:
            return
        job.ended, job.failure = time.monotonic(), failure
        if job.started is not None and failure is None:
            self._seconds += 0.1 * (job.ended - job.started - self._seconds)
        one = job.sequence
        with self._condition:
            self._queue.remove(job)
            if job in self._scoring:
                self._scoring.remove(job)
            self._reading.pop(job, None)
            known = one is not None and self._written.pop(one.number, None) is not None
        if one is not None and known and not one.finished:
            self._engine.cancel(one.number)
        self._updates[job], self._pressing = (len(job.tokens), True, failure), True
        if self._observer is not None:
            self._observer.ended(job)

    def _hand_over(self) -> None:
        """What was written since goes to the event loop, in one call, where it is time."""
        now = time.monotonic()
        if not self._updates or not (self._pressing or now >= self._handed + self._limits.interval):
            return
        updates, self._updates, self._pressing, self._handed = self._updates, {}, False, now
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_deliver, updates)


def _deliver(updates: Mapping[Job, Update]) -> None:
    for job, update in updates.items():
        job.hear(*update)
