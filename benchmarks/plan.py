"""Predicted and measured speed-ups of configurations that calibration did not see, and whether the best one is chosen.

    python -m benchmarks.plan                         about eight minutes on two quiet cores
    python -m benchmarks.plan --small                 a minute: whether it works, not how well
    python -m benchmarks.plan --json plan.json        all numbers, too

Calibration sees each model's calls alone, and each pair once in the loop, with four drafted tokens. What is predicted
are other lengths, stopping rules, adaptive lengths, trusting routers and n-grams, at batch 1, 4 and 16; and the shape
of 0.5 B for that of 1.5 B, of random weights, with scripted acceptance.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import fsgen
from fsgen import SamplingParams
from fsgen.backends import Members
from fsgen.backends.protocol import Model
from fsgen.bench.scripted import ScriptedModel
from fsgen.bench.shapes import random_model
from fsgen.methods.method import Method, parse
from fsgen.planner.calibrate import calibrate
from fsgen.planner.choose import PLAIN, Candidate, Judged, Situation, judge
from fsgen.planner.predict import seconds
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


def trial(
    pair: str,
    members: Members,
    prompts: list[list[int]],
    batch: int,
    methods: Sequence[Method],
    tokens: int,
    turns: int,
) -> list[Row]:
    """Predicts the methods at a batch size, and measures them in turn with plain decoding."""
    assert members.draft is not None
    assert members.target is not None
    sampling = SamplingParams(tokens)
    target, draft = measure(members.target, batch, 30), measure(members.draft, batch, 30)
    loop = calibrate(members, prompts, batch, target, draft)
    texts = written_now(members, prompts, sampling, batch)
    readings = readings_of(members.draft, texts, methods, members.vocab_size)
    looked_up = [ngram_reading(text) for text in texts]
    loops = {(name, batch): loop for name in ("draft", None)}
    situation = Situation(target, {"draft": draft}, loops, [batch], 512)
    plain = seconds(readings, PLAIN.method, batch, target, None, loop)
    judged = [
        judge(
            Candidate(None if method.ngram else "draft", method),
            batch, looked_up if method.ngram else readings, plain, situation,
        )
        for method in methods
    ]  # fmt: skip
    measured = run(members, prompts, [PLAIN.method, *methods], batch, sampling, turns)
    rows = []
    for method, one, times in zip(methods, judged, measured[1:], strict=True):
        ratios = [a / b for a, b in zip(measured[0], times, strict=True)]
        rows.append(row(pair, batch, method, one, ratios))
        print(line(rows[-1]), flush=True)
    return rows


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
) -> list[list[float]]:
    """Seconds a token of each method in each turn, in turn, after once to warm up."""
    found: list[list[float]] = [[] for _ in methods]
    for turn in range(turns + 1):
        for method, times in zip(methods, found, strict=True):
            started = time.perf_counter()
            texts = fsgen.generate(members, prompts, method, sampling=sampling, batch_size=batch)
            taken = time.perf_counter() - started
            if turn:
                times.append(taken / sum(len(text.token_ids) for text in texts))
    return found


def ladder(small: bool, turns: int) -> list[Row]:
    """Pairs of the bundled ladder."""
    rows = []
    pairs = [("pocket-0.6m", "pocket-4m")] if small else [("pocket-0.6m", "pocket-4m"), ("pocket-0.25m", "pocket-4m")]
    for draft, target in pairs:
        members = fsgen.load(draft, target)
        for batch in (1, 4) if small else (1, 4, 16):
            methods = [*SPECULATIVE, *MORE, *ROUTE, *(NGRAM if draft == "pocket-0.6m" else ())]
            count, tokens = (4, 24) if small else (max(8, 2 * batch) if batch < 16 else 16, 64)
            prompts = task_prompts("gsm8k", members, max(count, batch), tokens)
            rows += trial(f"{draft} {target}", members, prompts, batch, methods, tokens, turns)
    return rows


def scripted(turns: int) -> list[Row]:
    """Random weights of real shapes, with scripted acceptance."""
    draft, target = random_model("random:0.5B"), random_model("random:1.5B")
    rows, tokens = [], 32
    plain = Members.of(draft=draft, target=target)
    prompts = [[1 + (37 * i + 11 * j) % 2000 for j in range(32)] for i in range(2)]
    texts = fsgen.generate(plain, prompts, "plain", sampling=SamplingParams(tokens))
    scripts = {tuple(ids): [*ids, *text.token_ids] for ids, text in zip(prompts, texts, strict=True)}
    for rate in (0.6, 0.9):
        members = Members.of(draft=ScriptedModel(draft, scripts, rate), target=target)
        methods = [parse("speculative", None, length) for length in (2, 6)]
        rows += trial(f"random 0.5B 1.5B at {rate:g}", members, prompts, 1, methods, tokens, turns)
    return rows


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


def main() -> None:
    parser = argparse.ArgumentParser(description="Predicted and measured speed-ups.")
    parser.add_argument("--small", action="store_true", help="few configurations")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write all numbers")
    options = parser.parse_args()
    rows = ladder(options.small, 1 if options.small else options.turns)
    if not options.small:
        rows += scripted(options.turns)
    found = summary(rows)
    for name, value in found.items():
        print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")
    if options.json:
        content = {"summary": found, "rows": [asdict(one) | {"error": one.error} for one in rows]}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
