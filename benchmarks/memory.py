"""Whether memory grows: many short generations in one process, what it holds after some of them, and a verdict.

    python -m benchmarks.memory [--texts 10000] [--method speculative] [--dtype auto] [--json FILE]

The exit status is 1 where memory grew between a tenth of the texts and the end. Of live tensors there may be `TABLES`
more: a model keeps a few small tables for all its sessions, and makes each when it is first needed. Resident memory may
rise by `NOISE`: what is free again is not always given back, and where a chunk lands (the draft's keys and values are
one) differs from call to call. A leak of one tensor, or of 60 KB, a call of 16 texts would be beyond both.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import fsgen
from fsgen import SamplingParams, tasks

DRAFT, TARGET = "pocket-0.6m", "pocket-4m"
BATCH, MAX_TOKENS = 16, 8
MARKS = (0.01, 0.1, 0.5, 1.0)  # of all texts
TABLES, NOISE = 64, 32 * 2**20


@dataclass(frozen=True)
class Reading:
    """What the process holds after so many texts; memory in bytes."""

    texts: int
    resident: int
    tensors: int
    tensor_bytes: int
    seconds: float


def read(texts: int, started: float) -> Reading:
    gc.collect()
    seconds = time.perf_counter() - started
    alive = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    held: dict[int, int] = {}  # bytes by storage, which is counted once, however many views there are of it
    for tensor in alive:
        if tensor.layout == torch.strided:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        else:  # packed weights, which do not show their storage
            held[id(tensor)] = tensor.numel() * tensor.element_size()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Reading(texts, pages * os.sysconf("SC_PAGE_SIZE"), len(alive), sum(held.values()), seconds)


def readings(texts: int, method: str, dtype: str) -> list[Reading]:
    """Writes so many texts, in calls of `BATCH`, and reads at the marks."""
    members = fsgen.load(draft=DRAFT, target=TARGET, dtype=dtype)
    prompts = cycle(example.prompt for example in tasks.get("gsm8k").load())
    sampling = SamplingParams(max_tokens=MAX_TOKENS)
    marks = [max(BATCH, round(texts * mark / BATCH) * BATCH) for mark in MARKS]
    found, written, started = [], 0, time.perf_counter()
    while written < marks[-1]:
        fsgen.generate(members, list(islice(prompts, BATCH)), method, sampling=sampling, batch_size=BATCH)
        written += BATCH
        if written in marks:
            found.append(read(written, started))
    return found


def grew(before: Reading, after: Reading) -> list[str]:
    """What grew between two readings, in words."""
    found = []
    if after.tensors > before.tensors + TABLES:
        found.append(f"{after.tensors - before.tensors:,} more live tensors")
    if after.resident > before.resident + NOISE:
        found.append(f"resident memory: {(after.resident - before.resident) / 2**20:.1f} MiB more")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--texts", type=int, default=10_000, help="how many are written, a multiple of 16")
    parser.add_argument("--method", default="speculative")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", type=Path, help="write the readings there too")
    arguments = parser.parse_args()

    console = Console()
    console.print(
        f"{DRAFT} drafts for {TARGET}: {arguments.method}, {MAX_TOKENS} tokens a text, {BATCH} texts a call; "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    found = readings(arguments.texts, arguments.method, arguments.dtype)
    table = Table()
    for column in ("texts", "resident, MiB", "live tensors", "their MiB", "seconds"):
        table.add_column(column, justify="right")
    for one in found:
        sizes = [f"{one.resident / 2**20:.1f}", f"{one.tensors:,}", f"{one.tensor_bytes / 2**20:.2f}"]
        table.add_row(f"{one.texts:,}", *sizes, f"{one.seconds:.1f}")
    console.print(table)
    before, after = found[1], found[-1]
    growth = grew(before, after)
    since = f"from {before.texts:,} to {after.texts:,} texts"
    if growth:
        console.print(f"memory grew {since}: {'; '.join(growth)}")
    else:
        more = (after.resident - before.resident) / 2**20
        console.print(
            f"memory did not grow {since}: {after.tensors - before.tensors:+,} live tensors (up to {TABLES} may be "
            f"tables), resident memory {more:+.1f} MiB (up to {NOISE / 2**20:.0f} may be noise)"
        )
    if arguments.json:
        record = {"readings": [asdict(one) for one in found], "grew": growth}
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    return 1 if growth else 0


if __name__ == "__main__":
    raise SystemExit(main())
