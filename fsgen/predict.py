"""Predicts how often a target would overrule a draft, from texts that each writes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fsgen.analysis.prediction import PairTexts, Predictor, accepted
from fsgen.api import generate
from fsgen.types import SamplingParams

if TYPE_CHECKING:
    from fsgen.backends import Members, Model
    from fsgen.backends.checkpoint import Checkpoint
    from fsgen.prompts import Prompt


@dataclass(frozen=True, slots=True)
class OwnTexts:
    """What a model said of its own greedy texts.

    Attributes:
        name, digest, parameters: of the model.
        gap: between its two most likely tokens at each token, in nats, [n].
        entropy: in nats, [n].
        text: which text each token belongs to, [n].
    """

    name: str
    digest: str
    parameters: int
    gap: list[float]
    entropy: list[float]
    text: list[int]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is expected of a pair that has not run.

    Attributes:
        draft, target: their names.
        frequency: the expected collaboration frequency.
        error: of predictions for models and tasks that were not fitted: the mean, and what nine in ten are within.
        known: a model of the pair was fitted, so that the error may be smaller than for others.
        accepted: the probability that the first 1, 2, ... drafted tokens of a round all stand.
        mean_accepted_length: tokens a call of the target, with the bonus token, by as many drafted tokens.
        tokens: of the target's texts that were read.
    """

    draft: str
    target: str
    frequency: float
    error: dict[str, float] | None
    known: bool
    accepted: list[float]
    mean_accepted_length: list[float]
    tokens: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def require_readable(model: Checkpoint | Model) -> None:
    """Raises ValueError for a model of which something is not known that predictions read: entropies or its size."""
    name = model.info.name
    if not model.capabilities.full_logits:
        raise ValueError(
            f"{name!r} tells the probabilities of its most likely tokens only, and predictions read its entropy"
        )
    if not model.info.parameters:
        raise ValueError(f"the size of {name!r} is not known, which predictions read")


def own_texts(
    members: Members, prompts: Sequence[Prompt], max_tokens: int, batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> OwnTexts:  # fmt: skip
    """Let a target write alone, greedily.

    Args:
        members: with a target, whichever model it is.
        prompts: as in `fsgen.generate`.
        max_tokens: of each text.

    Raises:
        ValueError: as `fsgen.generate`, and as `require_readable`.
    """
    assert members.target is not None
    require_readable(members.target)
    sampling = SamplingParams(max_tokens)
    texts = generate(members, list(prompts), "plain", None, None, sampling, batch_size, candidates=2, progress=progress)
    gap, entropy, number = [], [], []
    for place, text in enumerate(texts):
        for token in text.tokens:
            (_, first), (_, second) = token.target_top[:2]
            gap.append(math.log(first / max(second, 1e-30)))
            assert token.target_entropy is not None  # all its logits are known
            entropy.append(token.target_entropy)
            number.append(place)
    info, about = members.target.info, members.identity("target")
    return OwnTexts(info.name, about.digest or "", info.parameters, gap, entropy, number)


def predict(draft: OwnTexts, target: OwnTexts, predictor: Predictor, draft_tokens: int = 8) -> Prediction:
    """What is expected of a pair.

    Args:
        draft, target: what each said alone, of the same prompts.
        predictor: fitted on other pairs (`fsgen.analysis.prediction.shipped`).
        draft_tokens: of a round, at most, for the expected acceptance.

    Raises:
        ValueError: a model whose size is not known, or that wrote nothing.
    """
    for own in (draft, target):
        if not own.parameters:
            raise ValueError(f"the size of {own.name!r} is not known, which predictions read")
        if not own.entropy:
            raise ValueError(f"{own.name!r} wrote no token after these prompts, so there is nothing to predict from")
    pair = PairTexts(
        task="", draft=draft.name, target=target.name,
        draft_parameters=draft.parameters, target_parameters=target.parameters,
        uncertainty=float(np.mean(draft.entropy)), gap=np.array(target.gap), entropy=np.array(target.entropy),
        text=np.array(target.text), digests=(draft.digest, target.digest),
    )  # fmt: skip
    mismatch = predictor.mismatch(pair)
    stand = accepted(mismatch, pair.text, draft_tokens)
    return Prediction(
        draft.name, target.name, float(mismatch.mean()), predictor.record.get("error"), predictor.knows(pair), stand,
        [1 + sum(stand[: length + 1]) for length in range(len(stand))], len(mismatch),
    )  # fmt: skip
