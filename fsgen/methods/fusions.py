"""How the members' logits become System 2's distribution q.

A fusion takes the logits of the target, the draft and the base at the same positions ([..., vocab]) and gives logits
whose softmax is q. One class a formula; `FUSIONS` is the list of them.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

LARGEST = 1e6
"""A factor of logits: far beyond any use, and far from where their sums overflow."""


class Fusion(ABC):
    """Attributes: its name, and which members besides the target it reads."""

    name: ClassVar[str]
    reads_draft: ClassVar[bool] = False
    reads_base: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, target: Tensor, draft: Tensor | None, base: Tensor | None) -> Tensor:
        """Logits of q, [..., vocab], from the members' logits of the same shape (None where not read)."""

    def shifted(self, slack: float) -> Fusion:
        """The same with any threshold `slack` nats more generous, as far as that can be: where rounding is weighed."""
        return self


def _check(fusion: str, name: str, value: float, good: bool, right: str) -> None:
    if not (good and abs(value) <= LARGEST):
        raise ValueError(f"{fusion}: {name}={value!r} is impossible: it must be {right}")


@dataclass(frozen=True, slots=True)
class Target(Fusion):
    """The target alone: q = softmax(z_target) (Leviathan 2211.17192, Chen 2302.01318)."""

    name = "target"

    def __call__(self, target: Tensor, draft: Tensor | None, base: Tensor | None) -> Tensor:
        return target


@dataclass(frozen=True, slots=True)
class Contrastive(Fusion):
    """Contrastive decoding (O'Brien & Lewis 2309.09117): (1 + beta) z_target - beta z_draft.

    Only tokens that the target finds at least `alpha` times as likely as its best one stay.
    """

    alpha: float = 0.1
    beta: float = 0.5

    name = "contrastive"
    reads_draft = True

    def __post_init__(self) -> None:
        _check(self.name, "alpha", self.alpha, 0.0 < self.alpha <= 1.0, "above 0 and at most 1")
        _check(self.name, "beta", self.beta, self.beta >= 0.0, f"a number, at least 0 and at most {LARGEST:g}")

    def __call__(self, target: Tensor, draft: Tensor | None, base: Tensor | None) -> Tensor:
        assert draft is not None
        floor = target.amax(-1, keepdim=True) + math.log(self.alpha)
        fused = (1.0 + self.beta) * target - self.beta * draft
        return fused.masked_fill(target < floor, -torch.inf)

    def shifted(self, slack: float) -> Contrastive:
        log_alpha = math.log(self.alpha) - slack
        return replace(self, alpha=math.exp(min(max(log_alpha, math.log(sys.float_info.min)), 0.0)))


@dataclass(frozen=True, slots=True)
class Proxy(Fusion):
    """Proxy tuning (Liu 2401.08565): z_target + alpha (z_draft - z_base), the draft tuned, the base not.

    On log-probabilities it is emulated fine-tuning (Mitchell 2310.12962): the same distribution.
    """

    alpha: float = 1.0

    name = "proxy"
    reads_draft = True
    reads_base = True

    def __post_init__(self) -> None:
        _check(self.name, "alpha", self.alpha, True, f"a number of a size of at most {LARGEST:g}")

    def __call__(self, target: Tensor, draft: Tensor | None, base: Tensor | None) -> Tensor:
        assert draft is not None
        assert base is not None
        return target + self.alpha * (draft - base)


@dataclass(frozen=True, slots=True)
class Ensemble(Fusion):
    """An average of logits, z_draft + w (z_target - z_draft): a weighted product of experts (Hinton 2002)."""

    w: float = 0.5

    name = "ensemble"
    reads_draft = True

    def __post_init__(self) -> None:
        _check(self.name, "w", self.w, True, f"a number of a size of at most {LARGEST:g}")

    def __call__(self, target: Tensor, draft: Tensor | None, base: Tensor | None) -> Tensor:
        assert draft is not None
        return draft + self.w * (target - draft)


@dataclass(frozen=True, slots=True)
class Mixture(Fusion):
    """An average of probabilities: w softmax(z_target) + (1 - w) softmax(z_draft)."""

    w: float = 0.5

    name = "mixture"
    reads_draft = True

    def __post_init__(self) -> None:
        _check(self.name, "w", self.w, 0.0 < self.w < 1.0, "between 0 and 1, without the ends")

    def __call__(self, target: Tensor, draft: Tensor | None, base: Tensor | None) -> Tensor:
        assert draft is not None
        return torch.logaddexp(
            target.log_softmax(-1) + math.log(self.w), draft.log_softmax(-1) + math.log(1.0 - self.w)
        )


@dataclass(frozen=True, slots=True)
class SharedTokens(Fusion):
    """Another fusion over the tokens that a draft of another tokenizer has too; no other token is ever written.

    The draft's logits, and the base's, are -inf at tokens that they lack.
    """

    inner: Fusion
    reads_draft = True

    @property
    def name(self) -> str:  # type: ignore[override]  # that of the other fusion
        return self.inner.name

    @property
    def reads_base(self) -> bool:  # type: ignore[override]
        return self.inner.reads_base

    def __call__(self, target: Tensor, draft: Tensor | None, base: Tensor | None) -> Tensor:
        assert draft is not None
        lacking = draft == -torch.inf
        if base is not None:
            lacking |= base == -torch.inf
        return self.inner(target.masked_fill(lacking, -torch.inf), draft, base).masked_fill(lacking, -torch.inf)


FUSIONS: dict[str, type[Fusion]] = {fusion.name: fusion for fusion in (Target, Contrastive, Proxy, Ensemble, Mixture)}
