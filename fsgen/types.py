"""The records that every part of the project shares. Imports nothing of ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Literal, get_args

Source = Literal["trusted", "accepted", "recovered", "bonus"]
StopReason = Literal["eos", "stop", "length", "cancelled"]

SOURCES: tuple[str, ...] = get_args(Source)
BY_LIKELIHOOD = "by likelihood"
"""How the note of a score begins that is of likelihoods, not of the text that is written beside them."""


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
        stop_token_ids: ids that end the text, beside the model's end-of-text tokens; they add nothing to it.
        ignore_eos: write on past the model's end-of-text tokens, up to the budget.
        n: how many texts are written for the prompt, each with a seed of its own (`probs.choice_seed`); 1 where greedy.
        min_tokens: so many are written before the text can end, by a token or by a stop string.
        logprobs: keep with each token its log-probability, and those of so many most likely ones; None: of none.
        repetition_penalty: logits of tokens in the prompt or in the text are divided by it where positive, multiplied
            where negative (Keskar 1909.05858); 1 changes nothing.
        presence_penalty: taken off the logits of tokens that are in the text.
        frequency_penalty: taken off the logits of tokens, for each time that they are in the text.
        logit_bias: added to the logits of these tokens, by id; -inf forbids one. Kept as sorted pairs.

    Raises:
        ValueError: a value that no sampling can have, named.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    n: int = 1
    min_tokens: int = 0
    logprobs: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        self._normalise()
        for name in ("max_tokens", "top_k", "seed", "n", "min_tokens", "logprobs"):
            _check_number(name, getattr(self, name), Integral, optional=name == "logprobs")
        for name in ("temperature", "top_p", "min_p", *(f"{kind}_penalty" for kind in _PENALTIES)):
            _check_number(name, getattr(self, name), Real)
        checks = (
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("temperature", self.greedy or 1e-6 <= self.temperature <= 1e6, "0 (greedy), or from 1e-6 to 1e6"),
            ("top_k", 0 <= self.top_k < 2**31, "0 (off) or a positive count below 2**31"),
            ("top_p", 0.0 < self.top_p <= 1.0, "above 0 and at most 1"),
            ("min_p", 0.0 <= self.min_p < 1.0, "at least 0 and below 1"),
            ("seed", 0 <= self.seed < 2**64, "an integer from 0 to 2**64 - 1"),
            ("stop", all(isinstance(text, str) and text for text in self.stop), "strings that are not empty"),
            ("stop_token_ids", all(map(_is_id, self.stop_token_ids)), "token ids"),
            ("ignore_eos", isinstance(self.ignore_eos, bool), "true or false"),
            ("n", self.n == 1 or (self.n > 1 and not self.greedy), "at least 1, and 1 where greedy: all are alike"),
            ("min_tokens", 0 <= self.min_tokens <= self.max_tokens, f"from 0 to max_tokens={self.max_tokens}"),
            ("logprobs", self.logprobs is None or 0 <= self.logprobs < 2**31, "None, or at least 0"),
            ("repetition_penalty", 0.01 <= self.repetition_penalty <= 100.0, "from 0.01 to 100; 1 changes nothing"),
            ("presence_penalty", -2.0 <= self.presence_penalty <= 2.0, "from -2 to 2"),
            ("frequency_penalty", -2.0 <= self.frequency_penalty <= 2.0, "from -2 to 2"),
        )
        for name, good, right in checks:
            if not good:
                raise ValueError(f"{name}={getattr(self, name)!r} is impossible: it must be {right}")

    def _normalise(self) -> None:
        """Lists as tuples, None as nothing, and the biases as sorted pairs, so that equal settings are equal."""
        stop: Any = (self.stop,) if isinstance(self.stop, str) else self.stop
        for name, value in (("stop", stop), ("stop_token_ids", self.stop_token_ids)):
            try:
                object.__setattr__(self, name, tuple(() if value is None else value))
            except TypeError:
                raise ValueError(f"{name}={value!r} is impossible: it must be a list") from None
        object.__setattr__(self, "logit_bias", _biases(self.logit_bias))

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def changes_logits(self) -> bool:
        """It has penalties, biases, or tokens that a short text may not end with."""
        penalties = (self.frequency_penalty, self.presence_penalty, self.min_tokens)
        return self.repetition_penalty != 1.0 or bool(self.logit_bias) or any(penalties)

    def __str__(self) -> str:
        """The transforms alone, as they stand in tables: `greedy`, or `temperature=0.8,top_p=0.9`."""
        shown = ["greedy"] if self.greedy else [f"temperature={shortest(self.temperature)}"]
        filters = [] if self.greedy else [("top_k", 0), ("top_p", 1.0), ("min_p", 0.0)]
        for name, off in (*filters, *((f"{kind}_penalty", off) for kind, off in _PENALTIES.items())):
            value = getattr(self, name)
            if value != off:
                shown.append(f"{name}={shortest(value)}")
        return ",".join(shown)


_PENALTIES = {"repetition": 1.0, "presence": 0.0, "frequency": 0.0}  # each with what changes nothing


def _check_number(name: str, value: Any, kind: type, optional: bool = False) -> None:
    if (not isinstance(value, kind) or isinstance(value, bool)) and not (optional and value is None):
        raise ValueError(f"{name}={value!r} is impossible: it must be a {'whole ' * (kind is Integral)}number")


def _is_id(token: Any) -> bool:
    return isinstance(token, Integral) and not isinstance(token, bool) and 0 <= int(token) < 2**31


def _biases(given: Any) -> tuple[tuple[int, float], ...]:
    """Biases by token as sorted pairs; keys may be strings, as JSON has them. Raises ValueError for any other thing."""
    fault = f"logit_bias={given!r} is impossible: it must be numbers of at most 1e6, or -inf, by token id"
    try:
        pairs = list((given.items() if isinstance(given, Mapping) else given) if given is not None else ())
        found = {int(key) if isinstance(key, str) else key: value for key, value in pairs}
    except (TypeError, ValueError):
        raise ValueError(fault) from None
    for token, bias in found.items():
        number = isinstance(bias, Real) and not isinstance(bias, bool)
        if not (_is_id(token) and number and (abs(bias) <= 1e6 or bias == -math.inf)):
            raise ValueError(fault)
    if len(found) < len(pairs):
        raise ValueError(f"logit_bias={given!r} is impossible: a token is there twice")
    return tuple(sorted((int(token), float(bias)) for token, bias in found.items()))


def shortest(value: float) -> str:
    """A number as short as it can be written without becoming another: 0.5, 1, 40, 0.123456789."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


Candidates = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Token:
    """The trace of one generated token. What was not known when it was written is None.

    Probabilities, margin and entropies are those of p and q at temperature 1, with penalties and biases, before any
    other sampling transform.

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
        draft_logprobs, target_logprobs: where `SamplingParams.logprobs` asks for them, the (id, log-probability) by p
            and q of the token itself, and then of the most likely ones.
        draft_entropy_bounds, target_entropy_bounds, total_variation_bounds: instead of the value, what it is at least
            and at most, of a model that tells the probabilities of its most likely tokens only (`fsgen.bounds`).
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
    draft_logprobs: Candidates = ()
    target_logprobs: Candidates = ()
    draft_entropy_bounds: tuple[float, float] | None = None
    target_entropy_bounds: tuple[float, float] | None = None
    total_variation_bounds: tuple[float, float] | None = None

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
