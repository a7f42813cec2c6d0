"""The log-probabilities of prompts: read in pieces, between the rounds of the texts that are being written."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fsgen.backends import Members
from fsgen.backends.protocol import Session
from fsgen.methods.check import roles_of_q
from fsgen.methods.method import Method
from fsgen.probs import Lines, log_probs
from fsgen.types import Candidates


@dataclass(eq=False, slots=True)
class Scores:
    """The log-probabilities of a prompt's tokens by q, System 2's distribution (by p where the draft writes alone).

    Attributes:
        ids: the prompt.
        method: whose q is meant.
        top: how many most likely tokens are wanted at each position.
        found: for each token but the first, (id, log-probability) of itself, and then of the most likely ones.
        ranks: of these tokens themselves, 1 is the most likely one.
        read: tokens that were read so far.
    """

    ids: list[int]
    method: Method
    top: int
    found: list[Candidates] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    read: int = 0

    @property
    def done(self) -> bool:
        return self.read >= len(self.ids) - 1


class Scorer:
    """Reads prompts in sessions of its own.

    Args:
        members: the models.
        piece: tokens of a prompt that are read at a time.
    """

    def __init__(self, members: Members, piece: int) -> None:
        self._members, self._piece = members, piece
        self._sessions: dict[str, Session] = {}

    def read(self, scores: Scores) -> None:
        """Reads the next piece of a prompt. Raises what the models raise."""
        start = scores.read
        end = min(start + self._piece, len(scores.ids) - 1)
        with self._members.lock, torch.inference_mode():
            logits = {role: self._score(role, scores.ids, start, end) for role in roles_of_q(scores.method)}
            q = next(iter(logits.values()))
            if "target" in logits:
                target = logits["target"]
                moved = {role: z.to(target.device) for role, z in logits.items()}
                q = scores.method.fusion(target, moved.get("draft"), moved.get("base"))
            self._keep(scores, q, scores.ids[start + 1 : end + 1])
        scores.read = end

    def _score(self, role: str, ids: list[int], start: int, end: int) -> Tensor:
        """A member's logits after each of the tokens start .. end - 1, [n, vocab]."""
        if role not in self._sessions:
            self._sessions[role] = self._members.session(role, 1)
        session = self._sessions[role]
        if start == 0:
            session.begin(0, len(ids), len(ids))
        return session.score([ids[:end]], [end - start])[0, -(end - start) :, : self._members.vocab_size]

    def _keep(self, scores: Scores, q: Tensor, ids: list[int]) -> None:
        lines = Lines()
        for place in range(len(ids)):
            lines.add(q, place)
        scores.found += log_probs(lines[slice(0, len(ids))], ids, scores.top)
        own = q.gather(-1, torch.tensor(ids, device=q.device)[:, None])
        scores.ranks += ((q > own).sum(-1) + 1).tolist()
