"""What is done to a draft: to what it says, with its first choice or its entropy kept, and to what it reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fsgen.probs import uniforms

_WHERE, _WHAT = range(2)  # what numbers are drawn for


def tempered(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Logits [n, vocab] over one temperature, or over one for each position [n, 1]: the order of the tokens stays."""
    return logits / temperature


def shaken(logits: Tensor, factor: float, seed: int) -> Tensor:
    """Logits [n, vocab], each position at a temperature of its own, drawn from 1 / `factor` to `factor`.

    What the entropy of a position becomes is then partly random; the order of its tokens stays.
    """
    numbers = uniforms(np.array([seed], dtype=np.uint64), np.arange(len(logits)), _WHERE)
    return tempered(logits, torch.from_numpy(factor ** (2 * numbers - 1)).to(logits)[:, None])


def evened(logits: Tensor, share: float) -> Tensor:
    """Log-probabilities [n, vocab] with a share of what the first choice does not have spread over all other tokens.

    The first choice keeps its probability, and stays first: the others' mean is below the largest of them.
    """
    probs = logits.softmax(-1)
    top = probs.argmax(-1, keepdim=True)
    kept = probs.gather(-1, top)
    spread = (1 - kept) / (probs.shape[-1] - 1)
    return ((1 - share) * probs + share * spread).scatter(-1, top, kept).log()


def swapped(logits: Tensor) -> Tensor:
    """Logits [n, vocab] whose two most likely tokens have changed places: another first choice, the same entropy."""
    best = logits.topk(2, dim=-1)
    return logits.scatter(-1, best.indices, best.values.flip(-1))


def blurred(prompts: Sequence[Sequence[int]], share: float, seed: int) -> list[list[int]]:
    """Prompts of which a share of the tokens is replaced, each by any token of the prompts together.

    What a smaller share replaces, a larger one replaces too, and by the same tokens.
    """
    pool = np.concatenate([np.asarray(prompt) for prompt in prompts])
    made = []
    for i, prompt in enumerate(prompts):
        seeds, places = np.array([seed + i], dtype=np.uint64), np.arange(len(prompt))
        others = pool[(uniforms(seeds, places, _WHAT) * len(pool)).astype(np.int64)]
        made.append([int(x) for x in np.where(uniforms(seeds, places, _WHERE) < share, others, np.asarray(prompt))])
    return made
