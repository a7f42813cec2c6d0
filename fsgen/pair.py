"""What a draft and a target share, and which methods they can write with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from fsgen.backends.overlap import Mass, lacking, masses
from fsgen.backends.translated import TranslatedModel
from fsgen.methods.method import PRESETS, Method
from fsgen.prompts import Prompt, encode

if TYPE_CHECKING:
    from fsgen.backends import Members

Relation = Literal["same", "same vocabulary", "different"]


@dataclass(frozen=True, slots=True)
class Possible:
    """Whether a pair can write with a method, and how, or why not."""

    method: str
    possible: bool
    note: str


@dataclass(frozen=True, slots=True)
class Pair:
    """What two models share.

    Attributes:
        draft, target: their names.
        tokenizer: the same; the same vocabulary, cut by other rules; or different.
        difference: the first one, in words.
        draft_tokens, target_tokens, shared_tokens: how many each has, and both have: by what they write, and special
            tokens by name.
        draft_mass, target_mass: the probability on shared tokens; None where the tokenizer is the same.
        methods: all of them.
    """

    draft: str
    target: str
    tokenizer: Relation
    difference: str | None
    draft_tokens: int
    target_tokens: int
    shared_tokens: int
    draft_mass: Mass | None
    target_mass: Mass | None
    methods: tuple[Possible, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def compare(members: Members, prompts: Sequence[Prompt]) -> Pair:
    """What a draft and a target share.

    Args:
        members: both of them. Where their tokenizers are the same, no model is run.
        prompts: on which probabilities are measured: texts, or token ids of the target.

    Raises:
        ValueError: a member is missing.
    """
    PRESETS["speculative"].require(role for role, _ in members)
    draft, target = members.draft, members.target
    assert draft is not None
    assert target is not None
    names = draft.info.name, target.info.name
    if not isinstance(draft, TranslatedModel):
        n = len(target.tokenizer.get_vocab())
        ways = tuple(Possible(name, True, _how(method)) for name, method in PRESETS.items())
        return Pair(*names, "same", None, len(draft.tokenizer.get_vocab()), n, n, None, None, ways)
    found = masses(members, [encode(members, prompt) for prompt in prompts])
    one, two = draft.draft.tokenizer.get_vocab(), target.tokenizer.get_vocab()
    return Pair(
        *names,
        tokenizer="same vocabulary" if one == two else "different",
        difference=members.difference,
        draft_tokens=len(one),
        target_tokens=len(two),
        shared_tokens=len(draft.translation.shared),
        draft_mass=found[0],
        target_mass=found[1],
        methods=tuple(
            _possible(name, method, dict(zip(names, found, strict=True))) for name, method in PRESETS.items()
        ),
    )


def _possible(name: str, method: Method, found: dict[str, Mass]) -> Possible:
    """Whether models of different tokenizers, with these masses by name, can write with a method."""
    if not method.drafts:
        return Possible(name, True, _how(method))
    if not method.fusion.reads_draft:
        return Possible(name, True, f"{_how(method)}; the draft's text is encoded by the target's tokenizer")
    for model, mass in found.items():
        if 1.0 - mass.mean > method.missing:
            return Possible(name, False, lacking(model, mass, method.missing))
    return Possible(name, True, f"{_how(method)}; over the tokens that both have")


def _how(method: Method) -> str:
    if not method.drafts:
        return "the target alone"
    if method.skips_verification:
        return "the draft is trusted where the router says so"
    if method.fusion.reads_base:
        return "with a base of the draft's tokenizer"
    return "exact" if not method.fusion.reads_draft else "exact for the mixture of both"
