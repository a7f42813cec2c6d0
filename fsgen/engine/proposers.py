"""What drafts: a model, or a look-up in the text so far. Both may serve rows of one batch."""

from __future__ import annotations

import time
from typing import Protocol, cast

import torch
from torch import Tensor

from fsgen.backends.protocol import TokenIds, Writer
from fsgen.engine.batch import Batch, Group
from fsgen.engine.round import complete_bonus
from fsgen.engine.sequence import Sequence
from fsgen.engine.trace import TraceBuffer
from fsgen.probs import DRAFT, sample


class Proposer(Protocol):
    """What drafts tokens for some rows of a batch."""

    def propose(self, batch: Batch, groups: list[Group]) -> Tensor | None:
        """Appends drafted tokens to the texts of these groups.

        Returns:
            p's logits at these tokens, [rows, n, vocab] of all rows of the batch, left-aligned; None if there are none.
        """
        ...


class ModelProposer:
    """The draft model writes the tokens, in one call a token for all rows.

    Its next call also tells what it would have chosen at a bonus token.

    Args:
        traces: completes the records of bonus tokens.
    """

    def __init__(self, traces: TraceBuffer) -> None:
        self._traces = traces

    def propose(self, batch: Batch, groups: list[Group]) -> Tensor | None:
        """See `Proposer.propose`."""
        parts: list[Tensor] = []
        step = 0
        while True:
            writing = [group for group in groups if group.choose(step, group.sequences)]
            if not writing and not any(one is not None and one.pending_bonus is not None for one in batch.sequences):
                break
            z, tokens, probs = self._call(batch, groups, writing, step)
            if not writing:
                break
            for group in writing:
                _append(group, group.of(z), tokens, probs)
            parts.append(z)
            step += z.shape[1]
        drafted = max((one.drafted for group in groups for one in group.sequences), default=0)
        if not drafted:
            return None
        return (torch.cat(parts, 1) if len(parts) > 1 else parts[0])[:, :drafted]

    def _call(
        self, batch: Batch, groups: list[Group], writing: list[Group], step: int
    ) -> tuple[Tensor, list[list[int]], list[list[float]]]:
        """One call of the draft: its next token in every row that writes, or several where its session can.

        Returns:
            p's logits [rows, n, vocab]; where the session has chosen, each row's tokens, n at most, and their
            probabilities.
        """
        sequences: list[TokenIds | None] = [None] * len(batch)
        last = [1] * len(batch)
        for row, one in enumerate(batch.sequences):
            if one is not None and one.writes:
                sequences[row], last[row] = one.ids, 1 + (one.pending_bonus is not None)
            elif one is not None and one.pending_bonus is not None:  # takes part for what it would have chosen there
                sequences[row] = one.ids[:-1]
        tokens: list[list[int]] = []
        probs: list[list[float]] = []
        session, started = batch.session("draft"), time.perf_counter()
        if _can_write(batch, writing):
            limit = None if writing[0].adaptive is None else writing[0].adaptive.limit
            steps = _steps(batch, writing)
            logits, further, tokens, probs = cast(Writer, session).write(sequences, last, steps, limit, batch.ends)
            z = torch.cat([logits[:, -1:], further], 1) if further.shape[1] else logits[:, -1:]
        else:
            logits = session.score(sequences, last)
            z = logits[:, -1:]
        logits, z = batch.shared(logits), batch.shared(z)
        seconds = time.perf_counter() - started
        batch.spent["draft"] += seconds
        for group in writing:
            # The first call of a round also reads what the draft has missed: its time says little of a token's.
            if group.adaptive is not None:
                little = z.shape[1] > 1 and group.adaptive.caught_up and not batch.reads_prompts
                if step or little:
                    group.adaptive.draft_call.learn(1, seconds / z.shape[1])
        for group in groups:
            for row, one in zip(group.rows, group.sequences, strict=True):
                if one.pending_bonus is not None:
                    complete_bonus(one, logits[row], logits.shape[1] - last[row], self._traces, group.transforms)
        return z, tokens, probs


def _can_write(batch: Batch, groups: list[Group]) -> bool:
    """Whether the draft's session may go on by itself: nobody is consulted between two tokens."""
    draft = batch.members.draft
    assert draft is not None
    # The most likely token of padded logits might be none of the tokens that all members know.
    able = draft.capabilities.writes and draft.vocab_size == batch.vocab
    alike = len(groups) == 1 or all(group.adaptive is None for group in groups)
    greedy = all(group.transforms.all_greedy and group.method.stopping_router is None for group in groups)
    return bool(groups) and able and alike and greedy


def _steps(batch: Batch, groups: list[Group]) -> list[int]:
    """How many tokens each row drafts on, at most."""
    steps = [0] * len(batch)
    for group in groups:
        for row, one in zip(group.rows, group.sequences, strict=True):
            steps[row] = min(group.most, one.remaining) - one.drafted if one.writes else 0
    return steps


def _append(group: Group, z: Tensor, tokens: list[list[int]], probs: list[list[float]]) -> None:
    """Each row that writes takes what was drafted, as far as its text goes; a router stops it after one token.

    Args:
        group: whose rows draft.
        z: p's logits, [rows of the group, n, vocab].
        tokens, probs: of all rows of the batch, where the session has chosen; else none.
    """
    chosen = [tokens[row] for row in group.rows] if tokens else _choose(group, z).tolist()
    if probs:
        probs = [probs[row] for row in group.rows]
    elif group.adaptive is not None:
        probs = z.softmax(-1).amax(-1).tolist()
    router, flags = group.method.stopping_router, None
    if router is not None:
        flags = router.consult(z[:, 0], group.positions()[:, 0], group.seeds)
    for i, one in enumerate(group.sequences):
        if one.writes:
            for j, token in enumerate(chosen[i]):
                group.append(one, token, probs[i][j] if probs else 1.0)
                if token in one.ends:
                    break
            one.flagged = flags is not None and flags[i]


def _choose(group: Group, z: Tensor) -> Tensor:
    """The draft's tokens [rows, 1] from its logits [rows, 1, vocab]."""
    if group.transforms.all_greedy:
        return z.argmax(-1)
    if group.verifier.couples:
        return group.transforms.race(z, group.seeds, group.positions())
    return sample(group.transforms.drawn(z), group.uniforms(group.positions(), DRAFT))


class NgramProposer:
    """Drafts what followed the last tokens where they stood before in the text (prompt lookup, Saxena 2023).

    The longest match counts, and of these the latest. Its p is a one-hot, so that rejection sampling stays lossless.
    """

    def propose(self, batch: Batch, groups: list[Group]) -> Tensor | None:
        """See `Proposer.propose`."""
        for group in groups:
            self._draft(batch, group)
        drafted = [
            one.ids[len(one.ids) - one.drafted :] if one is not None and one.method.ngram else []
            for one in batch.sequences
        ]
        if not any(drafted):
            return None
        most = max(map(len, drafted))
        ids = torch.tensor([tokens + [0] * (most - len(tokens)) for tokens in drafted], device=batch.device)
        p = torch.full((*ids.shape, batch.vocab), -torch.inf, device=batch.device)
        return p.scatter_(-1, ids[..., None], 0.0)

    def _draft(self, batch: Batch, group: Group) -> None:
        started, step = time.perf_counter(), 0
        texts = {one: self.continuation(one, min(group.most, one.remaining)) for one in group.sequences if one.active}
        while group.choose(step, [one for one, tokens in texts.items() if tokens]):
            for one, tokens in texts.items():
                if one.writes:
                    group.append(one, tokens[step], 1.0)
            step += 1
        seconds = time.perf_counter() - started
        batch.spent["draft"] += seconds
        if group.adaptive is not None and step and not batch.reads_prompts:
            group.adaptive.draft_call.learn(1, seconds / step)

    def continuation(self, one: Sequence, count: int) -> list[int]:
        """The next `count` tokens by the latest of the longest matches of a text's last tokens; [] if there is none."""
        ids, known, longest = one.ids, one.ngrams, one.method.ngram
        for end in range(max(1, one.indexed), len(ids)):  # the n-grams that end before `end`, which a token follows
            known |= {tuple(ids[end - n : end]): end for n in range(1, min(longest, end) + 1)}
        one.indexed = len(ids)
        for n in range(min(longest, len(ids)), 0, -1):
            if (after := known.get(tuple(ids[-n:]))) is not None:
                period = len(ids) - after  # what runs beyond the end repeats
                return [ids[after + i % period] for i in range(count)]
        return []
