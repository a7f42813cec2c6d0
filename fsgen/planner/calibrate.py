"""What the decode loop adds to calls alone: short runs of it, compared with what their calls alone would take."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import nnls

from fsgen.api import generate
from fsgen.backends.members import Members
from fsgen.methods.method import Method, parse
from fsgen.metrics import Counts
from fsgen.planner.moments import SECONDS, Series, Settled, Split, series, settle
from fsgen.planner.predict import Loop, Parts, parts
from fsgen.planner.reading import read
from fsgen.planner.texts import Written
from fsgen.planner.times import Times
from fsgen.types import SamplingParams

PLAIN, DRAFTING = parse("plain"), parse("speculative", None, 4)
LONGER, ROUTED = parse("speculative", None, 10), parse("speculative", "max-prob:0.2", 4)
TOKENS, PROMPT = 24, 8
TEXTS, RUN_SECONDS = 4, 0.5  # texts at most where a batch is smaller, and about so long by plain decoding
ERROR = 0.05  # of what is predicted for another method than those that were run
UNEVEN = 0.1  # an error from which on a plan says that the machine was not even


@dataclass
class Calibration:
    """The loop of a pair at one batch size, run with `TOKENS` tokens: plain, four drafted tokens, ten, four routed.

    Args:
        members: with a target, and a draft where there are times of one.
        prompts: of which the last `PROMPT` tokens are taken; repeated where they are fewer than the batch.
        batch_size: how many texts are written at a time.
        target, draft: times of the calls alone.
    """

    members: Members
    prompts: Sequence[Sequence[int]]
    batch_size: int
    target: Times
    draft: Times | None
    ids: list[list[int]] = field(default_factory=list)
    alone: list[Parts] = field(default_factory=list)  # of plain decoding, and of each method

    @property
    def methods(self) -> list[Method]:
        pair = self.members.draft is not None and self.draft is not None
        return [PLAIN, *([DRAFTING, LONGER, ROUTED] if pair else [])]

    def take(self) -> Series:
        """One series of runs; before the first one, the texts are written once by each method, to warm up."""
        if not self.ids:
            self._prepare()
        return series(lambda number: self._run(self.methods[number])[1], len(self.methods) - 1)

    def loop(self, found: Settled) -> Loop:
        """The loop that the series say."""
        return fitted(found, self.alone)

    def _prepare(self) -> None:
        self.ids = [list(self.prompts[i % len(self.prompts)][-PROMPT:]) for i in range(self.batch_size)]
        self._run(PLAIN)
        started = time.monotonic()
        self._run(PLAIN)
        copies = int(RUN_SECONDS / max(time.monotonic() - started, 1e-6))
        count = max(self.batch_size, min(TEXTS, copies * self.batch_size))
        self.ids = [list(self.prompts[i % len(self.prompts)][-PROMPT:]) for i in range(count)]
        written = self._run(PLAIN)[0]
        texts = [Written(tuple(ids), ids_of, cut=True) for ids, ids_of in zip(self.ids, written, strict=True)]
        reader = self.members.draft or self.members.target
        assert reader is not None
        readings = read(reader, texts, [ROUTED.router], vocab=self.members.vocab_size)
        self.alone = [parts(readings, method, self.batch_size, self.target, self.draft) for method in self.methods]
        for method in self.methods[1:]:
            self._run(method)

    def _run(self, method: Method) -> tuple[list[tuple[int, ...]], Split]:
        sampling = SamplingParams(TOKENS, ignore_eos=True)
        texts = generate(self.members, self.ids, method, sampling=sampling, batch_size=self.batch_size)
        all_of = Counts.total(text.stats for text in texts)
        rest = all_of.seconds - all_of.system2_seconds - all_of.draft_seconds
        return [tuple(text.token_ids) for text in texts], Split(all_of.system2_seconds, all_of.draft_seconds, rest)


def fitted(found: Settled, alone: Sequence[Parts]) -> Loop:
    """The loop by which the calls alone, of plain decoding and of each method, become the seconds that were measured.

    Its error covers the drift from series to series, and what the fit itself leaves.

    Args:
        found: of `PLAIN`, and where there is a draft of `DRAFTING`, `LONGER` and `ROUTED`.
        alone: what their calls alone would take.
    """
    plain = found.series.plain
    each = plain.rest / alone[0].rounds
    factor = plain.target / alone[0].target
    loop = Loop(factor, factor, 1.0, each, error=math.hypot(ERROR, found.drift))
    if len(alone) == 1:
        return loop
    taken = [one.times(plain.total) for one in found.series.drafting]
    # Of four and of ten drafted tokens: seconds of a round and of each drafted token, beside the calls.
    sides = [[part.rounds, part.calls] for part in alone[1:3]]
    rest = [one.rest - part.rounds * each for one, part in zip(taken[:2], alone[1:3], strict=True)]
    (verify, drafted), _ = nnls(np.array(sides, float), np.maximum(rest, 0.0))
    known = alone[3].rounds * (each + verify) + alone[3].calls * drafted
    four, ten = (one.target / part.target for one, part in zip(taken[:2], alone[1:3], strict=True))
    loop = replace(
        loop,
        target=_usual([four, ten]),
        verified=((DRAFTING.draft_tokens + 1.0, four), (LONGER.draft_tokens + 1.0, ten)),
        draft=_usual([one.draft / part.draft for one, part in zip(taken[:2], alone[1:3], strict=True)]),
        verify_seconds=float(verify),
        drafted_seconds=float(drafted),
        routed_seconds=max(0.0, float(taken[2].rest - known)) / max(1.0, alone[3].calls),
    )
    left = [
        math.log(_seconds(loop, part, method) / one.total)
        for one, part, method in zip(taken, alone[1:], (DRAFTING, LONGER, ROUTED), strict=True)
    ]
    return replace(loop, error=math.hypot(loop.error, math.sqrt(sum(one**2 for one in left) / len(left))))


def _usual(factors: Sequence[float]) -> float:
    """The geometric mean."""
    return math.prod(factors) ** (1 / len(factors))


def _seconds(loop: Loop, alone: Parts, method: Method) -> float:
    """What a run should have taken."""
    each = loop.drafted_seconds + (method is ROUTED) * loop.routed_seconds
    beside = alone.rounds * (loop.round_seconds + loop.verify_seconds) + alone.calls * each
    return loop.verifying(method.draft_tokens + 1.0) * alone.target + loop.draft * alone.draft + beside


def evened(loops: Sequence[Loop], target: Times, batch_size: int) -> list[Loop]:
    """Loops of several drafts, each as if its runs had been made when plain decoding took what it took for the first.

    So what one draft takes can be compared with plain decoding that was timed beside another one.
    """

    def plain(loop: Loop) -> float:
        return loop.target_plain * target.call(batch_size, 1, PROMPT) + loop.round_seconds

    usual = plain(loops[0])
    return [one.slowed(usual / plain(one)) for one in loops]


def calibrate(
    members: Members,
    prompts: Sequence[Sequence[int]],
    batch_size: int,
    target: Times,
    draft: Times | None,
    seconds: float = SECONDS,
) -> Loop:
    """Fits the loop of one pair at one batch size; arguments as of `Calibration`, `seconds` as of `settle`."""
    one = Calibration(members, prompts, batch_size, target, draft)
    return one.loop(settle([one.take], seconds)[0])
