"""Packed token rows: one fixed stream for all sizes, and one for tuning."""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ladder import tokenizer
from ladder.corpus import Document, read_documents
from ladder.files import WORK
from ladder.sizes import END_OF_TEXT_ID

STREAM = WORK / "stream.safetensors"
TUNING_STREAM = WORK / "tuning.safetensors"
IGNORED = -100
EPOCHS = {"gsm8k": 3, "mbpp": 6}
CAPS = {"python": 2_000_000}  # tokens
SHORT, LONG = 512, 1024  # row widths; long rows are the last fifth
STEP_TOKENS = 8_192
_SHORT_SHARE = 0.8
_POOL = 256
_SEED = 7

Encoded = tuple[list[int], list[int]]  # ids, labels


def encode(encoder: Any, document: Document, whole: bool) -> Encoded:
    """Ids and labels of a document with its end of text; all count, or those of the completion."""
    ids = [*encoder.encode(document.text).ids, END_OF_TEXT_ID]
    given = 0 if whole else len(encoder.encode(document.prompt).ids)
    return ids, [IGNORED] * given + ids[given:]


def pack(documents: Iterable[Encoded], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [n, width] of whole documents; only a document longer than a row is cut, and little is padding."""
    waiting: deque[Encoded] = deque()
    for ids, labels in documents:
        for start in range(0, len(ids), width):
            waiting.append((ids[start : start + width], labels[start : start + width]))
    pool: list[Encoded] = []
    rows: list[list[int]] = []
    row_labels: list[list[int]] = []
    while waiting or pool:
        while waiting and len(pool) < _POOL:
            pool.append(waiting.popleft())
        row: list[int] = []
        marks: list[int] = []
        choice: int | None = 0
        while choice is not None:
            ids, labels = pool.pop(choice)
            row += ids
            marks += labels
            room = width - len(row)
            fitting = [index for index, (other, _) in enumerate(pool) if len(other) <= room]
            if not fitting:
                choice = None
            elif room > width // 2:
                choice = fitting[0]  # the oldest, so that the order of the mixture stays
            else:
                choice = max(fitting, key=lambda index: len(pool[index][0]))
        padding = width - len(row)
        rows.append(row + [END_OF_TEXT_ID] * padding)
        row_labels.append(marks + [IGNORED] * padding)
    return torch.tensor(rows, dtype=torch.int16), torch.tensor(row_labels, dtype=torch.int16)


def _save(path: Path, tensors: dict[str, torch.Tensor], counts: dict[str, int]) -> None:
    temporary = path.with_suffix(f".tmp{os.getpid()}")  # another process may make the same
    save_file(tensors, temporary, metadata={domain: str(tokens) for domain, tokens in counts.items()})
    temporary.replace(path)


def build() -> None:
    """Write the training stream: four fifths in short rows, the rest in long ones."""
    if STREAM.exists():
        print("stream: done already")
        return
    order = random.Random(_SEED)
    documents = read_documents("train")
    order.shuffle(documents)
    counts: dict[str, int] = {}
    encoded: list[Encoded] = []
    encoder = tokenizer.load()
    for document in documents:
        domain = document.domain
        if counts.get(domain, 0) >= CAPS.get(domain, 1 << 60):
            continue
        item = encode(encoder, document, whole=True)
        repeats = EPOCHS.get(domain, 1)
        counts[domain] = counts.get(domain, 0) + len(item[0]) * repeats
        encoded += [item] * repeats
    order.shuffle(encoded)
    total = sum(counts.values())
    taken, cut = 0, 0
    while taken < total * _SHORT_SHARE:
        taken += len(encoded[cut][0])
        cut += 1
    short, short_labels = pack(encoded[:cut], SHORT)
    long, long_labels = pack(encoded[cut:], LONG)
    tensors = {"short": short, "short_labels": short_labels, "long": long, "long_labels": long_labels}
    _save(STREAM, tensors, counts)
    print(f"stream: {total:,} tokens {counts} in {len(short):,} + {len(long):,} rows")


def build_tuning(documents: list[Document]) -> None:
    """Write the tuning stream; its loss is on completions only."""
    if TUNING_STREAM.exists():
        print("tuning stream: done already")
        return
    random.Random(_SEED).shuffle(documents)
    encoder = tokenizer.load()
    items = [encode(encoder, document, whole=False) for document in documents]
    short, short_labels = pack(items, SHORT)
    counts = {"tuning": sum(len(ids) for ids, _ in items)}
    _save(TUNING_STREAM, {"short": short, "short_labels": short_labels}, counts)
    print(f"tuning stream: {counts['tuning']:,} tokens in {len(short):,} rows")


def in_steps(
    ids: torch.Tensor, labels: torch.Tensor, tokens: int = STEP_TOKENS
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Rows [n, width] cut into steps of so many tokens; what is left over is dropped."""
    rows = tokens // ids.shape[1]
    return [(ids[i : i + rows], labels[i : i + rows]) for i in range(0, len(ids) - rows + 1, rows)]


def batches(path: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(ids, labels) of every step of a stream in order."""
    tensors = load_file(path)
    steps: list[tuple[torch.Tensor, torch.Tensor]] = []
    for name in ("short", "long"):
        if name in tensors:
            steps += in_steps(tensors[name], tensors[f"{name}_labels"])
    return steps
