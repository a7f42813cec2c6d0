"""The answer of a plan: a verdict, a choice for each batch size, and why the others are not it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fsgen.planner.choose import PLAIN, Judged, Search

CLOSE = 0.03  # a part by which two numbers count as alike


@dataclass(frozen=True)
class Answer:
    """What a plan says.

    Attributes:
        verdict: draft, route or plain.
        choice: what to use, at the batch size that suits the objective best.
        by_batch: what to use at each batch size: plain unless the lower end of its interval is above 1.
        ranked: all candidates, by batch size, the fastest first, each with its reason.
        stops_paying: the smallest batch size from which on no draft pays; None where that was not seen.
        texts: how many were read.
        assumptions: what this rests on.
    """

    verdict: str
    choice: Judged
    by_batch: dict[int, Judged]
    ranked: list[Judged]
    stops_paying: int | None
    texts: int
    assumptions: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "verdict": self.verdict,
            "choice": record(self.choice),
            "by_batch": {str(batch): record(one) for batch, one in self.by_batch.items()},
            "candidates": [record(one) for one in self.ranked],
            "stops_paying": self.stops_paying,
            "texts": self.texts,
            "assumptions": self.assumptions,
        }


def record(one: Judged) -> dict[str, Any]:
    """A candidate as plain data."""
    return {
        "draft": one.candidate.draft,
        "method": one.candidate.method.name,
        "draft_tokens": one.candidate.draft_tokens,
        "router": one.candidate.router,
        "batch": one.batch,
        "speedup": one.speedup.value,
        "low": one.low,
        "high": one.high,
        "tokens_per_second": one.tokens_per_second,
        "tokens_per_call": one.tokens_per_call,
        "draft_share": one.draft_share,
        "accuracy_loss": one.accuracy_loss.value,
        "accuracy_loss_high": one.accuracy_loss.high,
        "memory_bytes": one.memory_bytes,
        "price": one.price,
        "reason": one.reason,
    }


def answer(search: Search, objective: str, assumptions: Sequence[str]) -> Answer:
    """What a finished search says.

    Args:
        objective: latency (a text's own speed: the smallest batch), throughput or price (all texts together).
        assumptions: what it rests on.
    """
    by_batch, ranked = {}, []
    for batch in search.situation.batches:
        best = search.best(batch)
        plain = search.judged[PLAIN, batch]
        chosen = best if best.low > 1.0 or best.candidate == PLAIN else plain
        chosen = replace(chosen, reason=_why_chosen(chosen, best))
        by_batch[batch] = chosen
        here = sorted(
            (one for (_, size), one in search.judged.items() if size == batch), key=lambda one: -one.speedup.value
        )
        ranked += [
            chosen if one.candidate == chosen.candidate else replace(one, reason=_why_not(one, chosen, search))
            for one in here
        ]
    paying = [batch for batch, one in by_batch.items() if one.candidate != PLAIN]
    beyond = [batch for batch in by_batch if not paying or batch > max(paying)]
    choice = _by_objective(by_batch, objective)
    verdict = "plain" if choice.candidate == PLAIN else "draft" if choice.lossless else "route"
    more = [f"{one} at batch {batch} does not fit into the memory" for one, batch in search.too_large]
    return Answer(
        verdict, choice, by_batch, ranked, min(beyond) if beyond else None, search.texts, [*assumptions, *more]
    )


def _by_objective(by_batch: dict[int, Judged], objective: str) -> Judged:
    """The batch size that suits an objective."""
    found = list(by_batch.values())
    if objective == "latency":  # of one text
        return max(found, key=lambda one: one.tokens_per_second / one.batch)
    return max(found, key=lambda one: one.tokens_per_second)


def _why_chosen(chosen: Judged, best: Judged) -> str:
    if chosen.candidate == best.candidate:
        return "the fastest" if chosen.candidate != PLAIN else "no draft is faster"
    return f"the best draft's speed-up, {best.speedup:.2f}, is not surely above 1"


def _why_not(one: Judged, chosen: Judged, search: Search) -> str:
    """Why a candidate is not the chosen one."""
    if not search.allowed(one):
        bound = "none is allowed" if search.max_loss is None else f"{search.max_loss:g} is allowed"
        return f"up to {one.accuracy_loss.high or 0:.1%} of the texts may change, and {bound}"
    if one.candidate == PLAIN:
        return "the chosen one is surely faster"
    if chosen.candidate == PLAIN:
        return "not surely faster than plain decoding" if one.high > 1 else "slower than plain decoding"
    mine, best = one.tokens_per_call or 0.0, chosen.tokens_per_call or 0.0
    if one.draft_share > chosen.draft_share + CLOSE and mine > best * (1 + CLOSE):
        return f"more tokens a call ({mine:.2f}, not {best:.2f}), at the price of {_shares(one, chosen)}"
    if mine < best * (1 - CLOSE):
        return f"fewer tokens a call of the target: {mine:.2f}, not {best:.2f}"
    if one.draft_share > chosen.draft_share + CLOSE:
        return f"drafting takes {_shares(one, chosen)}"
    return "alike within the interval" if one.high > chosen.low else "verifying takes longer"


def _shares(one: Judged, chosen: Judged) -> str:
    return f"{one.draft_share:.0%} of the time, not {chosen.draft_share:.0%}"
