"""The sampled case: how often a drafted token stands where the draft names several candidates for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import fsgen
from benchmarks.tree.drafted import DEPTH, NODES, RANKS, Floats, Ints
from benchmarks.tree.times import Times
from fsgen import Members, SamplingParams
from fsgen.metrics import Counts
from fsgen.probs import residual, total_variation


@dataclass(frozen=True)
class Sampled:
    """Sampled texts of the target, position by position, for up to RANKS candidates drawn from p.

    Rejection with several candidates (SpecInfer, 2305.09781): the first is verified against q_1 = q, the next against
    q_{i+1}, which is max(0, q_i - p) renormalised, and so on; a position fails where all fall.

    Attributes:
        fails: chance that the first 1 .. RANKS candidates all fall, [RANKS, N]: the product of the total variations of
            p and q_i, exactly.
        given: chance that candidate i is what stands, given the token that was written there, [RANKS, N].
        distinct: expected different tokens among the first 1 .. RANKS candidates, [RANKS, N].
        left: as in `Drafted`; per_call: tokens per target call of the loop that wrote with 5 draft tokens.
    """

    fails: Floats
    given: Floats
    distinct: Floats
    left: Ints
    per_call: float


def sample_texts(members: Members, prompts: list[list[str]], max_tokens: int) -> Sampled:
    questions = [prompt for some in prompts for prompt in some]
    sampling = [SamplingParams(max_tokens, temperature=1.0, seed=seed) for seed in range(len(questions))]
    texts = fsgen.generate(members, questions, "plain", sampling=sampling)
    looped = fsgen.generate(members, questions, "speculative", draft_tokens=5, sampling=sampling)
    columns: list[tuple[Floats, Floats, Floats]] = []
    left: list[int] = []
    for question, text in zip(questions, texts, strict=True):
        written = text.token_ids
        sequence, n = [*members.tokenizer.encode(question), *written[:-1]], len(written)
        assert members.draft is not None
        assert members.target is not None
        p, rest = (m.session(1).score([sequence], n)[0].double().softmax(-1) for m in (members.draft, members.target))
        place = torch.tensor(written)[:, None]
        likelihood = rest.gather(1, place)[:, 0]
        fails, given, distinct = [], [], []
        falls = torch.ones(n, dtype=torch.float64)  # chance that all candidates before have fallen
        for candidate in range(RANKS):
            stands = torch.minimum(p, rest).gather(1, place)[:, 0]
            given.append((falls * stands / likelihood).numpy())
            falls = falls * total_variation(p, rest)
            fails.append(falls.numpy())
            distinct.append((1 - (1 - p) ** (candidate + 1)).sum(1).numpy())
            rest = residual(p, rest)
        columns.append((np.array(fails), np.array(given), np.array(distinct)))
        left += range(n, 0, -1)
    fails_all, given_all, distinct_all = (np.concatenate(parts, axis=1) for parts in zip(*columns, strict=True))
    mean_length = Counts.total(text.stats for text in looped).mean_accepted_length
    assert mean_length is not None
    return Sampled(fails_all, given_all, distinct_all, np.array(left), mean_length)


def expected_calls(s: Sampled, most: int, candidates: int, places: int) -> float:
    """Expected target calls for all texts, of a chain of `most` with more candidates at its first `places` tokens.

    A lossless method writes as the target does, so a text of the target is a text of the method; given its tokens,
    what stood and what fell are independent between positions. Summed from the end of each text.
    """
    total = 0.0
    ends = np.flatnonzero(s.left == 1) + 1
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        first = s.given[0, begin:end].tolist()
        other = s.given[1:candidates, begin:end].sum(0).tolist()
        n = len(first)
        calls = [0.0] * (n + 1)  # from each position to the end
        for start in range(n - 1, -1, -1):
            expected, stands = 1.0, 1.0
            reach = min(start + most, n)
            for place in range(start, reach):
                extra = other[place] if place - start < places else 0.0
                expected += stands * (1.0 - first[place] - extra) * calls[place + 1]
                expected += stands * extra * calls[min(place + 2, n)]  # System 2 adds a token behind a leaf, too
                stands *= first[place]
            calls[start] = expected + stands * calls[min(reach + 1, n)]
        total += calls[0]
    return total


def sampled_rows(s: Sampled, times: dict[str, Times]) -> list[dict[str, Any]]:
    """The fastest setting for each number of candidates and type of the weights."""
    rows = []
    tokens = len(s.left)
    for candidates in range(1, RANKS + 1):
        extra = float(s.distinct[candidates - 1].mean()) - 1.0
        settings = [(k, places) for k in range(1, DEPTH + 1) for places in (range(1, k + 1) if candidates > 1 else [0])]
        settings = [(k, places) for k, places in settings if k + places * extra <= NODES]
        calls = {setting: expected_calls(s, setting[0], candidates, setting[1]) for setting in settings}
        row: dict[str, Any] = {"candidates": candidates, "acceptance": float(1 - s.fails[candidates - 1].mean())}
        for dtype, t in times.items():
            speed = {}
            for k, places in settings:
                target = float(np.interp(k + places * extra, np.arange(NODES + 1), t.target))
                speed[k, places] = tokens / (1e3 * calls[k, places] * (t.first + (k - 1) * t.draft[0] + target))
            best = max(speed, key=speed.__getitem__)
            row[dtype] = {"k": best[0], "places": best[1], "per_call": tokens / calls[best], "speed": speed[best]}
        rows.append(row)
    return rows
