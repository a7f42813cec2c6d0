"""The time and memory that the analysis of a study takes, by the number of token rows.

    python -m benchmarks.analysis [--rows 500_000 5_000_000 50_000_000] [--folder DIR] [--json FILE]

Each size is a made-up study with the tables of a real one, written by the study's own writer: eight runs of about 100
tokens a text, two of them with a router. It is analysed in a separate process, projections included, and then removed.
Memory is the peak resident set of that process.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from fsgen.methods.learned.features import rounded
from fsgen.study.store import GENERATION_SCHEMA, TRACE_SCHEMA, Store

CANDIDATES = 10
TOKENS = 100
PART = 256
"""Examples in a part: the batch of a large study."""
TASKS = ("gsm8k", "mbpp")
DRAFTS = {"small": (600_000, 0.6), "middle": (1_500_000, 1.0), "large": (4_000_000, 1.6)}
"""Parameters of the drafts, and how peaked their distributions are."""
TARGET = ("target", 8_000_000)
ROUTER, THRESHOLD = "max-prob:0.5", 0.5


@dataclass(frozen=True)
class Run:
    """One run of the made-up study."""

    task: str
    draft: str
    router: str

    @property
    def key(self) -> str:
        method = "oracle" if self.router == "always" else "route"
        return f"{self.task}-{method}-{self.draft}"


RUNS = [Run(task, draft, "always") for task in TASKS for draft in DRAFTS]
RUNS += [Run(task, "middle", ROUTER) for task in TASKS]


def make_study(folder: Path, rows: int, seed: int = 0) -> None:
    """Write a study of about so many token rows.

    Args:
        folder: where to; empty.
        rows: of all runs together.
        seed: the random seed.
    """
    store = Store(folder)
    texts = max(2, round(rows / TOKENS / len(RUNS)))
    draw = np.random.default_rng(seed)
    store.write_study({"name": f"{rows:,} rows", "config": {}, "rows": [_planned(run.key) for run in RUNS]})
    for run in RUNS:
        store.write_record(run.key, _record(run))
        for start in range(0, texts, PART):
            stop = min(start + PART, texts)
            store.write_part(run.key, start, stop, *_part(run, start, stop, draw))


def _planned(key: str) -> dict[str, str | None]:
    return {"run": key, "draft_alone": None, "target_alone": None}


def _record(run: Run) -> dict[str, Any]:
    routed = run.router != "always"
    sizes = {"draft": (run.draft, DRAFTS[run.draft][0]), "target": TARGET}
    return {
        "run": run.key,
        "status": "finished",
        "engine": "loop",
        "task": {"name": run.task, "shots": 0, "chat": False},
        "method": {
            "name": "route" if routed else "oracle",
            "fusion": {"name": "target"},
            "router": run.router,
            "draft_tokens": 5 if routed else 1,
            "trusting": routed,
        },
        "sampling": {"name": "greedy"},
        "members": {
            role: {"name": name, "parameters": size, "non_embedding_parameters": size, "tuned_from": None}
            for role, (name, size) in sizes.items()
        },
        "identity": {"task": {"examples": ""}},
    }


def _part(run: Run, start: int, stop: int, draw: np.random.Generator) -> tuple[pa.Table, pa.Table]:
    """The traces and the generations of some examples."""
    lengths = draw.integers(TOKENS // 2, TOKENS * 3 // 2, stop - start)
    ends = lengths.cumsum()
    n = int(ends[-1])
    text = np.repeat(np.arange(stop - start), lengths)
    position = np.arange(n) - np.repeat(ends - lengths, lengths)

    # The draft is now and then peaked and flat elsewhere; more certain towards the end of a text.
    peak = DRAFTS[run.draft][1] * draw.exponential(2.0, n) * (1 + position / TOKENS)
    logits = -peak[:, None] * np.log1p(np.arange(CANDIDATES)) + draw.normal(0.0, 0.1, (n, CANDIDATES))
    probs = np.exp(np.sort(logits)[:, ::-1])
    probs /= 1.02 * probs.sum(1, keepdims=True)
    confidence = probs[:, 0]
    differs = draw.random(n) < 0.8 * (1 - confidence) ** 1.2
    ids = (draw.integers(0, 4096, (n, 1)) + np.arange(CANDIDATES)).astype(np.uint32)
    consulted = np.ones(n, dtype=bool) if run.router == "always" else confidence < THRESHOLD
    chosen = np.where(differs, ids[:, 1], ids[:, 0])
    source = np.where(consulted, np.where(differs, "recovered", "accepted"), "trusted")

    entropy = -(probs * np.log(probs)).sum(1)
    named = np.array([f"{run.task}-{i:07d}" for i in range(start, stop)])
    values: dict[str, Any] = {
        "example": pa.array(named[text], pa.string()),
        "turn": np.ones(n),
        "position": position,
        "token": np.where(consulted, chosen, ids[:, 0]),
        "source": pa.array(source, pa.string()),
        "round": position,
        "draft_token": ids[:, 0],
        "target_token": pa.array(chosen, pa.uint32(), mask=~consulted),
        "draft_prob": confidence,
        "draft_margin": confidence - probs[:, 1],
        "draft_entropy": entropy,
        "target_prob": pa.array(draw.random(n, dtype=np.float32), mask=~consulted),
        "target_entropy": pa.array(entropy.astype(np.float32), mask=~consulted),
        "total_variation": pa.array(draw.random(n, dtype=np.float32), mask=~consulted),
        "draft_top_ids": _lists(ids, np.ones(n, dtype=bool)),
        "draft_top_probs": _lists(rounded(probs.astype(np.float32)), np.ones(n, dtype=bool)),
        "target_top_ids": _lists(ids, consulted),
        "target_top_probs": _lists(rounded(probs[::-1].astype(np.float32)), consulted),
    }
    traces = pa.table({name: _column(values[name], TRACE_SCHEMA.field(name).type) for name in TRACE_SCHEMA.names})
    return traces, _generations(run, named, lengths, text, consulted, differs & consulted, draw)


def _column(values: Any, kind: pa.DataType) -> pa.Array:
    return values.cast(kind) if isinstance(values, pa.Array) else pa.array(values).cast(kind)


def _lists(values: NDArray[Any], known: NDArray[np.bool_]) -> pa.ListArray:
    offsets = pa.array(np.r_[0, np.cumsum(np.where(known, values.shape[1], 0))], pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(values[known].ravel()), mask=pa.array(~known))


def _generations(
    run: Run,
    named: NDArray[np.str_],
    lengths: NDArray[np.int64],
    text: NDArray[np.int64],
    consulted: NDArray[np.bool_],
    differs: NDArray[np.bool_],
    draw: np.random.Generator,
) -> pa.Table:
    count = len(named)
    calls, differing = np.bincount(text, consulted, count), np.bincount(text, differs, count)
    seconds = lengths * 0.01
    values: dict[str, Any] = {
        "example": named,
        "turn": np.ones(count),
        "prompt_hash": np.full(count, "0" * 16),
        "prompt_tokens": np.full(count, 50),
        "text": np.full(count, "made up"),
        "stop_reason": np.full(count, "eos"),
        "score": (draw.random(count) < 0.5).astype(float),
        "answer": np.full(count, "0"),
        "sampled": np.zeros(count, dtype=bool),
        "tokens": lengths,
        "known": calls,
        "differing": differing,
        "compared": calls,
        "variation": calls / 2,
        "consulted": calls,
        "accepted": calls - differing,
        "recovered": differing,
        "draft_calls": lengths,
        "draft_tokens": lengths,
        "target_calls": calls,
        "target_tokens": lengths,
        "draft_seconds": seconds / 4,
        "system2_seconds": seconds / 2,
        "seconds": seconds,
    }
    return pa.table(
        {
            name: pa.array(values[name]).cast(kind) if name in values else pa.nulls(count, kind)
            for name, kind in ((field.name, field.type) for field in GENERATION_SCHEMA)
        }
    )


# ---- measuring


@dataclass(frozen=True)
class Cost:
    """What the analysis of a study took.

    Attributes:
        rows: token rows; `disk`: bytes of the folder.
        seconds, memory: wall clock, and the peak resident set in bytes, of the process.
    """

    rows: int
    disk: int
    seconds: float
    memory: int


def analyse_here(folder: Path) -> None:
    """Analyse a study in this process, and print what it took as JSON."""
    started = time.perf_counter()
    from fsgen.analysis.study import analyze

    result = analyze(folder)
    seconds = time.perf_counter() - started
    rows = sum(row.tokens for row in result.summary)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"rows": rows, "seconds": seconds, "memory": memory}))


def costs(sizes: list[int], folder: Path | None) -> Iterator[Cost]:
    """Make, analyse and remove a study of each size."""
    for size in sizes:
        place = Path(tempfile.mkdtemp(prefix="fsgen-analysis-", dir=folder))
        try:
            make_study(place / "study", size)
            disk = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
            command = [sys.executable, "-m", "benchmarks.analysis", "--analyse", str(place / "study")]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            yield Cost(disk=disk, **json.loads(done.stdout))
        finally:
            shutil.rmtree(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[500_000, 5_000_000, 50_000_000])
    parser.add_argument("--folder", type=Path, help="where the studies are made; 5 GB for 50 million rows")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--analyse", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.analyse:
        analyse_here(arguments.analyse)
        return
    table = Table("rows", "on disk, GB", "seconds", "peak memory, GB")
    found = []
    for cost in costs(arguments.rows, arguments.folder):
        found.append(cost)
        table.add_row(f"{cost.rows:,}", f"{cost.disk / 1e9:.2f}", f"{cost.seconds:.1f}", f"{cost.memory / 1e9:.2f}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps([vars(cost) for cost in found], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
