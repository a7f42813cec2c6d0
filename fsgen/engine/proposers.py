"""What drafts: a model, or a look-up in the text so far. Both may serve rows of one batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from fsgen.backends.protocol import TokenIds, Writer
from fsgen.engine.batch import Batch, Group
from fsgen.engine.draft_length import UNKNOWN_LENGTH
from fsgen.engine.round import complete_bonus
from fsgen.engine.sequence import Sequence
from fsgen.engine.trace import TraceBuffer
from fsgen.methods.method import MAX_ADAPTIVE
from fsgen.probs import DRAFT, sample, window


class Proposer(Protocol):
    """What drafts tokens for some rows of a batch."""

    def propose(self, batch: Batch, groups: list[Group]) -> Tensor | None:
        """Appends drafted tokens to the texts of these groups.

        Returns:
            p's logits at these tokens, [rows, n, vocab] of all rows of the batch, left-aligned; None if there are none.
        """
        ...


def _most(group: Group) -> int:
    return MAX_ADAPTIVE if group.adaptive is not None else group.method.draft_tokens


def _may_draft(one: Sequence, most: int) -> bool:
    return one.active and not one.flagged and one.drafted < min(most, one.remaining) and not one.draft_ends_text


def _append(group: Group, one: Sequence, token: int, prob: float) -> None:
    one.ids.append(token)
    one.drafted += 1
    if group.adaptive is not None:
        one.draft_probs.append(prob)
        one.acceptance *= group.adaptive.acceptance.chance(prob)


class ModelProposer:
    """The draft model writes the tokens, in one call a token for all rows.

    Its next call also tells what it would have chosen at a bonus token.

    Args:
        traces: completes the records of a text.
    """

    def __init__(self, traces: Callable[[Sequence], TraceBuffer]) -> None:
        self._traces = traces

    def propose(self, batch: Batch, groups: list[Group]) -> Tensor | None:
        """See `Proposer.propose`."""
        logits: list[Tensor] = []
        step = 0
        while True:
            writing, pending = [False] * len(batch), [False] * len(batch)
            for group in groups:
                most = _most(group)
                may = [_may_draft(one, most) for one in group.sequences]
                if not group.drafting or (group.adaptive is not None and not self._goes_on(group, step, may)):
                    may = [False] * len(may)
                for row, one, writes in zip(group.rows, group.sequences, may, strict=True):
                    writing[row] = writes
                    pending[row] = step == 0 and one.pending_bonus is not None
            if not any(writing) and not any(pending):
                break
            z, tokens, probs = self._call(batch, groups, step, writing, pending)
            if not any(writing):
                break
            for group in groups:
                self._append(group, z, tokens, probs, writing)
            logits.append(z)
            step += z.shape[1]
        drafted = max((one.drafted for group in groups for one in group.sequences), default=0)
        if not drafted:
            return None
        return (torch.cat(logits, 1) if len(logits) > 1 else logits[0])[:, :drafted]

    def _goes_on(self, group: Group, step: int, may: list[bool]) -> bool:
        assert group.adaptive is not None
        chances = [one.acceptance for one, writes in zip(group.sequences, may, strict=True) if writes]
        return group.adaptive.goes_on(step, chances)

    def _call(
        self, batch: Batch, groups: list[Group], step: int, writing: list[bool], pending: list[bool]
    ) -> tuple[Tensor, list[list[int]], list[list[float]]]:
        """One call of the draft: its next token in every row that writes, or several where its session can.

        Returns:
            p's logits [rows, n, vocab]; of each row its tokens, n at most, and their probabilities.
        """
        # A row that ended with a bonus takes part once more, without it, for what the draft would have chosen.
        sequences: list[TokenIds | None] = [
            None if one is None else one.ids if writes else one.ids[:-1] if waits else None
            for one, writes, waits in zip(batch.sequences, writing, pending, strict=True)
        ]
        last = [1 + (writes and waits) for writes, waits in zip(writing, pending, strict=True)]
        session, started = batch.session("draft"), time.perf_counter()
        tokens: list[list[int]] = []
        probs: list[list[float]] = []
        active = [group for group in groups if any(writing[row] for row in group.rows)]
        if self._can_write(batch, active):
            counts = self._counts(batch, active, step, writing)
            limit = active[0].adaptive.limit if active[0].adaptive is not None else None
            logits, further, tokens, probs = cast(Writer, session).write(sequences, last, counts, limit, batch.ends())
            z = torch.cat([logits[:, -1:], further], 1) if further.shape[1] else logits[:, -1:]
        else:
            logits = session.score(sequences, last)
            z = logits[:, -1:]
        logits, z = batch.shared(logits), batch.shared(z)
        elapsed = time.perf_counter() - started
        batch.spent["draft"] += elapsed
        self._learn(batch, active, step, elapsed, z.shape[1])
        if any(pending):
            self._complete(groups, logits, writing, pending)
        if not tokens:
            tokens = self._choose(batch, active, z)
        if not probs and any(group.adaptive is not None for group in active):
            probs = z.softmax(-1).amax(-1).tolist()
        return z, tokens, probs

    def _can_write(self, batch: Batch, groups: list[Group]) -> bool:
        """Whether the draft's session may go on by itself: nobody is consulted between two tokens."""
        draft = batch.members.draft
        assert draft is not None
        # The most likely token of padded logits might be none of the tokens that all members know.
        able = draft.capabilities.writes and draft.vocab_size == batch.vocab
        alike = len(groups) == 1 or all(group.adaptive is None for group in groups)
        greedy = all(group.transforms.all_greedy and group.method.stopping_router is None for group in groups)
        return bool(groups) and able and alike and greedy

    def _counts(self, batch: Batch, groups: list[Group], step: int, writing: list[bool]) -> list[int]:
        counts = [0] * len(batch)
        for group in groups:
            unknown = group.adaptive is not None and group.adaptive.limit is None
            most = UNKNOWN_LENGTH if unknown else _most(group)
            for row, one in zip(group.rows, group.sequences, strict=True):
                counts[row] = min(most - step, one.remaining - one.drafted) if writing[row] else 0
        return counts

    def _learn(self, batch: Batch, groups: list[Group], step: int, seconds: float, tokens: int) -> None:
        for group in groups:
            # Where the draft reads more than the last tokens first, its time says nothing of what a token takes.
            caught_up = group.adaptive is not None and group.adaptive.caught_up and not batch.reads_prompts
            if group.adaptive is not None and (step > 0 or (tokens > 1 and caught_up)):
                group.adaptive.draft_call.learn(1, seconds / tokens)

    def _choose(self, batch: Batch, groups: list[Group], z: Tensor) -> list[list[int]]:
        """The draft's tokens [rows][1] from its logits [rows, 1, vocab]."""
        tokens: list[list[int]] = [[] for _ in range(len(batch))]
        for group in groups:
            mine = group.of(z)
            if group.transforms.all_greedy:
                chosen = mine.argmax(-1)
            else:
                positions = np.array([[one.written + one.drafted] for one in group.sequences])
                if group.verifier.couples:
                    chosen = group.transforms.race(mine, group.seeds, positions)
                else:
                    chosen = sample(group.transforms.drawn(mine), group.uniforms(positions, DRAFT))
            for row, token in zip(group.rows, chosen.tolist(), strict=True):
                tokens[row] = token
        return tokens

    def _append(
        self, group: Group, z: Tensor, tokens: list[list[int]], probs: list[list[float]], writing: list[bool]
    ) -> None:
        """Each row takes what was drafted, as far as its text goes. Where a router decides, that is one token."""
        if not any(writing[row] for row in group.rows):
            return
        router, flags = group.method.stopping_router, None
        if router is not None:
            positions = np.array([one.written + one.drafted for one in group.sequences])
            flags = router.consult(group.of(z)[:, 0], positions, group.seeds)
        for i, (row, one) in enumerate(zip(group.rows, group.sequences, strict=True)):
            if not writing[row]:
                continue
            for j, token in enumerate(tokens[row]):
                _append(group, one, token, probs[row][j] if probs else 1.0)
                if token in one.ends:
                    break
            one.flagged = flags is not None and flags[i]

    def _complete(self, groups: list[Group], logits: Tensor, writing: list[bool], pending: list[bool]) -> None:
        """The bonus tokens of the round before learn what the draft would have chosen."""
        # A row that goes on drafting was called for two positions, the bonus token's and the one after it.
        back = [2 if writes and waits else 1 for writes, waits in zip(writing, pending, strict=True)]
        p = window(logits, [logits.shape[1] - n for n in back], 1)
        for group in groups:
            for row, one in zip(group.rows, group.sequences, strict=True):
                if pending[row]:
                    complete_bonus(one, p[row], 0, self._traces(one), group.transforms)


class NgramProposer:
    """Drafts what followed the last tokens where they stood before in the text (prompt lookup, Saxena 2023).

    The longest match counts, and of these the latest. Its p is a one-hot, so that rejection sampling stays lossless.
    """

    def propose(self, batch: Batch, groups: list[Group]) -> Tensor | None:
        """See `Proposer.propose`."""
        for group in groups:
            if group.drafting:
                self._draft(group)
        drafted = [0 if one is None or not one.method.ngram else one.drafted for one in batch.sequences]
        if not any(drafted):
            return None
        p = torch.full((len(batch), max(drafted), batch.vocab), -torch.inf, device=batch.device)
        p[..., 0] = 0.0  # a distribution too where nobody drafted
        for row, one in enumerate(batch.sequences):
            if one is not None and drafted[row]:
                p[row, : drafted[row], 0] = -torch.inf
                tokens = torch.tensor(one.ids[len(one.ids) - drafted[row] :], device=batch.device)
                p[row, : drafted[row]].scatter_(-1, tokens[:, None], 0.0)
        return p

    def _draft(self, group: Group) -> None:
        most = _most(group)
        found = [
            self.continuation(one, group.method.ngram, min(most, one.remaining)) if one.active else []
            for one in group.sequences
        ]
        for step in range(max(map(len, found), default=0)):
            writing = [
                (one, tokens[step])
                for one, tokens in zip(group.sequences, found, strict=True)
                if step < len(tokens) and _may_draft(one, most)
            ]
            if group.adaptive is not None and not group.adaptive.goes_on(step, [one.acceptance for one, _ in writing]):
                break
            for one, token in writing:
                _append(group, one, token, 1.0)

    def continuation(self, one: Sequence, longest: int, count: int) -> list[int]:
        """The next `count` tokens by the latest match of at most `longest` last tokens; [] where there is none."""
        ids, known = one.ids, one.ngrams
        for end in range(max(1, one.indexed), len(ids)):  # the n-grams that end before `end`, which a token follows
            known |= {tuple(ids[end - n : end]): end for n in range(1, min(longest, end) + 1)}
        one.indexed = len(ids)
        for n in range(min(longest, len(ids)), 0, -1):
            if (after := known.get(tuple(ids[-n:]))) is not None:
                period = len(ids) - after  # what runs beyond the end repeats
                return [ids[after + i % period] for i in range(count)]
        return []
