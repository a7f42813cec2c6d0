"""What the decode loop adds to calls alone: a short run of it, compared with what its calls alone would take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

from fsgen.api import generate
from fsgen.backends.members import Members
from fsgen.backends.protocol import Model
from fsgen.methods.method import Method, parse
from fsgen.metrics import Counts
from fsgen.planner.predict import Loop, parts
from fsgen.planner.reading import read
from fsgen.planner.texts import Written
from fsgen.planner.times import Times
from fsgen.types import SamplingParams

PLAIN, DRAFTING = parse("plain"), parse("speculative", None, 4)
TOKENS, PROMPT = 24, 16
TEXTS, TURNS, SECONDS = 4, 6, 12.0  # texts at least; turns at most, and about so long
ERROR = 0.03  # of what is predicted for another draft length than the one that was run


def calibrate(
    members: Members, prompts: Sequence[Sequence[int]], batch_size: int, target: Times, draft: Times | None
) -> Loop:
    """Fits the loop to runs of `TOKENS` tokens, plain and with four drafted tokens, at one batch size.

    The fastest of a few turns counts: whatever else a machine does only adds.

    Args:
        members: with a target, and a draft where there are times of one.
        prompts: of which the last `PROMPT` tokens are taken; repeated where they are fewer than the batch.
        target, draft: times of the calls alone.
    """
    ids = [list(prompts[i % len(prompts)][-PROMPT:]) for i in range(max(batch_size, TEXTS))]
    sampling = SamplingParams(TOKENS, ignore_eos=True)
    written = generate(members, ids, PLAIN, sampling=sampling, batch_size=batch_size)
    texts = [Written(tuple(prompt), tuple(text.token_ids), cut=True) for prompt, text in zip(ids, written, strict=True)]
    drafting = members.draft is not None and draft is not None
    if drafting:
        generate(members, ids, DRAFTING, sampling=sampling, batch_size=batch_size)  # compiled, warm
    runs: dict[str, list[Counts]] = {"plain": [], "drafting": []}
    started = time.monotonic()
    for turn in range(TURNS):
        if turn and time.monotonic() - started > SECONDS:
            break
        runs["plain"].append(_counts(members, ids, PLAIN, sampling, batch_size))
        if drafting:
            runs["drafting"].append(_counts(members, ids, DRAFTING, sampling, batch_size))
    readings = read(members.draft or _target(members), texts, vocab=members.vocab_size)
    alone = parts(readings, PLAIN, batch_size, target)
    plain = [run.system2_seconds / alone.target for run in runs["plain"]]
    beside = min(run.seconds - run.system2_seconds for run in runs["plain"]) / alone.rounds
    found = Loop(min(plain), min(plain), 1.0, beside, 0.0, ERROR)
    if not drafting:
        return found
    alone = parts(readings, DRAFTING, batch_size, target, draft)
    turns = runs["drafting"]
    rest = min(run.seconds - run.system2_seconds - run.draft_seconds for run in turns)
    return replace(
        found,
        target=min(plain) * _beside(plain, [run.system2_seconds / alone.target for run in turns]),
        draft=min(plain) * _beside(plain, [run.draft_seconds / alone.draft for run in turns]),
        drafted_seconds=max(0.0, rest - alone.rounds * beside) / alone.calls,
    )


def _beside(plain: Sequence[float], other: Sequence[float]) -> float:
    """How another call is slowed, beside plain decoding in the same turn: both have the same machine, fast or slow."""
    return statistics.median(b / a for a, b in zip(plain, other, strict=True))


def _counts(
    members: Members, ids: list[list[int]], method: Method, sampling: SamplingParams, batch_size: int
) -> Counts:
    texts = generate(members, ids, method, sampling=sampling, batch_size=batch_size)
    return Counts.total(text.stats for text in texts)


def _target(members: Members) -> Model:
    assert members.target is not None
    return members.target
