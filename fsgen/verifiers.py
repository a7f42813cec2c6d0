"""Whether drafted tokens stand, given p and q, and which token System 2 puts after the last that does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from fsgen.probs import residual, sample


class Verdict(NamedTuple):
    """accepted: how many drafted tokens of each row stand, [rows]; token: System 2's own at the place after, [rows]."""

    accepted: Tensor
    token: Tensor


class Verifier(ABC):
    """Attributes: its name, and whether it needs p, q as probabilities and uniform numbers (else logits will do)."""

    name: ClassVar[str]
    draws: ClassVar[bool]

    @abstractmethod
    def verify(self, drafted: Tensor, lengths: Tensor, p: Tensor, q: Tensor, accept: Tensor, decide: Tensor) -> Verdict:
        """Keep a prefix of the drafted tokens.

        Args:
            drafted: [rows, n] token ids; row i has lengths[i] of them, the rest is filling.
            lengths: [rows].
            p: the draft's distributions, [rows, n, vocab].
            q: System 2's, [rows, m, vocab]: m = n, or n + 1 where a token after the last is wanted.
            accept, decide: uniform numbers for [rows, m] positions.
        """


def _standing(keep: Tensor, lengths: Tensor) -> Tensor:
    """How many of the first lengths[i] entries of each row hold before the first that does not."""
    keep = keep & (torch.arange(keep.shape[1], device=keep.device) < lengths[:, None])
    return keep.long().cumprod(-1).sum(-1)


class Exact(Verifier):
    """Greedy: a drafted token stands while it is q's argmax."""

    name = "exact"
    draws = False

    def verify(self, drafted: Tensor, lengths: Tensor, p: Tensor, q: Tensor, accept: Tensor, decide: Tensor) -> Verdict:
        choice = q.argmax(-1)
        accepted = _standing(drafted == choice[:, : drafted.shape[1]], lengths)
        return Verdict(accepted, choice.gather(1, accepted.clamp(max=q.shape[1] - 1)[:, None])[:, 0])


class Rejection(Verifier):
    """Lossless rejection sampling (Leviathan 2211.17192, Chen 2302.01318): the output is distributed exactly as q.

    A drafted token stands with probability min(1, q/p); at the first that does not, System 2 draws from
    max(0, q - p) renormalised; where all stand, from q. On one-hot p and q it is `Exact`.
    """

    name = "rejection"
    draws = True

    def verify(self, drafted: Tensor, lengths: Tensor, p: Tensor, q: Tensor, accept: Tensor, decide: Tensor) -> Verdict:
        n = drafted.shape[1]
        chosen = drafted[..., None]
        p_drafted = p.gather(-1, chosen)[..., 0].double()
        q_drafted = q[:, :n].gather(-1, chosen)[..., 0].double()
        accepted = _standing(accept[:, :n] * p_drafted < q_drafted, lengths)

        place = accepted.clamp(max=q.shape[1] - 1)
        q_there = _at(q, place)
        if n:
            p_there = _at(p, accepted.clamp(max=n - 1))
            rejected = (accepted < lengths)[:, None]
            q_there = torch.where(rejected, residual(p_there, q_there), q_there)
        return Verdict(accepted, sample(q_there, decide.gather(1, place[:, None])[:, 0]))


def _at(x: Tensor, place: Tensor) -> Tensor:
    """x[i, place[i]] of an [rows, n, vocab] tensor."""
    return x[torch.arange(len(x), device=x.device), place]


VERIFIERS: dict[str, Verifier] = {verifier.name: verifier for verifier in (Exact(), Rejection())}
