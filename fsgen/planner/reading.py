"""What a draft makes of texts that a target wrote: one pass over each, without the target and without decoding again.

A greedy token is accepted where it is the draft's own choice. Of a sampled text, a drafted token is accepted with the
chance 1 - d (d: the total variation of p and q); given what was written there, y, that chance is
min(1, p(y) / q(y)), at each position by itself. So the log-probabilities that a log has are enough. Without them q(y)
is at most 1, and p(y) is a lower bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fsgen.backends.protocol import Model
from fsgen.backends.reader import Reader
from fsgen.methods.routers import Router
from fsgen.planner.texts import Written
from fsgen.probs import uniforms

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
_DRAWN = 78  # the purpose of the random numbers: whether a token is accepted


@dataclass(frozen=True)
class Reading:
    """A text as a draft reads it; arrays are by position of the completion.

    Attributes:
        text: what was written.
        low, high: bounds of the chance that the drafted token is accepted, given the text; equal where it is known.
        probs: the draft's largest probability.
        flags: where each router asks for System 2, by the router's string.
    """

    text: Written
    low: Floats
    high: Floats
    probs: Floats
    flags: Mapping[str, Bools] = field(default_factory=dict)

    def accepted(self, number: int, best: bool = False) -> Bools:
        """Which drafted tokens would be accepted: as it is where greedy, else drawn.

        Args:
            number: of the text, which decides what is drawn.
            best: by the upper bounds instead of the lower ones.
        """
        chances = self.high if best else self.low
        drawn = uniforms(np.array([number], np.uint64), np.arange(len(chances)), _DRAWN)
        found: Bools = np.asarray(drawn).reshape(-1)[: len(chances)] < chances
        return found


def read(
    draft: Model,
    texts: Sequence[Written],
    routers: Sequence[Router] = (),
    vocab: int | None = None,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> list[Reading]:
    """Lets a draft read texts.

    Args:
        draft: takes the same token ids as the target.
        texts: of the target.
        routers: that are to be counted later.
        vocab: ids that draft and target share; the draft's own where None.
        batch_size: texts in a pass.
        progress: called with the number of texts just read.
    """
    if not texts:
        return []
    vocab = draft.vocab_size if vocab is None else vocab
    sequences = [[*text.prompt, *text.tokens[:-1]] for text in texts]
    reader = Reader(draft, sequences, [len(text.tokens) for text in texts], vocab)
    order = sorted(range(len(texts)), key=lambda i: len(sequences[i]))  # texts of like length are read together
    found: dict[int, Reading] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        logits, _ = reader.read(batch)
        for i, z in zip(batch, torch.split(logits, [len(texts[i].tokens) for i in batch]), strict=True):
            found[i] = _reading(texts[i], z, routers)
        if progress is not None:
            progress(len(batch))
    return [found[i] for i in range(len(texts))]


def _reading(text: Written, z: Tensor, routers: Sequence[Router]) -> Reading:
    """What is kept of the draft's logits [n, vocab] at the positions of a text."""
    with torch.inference_mode():
        low, high = _chances(text, z)
        probs = z.softmax(-1).amax(-1).double().cpu().numpy()
        positions, seeds = np.arange(len(z)), np.zeros(len(z), np.uint64)
        flags = {str(router): np.array(router.consult(z, positions, seeds), bool) for router in routers}
    return Reading(text, low, high, probs, flags)


def _chances(text: Written, z: Tensor) -> tuple[Floats, Floats]:
    tokens = torch.tensor(text.tokens, device=z.device)
    if text.greedy:
        same: Floats = (z.argmax(-1) == tokens).double().cpu().numpy()
        return same, same
    log_p = (z.double() / text.temperature).log_softmax(-1).gather(-1, tokens[:, None])[:, 0].cpu().numpy()
    if text.exact and text.logprobs is not None:
        ratio: Floats = np.exp(np.minimum(0.0, log_p - np.array(text.logprobs)))
        return ratio, ratio
    # Filters take tokens away from p too, and p grows at those that were written: it stays a lower bound.
    chances: Floats = np.exp(np.minimum(0.0, log_p))
    return chances, np.ones_like(chances)


def ngram_reading(text: Written) -> Reading:
    """A text for n-grams, which need no model: what they draft is known at each round."""
    nothing = np.zeros(len(text.tokens))
    return Reading(text, nothing, nothing, np.ones(len(text.tokens)))
