"""What the decode loop adds to calls alone: a short run of it, compared with what its calls alone would take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import nnls

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
LONGER, ROUTED = parse("speculative", None, 10), parse("speculative", "max-prob:0.2", 4)
TOKENS, PROMPT = 24, 8
TEXTS, TURNS, SECONDS = 4, 6, 12.0  # texts at least; turns at most, and about so long
ERROR = 0.05  # of what is predicted for another method than those that were run


def calibrate(
    members: Members, prompts: Sequence[Sequence[int]], batch_size: int, target: Times, draft: Times | None
) -> Loop:
    """Fits the loop to runs of `TOKENS` tokens at one batch size: plain, four drafted tokens, ten, four with a router.

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
    methods = [PLAIN, *([DRAFTING, LONGER, ROUTED] if members.draft is not None and draft is not None else [])]
    runs: list[list[Counts]] = [[] for _ in methods]
    started = time.monotonic()
    for turn in range(TURNS + 1):
        if turn > 1 and time.monotonic() - started > SECONDS:
            break
        for method, found in zip(methods, runs, strict=True):
            counts = _counts(members, ids, method, sampling, batch_size)
            found += [counts] if turn else []  # the first one compiles and warms up
    readings = read(members.draft or _target(members), texts, [ROUTED.router], vocab=members.vocab_size)
    alone = [parts(readings, method, batch_size, target, draft) for method in methods]
    plain = [run.system2_seconds / alone[0].target for run in runs[0]]
    beside = [min(map(_rest, found)) for found in runs]
    each = beside[0] / alone[0].rounds
    fitted = Loop(min(plain), min(plain), 1.0, each, error=ERROR)
    if len(methods) == 1:
        return fitted
    slowed = [run.system2_seconds / alone[1].target for run in runs[1]]
    drafting = [run.draft_seconds / alone[1].draft for run in runs[1]]
    # Of four and of ten drafted tokens: seconds of a round and of each drafted token, beside the calls.
    sides = [[part.rounds, part.calls] for part in alone[1:3]]
    rest = [taken - part.rounds * each for taken, part in zip(beside[1:3], alone[1:3], strict=True)]
    (verify, drafted), _ = nnls(np.array(sides, float), np.maximum(rest, 0.0))
    known = alone[3].rounds * (each + verify) + alone[3].calls * drafted
    return replace(
        fitted,
        target=min(plain) * _beside(plain, slowed),
        draft=min(plain) * _beside(plain, drafting),
        verify_seconds=float(verify),
        drafted_seconds=float(drafted),
        routed_seconds=max(0.0, beside[3] - known) / max(1, alone[3].calls),
    )


def _rest(run: Counts) -> float:
    """Seconds beside the models' calls."""
    return run.seconds - run.system2_seconds - run.draft_seconds


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
