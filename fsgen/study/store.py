"""A study's folder: its files, how they are written, and which of them are valid after a crash.

    study.json                                    the plan: which runs, and what each is compared to
    runs/<run>.json                               one record a run
    generations/run=<run>/part-<from>-<to>.parquet    one row a text
    traces/run=<run>/part-<from>-<to>.parquet         one row a token
    examples/<task>.parquet, vocabularies/<vocabulary>.parquet    prompts, and what token ids mean
    answers/<experiment>.json, measured/<name>/<key>.parquet or .npz     of experiments (fsgen.experiments)
    summary.json, report.html                     made from the above

A run is written in parts, each for the examples `from` to `to` (excluded). Every file appears under its name only when
it is whole: written beside it, synced, renamed. The part of the generations comes after that of the traces, so that
it is the mark of a finished part; what is there without it is written again.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = 1
"""Version of the tables. It is part of every run's key, and `study.json` has it."""

_PART = re.compile(r"part-(\d+)-(\d+)\.parquet")
_TABLES = ("generations", "traces")
_PLAN_FILES = ("study.json", "summary.json", "report.html")
_OWN_FILES = (
    *_PLAN_FILES,
    *("runs/*.json", "examples/*.parquet", "vocabularies/*.parquet"),
    *(f"{table}/run=*/{file}" for table in _TABLES for file in ("part-*.parquet", ".*.part")),
    *("answers/*.json", "measured/*/*.parquet", "measured/*/*.npz"),
)
_OWN_FOLDERS = (  # inner ones first
    *("generations/run=*", "traces/run=*", "measured/*"),
    *("runs", "examples", "vocabularies", *_TABLES, "answers", "measured"),
)

_NAME = pa.string()
TRACE_SCHEMA = pa.schema(
    [
        ("example", _NAME),
        ("turn", pa.uint8()),
        ("position", pa.uint32()),
        ("token", pa.uint32()),
        ("source", _NAME),
        ("round", pa.uint32()),
        ("draft_token", pa.uint32()),
        ("target_token", pa.uint32()),
        ("draft_prob", pa.float32()),
        ("draft_margin", pa.float32()),
        ("draft_entropy", pa.float32()),
        ("target_prob", pa.float32()),
        ("target_entropy", pa.float32()),
        ("total_variation", pa.float32()),
        ("draft_top_ids", pa.list_(pa.uint32())),
        ("draft_top_probs", pa.list_(pa.float32())),
        ("target_top_ids", pa.list_(pa.uint32())),
        ("target_top_probs", pa.list_(pa.float32())),
    ]
)
_FLOATS = [column.name for column in TRACE_SCHEMA if pa.types.is_floating(column.type)]
_FLOATS += ["draft_top_probs.list.element", "target_top_probs.list.element"]
_OTHERS = [column.name for column in TRACE_SCHEMA if column.name not in _FLOATS and not pa.types.is_list(column.type)]
_OTHERS += ["draft_top_ids.list.element", "target_top_ids.list.element"]
_COUNTS = (
    *("tokens", "known", "differing", "compared", "consulted", "accepted", "recovered"),
    *("draft_calls", "draft_tokens", "target_calls", "target_tokens"),
)
GENERATION_SCHEMA = pa.schema(
    [
        ("example", _NAME),
        ("turn", pa.uint8()),
        ("prompt_hash", _NAME),
        ("prompt_tokens", pa.uint32()),
        ("text", _NAME),
        ("stop_reason", _NAME),
        ("score", pa.float64()),
        ("answer", _NAME),
        ("note", _NAME),
        ("error", _NAME),
        ("sampled", pa.bool_()),
        *((name, pa.uint32()) for name in _COUNTS),
        ("variation", pa.float64()),
        ("draft_seconds", pa.float64()),
        ("system2_seconds", pa.float64()),
        ("seconds", pa.float64()),
    ]
)
EXAMPLE_SCHEMA = pa.schema([("example", _NAME), ("prompt", _NAME), ("reference", _NAME)])
VOCABULARY_SCHEMA = pa.schema([("token", pa.uint32()), ("text", pa.binary()), ("special", pa.bool_())])


def columns(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """A table from rows that have every column."""
    return pa.table({name: pa.array([row[name] for row in rows], schema.field(name).type) for name in schema.names})


class Store:
    """The tables of a study's folder.

    Args:
        folder: made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other process writes the folder meanwhile. The lock ends with the process.

        Raises:
            ValueError: another process does.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{str(self.folder)!r} is not a folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ValueError(f"another study is writing {str(self.folder)!r} at this moment") from None
            yield
        finally:
            os.close(handle)

    def check_schema(self) -> None:
        """Raises ValueError where the folder has tables of another version."""
        path = self.folder / "study.json"
        found = json.loads(path.read_text(encoding="utf-8")).get("schema") if path.is_file() else SCHEMA
        if found != SCHEMA:
            raise ValueError(
                f"{str(self.folder)!r} has tables of version {found}, and this version of fsgen writes version "
                f"{SCHEMA}: choose another folder, or run with fresh to remove them"
            )

    def clear(self) -> None:
        """Remove all that studies wrote here, and nothing else."""
        for pattern in _OWN_FILES:
            for file in self.folder.glob(pattern):
                file.unlink()
        for pattern in _OWN_FOLDERS:
            for folder in self.folder.glob(pattern):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    # ---- parts

    def done(self, run: str) -> int:
        """How many of a run's examples are written, always the first ones. What a crash left half done is removed."""
        finished = dict(self._parts("generations", run))
        stop = 0
        whole = set()
        while stop in finished:
            whole.add((stop, finished[stop]))
            stop = finished[stop]
        for table in _TABLES:
            for start, end in self._parts(table, run):
                if (start, end) not in whole:
                    self._part(table, run, start, end).unlink()
            for file in self._folder(table, run).glob(".*.part"):
                file.unlink()
        return stop

    def write_part(self, run: str, start: int, stop: int, traces: pa.Table, generations: pa.Table) -> None:
        """Write what belongs to the examples `start` to `stop` of a run."""
        options: dict[str, Any] = {"compression_level": 9, "write_statistics": False}
        encoding = {"use_dictionary": _OTHERS, "column_encoding": dict.fromkeys(_FLOATS, "BYTE_STREAM_SPLIT")}
        part = self._part("traces", run, start, stop)
        atomically(part, lambda file: _write_table(traces, file, **options, **encoding))
        part = self._part("generations", run, start, stop)
        atomically(part, lambda file: _write_table(generations, file, **options))

    def generations(self, run: str) -> pl.DataFrame:
        """One row a text."""
        return self._read("generations", run, GENERATION_SCHEMA)

    def traces(self, run: str) -> pl.DataFrame:
        """One row a token."""
        return self._read("traces", run, TRACE_SCHEMA)

    def _read(self, table: str, run: str, schema: pa.Schema) -> pl.DataFrame:
        files = [self._part(table, run, start, stop) for start, stop in self._parts(table, run)]
        empty = pl.from_arrow(schema.empty_table())
        assert isinstance(empty, pl.DataFrame)
        return pl.concat([empty, *(pl.read_parquet(file, hive_partitioning=False) for file in files)])

    def _parts(self, table: str, run: str) -> list[tuple[int, int]]:
        found = (_PART.fullmatch(file.name) for file in self._folder(table, run).glob("part-*.parquet"))
        return sorted((int(match[1]), int(match[2])) for match in found if match)

    def _part(self, table: str, run: str, start: int, stop: int) -> Path:
        return self._folder(table, run) / f"part-{start:06d}-{stop:06d}.parquet"

    def _folder(self, table: str, run: str) -> Path:
        return self.folder / table / f"run={run}"

    # ---- what runs share

    def write_examples(self, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the prompts of a task, under the key of its examples."""
        self._write_shared("examples", key, columns(rows, EXAMPLE_SCHEMA))

    def write_vocabulary(self, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write what the token ids of a tokenizer mean."""
        self._write_shared("vocabularies", key, columns(rows, VOCABULARY_SCHEMA))

    def _write_shared(self, name: str, key: str, table: pa.Table) -> None:
        """Write a table that its key describes wholly, where it is not there yet."""
        path = self.folder / name / f"{key}.parquet"
        if not path.is_file():
            atomically(path, lambda file: _write_table(table, file))

    # ---- records

    def record(self, run: str) -> dict[str, Any] | None:
        """The record of a run, None where there is none."""
        path = self.folder / "runs" / f"{run}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def write_record(self, run: str, record: Mapping[str, Any]) -> None:
        """Write the record of a run."""
        write_json(self.folder / "runs" / f"{run}.json", record)

    def write_study(self, study: Mapping[str, Any]) -> None:
        """Write the plan; what was made from another one is removed."""
        path = self.folder / "study.json"
        if not path.is_file() or json.loads(path.read_text(encoding="utf-8")) != study:
            for name in _PLAN_FILES:
                (self.folder / name).unlink(missing_ok=True)
            write_json(path, study)


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that a crash at any moment leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    write(unfinished)
    with unfinished.open("rb") as stream:
        os.fsync(stream.fileno())
    unfinished.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write_table(table: pa.Table, path: Path, **options: Any) -> None:
    pq.write_table(table, path, compression="zstd", store_schema=False, **options)
