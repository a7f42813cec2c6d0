"""A method is a fusion, a router, a verifier and a number of draft tokens under one name.

The only place that parses the strings of methods (`contrastive:beta=0.3`) and of routers (`max-prob:0.5`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace

from fsgen.methods.fusions import FUSIONS, Fusion, Target
from fsgen.methods.own import own_fusion, own_router
from fsgen.methods.routers import ROUTERS, Always, MaxProb, Never, Router
from fsgen.methods.verifiers import VERIFIERS, Verifier
from fsgen.types import SamplingParams

MAX_DRAFT_TOKENS = 64
MAX_ADAPTIVE = 12
MAX_NGRAM = 16
AUTO = "auto"


class MissingMemberError(ValueError):
    """A method needs a member that is not there; `role` is the first of those."""

    def __init__(self, method: str, missing: list[str]) -> None:
        self.role = missing[0]
        super().__init__(f"method {method!r} needs a {' and a '.join(missing)} model; give {self.role}=")


@dataclass(frozen=True)
class Method:
    """How draft and System 2 write together.

    Args:
        name: as it is shown in tables.
        fusion: how the members' logits become q.
        router: which positions need System 2.
        draft_tokens: the most tokens that the draft writes in a round; 0 is System 2 alone.
        adaptive: the number is chosen in every round, from the acceptances seen and the times measured, up to
            `MAX_ADAPTIVE` (`engine.draft_length`). What is written must not depend on it: greedy texts do not, and
            sampled ones are then drawn by shared noise. (By `rejection` they would: then it is always `draft_tokens`.)
        skips_verification: the router *routes* (a token it does not flag is trusted without verification), instead of
            only ending the draft early, with everything verified.
        bonus: System 2 adds a token where all drafted ones were accepted. Only where the fusion does not read the
            draft, which was not called at that position.
        rollback: when System 2 is consulted it also re-checks the tokens trusted since, and rewinds to the first one
            with less than `rollback` times the probability of its own best one (Kim 2302.07863). None: never.
        verifier: `exact`, `rejection`, `coupled` (`methods.verifiers`), or `auto`: exact for greedy texts, else
            coupled where the method is adaptive, and rejection where it is not.
        ngram: instead of a draft model, what followed an earlier occurrence of the last tokens (prompt lookup), by
            matches of at most so many tokens; 0: the draft model.
        missing: where the draft has another tokenizer, a fusion that reads it goes over the tokens that both have. The
            mean probability of all others, the draft's or the target's, may be so much at most.

    Raises:
        ValueError: a combination that means nothing, named.
    """

    name: str
    fusion: Fusion
    router: Router = field(default_factory=Always)
    draft_tokens: int = 5
    adaptive: bool = False
    skips_verification: bool = False
    bonus: bool = True
    rollback: float | None = None
    verifier: str = "auto"
    ngram: int = 0
    missing: float = 0.05

    def __post_init__(self) -> None:
        name, silent = f"method {self.name!r}", self.draft_tokens == 0
        unused = silent and not isinstance(self.router, Always)
        faults = (
            (not 0 <= self.draft_tokens <= MAX_DRAFT_TOKENS,
             f"draft_tokens={self.draft_tokens} is impossible: 0 to {MAX_DRAFT_TOKENS}"),
            (silent and (self.skips_verification or self.fusion.reads_draft),
             f"{name} reads the draft at every position: draft_tokens must be at least 1"),
            (unused, f"{name} drafts nothing that the router {str(self.router)!r} could judge"),
            (silent and not self.bonus, f"{name} writes drafted tokens only: draft_tokens must be at least 1"),
            (self.adaptive and (self.skips_verification or silent),
             f"{name} cannot choose draft_tokens by itself: give a number"),
            (self.verifier not in ("auto", *VERIFIERS),
             f"unknown verifier {self.verifier!r}; there are auto, {', '.join(VERIFIERS)}"),
            (self.ngram and not (self.adds_bonus and self.drafts),
             f"{name} needs a draft model: n-grams draft for 'speculative' alone"),
            (not 0 <= self.ngram <= MAX_NGRAM,
             f"ngram={self.ngram!r} is impossible: 0 (a draft model) to {MAX_NGRAM} tokens"),
            (not 0.0 <= self.missing <= 1.0,
             f"missing={self.missing!r} is impossible: a probability, from 0 to 1"),
        )  # fmt: skip
        for found, fault in faults:
            if found:
                raise ValueError(fault)
        try:
            hash(self)  # texts of equal methods are decoded together
        except TypeError as error:
            raise ValueError(f"{name} needs a fusion and a router that are frozen dataclasses: {error}") from None
        if self.rollback is not None:
            self._check_rollback(self.rollback)

    def _check_rollback(self, rollback: float) -> None:
        if not self.skips_verification:
            raise ValueError(f"rollback re-checks trusted tokens; method {self.name!r} trusts none, use 'route'")
        if not 0.0 < rollback <= 1.0:
            raise ValueError(f"rollback={rollback!r} is impossible: it must be above 0 and at most 1")
        if self.fusion.reads_draft:
            raise ValueError(f"rollback needs a fusion that reads the target alone, not {self.fusion.name!r}")

    def fixed(self) -> Method:
        """The method with `draft_tokens` in every round: what it writes, and how, no longer depends on any clock."""
        return replace(self, adaptive=False)

    @property
    def drafts(self) -> bool:
        return self.draft_tokens > 0

    @property
    def adds_bonus(self) -> bool:
        return self.bonus and not self.skips_verification and not self.fusion.reads_draft

    @property
    def stopping_router(self) -> Router | None:
        """The router to consult at every drafted token; None where it could not end a draft early."""
        return None if not self.skips_verification and isinstance(self.router, Always | Never) else self.router

    @property
    def roles(self) -> tuple[str, ...]:
        """The members that it calls."""
        roles = ["draft"] if self.drafts and not self.ngram else []
        if not (self.skips_verification and isinstance(self.router, Never)):
            roles += ["target"] + ["base"] * self.fusion.reads_base
        return tuple(roles)

    def require(self, available: Iterable[str]) -> None:
        """Raises MissingMemberError, a ValueError, where a member that it calls is missing."""
        available = set(available)
        missing = [role for role in self.roles if role not in available]
        if missing:
            raise MissingMemberError(self.name, missing)

    def verifier_for(self, sampling: SamplingParams) -> Verifier:
        """The verifier of a text. Raises ValueError for `exact` where tokens are drawn."""
        if self.verifier == "exact" and not sampling.greedy:
            raise ValueError("verifier 'exact' is for greedy decoding: set temperature=0, or use 'rejection'")
        if self.verifier != "auto":
            return VERIFIERS[self.verifier]
        # Where a clock decides how far to draft, the text must not depend on it.
        return VERIFIERS["exact" if sampling.greedy else "coupled" if self.adaptive else "rejection"]


PRESETS: dict[str, Method] = {
    preset.name: preset
    for preset in (
        Method("oracle", Target(), draft_tokens=1, bonus=False),
        Method("speculative", Target(), adaptive=True),
        *(Method(name, fusion(), adaptive=True) for name, fusion in FUSIONS.items() if name != "target"),
        Method("route", Target(), router=MaxProb(0.5), skips_verification=True),
        Method("plain", Target(), draft_tokens=0),
    )
}


def parse_router(text: str) -> Router:
    """A router from its string, such as `always`, `max-prob:0.5`, `position:0-16`.

    Raises:
        ValueError: unknown name (listing those that exist) or an argument that the router cannot take.
    """
    name, _, argument = text.strip().partition(":")
    if name not in ROUTERS:
        if (own := own_router(text.strip())) is not None:
            return own
        known = ", ".join(router.usage or router.name for router in ROUTERS.values())
        raise ValueError(f"unknown router {name!r}; there are {known}, and your own as module:Name")
    return ROUTERS[name].parse(argument)


def parse(method: str | Method, router: str | Router | None = None, draft_tokens: int | str | None = None) -> Method:
    """A method from its string, with another router or draft length (a number, or `auto`) where one is given.

    The string is a preset, with parameters behind a colon: `contrastive:alpha=0.1,beta=0.3`, `route:rollback=0.2`.
    Parameters are those of the fusion, `draft_tokens`, `verifier`, and for `route` also `rollback` and `fusion`.

    Raises:
        ValueError: unknown name, parameter or value; the message lists what exists.
    """
    if isinstance(method, str):
        method = _parse_method(method)
    if router is not None:
        method = replace(method, router=parse_router(router) if isinstance(router, str) else router)
    return method if draft_tokens is None else _drafting(method, draft_tokens)


def _drafting(method: Method, tokens: int | str) -> Method:
    """The method with so many draft tokens, or with as many as it finds best (`auto`)."""
    if tokens == AUTO:
        return replace(method, adaptive=True)
    if isinstance(tokens, str):
        if not tokens.isdecimal():
            raise ValueError(f"method {method.name!r}: draft_tokens={tokens!r} is neither a count nor {AUTO!r}")
        tokens = int(tokens)
    return replace(method, draft_tokens=tokens, adaptive=False)


def _parse_method(text: str) -> Method:
    name, _, rest = text.strip().partition(":")
    method = PRESETS.get(name)
    if method is None:
        own = own_fusion(text.strip())
        if own is None:
            raise ValueError(f"unknown method {name!r}; there are {', '.join(PRESETS)}, and your own as module:Name")
        fusion, name, rest = own
        method = Method(name, fusion, adaptive=True)
    given = _parameters(name, rest)
    if method.skips_verification and "fusion" in given:
        method = replace(method, fusion=_fusion(given.pop("fusion")))

    of_fusion = [field.name for field in fields(method.fusion)]  # type: ignore[arg-type]  # all are dataclasses
    of_method = ["draft_tokens", "verifier", "ngram"] + ["rollback"] * method.skips_verification
    of_method += ["missing"] * method.fusion.reads_draft
    for key in given:
        if key not in of_fusion + of_method:
            known = of_fusion + of_method + ["fusion"] * method.skips_verification
            raise ValueError(f"method {name!r} has no parameter {key!r}; it has {', '.join(known)}")

    fusion_values = {key: _number(name, key, given) for key in given if key in of_fusion}
    if fusion_values:
        method = replace(method, fusion=replace(method.fusion, **fusion_values))  # type: ignore[type-var]
    if "rollback" in given:
        method = replace(method, rollback=_number(name, "rollback", given))
    if "missing" in given:
        method = replace(method, missing=_number(name, "missing", given))
    if "draft_tokens" in given:
        method = _drafting(method, given["draft_tokens"])
    if "verifier" in given:
        method = replace(method, verifier=given["verifier"])
    if "ngram" in given:
        method = replace(method, ngram=_whole(name, "ngram", given))
    # The name that tables show contains the parameters; draft_tokens has a column of its own.
    shown = ",".join(item for item in rest.split(",") if item and not item.startswith("draft_tokens="))
    return replace(method, name=f"{name}:{shown}" if shown else name)


def _fusion(name: str) -> Fusion:
    if name in FUSIONS:
        return FUSIONS[name]()
    if (own := own_fusion(name)) is not None:
        return own[0]
    raise ValueError(f"unknown fusion {name!r}; there are {', '.join(FUSIONS)}, and your own as module:Name")


def _parameters(method: str, text: str) -> dict[str, str]:
    """The values by name of `name=value,name=value`."""
    given: dict[str, str] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"method {method!r}: {item!r} is not a parameter; write name=value")
        if key in given:
            raise ValueError(f"method {method!r}: parameter {key!r} is given twice")
        given[key] = value
    return given


def _number(method: str, key: str, given: Mapping[str, str]) -> float:
    try:
        return float(given[key])
    except ValueError:
        raise ValueError(f"method {method!r}: {key}={given[key]!r} is not a number") from None


def _whole(method: str, key: str, given: Mapping[str, str]) -> int:
    number = _number(method, key, given)
    if not number.is_integer():
        raise ValueError(f"method {method!r}: {key}={given[key]!r} is not a whole number")
    return int(number)
