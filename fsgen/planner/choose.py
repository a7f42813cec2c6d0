"""Which configuration to use, judged from what a target wrote and from times; "plain" unless another is surely faster.

Texts come in growing portions. After each, whatever cannot be the best any more is dropped (successive halving), and a
draft that is left with nothing reads no further texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import beta

from fsgen.analysis.intervals import Estimate, ratio
from fsgen.methods.method import Method, parse
from fsgen.planner.hardware import Hardware, memory_bytes
from fsgen.planner.predict import Loop, seconds, target_share
from fsgen.planner.reading import Floats, Reading
from fsgen.planner.rounds import Counted, count
from fsgen.planner.times import Times

LENGTHS = (1, 2, 3, 4, 5, 6, 8, 12)
STOPS = (0.3, 0.5, 0.7, 0.9)  # the draft ends where its largest probability is below
TRUSTS = (0.3, 0.5, 0.7, 0.9, 0.97)
NGRAM = 3
ENOUGH = 16  # texts, before anything is final
OBJECTIVES = ("latency", "throughput", "price")


@dataclass(frozen=True)
class Candidate:
    """A configuration: the draft's name (None for n-grams and for none) and the method."""

    draft: str | None
    method: Method

    @property
    def router(self) -> str:
        return str(self.method.router)

    @property
    def draft_tokens(self) -> int | str:
        return "auto" if self.method.adaptive else self.method.draft_tokens

    def __str__(self) -> str:
        if not self.method.drafts:
            return "plain"
        draft = f"ngram:{self.method.ngram}" if self.method.ngram else self.draft
        router = "" if self.router == "always" else f", {self.router}"
        return f"{self.method.name} with {draft}, {self.draft_tokens} tokens{router}"


PLAIN = Candidate(None, parse("plain"))


def candidates(drafts: Sequence[str | None], lossy: bool = False, greedy: bool = True) -> list[Candidate]:
    """The configurations to judge.

    Args:
        drafts: names of models; None for n-grams.
        lossy: with routers that trust the draft.
        greedy: all texts are; else neither adaptive lengths, which sample otherwise, nor trusting routers are judged.
    """
    found = []
    for draft in drafts:
        if draft is None:
            methods = [parse(f"speculative:ngram={NGRAM}", None, length) for length in (2, 4, 8)]
        else:
            methods = [parse("speculative", None, length) for length in LENGTHS]
            methods += [parse("speculative", f"max-prob:{threshold}", 8) for threshold in STOPS]
        if greedy:
            methods.append(parse("speculative" if draft else f"speculative:ngram={NGRAM}", None, "auto"))
        if lossy and greedy and draft is not None:
            methods += [parse("route", f"max-prob:{threshold}", 8) for threshold in TRUSTS]
        found += [Candidate(draft, method) for method in methods]
    return found


@dataclass(frozen=True)
class Situation:
    """All that candidates are judged in.

    Attributes:
        target, drafts: times of the models, drafts by name.
        loops: what the decode loop adds, by draft (None: without a model) and batch size.
        batches: how many texts are written at a time.
        context: tokens of a text, for memory.
        machine: whose memory is the bound; None for this one.
        price: of an hour of the machine; None where it is not known.
    """

    target: Times
    drafts: Mapping[str, Times]
    loops: Mapping[tuple[str | None, int], Loop]
    batches: Sequence[int]
    context: int
    machine: Hardware | None = None
    price: float | None = None

    def memory(self, one: Candidate, batch: int) -> int:
        """Bytes that a candidate needs."""
        models = {"target": self.target} | ({} if one.draft is None else {"draft": self.drafts[one.draft]})
        return memory_bytes(models, batch, self.context)

    def fits(self, one: Candidate, batch: int) -> bool:
        return self.machine is None or not self.machine.memory or self.memory(one, batch) <= self.machine.memory


@dataclass(frozen=True)
class Judged:
    """What is expected of a candidate at a batch size.

    Attributes:
        speedup: over plain decoding, with an interval over texts and times.
        tokens_per_second: of all texts together.
        tokens_per_call: of the target.
        draft_share: of the time, what is not the target's calls.
        accuracy_loss: 0 of lossless methods; of a trusting router at most the share of texts that change.
        price: of a million tokens, None where the machine's is not known.
        accepted_at, verified_at: drafted tokens, by their place in the draft.
        reason: why it is chosen, or not.
    """

    candidate: Candidate
    batch: int
    speedup: Estimate
    tokens_per_second: float
    tokens_per_call: float | None
    draft_share: float
    accuracy_loss: Estimate
    memory_bytes: int
    price: float | None
    accepted_at: tuple[int, ...] = ()
    verified_at: tuple[int, ...] = ()
    reason: str = ""

    @property
    def low(self) -> float:
        return self.speedup.value if self.speedup.low is None else self.speedup.low

    @property
    def high(self) -> float:
        return self.speedup.value if self.speedup.high is None else self.speedup.high

    @property
    def lossless(self) -> bool:
        return not self.candidate.method.skips_verification


def judge(one: Candidate, batch: int, readings: Sequence[Reading], plain: Floats, situation: Situation) -> Judged:
    """What is expected of a candidate.

    Args:
        readings: texts as its draft reads them.
        plain: seconds of each text by plain decoding at this batch size.
    """
    draft = None if one.draft is None else situation.drafts[one.draft]
    loop = situation.loops.get((one.draft, batch)) or situation.loops.get((None, batch)) or Loop()
    taken = seconds(readings, one.method, batch, situation.target, draft, loop)
    share = 1 - target_share(readings, one.method, batch, situation.target, draft, loop)
    counted = count(readings, one.method)
    speedup = _with_error(ratio(plain, taken), _error(situation.target, draft, loop, share) if one != PLAIN else 0.0)
    if not all(reading.text.exact or one.method.ngram for reading in readings) and one.method.drafts:
        best = ratio(plain, seconds(readings, one.method, batch, situation.target, draft, loop, best=True))
        assert best is not None
        speedup = Estimate(speedup.value, speedup.low, max(best.high or best.value, speedup.high or speedup.value))
    tokens = sum(len(reading.text.tokens) for reading in readings)
    rate = tokens / float(taken.sum())
    price = None if situation.price is None else situation.price / 3600 / rate * 1e6
    memory, loss = situation.memory(one, batch), _loss(one, counted)
    return Judged(one, batch, speedup, rate, counted.tokens_per_call, share, loss, memory, price,
                  tuple(counted.accepted_at), tuple(counted.verified_at))  # fmt: skip


def _error(target: Times, draft: Times | None, loop: Loop, share: float) -> float:
    """Of a speed-up, as a part of it: what is wrong with the target's times is wrong in plain decoding too, mostly."""
    of_draft = 0.0 if draft is None else draft.error
    return float(np.sqrt(loop.error**2 + (0.5 * target.error) ** 2 + share**2 * (target.error**2 + of_draft**2)))


def _with_error(found: Estimate | None, error: float) -> Estimate:
    """An interval over texts, widened by the error of times."""
    assert found is not None
    spread = 0.0
    if found.low is not None and found.high is not None and found.low > 0:
        spread = (np.log(found.high) - np.log(found.low)) / (2 * 1.96)
    width = 1.96 * float(np.hypot(spread, error))
    return Estimate(found.value, found.value * float(np.exp(-width)), found.value * float(np.exp(width)))


def _loss(one: Candidate, counted: Counted) -> Estimate:
    if not one.method.skips_verification:
        return Estimate(0.0, 0.0, 0.0)
    changed, texts = counted.changed, counted.texts
    high = 1.0 if changed == texts else float(beta.ppf(0.975, changed + 1, texts - changed))
    return Estimate(changed / texts, 0.0, high)


ReadBy = Callable[[str | None, int], Sequence[Reading]]
"""The first texts, so many of them, as a draft reads them; None for no model."""


@dataclass
class Search:
    """Judges candidates on more and more texts, and drops those that cannot be the best.

    Args:
        situation: all that they are judged in.
        wanted: the candidates, without `PLAIN`.
        read_by: where readings come from.
        max_loss: of accuracy that is put up with; None: none at all.
    """

    situation: Situation
    wanted: Sequence[Candidate]
    read_by: ReadBy
    max_loss: float | None = None
    judged: dict[tuple[Candidate, int], Judged] = field(default_factory=dict)
    texts: int = 0

    def __post_init__(self) -> None:
        every = [(one, batch) for one in self.wanted for batch in self.situation.batches]
        self.alive = [(one, batch) for one, batch in every if self.situation.fits(one, batch)]
        self.too_large = [(one, batch) for one, batch in every if not self.situation.fits(one, batch)]

    def step(self, texts: int) -> None:
        """Judges all that are left on the first `texts` texts."""
        self.texts = texts
        nothing = self.read_by(None, texts)
        plain = {
            batch: seconds(nothing, PLAIN.method, batch, self.situation.target, None, self._loop(batch))
            for batch in self.situation.batches
        }
        for batch in self.situation.batches:
            self.judged[PLAIN, batch] = judge(PLAIN, batch, nothing, plain[batch], self.situation)
        for one, batch in self.alive:
            readings = self.read_by(one.draft, texts)
            self.judged[one, batch] = judge(one, batch, readings, plain[batch], self.situation)
        self.alive = [key for key in self.alive if not self._hopeless(*key)]

    def _loop(self, batch: int) -> Loop:
        """Of plain decoding: what any draft's run has measured of it."""
        found = [loop for (_, size), loop in self.situation.loops.items() if size == batch]
        return found[0] if found else Loop()

    def allowed(self, one: Judged) -> bool:
        """Whether its loss of accuracy is put up with."""
        return one.lossless or (self.max_loss is not None and (one.accuracy_loss.high or 0.0) <= self.max_loss)

    def best(self, batch: int) -> Judged:
        """The one with the highest expected speed-up that is allowed."""
        found = [each for (_, size), each in self.judged.items() if size == batch and self.allowed(each)]
        return max(found, key=lambda each: each.speedup.value)

    def _hopeless(self, one: Candidate, batch: int) -> bool:
        here, best = self.judged[one, batch], self.best(batch)
        if not here.lossless and self.max_loss is not None and here.accuracy_loss.value > 2 * self.max_loss + 0.1:
            return True
        return here.high < best.low or (here.high < 1.0 and best is not here)

    @property
    def clear(self) -> bool:
        """No further text is needed: for each batch size it is known whether to draft, and by which draft."""
        return self.texts >= ENOUGH and all(self._clear(batch) for batch in self.situation.batches)

    def _clear(self, batch: int) -> bool:
        best = self.best(batch)
        left = [self.judged[one, size] for one, size in self.alive if size == batch]
        if not left:
            return True
        others = [each for each in left if each.candidate.draft != best.candidate.draft]
        sure = best.low > 1.0 or all(each.high < 1.0 for each in left)
        return sure and all(each.high < best.low for each in others)
