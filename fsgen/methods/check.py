"""What can be known to be wrong with a request before any weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from fsgen.methods.fusions import SharedTokens, Target
from fsgen.methods.method import Method
from fsgen.methods.routers import Always, Margin, MaxProb, Never, Position, Random
from fsgen.types import SamplingParams

TokenIds = Sequence[int]


class Loadable(Protocol):
    """What is known of the members before their weights are loaded (`backends.Plan`), and after."""

    @property
    def draft(self) -> Any: ...
    @property
    def target(self) -> Any: ...
    @property
    def base(self) -> Any: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def difference(self) -> str | None: ...
    @property
    def mixed(self) -> bool: ...
    def identity(self, role: str) -> Any: ...


def check(
    members: Loadable,
    method: Method,
    prompts: Sequence[TokenIds],
    sampling: Sequence[SamplingParams],
    measured_later: bool = False,
) -> None:
    """What can be known to fail before anything is computed.

    Args:
        members, method, prompts, sampling: what writes which texts, and how.
        measured_later: whether models of different tokenizers can be mixed is measured before anything is written.

    Raises:
        ValueError: a prompt that is empty or with its budget exceeds the context window, a token id out of the
            vocabulary, a member that the method needs and that is not there, a router learned on another draft, a
            fusion of probabilities where the draft has another tokenizer; what needs more than the most likely tokens
            of a model that tells no others.
    """
    method.require(role for role in ("draft", "target", "base") if getattr(members, role) is not None)
    if members.difference is not None and method.fusion.reads_draft:
        _require_mixed(method, members.difference, members.mixed or measured_later)
    if "draft" in method.roles:
        method.router.require(members)
    partial = [role for role in method.roles if not getattr(members, role).capabilities.full_logits]
    if len(prompts) != len(sampling):
        raise ValueError(f"{len(prompts)} prompts need as many sampling parameters, not {len(sampling)}")
    for number, (prompt, params) in enumerate(zip(prompts, sampling, strict=True)):
        method.verifier_for(params)
        if partial:
            _require_known(members, method, params, partial)
        if params.n > 1:
            raise ValueError(f"n={params.n} is for `fsgen.generate`; here every text is asked for by itself")
        for name, ids in (("stop_token_ids", params.stop_token_ids), ("logit_bias", dict(params.logit_bias))):
            if any(token >= members.vocab_size for token in ids):
                raise ValueError(f"{name} has a token id outside the vocabulary of {members.vocab_size}: {max(ids)}")
        if not len(prompt):
            raise ValueError(f"prompt {number} has no tokens; at least one is needed")
        if not all(0 <= token < members.vocab_size for token in prompt):
            raise ValueError(f"prompt {number} has a token id outside the vocabulary of {members.vocab_size}")
        if len(prompt) + params.max_tokens > members.context:
            raise ValueError(
                f"prompt {number} has {len(prompt)} tokens, which with max_tokens={params.max_tokens} exceeds the "
                f"context window of {members.context}"
            )


def roles_of_q(method: Method) -> tuple[str, ...]:
    """The members whose probabilities make q; the draft's own where it writes alone."""
    if "target" not in method.roles:
        return ("draft",)
    fusion = method.fusion
    return ("target", *["draft"] * fusion.reads_draft, *["base"] * fusion.reads_base)


def require_all_tokens(
    members: Loadable, method: Method, lacking: str = "how likely a given text is", written: bool = False
) -> None:
    """Raises ValueError where a model that q reads tells the probabilities of its most likely tokens only.

    Args:
        lacking: what cannot be said then, for the message.
        written: of written tokens, which may be the draft's where it is trusted.
    """
    roles = dict.fromkeys([*roles_of_q(method), *["draft"] * (written and method.skips_verification)])
    partial = [role for role in roles if not getattr(members, role).capabilities.full_logits]
    if partial:
        names = " and ".join(f"the {role} {members.identity(role).name}" for role in partial)
        raise ValueError(f"{names} tells the probabilities of the most likely tokens only, and so not {lacking}")


def _require_mixed(method: Method, difference: str, mixed: bool) -> None:
    if not (mixed and isinstance(method.fusion, SharedTokens)):
        raise ValueError(
            f"method {method.name!r} mixes the probabilities of draft and target token by token, and {difference}; "
            "`fsgen.generate`, `stream`, `chat` and 'fsgen generate' measure whether the tokens that both have are "
            "enough; elsewhere this is not possible"
        )


def _require_known(members: Loadable, method: Method, params: SamplingParams, partial: Sequence[str]) -> None:
    """Raises ValueError where the most likely tokens of a member are not enough for what is asked."""
    reads_probabilities = not isinstance(method.router, (Always, Never, MaxProb, Margin, Random, Position))
    faults = (
        (not params.greedy, "draw tokens: set temperature=0"),
        (params.changes_logits, "take penalties, biases or min_tokens into account"),
        (
            not isinstance(method.fusion, Target),
            f"fuse ({method.fusion.name}): use a fusion that reads the target alone",
        ),
        (method.rollback is not None, "take trusted tokens back (rollback)"),
        ("draft" in partial and reads_probabilities, f"route by {method.router}: max-prob and margin are known"),
        ("draft" in partial and members.difference is not None, "draft for a target with another tokenizer"),
    )
    for found, what in faults:
        if found:
            names = " and ".join(f"the {role} {members.identity(role).name}" for role in partial)
            raise ValueError(f"{names} tells the probabilities of the most likely tokens only, not enough to {what}")
