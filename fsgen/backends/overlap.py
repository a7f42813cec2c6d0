"""How much of what two models predict is on tokens that both have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fsgen.backends.members import Members
from fsgen.backends.protocol import Model
from fsgen.backends.translated import TranslatedModel

MOST_POSITIONS = 256  # of a prompt, the last ones: the logits of all may not fit
PROMPTS = 8  # that say whether a pair can be mixed


@dataclass(frozen=True, slots=True)
class Mass:
    """The probability that a model gives to tokens which the other one has too.

    Attributes:
        mean: over all positions; lowest: at the worst of 20 positions (the quantile 0.05).
        positions: how many there are.
    """

    mean: float
    lowest: float
    positions: int


def masses(members: Members, prompts: Sequence[Sequence[int]]) -> tuple[Mass, Mass]:
    """The draft's and the target's mass on shared tokens, at the tokens of some prompts; temperature 1.

    Args:
        members: a draft with another tokenizer than the target.
        prompts: in the target's token ids. The draft reads their text in its own.
    """
    translated, target = members.draft, members.target
    assert isinstance(translated, TranslatedModel)
    assert target is not None
    there = translated.translation
    own = [
        [*there.draft.beginning, *(piece.id for piece in there.to_draft(b"".join(there.target.spell(ids, first=True))))]
        for ids in prompts
    ]
    return _mass(translated.draft, own, list(there.shared)), _mass(target, prompts, list(there.shared.values()))


def _mass(model: Model, sequences: Sequence[Sequence[int]], shared: list[int]) -> Mass:
    index, found = torch.tensor(shared, dtype=torch.long, device=model.device), list[Tensor]()
    session = model.session(1)
    with torch.inference_mode():
        for ids in sequences:
            ids = ids[-model.context :]
            if ids:
                session.begin(0, len(ids), len(ids))
                logits = session.score([ids], min(len(ids), MOST_POSITIONS))[0]
                found.append(logits.softmax(-1).index_select(-1, index).sum(-1).cpu())
    each = torch.cat(found) if found else torch.zeros(1)
    return Mass(float(each.mean()), float(each.quantile(0.05)), len(each))


def lacking(name: str, mass: Mass, bound: float) -> str:
    """Why a pair is not mixed."""
    return (
        f"{1 - mass.mean:.3f} of the probability of {name} is on tokens that the other one lacks (the mean of "
        f"{mass.positions:,} positions of the prompts); the bound is missing={bound:g}"
    )


def mixable(members: Members, bound: float, prompts: Sequence[Sequence[int]]) -> Members:
    """Members whose probabilities can be mixed token by token, through the tokens that both have.

    Raises:
        ValueError: on some of these prompts the mean probability of other tokens is above the bound.
    """
    draft = members.draft
    assert isinstance(draft, TranslatedModel)
    assert members.target is not None
    names = draft.info.name, members.target.info.name
    with members.lock:
        found_masses = masses(members, prompts[:PROMPTS])
    for name, mass in zip(names, found_masses, strict=True):
        if 1.0 - mass.mean > bound:
            raise ValueError(f"{' and '.join(names)} share too few tokens to be mixed: {lacking(name, mass, bound)}")
    found = replace(members, draft=TranslatedModel(draft.draft, members.target, look_ahead=0), mixed=True)
    object.__setattr__(found, "lock", members.lock)  # the models are the same
    return found
