"""Whether System 2 must be consulted at a position, judged from the draft's distribution p alone.

Routers read p at temperature 1, whatever the sampling temperature: a greedy one-hot would blind them. A subclass
says one thing; parsing its argument from text is its own, finding it by name is `methods`'.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fsgen.probs import ROUTE, entropy, uniforms


class Router(ABC):
    """Attributes: its name, and how its argument is written (empty for none)."""

    name: ClassVar[str]
    usage: ClassVar[str] = ""

    @classmethod
    def parse(cls, argument: str) -> Self:
        """The router from what stands behind the colon. Raises ValueError for an argument it cannot take."""
        if argument:
            raise ValueError(f"router {cls.name!r} takes no argument, but {argument!r} was given")
        return cls()

    @abstractmethod
    def consult(self, logits: Tensor, positions: NDArray[np.int64], seeds: NDArray[np.uint64]) -> list[bool]:
        """One answer a row.

        Args:
            logits: the draft's, [rows, vocab], untransformed.
            positions: of the token to be decided, counted from the start of the completion, [rows].
            seeds: of the rows, [rows].
        """

    @property
    def argument(self) -> str:
        return ""

    def __str__(self) -> str:
        return f"{self.name}:{self.argument}" if self.argument else self.name


@dataclass(frozen=True, slots=True)
class Always(Router):
    """Every position. In a lossless method, where all is verified anyway, it leaves the draft its full length."""

    name = "always"

    def consult(self, logits: Tensor, positions: NDArray[np.int64], seeds: NDArray[np.uint64]) -> list[bool]:
        return [True] * len(positions)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Never(Router):
    """No position. With the `route` method: the draft alone."""

    name = "never"

    def consult(self, logits: Tensor, positions: NDArray[np.int64], seeds: NDArray[np.uint64]) -> list[bool]:
        return [False] * len(positions)

    def __str__(self) -> str:
        return self.name


class _Number(Router):
    """A router with one number, `value`, and the interval in which it makes sense."""

    low: ClassVar[float] = 0.0
    high: ClassVar[float] = math.inf
    value: float

    @classmethod
    def parse(cls, argument: str) -> Self:
        try:
            value = float(argument)
        except ValueError:
            raise ValueError(f"router {cls.name!r} needs a number, as in {cls.usage}, not {argument!r}") from None
        return cls(value)  # type: ignore[call-arg]  # every subclass is a dataclass of this one field

    def __post_init__(self) -> None:
        if not (self.low <= self.value <= self.high and math.isfinite(self.value)):
            high = "" if self.high == math.inf else f" and at most {self.high:g}"
            raise ValueError(f"router {self.name}:{self.value:g} is impossible: at least {self.low:g}{high}")

    @property
    def argument(self) -> str:
        return f"{self.value:g}"


@dataclass(frozen=True)
class MaxProb(_Number):
    """Consult when p's largest probability is below the threshold."""

    value: float

    name = "max-prob"
    usage = "max-prob:0.5"
    high = 1.0
    __str__ = Router.__str__

    def consult(self, logits: Tensor, positions: NDArray[np.int64], seeds: NDArray[np.uint64]) -> list[bool]:
        log_prob = logits.amax(-1) - logits.logsumexp(-1)
        return _listed(log_prob.exp() < self.value)


@dataclass(frozen=True)
class Margin(_Number):
    """Consult when p's largest probability leads the second by less than the threshold."""

    value: float

    name = "margin"
    usage = "margin:0.2"
    high = 1.0
    __str__ = Router.__str__

    def consult(self, logits: Tensor, positions: NDArray[np.int64], seeds: NDArray[np.uint64]) -> list[bool]:
        best = logits.softmax(-1).topk(2, dim=-1).values
        return _listed(best[..., 0] - best[..., 1] < self.value)


@dataclass(frozen=True)
class Entropy(_Number):
    """Consult when p's entropy is above the threshold, in nats."""

    value: float

    name = "entropy"
    usage = "entropy:1.0"
    __str__ = Router.__str__

    def consult(self, logits: Tensor, positions: NDArray[np.int64], seeds: NDArray[np.uint64]) -> list[bool]:
        return _listed(entropy(logits.log_softmax(-1)) > self.value)


@dataclass(frozen=True)
class Random(_Number):
    """Consult at a share of the positions, drawn from the row's seed: what any other router must beat."""

    value: float

    name = "random"
    usage = "random:0.3"
    high = 1.0
    __str__ = Router.__str__

    def consult(self, logits: Tensor, positions: NDArray[np.int64], seeds: NDArray[np.uint64]) -> list[bool]:
        return _listed(uniforms(seeds, positions, ROUTE) < self.value)


@dataclass(frozen=True)
class Position(Router):
    """Consult at the tokens start..stop-1 of the completion."""

    start: int
    stop: int

    name = "position"
    usage = "position:0-16"
    __str__ = Router.__str__

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"router {self} is impossible: it is position:A-B with 0 <= A < B")

    @classmethod
    def parse(cls, argument: str) -> Self:
        start, dash, stop = argument.partition("-")
        if not (dash and start.isdecimal() and stop.isdecimal()):
            raise ValueError(f"router 'position' needs two positions, as in {cls.usage}, not {argument!r}")
        return cls(int(start), int(stop))

    @property
    def argument(self) -> str:
        return f"{self.start}-{self.stop}"

    def consult(self, logits: Tensor, positions: NDArray[np.int64], seeds: NDArray[np.uint64]) -> list[bool]:
        return _listed((positions >= self.start) & (positions < self.stop))


def _listed(flags: Tensor | NDArray[np.bool_]) -> list[bool]:
    return flags.tolist()


ROUTERS: dict[str, type[Router]] = {
    router.name: router for router in (Always, Never, MaxProb, Margin, Entropy, Random, Position)
}
