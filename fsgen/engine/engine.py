"""THE decode loop.

    round:  1. the draft writes up to k tokens, one by one, for every row; it stops early where the router flags one
            2. each System-2 member scores what is to be decided in ONE call; the fusion makes q of it
            3. the verifier keeps a prefix and adds one token from q

Every method is this loop with other parts (`methods`). Rows are ragged and mixed: each has its own method and sampling,
accepts, stops and ends by itself; texts join and leave between two rounds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice

import torch
from torch import Tensor

from fsgen.backends.members import Members
from fsgen.engine.batch import Batch, Group
from fsgen.engine.proposers import ModelProposer, NgramProposer
from fsgen.engine.round import commit, decide
from fsgen.engine.sequence import Sequence
from fsgen.engine.trace import HOLD
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
        self._waiting: dict[int, Sequence] = {}
        self._running: dict[int, Sequence] = {}
        self._batch: Batch | None = None
        self._added = 0

    def add(self, sequence: Sequence) -> int:
        """Takes a text in; it gets a row when one is free. Gives its id.

        Raises:
            ValueError: see `check`; no room for its keys and values even alone; logits that the method cannot keep; a
                text that was added before.
        """
        method = sequence.method
        check(self._members, method, [sequence.prompt_ids], [sequence.sampling])
        if sequence.number:
            raise ValueError(f"text {sequence.number} was added before: make another `Sequence` of it")
        if sequence.keep_logits and method.skips_verification:
            raise ValueError(f"method {method.name!r} has no logits of q where it trusts the draft: keep_logits=False")
        self._members.rows_within(method.roles, sequence.longest, 1, self._budget)
        self._added += 1
        sequence.number = self._added
        self._waiting[self._added] = sequence
        return self._added

    def cancel(self, number: int) -> None:
        """Ends a text where it is; its row is free in the next round. Raises ValueError for an unknown id."""
        sequence = self._waiting.pop(number, None) or self._running.pop(number, None)
        if sequence is None:
            raise ValueError(f"no text with the id {number} is waiting or running")
        sequence.cancel()

    def read(self, beginnings: Mapping[int, int]) -> None:
        """Reads so many tokens of the prompts of texts, by id, in one call of each member, ahead of their rounds.

        A text that waits for a row is left alone. One that sits out rounds meanwhile holds up no other (`fsgen.serve`).
        """
        with self._members.lock, torch.inference_mode():
            if self._batch is not None:
                self._batch.read({self._running[n]: count for n, count in beginnings.items() if n in self._running})

    def close(self) -> None:
        """The sessions go back to the members. What is still waiting or running is cancelled."""
        for number in [*self._waiting, *self._running]:
            self.cancel(number)
        if self._batch is not None:
            self._batch.give_back()
        self._batch = None

    @property
    def idle(self) -> bool:
        """Nothing waits, and all records are given out."""
        return not self._waiting and not self._running

    def step(self) -> list[tuple[int, Token]]:
        """One round: the records (id, token) that it settles, in each text's order.

        If it raises, each text keeps the tokens that were decided: it may be tried again, or texts cancelled.
        """
        with self._members.lock, torch.inference_mode():
            started = time.perf_counter()
            batch = self._admit()
            if batch is None:
                return []
            if not (occupied := [one for one in batch.sequences if one is not None and one.occupied]):
                return self._give(batch)
            try:
                batch.begin_round()
                p = self._propose(batch)
                for group, one, result in decide(batch, p):
                    commit(one, result, batch.traces, group.adaptive)
                batch.end_round(time.perf_counter() - started)
            except BaseException:
                for one in occupied:
                    one.forget_draft()
                raise
            ended = not all(one.active for one in occupied)
            given = self._give(batch) if self._every_round or ended or batch.traces.held > HOLD else []
            elapsed, share = time.perf_counter() - started, 1.0 / len(occupied)
            for one in occupied:
                one.draft_seconds += share * batch.spent["draft"]
                one.system2_seconds += share * batch.spent["system2"]
                one.seconds += share * elapsed
            return given

    def _propose(self, batch: Batch) -> Tensor | None:
        """Lets all that draft do so; p's logits [rows, n, vocab] at their tokens, None if there are none."""
        found: list[tuple[Tensor, list[Group]]] = []
        for proposer, ngram in ((ModelProposer(), False), (NgramProposer(), True)):
            groups = [group for group in batch.groups if group.method.drafts and bool(group.method.ngram) == ngram]
            if groups and (p := proposer.propose(batch, groups)) is not None:
                found.append((p, groups))
        if len(found) < 2:
            return found[0][0] if found else None
        both = torch.zeros(batch.rows, max(p.shape[1] for p, _ in found), batch.vocab, device=batch.device)
        for p, groups in found:
            for group in groups:
                both[group.rows, : p.shape[1]] = p[group.rows]
        return both

    def _give(self, batch: Batch) -> list[tuple[int, Token]]:
        """The records that nothing can change any more."""
        batch.traces.settle()
        given = [(number, token) for number, sequence in self._running.items() for token in sequence.give()]
        self._running = {number: one for number, one in self._running.items() if not one.finished}
        return given

    # ---- who has a row

    def _admit(self) -> Batch | None:
        """Texts that wait get the free rows, as far as there is room for their keys and values."""
        if self._waiting and not self._running:
            self._make_batch()
        batch = self._batch
        if batch is not None and self._waiting:
            ended = {
                row: one.number if one else 0 for row, one in enumerate(batch.sequences) if not one or not one.occupied
            }
            free = sorted(ended, key=ended.__getitem__)  # beginnings in rows of late texts may be wanted again
            for row, one in zip(free, list(islice(self._waiting.values(), len(free))), strict=False):
                if not self._fits(batch, one):
                    break
                batch.join(row, one)
                self._running[one.number] = self._waiting.pop(one.number)
        return batch

    def _make_batch(self) -> None:
        """Rows for all that wait, or else for the first one; those at hand if they are long enough, and not too few."""
        texts, batch = list(self._waiting.values()), self._batch
        roles, longest = {role for one in texts for role in one.method.roles}, max(one.longest for one in texts)
        if batch is not None:
            too_few = batch.rows < self._rows and 2 * longest <= batch.longest
            if roles <= batch.roles and longest <= batch.longest and not too_few:
                return
            batch.give_back()
            self._batch = None
        try:
            rows = self._members.rows_within(roles, longest, self._rows, self._budget)
        except ValueError:  # each has room alone, but no row has room for any of them
            roles, longest = set(texts[0].method.roles), texts[0].longest
            rows = self._members.rows_within(roles, longest, self._rows, self._budget)
        self._batch = Batch(self._members, rows, roles, longest)

    def _fits(self, batch: Batch, sequence: Sequence) -> bool:
        """Whether a text has room beside those that run: a longer one, or another member, takes it in every row."""
        roles, longest = batch.roles.union(sequence.method.roles), max(batch.longest, sequence.longest)
        if (roles, longest) != (batch.roles, batch.longest):
            rows = 0
            with suppress(ValueError):  # not even one
                rows = self._members.rows_within(roles, longest, batch.rows, self._budget)
            if rows < batch.rows:
                return False
            batch.roles, batch.longest = roles, longest
        return True
