"""What a draft's training and the type of its weights do: agreement with the target, and the time of a call.

    python -m benchmarks.drafts [--examples 64] [--parts agreement,rates,calls] [--json FILE]

`agreement`: collaboration frequency (method oracle, by replay) and acceptance (speculative, 5 draft tokens) on each
task. `rates`: tokens per second of the best draft length at batch 1. `calls`: milliseconds of a call of one token a
row, after 128 tokens, also for random weights of a shape that does not fit a core's cache.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

import fsgen
from fsgen import SamplingParams, tasks
from fsgen.backends import Model
from fsgen.backends.int8 import quantise
from fsgen.backends.transformers.model import TransformersModel
from fsgen.metrics import Counts
from fsgen.replay import replay

TARGET = "pocket-4m"
DRAFTS = ("pocket-0.25m", "pocket-0.25m-distilled", "pocket-0.6m", "pocket-0.6m-distilled")
WEIGHTS = ("float32", "bfloat16", "int8")
TASKS = ("gsm8k", "mmlu_stem", "mbpp", "pocket_math")
LENGTHS = (3, 5, 8)
BATCHES = (1, 4, 16)
PARTS = ("agreement", "rates", "calls")
# Of the shape of common models of some 100 M parameters.
LARGE = LlamaConfig(
    vocab_size=32_000,
    hidden_size=768,
    intermediate_size=2_048,
    num_hidden_layers=12,
    num_attention_heads=12,
    max_position_embeddings=1_024,
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """A draft of one kind of weights beside the target."""

    draft: str
    weights: str
    members: fsgen.Members

    @property
    def row(self) -> Row:
        return {"draft": self.draft, "weights": self.weights}


def variants(names: list[str], target: Model) -> list[Variant]:
    """Every draft in float32, and the last one in the other types too."""
    chosen = [(name, "float32") for name in names] + [(names[-1], kind) for kind in WEIGHTS[1:]]
    return [
        Variant(name, kind, fsgen.load(draft=name, target=target, weights=f"draft={kind}")) for name, kind in chosen
    ]


def agreement(drafts: list[Variant], task_name: str, examples: int) -> list[Row]:
    """Frequency and acceptance of each draft on a task, and that none changes what the target writes."""
    task = tasks.get(task_name)
    sampling = SamplingParams(max_tokens=task.max_tokens, stop=task.stop)
    members = drafts[0].members
    room = members.context - task.max_tokens
    fitting = (example.prompt for example in task.load() if len(members.tokenizer(example.prompt)["input_ids"]) <= room)
    prompts = list(itertools.islice(fitting, examples))
    written = fsgen.generate(members, prompts, "plain", sampling=sampling)
    rows = []
    for variant in drafts:
        [read] = replay([variant.members], prompts, written)
        texts = fsgen.generate(variant.members, prompts, "speculative", None, 5, sampling)
        if [text.token_ids for text in texts] != [text.token_ids for text in written]:
            raise AssertionError(f"{variant.draft} in {variant.weights} changes what {TARGET} writes for {task_name}")
        counts = Counts.total(text.stats for text in texts)
        rows.append(
            variant.row
            | {
                "frequency": Counts.total(text.stats for text in read).collaboration_frequency,
                "acceptance": counts.acceptance_rate,
                "tokens a target call": counts.mean_accepted_length,
            }
        )
    return rows


def rates(drafts: list[Variant], examples: int, repeats: int = 3) -> list[Row]:
    """Tokens per second on GSM8K at batch 1, of the draft length that does best; the first row is plain decoding."""
    prompts = [example.prompt for example in tasks.get("gsm8k").load(limit=examples)]
    sampling = SamplingParams(max_tokens=96)

    def rate(members: fsgen.Members, method: str, length: int | None = None) -> float:
        def write() -> int:
            texts = fsgen.generate(members, prompts, method, None, length, sampling, 1)
            return sum(len(text.token_ids) for text in texts)

        tokens = write()  # and warm
        return tokens / _median(write, repeats)

    plain = rate(drafts[0].members, "plain")
    rows: list[Row] = [{"draft": "none", "weights": "-", "draft tokens": 0, "tokens/s": plain, "ratio": 1.0}]
    for variant in drafts:
        found, length = max((rate(variant.members, "speculative", length), length) for length in LENGTHS)
        rows.append(variant.row | {"draft tokens": length, "tokens/s": found, "ratio": found / plain})
    return rows


def calls(drafts: list[Variant]) -> list[Row]:
    """Milliseconds of a call of one token a row, by batch size: of the last draft, and of a large shape."""
    last = [variant for variant in drafts if variant.draft == drafts[-1].draft]
    rows = [variant.row | _milliseconds(variant.members.draft) for variant in last]
    return rows + [{"draft": "random, 134 M", "weights": kind} | _milliseconds(_random(kind)) for kind in WEIGHTS]


def _milliseconds(model: Model | None) -> Row:
    assert model is not None
    return {f"ms, batch {batch}": 1e3 * _seconds_a_call(model, batch) for batch in BATCHES}


def _random(kind: str) -> Model:
    torch.manual_seed(0)
    module = LlamaForCausalLM(LARGE)
    if kind == "int8":
        info = TransformersModel(module, name="random").info
        quantise(module, "random")
        return TransformersModel(module, name="random", info=info)
    return TransformersModel(module.to(getattr(torch, kind)), name="random")


def _seconds_a_call(model: Model, batch: int, prompt: int = 128, count: int = 30) -> float:
    session = model.session(batch)
    texts = [[(7 * i + 11 * row) % 1_000 for i in range(prompt)] for row in range(batch)]
    session.score(texts, 1)

    def call() -> None:
        for text in texts:
            text.append(len(text) % 1_000)
        session.score(texts, 1)

    return _median(call, count)


def _median(work: Callable[[], object], count: int) -> float:
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _show(console: Console, title: str, rows: list[Row]) -> None:
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="left" if column in ("draft", "weights") else "right")
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--examples", type=int, default=64, help="of each task; of `rates` a quarter")
    parser.add_argument("--drafts", default=",".join(DRAFTS), help="bundled models or folders")
    parser.add_argument("--tasks", default=",".join(TASKS), help="for `agreement`")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    names, parts = arguments.drafts.split(","), arguments.parts.split(",")
    if unknown := sorted(set(parts) - set(PARTS)):
        parser.error(f"unknown part {unknown[0]}; choose from {', '.join(PARTS)}")

    target = fsgen.load(target=TARGET, dtype="float32").target
    assert target is not None
    drafts = variants(names, target)
    work: dict[str, Callable[[], list[Row]]] = {}
    if "agreement" in parts:
        for task in arguments.tasks.split(","):
            work[task] = partial(agreement, drafts, task, arguments.examples)
    if "rates" in parts:
        work["rates"] = partial(rates, drafts, max(1, arguments.examples // 4))
    if "calls" in parts:
        work["calls"] = partial(calls, drafts)

    console = Console(width=120)
    console.print(f"target {TARGET}, float32; torch {torch.__version__}, {torch.get_num_threads()} threads")
    figures = {}
    for title, measure in work.items():
        figures[title] = measure()
        _show(console, title, figures[title])
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
