"""What drafts: a model, or a look-up in the text so far. Both may serve rows of one batch."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from fsgen.backends.protocol import TokenIds
from fsgen.engine.batch import Batch, Group
from fsgen.engine.round import complete_bonus
from fsgen.engine.sequence import Sequence
from fsgen.probs import DRAFT, sample


class Proposer(ABC):
    """What drafts tokens for some rows of a batch."""

    @abstractmethod
    def propose(self, batch: Batch, groups: list[Group]) -> Tensor | None:
        """Appends drafted tokens to the texts of these groups.

        Returns:
            p's logits at these tokens, [rows, n, vocab] of all rows of the batch, left-aligned; None if there are none.
        """


class ModelProposer(Proposer):
    """The draft model writes the tokens, in one call a token for all rows.

    Its next call also tells what it would have chosen at a bonus token.
    """

    def propose(self, batch: Batch, groups: list[Group]) -> Tensor | None:
        logits: list[Tensor] = []
        while True:
            drafting = [group for group in groups if group.choose(len(logits), group.sequences)]
            if not drafting and not any(one is not None and one.pending_bonus is not None for one in batch.sequences):
                break
            before = batch.spent["draft"]
            z = self._call(batch, groups)
            for group in drafting:
                if group.adaptive is not None and logits:  # the first call also reads what the draft has missed
                    group.adaptive.draft_call.learn(1, batch.spent["draft"] - before)
                self._extend(group, group.of(z))
            if drafting:
                logits.append(z)
        return torch.cat(logits, 1) if len(logits) > 1 else logits[0] if logits else None

    def _call(self, batch: Batch, groups: list[Group]) -> Tensor:
        """One call for all rows that draft, or that end with a bonus token: p's logits at the next token."""
        sequences: list[TokenIds | None] = [None] * batch.rows
        last = [1] * batch.rows
        for row, one in enumerate(batch.sequences):
            if one is not None and one.drafts:
                sequences[row], last[row] = one.ids, 1 + (one.pending_bonus is not None)
            elif one is not None and one.pending_bonus is not None:
                sequences[row] = one.ids[:-1]
        logits = batch.score("draft", sequences, last)
        for group in groups:
            for row, one in zip(group.rows, group.sequences, strict=True):
                if one.pending_bonus is not None:
                    complete_bonus(one, logits[row], logits.shape[1] - last[row], batch.traces, group.transforms)
        return logits[:, -1:]

    def _extend(self, group: Group, z: Tensor) -> None:
        """Each row that drafts gets a token, drawn from p's logits, [rows of the group, 1, vocab]."""
        if group.transforms.all_greedy:
            tokens = z.argmax(-1)
        elif group.verifier.couples:
            tokens = group.transforms.race(z, group.seeds, group.positions())
        else:
            tokens = sample(group.transforms.drawn(z), group.uniforms(group.positions(), DRAFT))
        probs, flags, router = None, None, group.method.stopping_router
        if group.adaptive is not None:
            probs = z.softmax(-1).amax(-1).tolist()
        if router is not None:
            flags = router.consult(z[:, 0], group.positions()[:, 0], group.seeds)
        for i, (one, [token]) in enumerate(zip(group.sequences, tokens.tolist(), strict=True)):
            if one.drafts:
                group.append(one, token, probs[i][0] if probs is not None else 1.0)
                one.flagged = flags is not None and flags[i]


class NgramProposer(Proposer):
    """Drafts what followed the last tokens where they stood before in the text (prompt lookup, Saxena 2023).

    The longest match counts, and of these the latest. Its p is a one-hot, so that rejection sampling stays lossless.
    """

    def propose(self, batch: Batch, groups: list[Group]) -> Tensor | None:
        for group in groups:
            started, step = time.perf_counter(), 0
            found = {one: self.continuation(one, group.most) for one in group.sequences if one.active}
            while group.choose(step, [one for one, tokens in found.items() if tokens]):
                for one, tokens in found.items():
                    if one.drafts:
                        group.append(one, tokens[step], 1.0)
                step += 1
            seconds = time.perf_counter() - started
            batch.spent["draft"] += seconds
            if group.adaptive is not None and step and not batch.reads_prompts:
                group.adaptive.draft_call.learn(1, seconds / step)
        drafted = [[] if one is None or not one.method.ngram else one.draft for one in batch.sequences]
        if not any(drafted):
            return None
        most = max(map(len, drafted))
        ids = torch.tensor([tokens + [0] * (most - len(tokens)) for tokens in drafted], device=batch.device)
        p = torch.full((*ids.shape, batch.vocab), -torch.inf, device=batch.device)
        return p.scatter_(-1, ids[..., None], 0.0)

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
