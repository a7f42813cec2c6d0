"""A plan's choice, plain decoding and `transformers`, measured in turn on real prompts: predicted beside measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from fsgen.api import generate
from fsgen.backends.members import Members
from fsgen.bench.speed import Way, by_transformers, measure
from fsgen.methods.method import Method, parse
from fsgen.metrics import Counts
from fsgen.planner.file import Chosen
from fsgen.types import SamplingParams, as_dict


@dataclass(frozen=True, slots=True)
class Compared:
    """One way at one batch size: its measured speed, and what the plan predicted of it, where it did."""

    way: str
    batch_size: int
    tokens_per_second: float
    ratio: float
    predicted: float | None = None
    low: float | None = None
    high: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return as_dict(self)


def chosen_method(members: Members, chosen: Chosen) -> Method:
    """The method that a plan chose, for these members."""
    from fsgen.api import method_for

    return method_for(members, chosen.method, chosen.router, chosen.draft_tokens)


def compare(
    members: Members,
    chosen: Chosen,
    prompts: list[list[int]],
    max_tokens: int,
    turns: int,
    with_transformers: bool = False,
) -> list[Compared]:
    """Measures the ways in turn.

    Args:
        members: of the plan.
        chosen: what it says for one batch size, at which all is written.
        prompts: token ids.
        max_tokens: of each text, at most.
        turns: how often each way writes them all, after once to warm up.
        with_transformers: also `generate` of `transformers`, with its assistant at batch 1.
    """
    sampling, size = SamplingParams(max_tokens), chosen.batch_size

    def ours(method: Method) -> tuple[int, Counts]:
        texts = generate(members, prompts, method, sampling=sampling, batch_size=size)
        return sum(len(text.token_ids) for text in texts), Counts.total(text.stats for text in texts)

    method = chosen_method(members, chosen)
    ways = [Way("plain", partial(ours, parse("plain")))]
    if method.drafts:
        ways.append(Way("chosen", partial(ours, method)))
    if with_transformers:
        target, draft = members.target, members.draft
        ways.append(Way("transformers", lambda: (by_transformers(target, prompts, max_tokens, size), None)))
        if size == 1 and draft is not None:
            found = partial(by_transformers, target, prompts, max_tokens, 1, draft)
            ways.append(Way("transformers, assisted", lambda: (found(), None)))
    assert members.target is not None
    speeds = measure(ways, size, turns, members.target.device)
    predicted = {"chosen": chosen.expected, "plain": (1.0, 1.0, 1.0)}
    none = (None, None, None)
    return [Compared(one.way, size, one.tokens_per_second, one.ratio, *predicted.get(one.way, none)) for one in speeds]
