"""What is known of a distribution of which only the most likely tokens are.

Such a distribution is held as logits like any other: the known log-probabilities as they are, and what is left of the
probability spread evenly over all other tokens (`completed`). So the most likely token, the known probabilities and
the lead are right, and sums over the rest are bounded by what any distribution with these values could have: no
unknown token is more likely than the least likely known one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

Bounds = tuple[float, float]
"""At least, and at most."""

ROUNDING = 1e-6
"""By how much sums of the probabilities that are told may be off: they come from log-probabilities in float32."""
_LEAST = 1e-30  # probability left for all other tokens, where rounding has it that none is


def completed(ids: Tensor, logprobs: Tensor, vocab: int) -> Tensor:
    """Log-probabilities [n, vocab], float32, of positions of which some are known.

    Args:
        ids: [n, k] of the most likely tokens; an id of -1 is none.
        logprobs: [n, k] theirs, in nats, the largest first. NaN where only the most likely token is known: it has an
            infinite logit then, and no other any.
        vocab: entries of the vocabulary.
    """
    there = ids >= 0
    unknown = logprobs[:, :1].isnan()
    logprobs = torch.where(unknown, 0.0, logprobs)
    values = torch.where(there, logprobs.double(), -torch.inf)
    left = (1.0 - values.exp().sum(-1, keepdim=True)).clamp(min=_LEAST)
    others = (vocab - there.sum(-1, keepdim=True)).clamp(min=1)
    least = torch.where(there, values, torch.inf).amin(-1, keepdim=True)
    # Strictly less likely than any known one, so that these can be told apart.
    below = torch.nextafter(least.float(), torch.tensor(-torch.inf))
    rest = torch.minimum((left / others).log().float(), below)
    result = rest.expand(-1, vocab).contiguous()
    rows = torch.arange(len(ids))[:, None].expand_as(ids)
    result[rows[there], ids[there].long()] = logprobs.float()[there]
    for row in unknown[:, 0].nonzero()[:, 0].tolist():
        result[row].fill_(-torch.inf)[int(ids[row, 0])] = torch.inf
    return result


def told(logprobs: Tensor) -> list[bool]:
    """Whether probabilities are known at each position of completed log-probabilities [n, vocab], or just a token."""
    return logprobs.amax(-1).isfinite().tolist()


def known(logprobs: Tensor) -> Tensor:
    """Which tokens of completed log-probabilities [..., vocab] are known."""
    return logprobs > logprobs.amin(-1, keepdim=True)


def entropy_bounds(logprobs: Tensor) -> list[Bounds]:
    """The entropy of each position, in nats, from completed log-probabilities [n, vocab].

    The rest adds most where it is spread evenly, and least where few tokens are as likely as the last known one.
    """
    values = logprobs.double()
    there = known(values)
    probs = values.exp() * there
    inside = -torch.where(there, probs * values, 0.0).sum(-1)
    others = (~there).sum(-1)
    left = (1.0 - probs.sum(-1) + ROUNDING).clamp(min=0.0)
    high = inside + torch.where(others > 0, left * (others / left.clamp(min=_LEAST)).log().clamp(min=0.0), 0.0)
    left = (left - 2 * ROUNDING).clamp(min=0.0)
    largest = torch.where(there, values, torch.inf).amin(-1).exp()
    full = (left / largest).floor()
    partial = (left - full * largest).clamp(min=0.0)
    low = inside - full * largest * largest.log()
    low = low - torch.where(partial > 0, partial * partial.clamp(min=_LEAST).log(), 0.0)
    return [(max(0.0, a - ROUNDING), max(a, b) + ROUNDING) for a, b in zip(low.tolist(), high.tolist(), strict=True)]


def known_columns(logits: Tensor, side: str, columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """What a trace may keep of a distribution that is known in part: `columns`, without what is not known.

    Args:
        logits: completed log-probabilities [n, vocab], or a fusion of them.
        side: draft or target, with which the names of the columns begin.
        columns: as if all were known; of each its values at the n positions.
    """
    there = told(logits)
    values = logits.double().log_softmax(-1)
    sure, bounds = known(values), entropy_bounds(values)
    most = math.log(logits.shape[-1])
    result: dict[str, list[Any]] = {f"{side}_entropy": [None] * len(logits)}
    result[f"{side}_entropy_bounds"] = [
        found if is_told else (0.0, most) for found, is_told in zip(bounds, there, strict=True)
    ]
    for name in ("prob", "margin"):
        if (column := columns.get(f"{side}_{name}")) is not None:
            result[f"{side}_{name}"] = [x if is_told else None for x, is_told in zip(column, there, strict=True)]
    for name in ("top", "logprobs"):
        if (column := columns.get(f"{side}_{name}")) is not None:
            rows = zip(column, sure, there, strict=True)
            result[f"{side}_{name}"] = [
                tuple(one for one in top if is_told and row[one[0]]) for top, row, is_told in rows
            ]
    return result


def variation_bounds(p: Tensor, q: Tensor, partial: Collection[str]) -> list[Bounds]:
    """The total variation of each position's p and q.

    Args:
        p, q: log-probabilities [n, vocab], completed where they are partial, or any logits where they are not.
        partial: which are known in part: draft, target.
    """
    there = [all(both) for both in zip(told(p), told(q), strict=True)]
    a, b = (x.double().log_softmax(-1) for x in (p, q))
    p_there = known(a) if "draft" in partial else torch.ones_like(a, dtype=torch.bool)
    q_there = known(b) if "target" in partial else torch.ones_like(b, dtype=torch.bool)
    both = p_there & q_there
    p_probs, q_probs = a.exp(), b.exp()
    more = torch.where(both, (p_probs - q_probs).clamp(min=0.0), 0.0).sum(-1)  # by which p exceeds q, where both are
    p_left, q_left = ((1.0 - torch.where(both, x, 0.0).sum(-1)).clamp(min=0.0) for x in (p_probs, q_probs))
    # p exceeds q elsewhere by at least what q cannot be there, and by no more than all of p.
    largest = torch.where(q_there, b, torch.inf).amin(-1, keepdim=True).exp()
    beyond = torch.where(p_there & ~q_there, (p_probs - largest).clamp(min=0.0), 0.0).sum(-1)
    low = more + torch.maximum((p_left - q_left).clamp(min=0.0), beyond)
    rows = zip(low.tolist(), (more + p_left).tolist(), there, strict=True)
    return [
        (_within(least - ROUNDING), _within(max(least, most) + ROUNDING)) if is_told else (0.0, 1.0)
        for least, most, is_told in rows
    ]


def _within(value: float) -> float:
    return min(1.0, max(0.0, value))
