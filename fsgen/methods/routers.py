"""Whether System 2 must be consulted at a position, judged from the draft's distribution p alone.

Routers read p at temperature 1, whatever the sampling temperature: a greedy one-hot would blind them. A subclass
says one thing; parsing its argument from text is its own, finding it by name is `methods`'.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fsgen.methods.learned.file import LearnedModel, located
from fsgen.probs import ROUTE, entropy, summarize, uniforms
from fsgen.types import shortest


class _Members(Protocol):
    def identity(self, role: str) -> Any: ...


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

    def require(self, members: _Members) -> None:  # noqa: B027  # most are for every draft
        """Raises ValueError where the router is not for the draft among these members."""

    @property
    def argument(self) -> str:
        return ""

    @property
    def identity(self) -> str:
        """What tells its decisions from those of another router."""
        return str(self)

    def __str__(self) -> str:
        return f"{self.name}:{self.argument}" if self.argument else self.name


@dataclass(frozen=True)
class Always(Router):
    """Every position. In a lossless method, where all is verified anyway, it leaves the draft its full length."""

    name = "always"

    def consult(self, logits: Tensor, positions: NDArray[np.int64], seeds: NDArray[np.uint64]) -> list[bool]:
        return [True] * len(positions)


@dataclass(frozen=True)
class Never(Router):
    """No position. With the `route` method: the draft alone."""

    name = "never"

    def consult(self, logits: Tensor, positions: NDArray[np.int64], seeds: NDArray[np.uint64]) -> list[bool]:
        return [False] * len(positions)


@dataclass(frozen=True)
class _Threshold(Router):
    """Consult where a score lies beyond a threshold: a subclass scores, this class decides.

    Class attributes: `high`, the largest threshold that makes sense (the smallest is 0), and `above`, whether a high
    score asks for System 2 rather than a low one.
    """

    value: float

    high: ClassVar[float] = 1.0
    above: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (0.0 <= self.value <= self.high and math.isfinite(self.value)):
            high = "" if self.high == math.inf else f" and at most {self.high:g}"
            raise ValueError(f"router {self.name}:{self.value:g} is impossible: at least 0{high}")

    @classmethod
    def parse(cls, argument: str) -> Self:
        try:
            value = float(argument)
        except ValueError:
            raise ValueError(f"router {cls.name!r} needs a number, as in {cls.usage}, not {argument!r}") from None
        return cls(value)

    @property
    def argument(self) -> str:
        return shortest(self.value)

    @abstractmethod
    def score(self, logits: Tensor, positions: NDArray[np.int64], seeds: NDArray[np.uint64]) -> Tensor:
        """What is compared with the threshold, [rows]; arguments as in `consult`."""

    def consult(self, logits: Tensor, positions: NDArray[np.int64], seeds: NDArray[np.uint64]) -> list[bool]:
        score = self.score(logits, positions, seeds)
        flags: list[bool] = (score > self.value if self.above else score < self.value).tolist()
        return flags


class MaxProb(_Threshold):
    """Consult when p's largest probability is below the threshold."""

    name = "max-prob"
    usage = "max-prob:0.5"

    def score(self, logits: Tensor, positions: NDArray[np.int64], seeds: NDArray[np.uint64]) -> Tensor:
        return (logits.amax(-1) - logits.logsumexp(-1)).exp()


class Margin(_Threshold):
    """Consult when p's largest probability leads the second by less than the threshold."""

    name = "margin"
    usage = "margin:0.2"

    def score(self, logits: Tensor, positions: NDArray[np.int64], seeds: NDArray[np.uint64]) -> Tensor:
        best = logits.softmax(-1).topk(2, dim=-1).values
        return best[..., 0] - best[..., 1]


class Entropy(_Threshold):
    """Consult when p's entropy is above the threshold, in nats."""

    name = "entropy"
    usage = "entropy:1.0"
    high = math.inf
    above = True

    def score(self, logits: Tensor, positions: NDArray[np.int64], seeds: NDArray[np.uint64]) -> Tensor:
        return entropy(logits.log_softmax(-1))


class Random(_Threshold):
    """Consult at a share of the positions, drawn from the row's seed: what any other router must beat."""

    name = "random"
    usage = "random:0.3"

    def score(self, logits: Tensor, positions: NDArray[np.int64], seeds: NDArray[np.uint64]) -> Tensor:
        return torch.from_numpy(uniforms(seeds, positions, ROUTE))


@dataclass(frozen=True)
class Position(Router):
    """Consult at the tokens start..stop-1 of the completion."""

    start: int
    stop: int

    name = "position"
    usage = "position:0-16"

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
        flags: list[bool] = ((positions >= self.start) & (positions < self.stop)).tolist()
        return flags


@dataclass(frozen=True)
class Learned(Router):
    """Consult where a score that was trained on the draft's traces is high (`fsgen router train`).

    Attributes:
        file: where it is kept, with another threshold than its own behind an @.
        threshold: of the score.
        digest: of what makes the score.
    """

    file: str
    threshold: float
    digest: str
    model: LearnedModel = field(compare=False, repr=False)

    name = "learned"
    usage = "learned:FILE"

    @classmethod
    def parse(cls, argument: str) -> Self:
        if not argument:
            raise ValueError(f"router {cls.name!r} needs a file, as in {cls.usage}")
        model, threshold = located(argument)
        return cls(argument, threshold, model.digest, model)

    def require(self, members: _Members) -> None:
        draft = members.identity("draft")
        known = self.model.draft
        for what, trained, here in (
            ("tokenizer", self.model.vocabulary, draft.vocabulary),
            ("weights", known["digest"], draft.digest),
        ):
            if here != trained:
                raise ValueError(
                    f"the router {self} was learned on the draft {known['name']} ({what} {trained[:16]}), and this "
                    f"draft is {draft.name} ({what} {'unknown' if here is None else here[:16]})"
                )

    def consult(self, logits: Tensor, positions: NDArray[np.int64], seeds: NDArray[np.uint64]) -> list[bool]:
        seen = summarize(logits, self.model.top)  # what a trace keeps
        scalars = torch.stack([seen.prob, seen.margin, seen.entropy]).cpu().numpy()
        probs = seen.top_probs.cpu().numpy()
        score = self.model.score(probs, scalars[0], scalars[1], scalars[2], positions)
        flags: list[bool] = (score > self.threshold).tolist()
        return flags

    @property
    def argument(self) -> str:
        return self.file

    @property
    def identity(self) -> str:
        return self.model.identity(self.threshold)


ROUTERS: dict[str, type[Router]] = {
    router.name: router for router in (Always, Never, MaxProb, Margin, Entropy, Random, Position, Learned)
}
