"""How fast the loop decodes, against plain decoding and against transformers, in one run on the bundled models.

    python -m benchmarks.decoding [--prompts 6] [--max-tokens 64] [--turns 3] [--only TEXT] [--json FILE]

The variants of a group write the same greedy texts (checked in float32), alternately; a ratio compares with the group's
first row, and is the median over the turns. `wall / forward` is the wall clock over the time inside forward calls.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console

import fsgen
from benchmarks.variants import Group, ours, transformers_batches, transformers_fused, transformers_own
from fsgen import SamplingParams, tasks
from fsgen.backends import Members
from fsgen.backends.transformers.model import TransformersModel

DRAFTS = ("pocket-0.25m", "pocket-0.6m", "pocket-0.6m-distilled")
TARGET, TUNED, UNTUNED = "pocket-4m", "pocket-0.6m-tuned", "pocket-0.6m"


def random_draft(members: Members, dtype: str) -> Members:
    """The pair with a draft that has learned nothing."""
    torch.manual_seed(0)
    config = members.draft.module.config  # type: ignore[union-attr]
    model = transformers.LlamaForCausalLM(config).to(getattr(torch, dtype))
    draft = TransformersModel(model, members.tokenizer, "random")
    return fsgen.load(draft=draft, target=members.target)


def groups(count: int, max_tokens: int) -> Iterator[Group]:
    """Every comparison; models are loaded as they are needed."""
    task = tasks.get("gsm8k")
    prompts = [example.prompt for example in task.load(limit=count)]
    many = [example.prompt for example in task.load(limit=128)]
    sampling = SamplingParams(max_tokens=max_tokens)

    first = fsgen.load(draft=DRAFTS[-1], target=TARGET)
    pairs = {name: fsgen.load(draft=name, target=first.target) for name in DRAFTS[:-1]} | {DRAFTS[-1]: first}
    yield Group(
        "batch 1, float32",
        [
            transformers_own(first, prompts, max_tokens, None),
            *(transformers_own(first, prompts, max_tokens, k) for k in (0, 3, 5)),
            ours(first, prompts, sampling, "plain"),
            *(
                ours(pair, prompts, sampling, "speculative", k, name=name)
                for name, pair in pairs.items()
                for k in (3, 5, "auto")
            ),
        ],
    )
    lost = random_draft(first, "float32")
    yield Group(
        "batch 1, float32, a draft that has learned nothing",
        [
            ours(first, prompts, sampling, "plain"),
            *(ours(lost, prompts, sampling, "speculative", k) for k in (3, "auto")),
        ],
    )
    drawn = SamplingParams(max_tokens=max_tokens, temperature=1.0, seed=1)
    yield Group(
        "batch 1, float32, sampled at temperature 1",
        [
            ours(first, prompts, drawn, "plain"),
            *(ours(first, prompts, drawn, "speculative", k, name=DRAFTS[-1]) for k in (5, "auto")),
            *(ours(lost, prompts, drawn, "speculative", k, name="a random draft") for k in (5, "auto")),
        ],
        exact=False,
    )
    for batch in (16, 64):
        half = fsgen.load(draft=DRAFTS[-1], target=TARGET, dtype="bfloat16", weights="draft=float32")
        lost = random_draft(half, "float32")
        some = many[: 4 * batch] if batch < 64 else many
        whole = SamplingParams(max_tokens=2 * max_tokens)  # so that most texts end by themselves, as they do in use
        yield Group(
            f"batch {batch}, bfloat16, the draft in float32",
            [
                ours(half, some, whole, "plain", batch=batch),
                transformers_batches(half, some, whole.max_tokens, batch),
                *(ours(half, some, whole, "speculative", k, batch, DRAFTS[-1]) for k in (2, 3, "auto")),
                ours(lost, some, whole, "speculative", "auto", batch, "a random draft"),
            ],
            exact=False,
        )
        if batch == 16:
            drawn = SamplingParams(max_tokens=2 * max_tokens, temperature=1.0, seed=1)
            yield Group(
                f"batch {batch}, bfloat16, sampled at temperature 1",
                [
                    ours(half, some, drawn, "plain", batch=batch),
                    *(ours(half, some, drawn, "speculative", k, batch, DRAFTS[-1]) for k in (3, "auto")),
                    ours(lost, some, drawn, "speculative", "auto", batch, "a random draft"),
                ],
                exact=False,
            )
    tuned = fsgen.load(draft=TUNED, target=first.target, base=UNTUNED)
    for method, members in (("contrastive", first), ("proxy", tuned)):
        variants = [ours(members, prompts, sampling, method, k) for k in (1, 2, 3, 5, 8, "auto")]
        variants[0].name += " (every model at every token)"
        loop = transformers_fused(members, prompts, max_tokens, method)
        yield Group(f"{method}, batch 1, float32", [loop, *variants])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=6, help="GSM8K questions at batch 1")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--only", default="", help="groups whose title has this text")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()

    console = Console()
    console.print(f"target {TARGET}; torch {torch.__version__}, {torch.get_num_threads()} threads")
    figures: list[dict[str, Any]] = []
    for group in groups(arguments.prompts, arguments.max_tokens):
        if arguments.only in group.title:
            group.run(arguments.turns)
            group.show(console)
            figures += group.figures()
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
