"""The oracle cells of the whole ladder: one batched decoding and parallel passes, against a double loop.

    python -m benchmarks.study [--prompts 64] [--sample 4] [--max-tokens 64] [--json FILE]

The double loop calls the draft and the target for every token, for each draft anew, with the caches of `transformers`:
so the collaboration frequency is commonly measured. It is run on every `--sample`-th prompt and its time is scaled up;
`--sample 1` runs all of it. On its prompts both ways have to count the same. Both start from token ids, with models in
memory. As in a study, the target's logits are kept for the drafts; the time without that is shown too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import DynamicCache

import fsgen
from fsgen import SamplingParams, tasks
from fsgen.backends import Members
from fsgen.replay import replay

LADDER = ("pocket-0.25m", "pocket-0.6m", "pocket-1.5m")
TARGET = "pocket-4m"


def prompts_with_shots(count: int, shots: int) -> list[str]:
    """GSM8K questions, behind short few-shot examples where there are some: the usual eight exceed the context."""
    examples = tasks.get("gsm8k").load()
    rest = sorted(examples[count:], key=lambda example: len(example.prompt))
    before = "".join(f"{example.prompt} The answer is {example.reference}.\n\n" for example in rest[:shots])
    return [before + example.prompt for example in examples[:count]]


@torch.inference_mode()
def double_loop(members: Members, ids: list[int], max_tokens: int) -> tuple[int, int]:
    """(tokens, positions where the greedy choices differ) of one prompt."""
    models = [members.draft.module, members.target.module]  # type: ignore[union-attr]
    caches = [DynamicCache(), DynamicCache()]
    fresh, tokens, differing = torch.tensor([ids]), 0, 0
    while tokens < max_tokens:
        choices = [
            int(model(fresh, past_key_values=cache, logits_to_keep=1).logits[0, -1].argmax())
            for model, cache in zip(models, caches, strict=True)
        ]
        tokens += 1
        differing += choices[0] != choices[1]
        if choices[1] in members.eos_ids:
            break
        fresh = torch.tensor([[choices[1]]])
    return tokens, differing


def compare(shots: int, count: int, sample: int, max_tokens: int) -> dict[str, Any]:
    """Both ways on the same prompts; seconds of each, and their ratio."""
    target = fsgen.load(target=TARGET).target
    ladder = [fsgen.load(draft=draft, target=target) for draft in LADDER]
    prompts = prompts_with_shots(count, shots)
    ids = [ladder[0].tokenizer.encode(prompt) for prompt in prompts]
    sampling = SamplingParams(max_tokens=max_tokens)

    seconds = []
    for keep in [False, *[False, True] * 5]:  # the first one warms up
        started = time.perf_counter()
        written = fsgen.generate(ladder[0], ids, "plain", sampling=sampling, batch_size=64, keep_logits=keep)
        texts = replay(ladder, ids, written, batch_size=64)
        seconds.append(time.perf_counter() - started)
    anew, ours = statistics.median(seconds[1::2]), statistics.median(seconds[2::2])

    chosen = range(0, count, sample)
    started = time.perf_counter()
    counted = [[double_loop(members, ids[i], max_tokens) for i in chosen] for members in ladder]
    double = (time.perf_counter() - started) * count / len(chosen)
    for draft, (theirs, cells) in zip(LADDER, zip(counted, texts, strict=True), strict=True):
        mine = [(cells[i].stats.tokens, cells[i].stats.differing) for i in chosen]
        if mine != theirs:
            raise AssertionError(f"{draft}, {shots} shots: the counts differ")
    return {
        "shots": shots,
        "prompt_tokens": sum(map(len, ids)) / count,
        "tokens": sum(len(text.token_ids) for text in written),
        "double_loop_seconds": double,
        "seconds": ours,
        "ratio": double / ours,
        "anew_ratio": double / anew,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--sample", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    figures = [compare(shots, arguments.prompts, arguments.sample, arguments.max_tokens) for shots in (0, 8)]
    table = Table(title=f"oracle cells of {len(LADDER)} drafts for {TARGET}, GSM8K", title_justify="left")
    for column in ("shots", "prompt tokens", "double loop, s", "ours, s", "ratio", "ratio, target read anew"):
        table.add_column(column, justify="right")
    for figure in figures:
        names = ("prompt_tokens", "double_loop_seconds", "seconds", "ratio", "anew_ratio")
        values = [figure[name] for name in names]
        table.add_row(str(figure["shots"]), *(f"{value:.1f}" for value in values))
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
