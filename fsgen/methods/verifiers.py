"""Whether drafted tokens stand, given p and q, and which token System 2 puts after the last that does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from fsgen.probs import residual, sample


class Verdict(NamedTuple):
    """accepted: how many drafted tokens of each row stand; token: System 2's own at the place after."""

    accepted: list[int]
    token: list[int]


class Verifier(ABC):
    """Attributes:
    name: how strings name it.
    draws: it needs p, q as probabilities, and numbers to draw by (else logits will do).
    couples: draft and System 2 draw by the same noise, and `decide` is what System 2 has drawn.
    """

    name: ClassVar[str]
    draws: ClassVar[bool]
    couples: ClassVar[bool] = False

    @abstractmethod
    def verify(self, drafted: Sequence[list[int]], p: Tensor, q: Tensor, accept: Tensor, decide: Tensor) -> Verdict:
        """Keep a prefix of the drafted tokens.

        Args:
            drafted: token ids of each row, at most n.
            p: the draft's distributions, [rows, n, vocab].
            q: System 2's, [rows, m, vocab]: m = n, or n + 1 where a token after the last is wanted.
            accept, decide: uniform numbers for [rows, m] positions.
        """


class Exact(Verifier):
    """Greedy: a drafted token stands while it is q's argmax."""

    name = "exact"
    draws = False

    def verify(self, drafted: Sequence[list[int]], p: Tensor, q: Tensor, accept: Tensor, decide: Tensor) -> Verdict:
        return _agreement(drafted, q.argmax(-1).tolist())


class Coupled(Verifier):
    """Sampling by shared noise: a drafted token stands while it is the one that System 2 draws from q itself.

    Lossless, and more: the text does not depend on the draft, on how far it wrote, nor on whether it drafted (Daliri
    et al. 2408.07978). The price is that a drafted token stands with a chance of (1 - d) / (1 + d) or more, where
    rejection sampling reaches 1 - d (d: the total variation of p and q).
    """

    name = "coupled"
    draws = True
    couples = True

    def verify(self, drafted: Sequence[list[int]], p: Tensor, q: Tensor, accept: Tensor, decide: Tensor) -> Verdict:
        return _agreement(drafted, decide.tolist())


class Rejection(Verifier):
    """Lossless rejection sampling (Leviathan 2211.17192, Chen 2302.01318): the output is distributed exactly as q.

    A drafted token stands with probability min(1, q/p); at the first that does not, System 2 draws from
    max(0, q - p) renormalised; where all stand, from q. On one-hot p and q it is `Exact`.
    """

    name = "rejection"
    draws = True

    def verify(self, drafted: Sequence[list[int]], p: Tensor, q: Tensor, accept: Tensor, decide: Tensor) -> Verdict:
        n = p.shape[1]
        lengths = torch.tensor([len(tokens) for tokens in drafted], device=q.device)
        chosen = torch.tensor(
            [tokens + [0] * (n - len(tokens)) for tokens in drafted], dtype=torch.long, device=q.device
        )
        chosen = chosen.reshape(len(drafted), n, 1)
        p_drafted = p.gather(-1, chosen)[..., 0].double()
        q_drafted = q[:, :n].gather(-1, chosen)[..., 0].double()
        keep = (accept[:, :n] * p_drafted < q_drafted) & (torch.arange(n, device=q.device) < lengths[:, None])
        accepted = keep.long().cumprod(-1).sum(-1)

        place = accepted.clamp(max=q.shape[1] - 1)
        q_there = _at(q, place)
        if n:
            p_there = _at(p, accepted.clamp(max=n - 1))
            rejected = (accepted < lengths)[:, None]
            q_there = torch.where(rejected, residual(p_there, q_there), q_there)
        token = sample(q_there, decide.gather(1, place[:, None])[:, 0])
        return Verdict(*torch.stack([accepted, token]).tolist())  # read from the device at once


def _agreement(drafted: Sequence[list[int]], choices: list[list[int]]) -> Verdict:
    """Tokens stand as far as they are System 2's own choices."""
    accepted = [
        next((j for j, token in enumerate(tokens) if token != choice[j]), len(tokens))
        for tokens, choice in zip(drafted, choices, strict=True)
    ]
    return Verdict(accepted, [choice[min(n, len(choice) - 1)] for n, choice in zip(accepted, choices, strict=True)])


def _at(x: Tensor, place: Tensor) -> Tensor:
    """x[i, place[i]] of an [rows, n, vocab] tensor."""
    return x[torch.arange(len(x), device=x.device), place]


VERIFIERS: dict[str, Verifier] = {verifier.name: verifier for verifier in (Exact(), Rejection(), Coupled())}
