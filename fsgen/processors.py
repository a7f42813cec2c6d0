"""Penalties, biases and a least length: what is done to a position's logits, by the tokens before it.

Every member's logits are processed as they leave it, position by position, drafted tokens included: the draft's, the
target's and the base's. So p, q, routers, verifiers and traces see the models that have these settings, and whatever
holds of a method holds of it with them: greedy texts are the argmax of the processed q, and sampled ones are
distributed as it. The order is that of vLLM and `transformers`: bias, repetition, frequency and presence, then what is
forbidden.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fsgen.types import SamplingParams

FORBIDDEN = -1e30
"""A logit that stays finite in every fusion, and whose probability is 0 wherever another token is possible."""


@dataclass(frozen=True, slots=True)
class LogitsProcessor:
    """The settings of one text that change logits.

    Attributes:
        sampling: its settings; prompt: tokens of its prompt; ends: tokens that end it.
    """

    sampling: SamplingParams
    prompt: int
    ends: tuple[int, ...]

    @classmethod
    def of(cls, sampling: SamplingParams, prompt: int, ends: Collection[int]) -> LogitsProcessor | None:
        """The processor of a text; None where its settings change nothing."""
        return cls(sampling, prompt, tuple(sorted(ends))) if sampling.changes_logits else None

    def apply(self, logits: Tensor, tokens: Sequence[int]) -> None:
        """Changes logits [n, vocab], in place: the i-th follow all but the last n - 1 - i of the text's `tokens`."""
        ids, count = np.array(tokens), np.arange(len(logits)) + len(tokens) - len(logits) + 1  # tokens before each
        biases = dict(self.sampling.logit_bias)
        finite = {token: bias for token, bias in biases.items() if bias > -np.inf}
        if finite:
            logits[:, list(finite)] += torch.tensor(list(finite.values()), device=logits.device)
        if self.sampling.repetition_penalty != 1.0:
            self._repetition(logits, ids, count)
        if self.sampling.frequency_penalty or self.sampling.presence_penalty:
            self._occurrence(logits, ids[self.prompt :], count - self.prompt)
        if len(finite) < len(biases):
            logits[:, [token for token in biases if token not in finite]] = FORBIDDEN
        short = int((count - self.prompt < self.sampling.min_tokens).sum())
        if short and self.ends:
            logits[:short, list(self.ends)] = FORBIDDEN
        # A draft with another tokenizer may have predicted forbidden tokens alone: then all others are as likely.
        nothing = logits.amax(-1, keepdim=True) <= FORBIDDEN
        logits.masked_fill_(nothing & logits.isneginf(), 0.0)

    def _repetition(self, logits: Tensor, ids: NDArray[np.int64], count: NDArray[np.int64]) -> None:
        """Tokens that stand before, the prompt's included, become less likely (Keskar 1909.05858)."""
        penalty = self.sampling.repetition_penalty
        found, first = np.unique(ids, return_index=True)
        before = torch.from_numpy(first < count[:, None]).to(logits.device)
        columns = torch.from_numpy(found).to(logits.device)
        old = logits[:, columns]
        logits[:, columns] = torch.where(before, torch.where(old < 0, old * penalty, old / penalty), old)

    def _occurrence(self, logits: Tensor, written: NDArray[np.int64], count: NDArray[np.int64]) -> None:
        """Tokens that were written lose so much for each time, and so much for the first."""
        if not len(written):
            return
        found, place = np.unique(written, return_inverse=True)
        times = np.stack([np.bincount(place[:n], minlength=len(found)) for n in count])
        loss = self.sampling.frequency_penalty * times + self.sampling.presence_penalty * (times > 0)
        logits[:, torch.from_numpy(found).to(logits.device)] -= torch.from_numpy(loss).to(logits)


def process(
    logits: Tensor,
    texts: Sequence[Sequence[int] | None],
    last: Sequence[int],
    processors: Sequence[LogitsProcessor | None],
) -> Tensor:
    """Logits [rows, most, vocab] as the settings of some rows want them; those of other rows as they are.

    Args:
        logits: of the last last[i] positions of row i's text, right-aligned.
        texts: the tokens of each row, None for one without logits.
        processors: of each row, None where there is nothing to do.
    """
    changed = logits.clone()
    for row, (processor, text) in enumerate(zip(processors, texts, strict=True)):
        if processor is not None and text is not None:
            processor.apply(changed[row, changed.shape[1] - last[row] :], text)
    return changed
