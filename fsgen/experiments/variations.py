"""How often a draft would be overruled under other decoding strategies: read off one text, without writing others.

Where tokens are drawn, a drafted token falls with the total variation of p and q, both transformed alike (Leviathan
2211.17192). That depends on the context and on no token drawn, so one pass of each model over a text gives it for every
strategy at the contexts of this text. Greedy decoding is the strategy whose distributions are one-hot: there the total
variation is 1 where the two choices differ, and 0 elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fsgen.backends.reader import Reader
from fsgen.engine.trace import CHUNK
from fsgen.probs import Transforms, total_variation
from fsgen.types import SamplingParams

if TYPE_CHECKING:
    from fsgen.backends import Members

TokenIds = Sequence[int]
Variations = NDArray[np.float32]


def grid_variations(p: Tensor, q: Tensor, grid: Sequence[SamplingParams]) -> Variations:
    """Total variation of p and q under each strategy of a grid: from [n, vocab] logits of both, [grid, n]."""
    strategies = [Transforms([one], q.device) for one in grid]
    size = max(1, CHUNK // q.shape[-1])  # the transforms of a large vocabulary are made for so many positions at a time
    found = np.empty((len(strategies), len(q)), dtype=np.float32)
    for start in range(0, len(q), size):
        some = slice(start, start + size)
        for row, strategy in zip(found, strategies, strict=True):
            ours, theirs = (strategy.drawn(x[None, some])[0] for x in (p, q))
            row[some] = total_variation(ours, theirs).cpu().numpy()
    return found


def variations(
    members: Sequence[Members],
    texts: Sequence[tuple[TokenIds, TokenIds]],
    grid: Sequence[SamplingParams],
    batch_size: int = 16,
) -> list[list[Variations]]:
    """The chance that each draft is overruled at each position of some texts, under each strategy of a grid.

    Args:
        members: one for each draft; all have the same target.
        texts: prompt and completion of each, whoever wrote it; only the positions of completions are measured.
        grid: temperature, top-k, top-p and min-p of each strategy; what else it says is not read.
        batch_size: texts in a pass.

    Returns:
        for each of the members and each text [grid, tokens of the completion].

    Raises:
        ValueError: an empty prompt or completion, no strategy, or members with several targets.
    """
    if not grid:
        raise ValueError("the grid has no strategy")
    if any(group.target is not members[0].target for group in members):
        raise ValueError("the texts are read by one target, but the members have several")
    if empty := [i for i, (prompt, completion) in enumerate(texts) if not len(prompt) or not len(completion)]:
        raise ValueError(f"text {empty[0]} has an empty prompt or completion")
    sequences = [[*prompt, *completion[:-1]] for prompt, completion in texts]
    lengths = [len(completion) for _, completion in texts]
    vocab = min(group.vocab_size for group in members)
    readers = [Reader(model, sequences, lengths, vocab) for model in (members[0].target, *(g.draft for g in members))]
    order = sorted(range(len(texts)), key=lambda i: len(sequences[i]))
    found: list[list[Variations]] = [[np.empty(0, dtype=np.float32)] * len(texts) for _ in members]
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        ends = np.cumsum([lengths[i] for i in batch])[:-1]
        with torch.inference_mode():
            q, _ = readers[0].read(batch)
            for reader, mine in zip(readers[1:], found, strict=True):
                p, _ = reader.read(batch)
                for i, part in zip(
                    batch, np.split(grid_variations(p.to(q.device), q, grid), ends, axis=1), strict=True
                ):
                    mine[i] = part
    return found
