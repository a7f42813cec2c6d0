"""Would verifying a small tree beat verifying a chain? Decided on the bundled models, before anything is built.

    python -m benchmarks.tree [--prompts 16] [--max-tokens 96] [--drafted FILE] [--json FILE]

A greedy text of the target does not depend on what is drafted. So the target writes each text once, the draft writes
what it would draft at every position of it, and every form of drafting is walked over these texts round by round: its
tokens per target call are exact. For fixed chains this is checked against the loop. Speeds come of the measured times
of forward calls alone. A tree's call is counted as that of a chain of as many tokens, and its bookkeeping as nothing:
its speed here is an upper bound. docs/tree.md has the findings.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import fsgen
from benchmarks.tree.drafted import NODES, Drafted, draft_all
from benchmarks.tree.forms import CHAIN, KINDS, STOPPED, forms
from benchmarks.tree.sampled import sample_texts, sampled_rows
from benchmarks.tree.times import Times, measure
from benchmarks.tree.walk import TASKS, Outcome, check_walker, fastest, outcome
from fsgen import SamplingParams, tasks

DRAFTS, TARGET = ("pocket-0.25m", "pocket-0.6m", "pocket-0.6m-distilled"), "pocket-8m"
DTYPES = ("float32", "bfloat16")
BUDGETS = (4, 6, 8, 12, 16)


def table(title: str, columns: Sequence[str]) -> Table:
    made = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index > 1 else "left")
    return made


def show_times(console: Console, draft: str, times: dict[str, Times]) -> None:
    shown = table(f"{draft}: ms of one call", ["", "by", *map(str, range(1, NODES + 2))])
    for dtype, t in times.items():
        shown.add_row(dtype, "target, new tokens", *(f"{1e3 * x:.2f}" for x in t.target))
        shown.add_row("", f"draft: {1e3 * t.first:.2f}, then", *(f"{1e3 * x:.2f}" for x in t.draft))
    console.print(shown)


def show_greedy(console: Console, draft: str, outcomes: list[Outcome], times: dict[str, Times]) -> None:
    for dtype, t in times.items():
        plain = 1e-3 / t.target[0]
        shown = table(
            f"{draft}, greedy, {dtype}: the fastest of each form; plain decoding {plain:.3f} tokens/ms",
            ["form", "setting", "nodes", "calls", "tokens/call", "tokens/ms", "chosen apart", "x plain", *TASKS],
        )
        trees = [o for o in outcomes if o.kind not in (CHAIN, STOPPED)]
        rows = {kind: [o for o in outcomes if o.kind == kind] for kind in KINDS}
        rows |= {f"any tree, {size} nodes": [o for o in trees if o.size == size] for size in BUDGETS}
        for label, candidates in rows.items():
            o, apart = fastest(candidates, dtype)
            shown.add_row(
                label,
                o.name if label in KINDS else f"{o.kind}: {o.name}",
                f"{o.nodes:.1f}",
                f"{o.calls:.1f}",
                f"{o.per_call:.2f}",
                f"{o.speed(dtype):.3f}",
                f"{apart:.3f}",
                f"{o.speed(dtype) / plain:.2f}",
                *(f"{speed:.3f}" for speed in o.speeds(dtype)),
            )
        console.print(shown)
    shown = table(
        f"{draft}, greedy: the most tokens per target call, whatever it costs",
        ["nodes", "tree", "tokens/call", "chain, tokens/call"],
    )
    for size in BUDGETS:
        chains = [o for o in outcomes if o.kind in (CHAIN, STOPPED) and o.size <= size]
        tree = max((o for o in outcomes if o.size <= size), key=lambda o: o.per_call)
        longest = max(o.per_call for o in chains)
        shown.add_row(str(size), f"{tree.kind}: {tree.name}", f"{tree.per_call:.2f}", f"{longest:.2f}")
    console.print(shown)


def show_sampled(console: Console, draft: str, rows: list[dict[str, Any]], loop: float) -> None:
    shown = table(
        f"{draft}, temperature 1 (the loop with k=5: {loop:.2f} tokens/call)",
        ["candidates", "acceptance", *(f"{dtype}: {what}" for dtype in DTYPES for what in ("best", "t/call", "t/ms"))],
    )
    for row in rows:
        cells = []
        for dtype in DTYPES:
            best = row[dtype]
            where = f", at the first {best['places']}" if best["places"] else ""
            cells += [f"k={best['k']}{where}", f"{best['per_call']:.2f}", f"{best['speed']:.3f}"]
        shown.add_row(str(row["candidates"]), f"{row['acceptance']:.3f}", *cells)
    console.print(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=16, help="questions of each task")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=40, help="of each timed call")
    parser.add_argument("--drafted", type=Path, help="a folder to keep what is drafted, and to read it from if it is")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()

    console = Console(width=180)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    figures: dict[str, Any] = {}
    loaded = {draft: {d: fsgen.load(draft=draft, target=TARGET, dtype=d) for d in DTYPES} for draft in DRAFTS}
    measured = {
        draft: {dtype: measure(pair, arguments.repeats) for dtype, pair in pairs.items()}
        for draft, pairs in loaded.items()
    }
    for draft, times in measured.items():
        show_times(console, draft, times)

    pair = loaded[DRAFTS[0]]["float32"]
    longest = pair.context - arguments.max_tokens
    prompts = []
    for name in TASKS:
        questions = [example.prompt for example in tasks.get(name).load()]
        short = [question for question in questions if len(pair.tokenizer.encode(question)) <= longest]
        prompts.append(short[: arguments.prompts])

    for draft, times in measured.items():
        exact = loaded[draft]["float32"]
        file = None
        if arguments.drafted:
            arguments.drafted.mkdir(parents=True, exist_ok=True)
            file = arguments.drafted / f"{draft}-{arguments.prompts}-{arguments.max_tokens}.npz"
        if file is not None and file.exists():
            with np.load(file) as stored:
                drafted = Drafted(**stored)
        else:
            sampling = SamplingParams(arguments.max_tokens)
            written = [fsgen.generate(exact, questions, "plain", sampling=sampling) for questions in prompts]
            drafted = draft_all(exact, prompts, written, arguments.max_tokens)
            for line in check_walker(exact, prompts, drafted, sampling):
                console.print(f"walked as the loop goes: {line}")
            if file is not None:
                np.savez_compressed(file, **vars(drafted))
        outcomes = [outcome(drafted, form, times) for form in forms(drafted)]
        console.print(f"{len(drafted.left)} tokens, {len(outcomes)} settings")
        show_greedy(console, draft, outcomes, times)

        sampled = sample_texts(exact, prompts, arguments.max_tokens)
        rows = sampled_rows(sampled, times)
        show_sampled(console, draft, rows, sampled.per_call)
        figures[draft] = {
            "milliseconds": {
                dtype: {"target": (1e3 * t.target).tolist(), "first": 1e3 * t.first, "draft": (1e3 * t.draft).tolist()}
                for dtype, t in times.items()
            },
            "greedy": [
                {
                    "form": f"{o.kind}: {o.name}",
                    "nodes": o.size,
                    "per_call": o.per_call,
                    "tokens_per_ms": {dtype: o.speed(dtype) for dtype in DTYPES},
                }
                for o in outcomes
            ],
            "sampled": rows,
        }
    if arguments.json:
        arguments.json.write_text(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
