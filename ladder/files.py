"""Where the recipe reads and writes, JSON lines, and the generated parts of the page."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
WORK = _ROOT / "ladder" / "work"  # everything that can be made again; not in git
GSM8K_TRAIN = _ROOT / "ladder" / "data" / "gsm8k_train.jsonl.gz"
RESULTS = _ROOT / "ladder" / "graded.json"
TASK_DATA = _ROOT / "fsgen" / "tasks" / "data"
POCKET_MATH = TASK_DATA / "pocket_math.jsonl.gz"
PACKAGE = _ROOT / "fsgen" / "models" / "pocket"
TRAINED = _ROOT / "ladder" / "trained"
PAGE = _ROOT / "docs" / "ladder.md"


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a gzip-compressed JSON-lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write objects as gzip-compressed JSON lines; the same rows make the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as out:
        for row in rows:
            out.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
    temporary.replace(path)


def fill(parts: dict[str, str], page: Path = PAGE) -> None:
    """Fill the generated parts of the page, between `<!-- NAME -->` and `<!-- end NAME -->`."""
    text = page.read_text(encoding="utf-8")
    for name, part in parts.items():
        opening, closing = f"<!-- {name} -->", f"<!-- end {name} -->"
        if opening not in text or closing not in text:
            raise ValueError(f"{page.name} lacks the markers {opening} and {closing}")
        before, rest = text.split(opening, 1)
        after = rest.split(closing, 1)[1]
        text = f"{before}{opening}\n{part}\n{closing}{after}"
    page.write_text(text, encoding="utf-8")
