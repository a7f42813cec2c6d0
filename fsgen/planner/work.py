"""A plan from beginning to end: what is asked is checked, models are timed, texts are read, candidates are judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsgen.backends.members import Members, load, ngram_length, plan
from fsgen.backends.places import check_device, check_dtype, weights_by_role, weights_of
from fsgen.backends.remote.address import require_here
from fsgen.planner.calibrate import UNEVEN, Calibration, evened
from fsgen.planner.choose import OBJECTIVES, Search, Situation, candidates
from fsgen.planner.hardware import Hardware, hardware, memory_bytes, require_room, roofline, shape_of
from fsgen.planner.moments import settle
from fsgen.planner.predict import Loop
from fsgen.planner.reading import Reading, ngram_reading, read
from fsgen.planner.result import Answer, answer
from fsgen.planner.sources import assumed, study_texts, task_prompts, written_now
from fsgen.planner.texts import Written, read_texts
from fsgen.planner.times import Times, profile_of
from fsgen.study.store import Store
from fsgen.types import SamplingParams

MEASURED = "measured"
NGRAM = "ngram"
FIRST = 8  # texts that are read first; then twice as many, and so on
ASSUMED_TEXTS, ASSUMED_TOKENS = 64, 128

Note = Callable[[str], None]


@dataclass(frozen=True)
class Question:
    """What `fsgen plan` is asked; see its options.

    Attributes:
        target, drafts: names; a draft `ngram` is prompt look-up.
        texts, prompts, study, task, acceptance: where acceptance comes from, one of them.
        limit: texts, at most.
        hardware: `measured`, or a name of the table.
        batches: how many texts are written at a time.
        context: tokens of a text, for memory; None: of the longest text.
        objective: latency, throughput or price.
        max_loss: of accuracy, for routers that trust the draft; None: none are judged.
        price: of an hour of the machine.
        max_tokens: of texts that are written now.
    """

    target: str
    drafts: Sequence[str]
    texts: Path | None = None
    prompts: Path | None = None
    study: Path | None = None
    task: str = "gsm8k"
    acceptance: float | None = None
    limit: int = 128
    hardware: str = MEASURED
    batches: Sequence[int] = (1,)
    context: int | None = None
    objective: str = "latency"
    max_loss: float | None = None
    price: float | None = None
    max_tokens: int = 64
    dtype: str = "auto"
    device: str = "auto"
    weights: str = "auto"

    def check(self) -> Hardware | None:
        """The machine of the table; None for this one.

        Raises:
            ValueError: what can be known to be impossible before anything is read, loaded or measured.
        """
        if self.objective not in OBJECTIVES:
            raise ValueError(f"unknown objective {self.objective!r}: choose {', '.join(OBJECTIVES)}")
        if self.objective == "price" and self.price is None:
            raise ValueError("the objective price needs what an hour of the machine costs: give it by --price")
        if self.price is not None and not 0 <= self.price < math.inf:
            raise ValueError(f"a price of {self.price} is impossible: choose a number from 0 on")
        self._check_models()
        if self.max_loss is not None and not 0 <= self.max_loss <= 1:
            raise ValueError(f"a loss of accuracy of {self.max_loss} is impossible: choose 0 to 1")
        if sum(each is not None for each in (self.texts, self.study, self.acceptance)) > 1:
            raise ValueError("texts, a study and an acceptance exclude each other: give one of them")
        if self.prompts is not None and self.texts is None:
            raise ValueError("--prompts is for the results in --texts")
        if self.study is not None:
            if not (self.study / "study.json").is_file():
                raise ValueError(f"{str(self.study)!r} has no study: there is no study.json in it")
            if not any((self.study / "traces").glob("run=*/part-*.parquet")):
                raise ValueError(f"{str(self.study)!r} is a study without traces: run it to its end")
            Store(self.study).check_schema()
        if self.acceptance is not None:
            assumed(self.acceptance, 0, 1, 1)
        if self.hardware != MEASURED:
            return hardware(self.hardware)
        require_here(self.target, *self.drafts)
        return None

    def _check_models(self) -> None:
        if not self.drafts or len(set(self.drafts)) < len(self.drafts):
            raise ValueError(f"each draft is named once, and at least one: {', '.join(self.drafts) or 'none is given'}")
        if odd := [name for name in self.drafts if name != NGRAM and ngram_length(name)]:
            raise ValueError(f"draft={odd[0]!r} is impossible: write {NGRAM!r}, of which the plan chooses the length")
        check_dtype(self.dtype)
        check_device(self.device)
        weights_by_role(self.weights, {"target", "draft"} if _models(self) else {"target"})


def run(question: Question, note: Note = lambda text: None) -> Answer:
    """Answers a question.

    Args:
        note: told what is done, and what is known so far.

    Raises:
        ValueError: what is impossible, unknown or does not fit, as far as possible before any work.
    """
    machine = question.check()
    if machine is not None:
        _require_room(question, machine)
    return _Work(question, machine, note).answer()


def _models(question: Question) -> list[str]:
    return [name for name in question.drafts if name != NGRAM]


def _kind(question: Question, role: str) -> str:
    """The type of a role's weights on the hardware of a table."""
    usual = "bfloat16" if question.dtype == "auto" else question.dtype
    return weights_by_role(weights_of(question.weights, {role}), {role}).get(role, usual)


def _require_room(question: Question, machine: Hardware) -> None:
    """The models with the keys and values of the smallest batch."""
    kept = question.context or 1024
    target = roofline(shape_of(question.target), machine, _kind(question, "target"))
    for name in [None, *_models(question)]:
        times: dict[str, Times] = {"target": target}
        if name is not None:
            times["draft"] = roofline(shape_of(name), machine, _kind(question, "draft"))
        what = f"{question.target}" + (f" and {name}" if name else "")
        require_room(memory_bytes(times, min(question.batches), kept), machine, what)


class _Work:
    """The steps of a plan, and what they find."""

    def __init__(self, question: Question, machine: Hardware | None, note: Note) -> None:
        self.question, self.machine, self.note = question, machine, note
        self.assumptions: list[str] = []
        self.members: dict[str, Members] = {}  # by draft
        self.texts: list[Written] = []
        self.prompts: list[list[int]] = []  # that are still to be written from
        self.known: dict[str | None, list[Reading]] = {}
        self.rounds: dict[str | None, list[Any]] = {}

    def answer(self) -> Answer:
        question = self.question
        if question.acceptance is None:
            self._find_texts()
        situation = self._situation()
        drafts = [None if name == NGRAM else name for name in question.drafts]
        greedy = question.acceptance is None and all(text.greedy for text in self.texts)
        wanted = candidates(drafts, question.max_loss is not None, greedy)
        self.routers = list({str(one.method.router): one.method.router for one in wanted if one.draft}.values())
        if question.acceptance is not None:  # no text, whose look-ups or uncertainty could be known
            wanted = [one for one in wanted if one.router == "always" and not one.method.ngram]
        search = Search(situation, wanted, self.read_by, question.max_loss)
        count, most = FIRST, self._available()
        while True:
            count = min(count, most)
            search.step(count)
            self._so_far(search)
            if search.clear or count >= most or (not search.alive and count >= 2 * FIRST):
                break
            count *= 2
        self._say(count)
        return answer(search, question.objective, self.assumptions)

    def _so_far(self, search: Search) -> None:
        for batch in self.question.batches:
            best = search.best(batch)
            left = sum(size == batch for _, size in search.alive)
            self.note(f"{search.texts} texts, batch {batch}: {best.candidate}, {best.speedup:.2f}; {left} left")

    # ---- texts

    def _find_texts(self) -> None:
        """Texts that are there, or the prompts from which the target will write some."""
        question = self.question
        lead = plan(draft=_models(question)[0]) if _models(question) else plan(target=question.target)
        if question.texts is not None:
            found = read_texts(question.texts, lead, lead.vocab_size, question.prompts)
        elif question.study is not None:
            found = study_texts(question.study, question.target, lead)
        else:
            both = plan(target=question.target)
            self.prompts = task_prompts(question.task, both, question.limit, question.max_tokens)
            return
        self.texts = found[: question.limit]

    def _available(self) -> int:
        if self.question.acceptance is not None:
            return ASSUMED_TEXTS
        return min(self.question.limit, len(self.texts) + len(self.prompts))

    def _write(self, count: int) -> None:
        """Has the target write so many texts in all."""
        missing = count - len(self.texts)
        if missing > 0:
            self.note(f"{self.question.target} writes {missing} texts")
            now, self.prompts = self.prompts[:missing], self.prompts[missing:]
            sampling = SamplingParams(self.question.max_tokens)
            self.texts += written_now(self._target(), now, sampling, max(self.question.batches))

    def read_by(self, draft: str | None, count: int) -> list[Reading]:
        """The first texts as a draft reads them; see `fsgen.planner.choose.ReadBy`."""
        question = self.question
        if question.acceptance is not None:
            return assumed(question.acceptance, count, question.context or 128, ASSUMED_TOKENS)
        self._write(count)
        found = self.known.setdefault(draft, [])
        new = self.texts[len(found) : count]
        if new and draft is None:
            found += [ngram_reading(text) for text in new]
        elif new and draft is not None:
            model = self._load(draft).draft
            assert model is not None
            self.note(f"{draft} reads {len(new)} texts")
            found += read(model, new, self.routers, self._load(draft).vocab_size)
        return found[:count]

    # ---- models

    def _target(self) -> Members:
        """The target alone; loaded once."""
        if "" not in self.members:
            question = self.question
            self.members[""] = load(
                target=question.target,
                dtype=question.dtype,
                device=question.device,
                weights=weights_of(question.weights, {"target"}),
            )
        return self.members[""]

    def _load(self, draft: str) -> Members:
        """A draft, with the target where that is needed."""
        if draft not in self.members:
            question = self.question
            needs_target = self.machine is None or bool(self.prompts)
            options = {
                "dtype": question.dtype,
                "device": question.device,
                "weights": weights_of(question.weights, {"draft"}),
            }
            target = self._target().target if needs_target else None
            planned = plan(draft, target, **options)
            if planned.difference is not None:
                raise ValueError(
                    f"{draft!r} has another tokenizer than {question.target!r}, and cannot read its texts in one pass: "
                    f"measure this pair by `fsgen bench` ({planned.difference})"
                )
            self.members[draft] = planned.load()
        return self.members[draft]

    def _situation(self) -> Situation:
        question = self.question
        context = question.context or (
            max(len(text.prompt) + len(text.tokens) for text in self.texts) if self.texts else 1024
        )
        if self.machine is not None:
            target, drafts, loops = self._by_roofline(self.machine)
        else:
            target, drafts, loops = self._by_measuring()
        return Situation(target, drafts, loops, list(question.batches), context, self.machine, question.price)

    def _by_roofline(self, machine: Hardware) -> tuple[Times, dict[str, Times], dict[Any, Loop]]:
        kind, small = (_kind(self.question, role) for role in ("target", "draft"))
        target = roofline(shape_of(self.question.target), machine, kind)
        drafts: dict[str, Times] = {name: roofline(shape_of(name), machine, small) for name in _models(self.question)}
        kinds = kind if kind == small or not drafts else f"{kind}, of drafts {small},"
        speed = f"{machine.bandwidth / 1e9:,.0f} GB/s, {machine.peak / 1e12:,.0f} TFLOPS: {machine.source}"
        shares = f"{target.bandwidth_share:.0%} of the bandwidth, {target.peak_share:.0%} of the peak"
        self.assumptions.append(
            f"times are computed from shapes with weights of {kinds} for {machine.name} ({speed}): {shares} and "
            f"{1e3 * target.fixed:.2f} ms for each call; they may be off by {target.error:.0%}"
        )
        loop = Loop(round_seconds=2e-4, verify_seconds=1e-4, drafted_seconds=1e-4)
        names: list[str | None] = [None, *drafts]
        return target, drafts, {(name, batch): loop for name in names for batch in self.question.batches}

    def _by_measuring(self) -> tuple[Times, dict[str, Times], dict[Any, Loop]]:
        most = max(self.question.batches)
        model = self._target().target
        assert model is not None
        for draft in _models(self.question):  # what does not go together is refused before anything is measured
            self._load(draft)
        self.note(f"{self.question.target}: its calls are measured, or as they were kept")
        target = profile_of(model, most, progress=self.note)
        drafts: dict[str, Times] = {}
        wanted: dict[Any, Calibration] = {}
        prompts = [list(text.prompt) for text in self.texts] or self.prompts or [list(range(1, 17))]
        names: list[str | None] = [*_models(self.question), None]
        for name in names:
            members = self._target() if name is None else self._load(name)
            if name is not None:
                assert members.draft is not None
                self.note(f"{name}: its calls are measured, or as they were kept")
                drafts[name] = profile_of(members.draft, most, progress=self.note)
            for batch in self.question.batches:
                if name is not None or not drafts:
                    times = None if name is None else drafts[name]
                    wanted[name, batch] = Calibration(members, prompts, batch, target, times)
        self.note("the decode loop is run, in turn with plain decoding, until two series of runs agree")
        found = settle([one.take for one in wanted.values()])
        loops: dict[Any, Loop] = {key: one.loop(said) for (key, one), said in zip(wanted.items(), found, strict=True)}
        for batch in self.question.batches:
            here = [key for key in loops if key[1] == batch]
            even = evened([loops[key] for key in here], target, batch)
            loops |= dict(zip(here, even, strict=True))
            loops[None, batch] = even[0]  # n-grams and plain decoding as any draft's runs have it
        self.assumptions.append(f"times are measured on {target.machine}")
        if (worst := max(loop.error for loop in loops.values())) > UNEVEN:
            self.assumptions.append(
                f"while they were measured the machine was not even, by up to {worst:.0%}: the intervals are as wide"
            )
        return target, drafts, loops

    def _say(self, count: int) -> None:
        """What the numbers rest on."""
        texts = self.texts[:count]
        if self.question.acceptance is not None:
            self.assumptions.append(
                f"each drafted token is accepted with a chance of {self.question.acceptance:g}, whatever the draft"
            )
        elif all(text.greedy for text in texts):
            self.assumptions.append(f"{len(texts)} greedy texts of the target; what is accepted in them is counted")
        elif all(text.exact for text in texts):
            self.assumptions.append(f"{len(texts)} texts, sampled ones by their log-probabilities")
        else:
            blind = sum(not text.exact for text in texts)
            self.assumptions.append(
                f"{blind} of {len(texts)} texts are sampled without the log-probabilities that drew them: for these "
                "acceptance is only bounded, from below by the draft's probability of what was written, from above by 1"
            )
        if any(text.retokenized for text in texts):
            self.assumptions.append("some texts have no token ids: they are what their text encodes to")
        if self.question.max_loss is not None:
            self.assumptions.append(
                "the accuracy that a trusting router loses is at most the share of texts that it changes"
            )
