"""All that a study wrote, without what a clock or the way there decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl

TIMES = ("draft_seconds", "system2_seconds", "seconds")


def tables(out: Path) -> dict[str, Any]:
    """Every file of a study's folder by its name: the content of each, times left out."""
    found: dict[str, Any] = {}
    for file in sorted(out.rglob("*")):
        name = str(file.relative_to(out))
        if file.is_dir() or name == ".lock":
            continue
        if file.suffix == ".parquet":
            frame = pl.read_parquet(file, glob=False, hive_partitioning=False)
            found[name] = frame.drop([time for time in TIMES if time in frame.columns]).to_dicts()
        elif name == "summary.json":
            found[name] = [{k: v for k, v in row.items() if k != "seconds"} for row in json.loads(file.read_text())]
        elif file.suffix == ".json":
            content = json.loads(file.read_text())
            left_out = ("started", "finished", "files", "checksum", *TIMES)
            found[name] = {k: v for k, v in content.items() if k not in left_out}
        else:
            found[name] = file.read_bytes()
    return found
