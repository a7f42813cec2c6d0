"""THE decode loop.

    round:  1. the draft writes up to k tokens, one by one, for every row; it stops early where the router flags one
            2. each System-2 member scores what is to be decided in ONE call; the fusion makes q of it
            3. the verifier keeps a prefix and adds one token from q

Every method is this loop with other parts (`methods`). Rows are ragged and mixed: each has its own method and sampling,
accepts, stops and ends by itself; texts join and leave between two rounds.
"""

from __future__ import annotations

import time
from collections import deque

import torch

from fsgen.backends.members import Members
from fsgen.engine.batch import Batch
from fsgen.engine.proposers import ModelProposer, NgramProposer
from fsgen.engine.round import commit, decide
from fsgen.engine.sequence import Sequence
from fsgen.engine.trace import TraceBuffer
from fsgen.methods.check import check
from fsgen.types import Token


class Engine:
    """Texts on their way: `add` them at any time, `step` until it is `idle`.

    A record is given out when nothing can change it any more: its text cannot be part of a stop string, no rollback
    can reach it, and what the draft would have chosen is known.

    Args:
        members: the models, by role. Engines of several threads may share them: their rounds take turns.
        rows: how many texts are written at a time, at most.
        every_round: records are given out in the round that settles them; else when a text ends, which is faster.
        cache_bytes: what the keys and values of all models may take together; a share of the free memory if None.

    Raises:
        ValueError: rows below 1.
    """

    def __init__(
        self, members: Members, rows: int = 16, *, every_round: bool = True, cache_bytes: int | None = None
    ) -> None:
        if rows < 1:
            raise ValueError(f"rows={rows} is impossible: at least 1")
        self._members, self._rows, self._every_round, self._budget = members, rows, every_round, cache_bytes
        self._waiting: deque[tuple[int, Sequence]] = deque()
        self._running: dict[int, Sequence] = {}
        self._batch: Batch | None = None
        self._longest = 0  # tokens of the longest text that the batch has room for
        self._traces: dict[int, TraceBuffer] = {}
        self._added = self._number = 0
        self._models, self._ngrams = ModelProposer(self._traces_of), NgramProposer()

    def add(self, sequence: Sequence) -> int:
        """Takes a text in; it gets a row when one is free. Gives its id.

        Raises:
            ValueError: see `check`; no room for its keys and values even alone; logits that the method cannot keep.
        """
        method, sampling = sequence.method, sequence.sampling
        check(self._members, method, [sequence.prompt_ids], [sampling])
        if sequence.keep_logits and method.skips_verification:
            raise ValueError(f"method {method.name!r} has no logits of q where it trusts the draft: keep_logits=False")
        self._members.require_full_logits(method.roles)
        self._members.rows_within(method.roles, sequence.longest, 1, self._budget)
        self._added += 1
        self._waiting.append((self._added, sequence))
        return self._added

    def cancel(self, number: int) -> None:
        """Ends a text where it is; its row is free in the next round. Raises ValueError for an unknown id."""
        waiting = [item for item in self._waiting if item[0] == number]
        if not waiting and number not in self._running:
            raise ValueError(f"no text with the id {number} is waiting or running")
        for item in waiting:
            self._waiting.remove(item)
            item[1].stop_reason = "cancelled"
        if (sequence := self._running.pop(number, None)) is not None:
            sequence.stop_reason, sequence.pending_bonus = "cancelled", None
            sequence.held.clear()

    @property
    def idle(self) -> bool:
        """Nothing waits, and all records are given out."""
        return not self._waiting and not self._running

    def step(self) -> list[tuple[int, Token]]:
        """One round: the records (id, token) that it settles, in each text's order.

        If it raises, the texts are as they were before the round: it may be tried again, or texts cancelled.
        """
        with self._members.lock, torch.inference_mode():
            started = time.perf_counter()
            self._admit()
            batch = self._batch
            if batch is None or not (occupied := batch.occupied):
                return self._give()
            try:
                self._round(batch, started)
            except BaseException:
                for sequence in occupied:
                    sequence.forget_draft()
                raise
            given: list[tuple[int, Token]] = []
            ended = not all(sequence.active for sequence in occupied)
            if self._every_round or ended or any(traces.full for traces in self._traces.values()):
                given = self._give()
            elapsed, share = time.perf_counter() - started, 1.0 / len(occupied)
            for sequence in occupied:
                sequence.draft_seconds += share * batch.spent["draft"]
                sequence.system2_seconds += share * batch.spent["system2"]
                sequence.seconds += share * elapsed
            return given

    def close(self) -> None:
        """The sessions go back to the members. What is still running is cancelled."""
        for number in [number for number, _ in self._waiting] + list(self._running):
            self.cancel(number)
        if self._batch is not None:
            self._batch.give_back()
            self._batch = None

    # ---- who has a row

    def _admit(self) -> None:
        """Texts that wait get the free rows, as far as there is room for their keys and values."""
        if not self._waiting:
            return
        if not self._running:
            self._make_batch()
        batch, joined = self._batch, False
        assert batch is not None
        for row in batch.free_rows:
            if not self._waiting or not self._fits(self._waiting[0][1]):
                break
            number, sequence = self._waiting.popleft()
            batch.join(row, sequence, self._number)
            self._running[number] = sequence
            joined = True
        if joined:
            batch.regroup()

    def _make_batch(self) -> None:
        """Rows for what waits, as many as there is room for."""
        roles = {role for _, sequence in self._waiting for role in sequence.method.roles}
        longest = max(sequence.longest for _, sequence in self._waiting)
        if self._batch is not None:
            more_rows = len(self._batch) < self._rows and 2 * longest <= self._longest
            if longest <= self._longest and not more_rows:
                return
            self._batch.give_back()
        rows = self._members.rows_within(roles, longest, self._rows, self._budget)
        self._batch, self._longest = Batch(self._members, rows), longest

    def _fits(self, sequence: Sequence) -> bool:
        """Whether a text has room beside those that run. A longer one makes every row longer."""
        assert self._batch is not None
        if sequence.longest <= self._longest:
            return True
        rows, roles = len(self._batch), sequence.method.roles
        if self._members.rows_within(roles, sequence.longest, rows, self._budget) < rows:
            return False
        self._longest = sequence.longest
        return True

    # ---- a round

    def _round(self, batch: Batch, started: float) -> None:
        batch.spent = {"draft": 0.0, "system2": 0.0}
        working = {id(group): sum(one.active for one in group.sequences) for group in batch.groups}
        written = {id(group): sum(one.written for one in group.sequences) for group in batch.groups}
        for group in batch.groups:
            if group.adaptive is not None:
                group.adaptive.begin_round()
            for one in group.sequences:
                one.drafted, one.flagged, one.draft_probs, one.acceptance = 0, False, [], 1.0
                if group.adaptive is not None and not group.adaptive.drafts:
                    one.pending_bonus = None  # the draft is not asked what it would have chosen either
        p = self._propose(batch)
        for traces in self._traces.values():
            traces.hold(0 if p is None else p.numel())
        for one, result, group in decide(batch, p):
            traces = self._traces_of(one)
            if result.q is not None:
                traces.hold(result.q.numel())
            commit(one, result, traces, self._number, group.adaptive)
        self._number += 1
        models = sum(batch.spent.values())
        # Beside the models it takes less than they do, or something else held it up.
        seconds = models + min(models, time.perf_counter() - started - models)
        for group in batch.groups:
            if group.adaptive is not None:
                usual = not batch.reads_prompts and 4 * working[id(group)] >= 3 * len(batch)
                tokens = sum(one.written for one in group.sequences) - written[id(group)]
                calls = 0 if p is None or not group.drafting else p.shape[1]
                group.adaptive.end_round(seconds, tokens, calls, usual, batch.spent["draft"])
        batch.reads_prompts = False

    def _propose(self, batch: Batch) -> torch.Tensor | None:
        """Lets all that draft do so; p's logits [rows, n, vocab]."""
        drafting = [group for group in batch.groups if group.method.drafts]
        by_model = [group for group in drafting if not group.method.ngram]
        by_ngram = [group for group in drafting if group.method.ngram]
        p = self._models.propose(batch, by_model) if by_model else None
        looked_up = self._ngrams.propose(batch, by_ngram) if by_ngram else None
        if p is None or looked_up is None:
            return looked_up if p is None else p
        both = looked_up.new_zeros(len(batch), max(p.shape[1], looked_up.shape[1]), batch.vocab)
        both[:, : p.shape[1]] = p
        for group in by_ngram:
            both[group.rows, : looked_up.shape[1]] = looked_up[group.rows]
        return both

    # ---- records

    def _traces_of(self, sequence: Sequence) -> TraceBuffer:
        if sequence.candidates not in self._traces:
            self._traces[sequence.candidates] = TraceBuffer(sequence.candidates)
        return self._traces[sequence.candidates]

    def _give(self) -> list[tuple[int, Token]]:
        """The records that nothing can change any more."""
        for traces in self._traces.values():
            traces.settle()
        given = [(number, token) for number, sequence in self._running.items() for token in sequence.give()]
        self._running = {number: one for number, one in self._running.items() if not one.finished}
        return given
