"""Own parts, used by their names: a router and a fusion, without touching the package.

cd examples
fsgen generate "Question: 2 + 2?" --method route --router own_parts:Surprise:0.4
fsgen generate "Question: 2 + 2?" --method own_parts:Cautious:w=0.3
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fsgen.methods.fusions import Fusion
from fsgen.methods.routers import Router


@dataclass(frozen=True)
class Surprise(Router):
    """Consult where p's second choice is nearly as likely as its first, and always at the first token."""

    share: float = 0.5

    name = "own_parts:Surprise"
    usage = "own_parts:Surprise:0.5"

    @classmethod
    def parse(cls, argument: str) -> Self:
        return cls(float(argument)) if argument else cls()

    @property
    def argument(self) -> str:
        return f"{self.share:g}"

    def consult(self, logits: Tensor, positions: NDArray[np.int64], seeds: NDArray[np.uint64]) -> list[bool]:
        first, second = logits.softmax(-1).topk(2, dim=-1).values.unbind(-1)
        near = (second > self.share * first).tolist()
        return [bool(flag or position == 0) for flag, position in zip(near, positions, strict=True)]


@dataclass(frozen=True, slots=True)
class Cautious(Fusion):
    """The lower of the two members' log-probabilities, weighted: a token that either finds unlikely stays so."""

    w: float = 0.5

    name = "own_parts:Cautious"
    reads_draft = True

    def __call__(self, target: Tensor, draft: Tensor | None, base: Tensor | None) -> Tensor:
        assert draft is not None
        own, other = target.log_softmax(-1), draft.log_softmax(-1)
        return (1 - self.w) * own + self.w * own.minimum(other)
