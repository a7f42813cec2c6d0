"""Predicted and measured speed-ups of configurations that calibration did not see, and whether the best one is chosen.

    python -m benchmarks.plan --json plan.json        under ten minutes on two quiet cores
    python -m benchmarks.plan --small                 two minutes: whether it works, not how well

Each line is printed when it is known. All numbers are kept in the file of `--json` after every block; a run that was
cut off goes on from there.

Calibration sees each model's calls alone, and short runs of each pair in the loop, with four and ten drafted tokens.
What is predicted are other lengths, stopping rules, adaptive lengths, trusting routers and n-grams, at batch 1, 4 and
16; and the shape of 0.5 B for that of 1.5 B, of random weights, with scripted acceptance.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

import fsgen
from fsgen import SamplingParams
from fsgen.backends import Members
from fsgen.backends.protocol import Model
from fsgen.bench.scripted import ScriptedModel
from fsgen.bench.shapes import random_model
from fsgen.methods.method import Method, parse
from fsgen.planner.calibrate import Calibration
from fsgen.planner.choose import PLAIN, Candidate, Judged, Situation, judge
from fsgen.planner.moments import settle
from fsgen.planner.predict import Loop, seconds
from fsgen.planner.reading import Reading, ngram_reading, read
from fsgen.planner.sources import task_prompts, written_now
from fsgen.planner.texts import Written
from fsgen.planner.times import measure

SPECULATIVE = [parse("speculative", None, length) for length in (1, 2, 3, 6, 8)]
MORE = [parse("speculative", "max-prob:0.5", 8), parse("speculative", None, "auto")]
NGRAM = [parse("speculative:ngram=3", None, length) for length in (3, 6)]
ROUTE = [parse("route", "max-prob:0.5", 8)]


@dataclass
class Row:
    """A configuration: what was predicted of it and what was measured."""

    pair: str
    batch: int
    method: str
    predicted: float
    low: float
    high: float
    measured: float
    turns: list[float]

    @property
    def error(self) -> float:
        return abs(self.predicted / self.measured - 1)

    @property
    def inside(self) -> bool:
        return self.low <= self.measured <= self.high


def shown(method: Method) -> str:
    length = "auto" if method.adaptive else method.draft_tokens
    router = "" if str(method.router) == "always" else f" {method.router}"
    return f"{method.name} {length}{router}"


@dataclass
class Block:
    """Configurations of one pair at one batch size, measured together.

    Attributes:
        situation: its times, and its loop, which was calibrated before the first block of the pair is measured.
        methods, prompts, tokens: what is written.
    """

    pair: str
    members: Members
    situation: Situation
    batch: int
    methods: Sequence[Method]
    prompts: list[list[int]]
    tokens: int

    @property
    def name(self) -> str:
        return f"{self.pair}, batch {self.batch}"

    def rows(self, turns: int) -> list[Row]:
        """Predicts the methods, and measures them in turn with plain decoding."""
        members, sampling = self.members, SamplingParams(self.tokens)
        assert members.draft is not None
        loop = self.situation.loops["draft", self.batch]
        texts = written_now(members, self.prompts, sampling, self.batch)
        readings = readings_of(members.draft, texts, self.methods, members.vocab_size)
        looked_up = [ngram_reading(text) for text in texts]
        plain = seconds(readings, PLAIN.method, self.batch, self.situation.target, None, loop)
        judged = [
            judge(
                Candidate(None if method.ngram else "draft", method),
                self.batch, looked_up if method.ngram else readings, plain, self.situation,
            )
            for method in self.methods
        ]  # fmt: skip
        predicted = plain.sum() / sum(len(text.tokens) for text in texts)
        ratios, measured = run(members, self.prompts, self.methods, self.batch, sampling, turns)
        print(f"{self.name}: plain decoding {1e3 * predicted:.2f} ms a token predicted, {1e3 * measured:.2f} measured")
        found = []
        for method, one, turned in zip(self.methods, judged, ratios, strict=True):
            found.append(row(self.pair, self.batch, method, one, turned))
            print(line(found[-1]), flush=True)
        return found


def blocks(
    pair: str, members: Members, batches: Sequence[int], methods: Sequence[Method], prompts: list[list[int]],
    tokens: int,
) -> list[Block]:  # fmt: skip
    """Times a pair, as `fsgen plan` does: its calls, and its loop at all batch sizes in turn."""
    assert members.draft is not None
    assert members.target is not None
    print(f"{pair}: timed", flush=True)
    most = max(batches)
    target, draft = measure(members.target, most, 30), measure(members.draft, most, 30)
    wanted = [Calibration(members, prompts, batch, target, draft) for batch in batches]
    found = settle([one.take for one in wanted])
    loops: dict[tuple[str | None, int], Loop] = {}
    for one, said in zip(wanted, found, strict=True):
        loop = loops["draft", one.batch_size] = loops[None, one.batch_size] = one.loop(said)
        print(
            f"{pair}, batch {one.batch_size}: {said.taken} series, {'two agree' if said.agreed else 'no two agree'}, "
            f"drift {said.drift:.1%}, error {loop.error:.1%}",
            flush=True,
        )
    situation = Situation(target, {"draft": draft}, loops, list(batches), 512)
    return [Block(pair, members, situation, batch, methods, _some(prompts, batch), tokens) for batch in batches]


def _some(prompts: list[list[int]], batch: int) -> list[list[int]]:
    """Enough for two batches, and four texts at least."""
    return prompts[: max(4, min(2 * batch, len(prompts)))]


def readings_of(draft: Model, texts: Sequence[Written], methods: Sequence[Method], vocab: int) -> list[Reading]:
    """The texts as the draft reads them; of a scripted one as its script says, which a single pass does not follow."""
    if not isinstance(draft, ScriptedModel):
        return read(draft, texts, [method.router for method in methods], vocab)
    found = []
    for text in texts:
        start = len(text.prompt)
        same = np.array(
            [draft.preferred(text.prompt, start + i) == token for i, token in enumerate(text.tokens)], float
        )
        found.append(Reading(text, same, same, np.ones(len(same))))
    return found


def row(pair: str, batch: int, method: Method, one: Judged, ratios: list[float]) -> Row:
    middle = statistics.median(ratios)
    return Row(pair, batch, shown(method), one.speedup.value, one.low, one.high, middle, ratios)


def run(
    members: Members,
    prompts: list[list[int]],
    methods: Sequence[Method],
    batch: int,
    sampling: SamplingParams,
    turns: int,
) -> tuple[list[list[float]], float]:
    """How many times as fast as plain decoding each method is, in each turn, and plain decoding's seconds a token.

    Each run of a method is next to a run of plain decoding, with which it is compared.
    """

    def taken(method: Method, texts: list[list[int]]) -> float:
        started = time.perf_counter()
        found = fsgen.generate(members, texts, method, sampling=sampling, batch_size=batch)
        return (time.perf_counter() - started) / sum(len(text.token_ids) for text in found)

    for method in (PLAIN.method, *methods):  # compiles, and warms up
        taken(method, prompts[:batch])
    found: list[list[float]] = [[] for _ in methods]
    plain = [taken(PLAIN.method, prompts)]
    for _ in range(turns):
        for first in range(0, len(methods), 2):
            before, times = plain[-1], [taken(method, prompts) for method in methods[first : first + 2]]
            plain.append(taken(PLAIN.method, prompts))
            for i, (beside, one) in enumerate(zip((before, plain[-1]), times, strict=False)):
                found[first + i].append(beside / one)
    return found, statistics.median(plain)


def ladder(small: bool) -> Iterator[tuple[list[str], Callable[[], list[Block]]]]:
    """Pairs of the bundled ladder: the names of their blocks, and what makes these."""
    for draft in ("pocket-0.6m",) if small else ("pocket-0.6m", "pocket-0.25m"):
        pair, batches = f"{draft} pocket-4m", (1, 4) if small else (1, 4, 16)
        methods = [*SPECULATIVE, *MORE, *ROUTE, *(NGRAM if draft == "pocket-0.6m" else ())]
        yield [f"{pair}, batch {batch}" for batch in batches], partial(_pocket, pair, batches, methods, small)


def _pocket(pair: str, batches: Sequence[int], methods: Sequence[Method], small: bool) -> list[Block]:
    members, tokens = fsgen.load(*pair.split()), 24 if small else 64
    prompts = task_prompts("gsm8k", members, 4 if small else 16, tokens)
    return blocks(pair, members, batches, methods, prompts, tokens)


RATES, SCRIPTED = (0.6, 0.9), "random 0.5B 1.5B"


def scripted() -> list[Block]:
    """Random weights of real shapes, with scripted acceptance; the loop is calibrated at one of the rates alone."""
    draft, target = random_model("random:0.5B"), random_model("random:1.5B")
    plain, tokens = Members.of(draft=draft, target=target), 32
    prompts = [[1 + (37 * i + 11 * j) % 2000 for j in range(32)] for i in range(2)]
    texts = fsgen.generate(plain, prompts, "plain", sampling=SamplingParams(tokens))
    scripts = {tuple(ids): [*ids, *text.token_ids] for ids, text in zip(prompts, texts, strict=True)}
    members = {rate: Members.of(draft=ScriptedModel(draft, scripts, rate), target=target) for rate in RATES}
    methods = [parse("speculative", None, length) for length in (2, 6)]
    (one,) = blocks(f"{SCRIPTED} at {RATES[0]:g}", members[RATES[0]], [1], methods, prompts, tokens)
    return [replace(one, pair=f"{SCRIPTED} at {rate:g}", members=members[rate]) for rate in RATES]


def line(one: Row) -> str:
    mark = "" if one.inside else "  outside"
    return (
        f"{one.pair:24} batch {one.batch:2}  {one.method:32} predicted {one.predicted:5.2f} "
        f"[{one.low:.2f}, {one.high:.2f}]  measured {one.measured:5.2f}  off by {one.error:5.1%}{mark}"
    )


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """The figures that this is run for."""
    errors = [one.error for one in rows]
    losses, harm = [], 0
    for place in {(one.pair, one.batch) for one in rows}:
        here = [one for one in rows if (one.pair, one.batch) == place and not one.method.startswith("route")]
        best = max(here, key=lambda one: one.predicted)
        chosen = best.measured if best.low > 1 else 1.0
        losses.append(1 - chosen / max(1.0, *(one.measured for one in here)))
        harm += best.low > 1 and best.measured < 1
    return {
        "configurations": len(rows),
        "median error": statistics.median(errors),
        "share within 20 %": sum(error <= 0.2 for error in errors) / len(errors),
        "intervals that hold": sum(one.inside for one in rows) / len(rows),
        "choice slower than the best measured, at most": max(losses),
        "choice slower than the best measured, in the mean": statistics.mean(losses),
        "drafts chosen that were slower than plain": harm,
    }


def measured(
    plans: Iterable[tuple[list[str], Callable[[], list[Block]]]], done: dict[str, list[Row]], turns: int,
    keep: Callable[[], None],
) -> None:  # fmt: skip
    """Measures all blocks that are not done yet, and keeps each."""
    for names, make in plans:
        if all(name in done for name in names):
            continue
        for block in make():
            if block.name not in done:
                done[block.name] = block.rows(turns)
                keep()


def main() -> None:
    parser = argparse.ArgumentParser(description="Predicted and measured speed-ups.")
    parser.add_argument("--small", action="store_true", help="few configurations")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path, help="keep all numbers here, and go on from what it has")
    options = parser.parse_args()
    turns = 1 if options.small else options.turns
    setting = {"small": options.small, "turns": turns}
    done: dict[str, list[Row]] = {}
    if options.json and options.json.is_file():
        before = json.loads(options.json.read_text(encoding="utf-8"))
        if before["setting"] != setting:
            parser.error(f"{options.json} is of another setting, {before['setting']}: choose another file")
        done = {name: [Row(**one) for one in rows] for name, rows in before["blocks"].items()}

    def keep() -> None:
        if options.json:
            rows = [one for each in done.values() for one in each]
            kept = {name: [asdict(one) for one in each] for name, each in done.items()}
            content = {"setting": setting, "summary": summary(rows), "blocks": kept}
            options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    plans = [*ladder(options.small)]
    if not options.small:
        plans.append(([f"{SCRIPTED} at {rate:g}, batch 1" for rate in RATES], scripted))
    measured(plans, done, turns, keep)
    for name, value in summary([one for each in done.values() for one in each]).items():
        print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")


if __name__ == "__main__":
    main()
