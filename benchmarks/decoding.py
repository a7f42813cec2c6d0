"""How fast the loop decodes, against plain decoding and against transformers, in one run on the bundled models.

    python -m benchmarks.decoding [--prompts 16] [--max-tokens 96] [--repeats 3] [--json FILE]

All variants of a group write the same greedy texts (checked), in turn, `--repeats` times; a figure is the median of
its tokens per second, a ratio is taken against the group's first row.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import fsgen
from fsgen import SamplingParams, tasks
from fsgen.models import Members

# Ends a draft at its first token that is less likely than this; everything is still verified.
UNSURE = "max-prob:0.5"
DRAFT, TARGET, TUNED = "pocket-0.6m", "pocket-8m", "pocket-0.6m-tuned"
Texts = list[list[int]]


@dataclass
class Variant:
    """One way of writing the same texts; `rates` are its tokens per second, run by run."""

    name: str
    write: Callable[[], Texts]
    note: str = ""
    rates: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


@dataclass
class Group:
    """Variants that are compared. `exact`: all must write the very same texts (float32); else they only should."""

    title: str
    variants: list[Variant]
    exact: bool = True

    def run(self, repeats: int) -> None:
        expected = self.variants[0].write()
        for variant in self.variants:
            texts = variant.write()  # warm
            if texts != expected:
                same = sum(a == b for a, b in zip(texts, expected, strict=True))
                if self.exact:
                    raise AssertionError(f"{self.title}: {variant.name} wrote {len(texts) - same} other texts")
                variant.note = f"{same} of {len(texts)} texts alike (rounding)"
        for _ in range(repeats):
            for variant in self.variants:
                started = time.perf_counter()
                texts = variant.write()
                variant.rates.append(sum(map(len, texts)) / (time.perf_counter() - started))


def ours(
    members: Members,
    prompts: list[str],
    sampling: SamplingParams,
    method: str,
    k: int | None = None,
    batch: int = 1,
    router: str | None = None,
) -> Variant:
    def write() -> Texts:
        texts = fsgen.generate(members, prompts, method, router, k, sampling, batch)
        return [text.token_ids for text in texts]

    parts = [method, *([f"k={k}"] if k is not None else []), *([router] if router else [])]
    return Variant(", ".join(parts), write)


def transformers_own(members: Members, prompts: list[str], max_tokens: int, assisted: int | None) -> Variant:
    """`transformers`' own greedy generation; `assisted`: draft tokens of its assisted one (0: its own choice)."""
    assert members.target is not None
    assert members.draft is not None
    target, draft = members.target.module, members.draft.module  # type: ignore[attr-defined]
    ids = [torch.tensor([members.tokenizer.encode(prompt)]) for prompt in prompts]
    options = {} if assisted is None else {"assistant_model": draft}

    def write() -> Texts:
        if assisted:
            draft.generation_config.num_assistant_tokens = assisted
            draft.generation_config.num_assistant_tokens_schedule = "constant"
            draft.generation_config.assistant_confidence_threshold = 0.0
        elif assisted == 0:
            draft.generation_config.num_assistant_tokens_schedule = "heuristic"
            draft.generation_config.assistant_confidence_threshold = 0.4
        texts = []
        with torch.inference_mode():
            for prompt in ids:
                out = target.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=max_tokens,
                    do_sample=False,
                    **options,
                )
                texts.append(out[0, prompt.shape[1] :].tolist())
        return texts

    name = {None: "transformers, plain", 0: "transformers, assisted, its own schedule"}.get(
        assisted, f"transformers, assisted, {assisted} tokens"
    )
    return Variant(name, write)


def groups(count: int, max_tokens: int) -> list[Group]:
    task = tasks.get("gsm8k")
    prompts = [example.prompt for example in task.load(limit=count)]
    many = [example.prompt for example in task.load(limit=max(64, count))]
    sampling = SamplingParams(max_tokens=max_tokens)
    pair = fsgen.load(draft=DRAFT, target=TARGET)
    half = fsgen.load(draft=DRAFT, target=TARGET, dtype="bfloat16")
    tuned = fsgen.load(draft=TUNED, target=TARGET, base=DRAFT)
    result = [
        Group(
            "batch 1, float32",
            [
                ours(pair, prompts, sampling, "plain"),
                transformers_own(pair, prompts, max_tokens, None),
                *(transformers_own(pair, prompts, max_tokens, k) for k in (0, 3, 5)),
                *(ours(pair, prompts, sampling, "speculative", k) for k in (3, 5, 8)),
                ours(pair, prompts, sampling, "speculative", 8, router=UNSURE),
            ],
        )
    ]
    for name, members in (("float32", pair), ("bfloat16", half)):
        variants = [ours(members, many, sampling, "plain", batch=16)]
        variants += [ours(members, many, sampling, "speculative", k, batch=16) for k in (3, 5)]
        result.append(Group(f"batch 16, {name}", variants, exact=name == "float32"))
    for method, members in (("contrastive", pair), ("proxy", tuned)):
        title = f"{method}, batch 1, float32; the first row calls every model at every token"
        variants = [ours(members, prompts, sampling, method, k) for k in (1, 3, 5, 8)]
        result.append(Group(title, [*variants, ours(members, prompts, sampling, method, 8, router=UNSURE)]))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=16, help="GSM8K questions at batch 1")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()

    console = Console()
    console.print(f"{DRAFT} drafts for {TARGET}; torch {torch.__version__}, {torch.get_num_threads()} threads")
    figures = []
    for group in groups(arguments.prompts, arguments.max_tokens):
        group.run(arguments.repeats)
        table = Table(title=group.title, title_justify="left")
        for column in ("", "tokens/s", "ratio", ""):
            table.add_column(column, justify="right" if column else "left")
        for variant in group.variants:
            ratio = variant.rate / group.variants[0].rate
            table.add_row(variant.name, f"{variant.rate:.0f}", f"{ratio:.2f}", variant.note)
            figures.append({"group": group.title, "name": variant.name, "rate": variant.rate, "ratio": ratio})
        console.print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
