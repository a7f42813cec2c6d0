"""The records that every part of the project shares. Imports nothing of ours."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

Source = Literal["trusted", "accepted", "recovered", "bonus"]
StopReason = Literal["eos", "stop", "length", "cancelled"]

SOURCES: tuple[str, ...] = get_args(Source)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one text is written.

    Args:
        max_tokens: the budget of generated tokens, at least 1.
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_k: keep the `top_k` most likely tokens; 0 keeps all.
        top_p: keep the smallest set of most likely tokens whose probability reaches `top_p` (Holtzman 1904.09751).
        min_p: keep tokens at least `min_p` times as likely as the most likely one (Nguyen 2407.01082).
        seed: all randomness of the row; two rows of one prompt and one seed are written alike, in any batch.
        stop: the text ends before the first of these strings.
        stop_tokens: ids that end the text, beside the model's end-of-text tokens; they add nothing to it.
        ignore_eos: write on past the model's end-of-text tokens, up to the budget.

    Raises:
        ValueError: a value that no sampling can have, named.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for name in ("stop", "stop_tokens"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        checks = (
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("temperature", self.greedy or 1e-6 <= self.temperature <= 1e6, "0 (greedy), or from 1e-6 to 1e6"),
            ("top_k", 0 <= self.top_k < 2**31, "0 (off) or a positive count below 2**31"),
            ("top_p", 0.0 < self.top_p <= 1.0, "above 0 and at most 1"),
            ("min_p", 0.0 <= self.min_p < 1.0, "at least 0 and below 1"),
            ("seed", 0 <= self.seed < 2**64, "an integer from 0 to 2**64 - 1"),
            ("stop", all(self.stop), "strings that are not empty"),
            ("stop_tokens", all(0 <= token < 2**31 for token in self.stop_tokens), "token ids"),
        )
        for name, good, right in checks:
            if not good:
                raise ValueError(f"{name}={getattr(self, name)!r} is impossible: it must be {right}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    def __str__(self) -> str:
        """The transforms alone, as they stand in tables: `greedy`, or `temperature=0.8,top_p=0.9`."""
        if self.greedy:
            return "greedy"
        shown = [f"temperature={shortest(self.temperature)}"]
        for name, off in (("top_k", 0), ("top_p", 1.0), ("min_p", 0.0)):
            value = getattr(self, name)
            if value != off:
                shown.append(f"{name}={shortest(value)}")
        return ",".join(shown)


def shortest(value: float) -> str:
    """A number as short as it can be written without becoming another: 0.5, 1, 40, 0.123456789."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


Candidates = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Token:
    """The trace of one generated token. What was not known when it was written is None.

    Probabilities, margin and entropies are those of p and q at temperature 1, before any sampling transform.

    Attributes:
        position: 0 for the first generated token.
        id, text: the token, and what it adds to the text (empty while a character is incomplete).
        source: trusted, accepted, recovered or bonus.
        round: the round of the decode loop that wrote it, from 0.
        draft_token, target_token: the greedy choice of p, and of q (None where System 2 was not consulted).
        draft_prob, draft_margin, draft_entropy: p's largest probability, its lead over the second, entropy in nats.
        target_prob, target_entropy: the same of q.
        total_variation: half the L1 distance of p and q, after the sampling transforms (at temperature 1 when greedy).
        draft_top, target_top: the most likely (id, probability) of p and q, when candidates were requested.
    """

    position: int
    id: int
    text: str
    source: Source
    round: int
    draft_token: int | None = None
    target_token: int | None = None
    draft_prob: float | None = None
    draft_margin: float | None = None
    draft_entropy: float | None = None
    target_prob: float | None = None
    target_entropy: float | None = None
    total_variation: float | None = None
    draft_top: Candidates = ()
    target_top: Candidates = ()

    @property
    def consulted(self) -> bool:
        """System 2 was consulted at this position."""
        return self.target_token is not None

    @property
    def differs(self) -> bool | None:
        """System 2's greedy token differs from the draft's; None where one of the two is not known."""
        if self.draft_token is None or self.target_token is None:
            return None
        return self.draft_token != self.target_token


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as lists and run records show it."""

    name: str
    path: str
    family: str
    parameters: int
    non_embedding_parameters: int
    tuned_from: str | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a task. `prompt` is the plain text; `messages` (role, content) are for a model's chat template."""

    id: str
    prompt: str
    messages: tuple[tuple[str, str], ...] = ()
    reference: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def as_dict(record: Any) -> dict[str, Any]:
    """The fields of a slotted dataclass as a plain dict, not recursing."""
    return {f.name: getattr(record, f.name) for f in fields(record)}
