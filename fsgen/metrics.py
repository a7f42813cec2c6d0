"""Each metric, defined once: counts that add up over texts, and the ratios made of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Self

from fsgen.types import Token


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted in a text, or in many: `a + b` is both together.

    Attributes:
        sampled: texts drawn rather than greedy; decides which `collaboration_frequency` is meant.
        tokens: n, generated tokens.
        known: positions where the greedy choices of both systems are known; `differing`: those where they differ.
        variation: the sum of total variations of p and q over `compared` positions.
        consulted: positions at which System 2 was consulted.
        accepted, recovered: drafted tokens that System 2 accepted, and those that it replaced at the first rejection.
        draft_calls, target_calls: forward calls in which the text took part.
        draft_tokens, target_tokens: tokens of the text run through the model, catch-up included (of the prompt only
            its last token).
        draft_seconds, system2_seconds, seconds: wall clock, the text's share of its batch; `seconds` is all of it.
    """

    sampled: bool = False
    tokens: int = 0
    known: int = 0
    differing: int = 0
    variation: float = 0.0
    compared: int = 0
    consulted: int = 0
    accepted: int = 0
    recovered: int = 0
    draft_calls: int = 0
    draft_tokens: int = 0
    target_calls: int = 0
    target_tokens: int = 0
    draft_seconds: float = 0.0
    system2_seconds: float = 0.0
    seconds: float = 0.0

    def __add__(self, more: Self) -> Self:
        if self.sampled != more.sampled and self.tokens and more.tokens:
            raise ValueError("counts of greedy and of sampled texts have no common collaboration frequency")
        sums = {f.name: getattr(self, f.name) + getattr(more, f.name) for f in fields(self) if f.name != "sampled"}
        return type(self)(sampled=self.sampled or more.sampled, **sums)

    @classmethod
    def total(cls, counts: Iterable[Self]) -> Self:
        result = cls()
        for more in counts:
            result = result + more
        return result

    @property
    def collaboration_frequency(self) -> float | None:
        """Share of positions where System 2's greedy token differs from the draft's, of those where both are known.

        With the router `always`, the lower bound of 2406.12295: what a perfect router would need. When sampling, the
        expected rejection rate: the mean total variation of p and q.
        """
        return self._ratio("collaboration_frequency")

    @property
    def consulted_rate(self) -> float | None:
        """Positions at which System 2 was consulted / n."""
        return self._ratio("consulted_rate")

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted / verified drafted tokens."""
        return self._ratio("acceptance_rate")

    @property
    def mean_accepted_length(self) -> float | None:
        """Tokens per System-2 call."""
        return self._ratio("mean_accepted_length")

    @property
    def target_calls_per_token(self) -> float | None:
        return self._ratio("target_calls_per_token")

    @property
    def target_tokens_per_token(self) -> float | None:
        """Tokens run through the target / n, catch-up included."""
        return self._ratio("target_tokens_per_token")

    def _ratio(self, metric: str) -> float | None:
        part, whole = (sum(getattr(self, name) for name in names) for names in ratio_counts(metric, self.sampled))
        return part / whole if whole else None

    def as_dict(self) -> dict[str, float | int | None]:
        """The metrics, and the counts they are made of, by name."""
        return {name: getattr(self, name) for name in (*(f.name for f in fields(self)), *METRICS)}


_RATIOS = {
    "consulted_rate": (("consulted",), ("tokens",)),
    "acceptance_rate": (("accepted",), ("accepted", "recovered")),
    "mean_accepted_length": (("tokens",), ("target_calls",)),
    "target_calls_per_token": (("target_calls",), ("tokens",)),
    "target_tokens_per_token": (("target_tokens",), ("tokens",)),
}
METRICS = ("collaboration_frequency", *_RATIOS)
"""The metrics that are ratios of counts."""


def frequency_counts(sampled: bool) -> tuple[str, str]:
    """The names of the two counts whose ratio is the collaboration frequency."""
    return ("variation", "compared") if sampled else ("differing", "known")


def ratio_counts(metric: str, sampled: bool = False) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the counts whose sums make a metric: those above the line, and those below it."""
    if metric == "collaboration_frequency":
        part, whole = frequency_counts(sampled)
        return (part,), (whole,)
    return _RATIOS[metric]


def count(tokens: Iterable[Token], *, sampled: bool, **costs: float) -> Counts:
    """The counts of one text's records; `costs` are the calls, tokens and seconds that only the models know."""
    tokens = list(tokens)
    differs = [token.differs for token in tokens if token.differs is not None]
    variations = [token.total_variation for token in tokens if token.total_variation is not None]
    return Counts(
        sampled=sampled,
        tokens=len(tokens),
        known=len(differs),
        differing=sum(differs),
        variation=sum(variations, 0.0),
        compared=len(variations),
        consulted=sum(token.consulted for token in tokens),
        accepted=sum(token.source == "accepted" for token in tokens),
        recovered=sum(token.source == "recovered" for token in tokens),
        **costs,  # type: ignore[arg-type]  # ints stay ints: they are handed through
    )
