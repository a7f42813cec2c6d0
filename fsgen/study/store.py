"""A study's folder: its files, how they are written, and which of them are valid after a crash.

    study.json                                    the plan: which runs, and what each is compared to
    runs/<run>.json                               one record a run
    generations/run=<run>/part-<from>-<to>.parquet    one row a text
    traces/run=<run>/part-<from>-<to>.parquet         one row a token
    examples/<task>.parquet, vocabularies/<vocabulary>.parquet    prompts, and what token ids mean
    times/<run>.json                              of runs that were repeated, what each repetition took
    answers/<experiment>.json, measured/<name>/<key>.parquet or .npz     of experiments (fsgen.experiments)
    summary.json, report.html                     made from the above

A run is written in parts, each for the examples `from` to `to` (excluded). Every file appears under its name only when
it is whole: written beside it, synced, renamed (fsgen.files). A part counts where both of its files are there and
undamaged; the record of the run has their checksums. What is not is written again.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from fsgen.files import (
    DamagedError,
    check_table,
    clean,
    part_files,
    part_name,
    read_json,
    read_table,
    write_json,
    write_table,
)

SCHEMA = 1
"""Version of the tables. It is part of every run's key, and `study.json` has it."""

_PART = re.compile(r"part-(\d+)-(\d+)\.parquet")
_TABLES = ("generations", "traces")
_PLAN_FILES = ("study.json", "summary.json", "report.html")
_OWN_FILES = (
    *_PLAN_FILES,
    *("runs/*.json", "times/*.json", "examples/*.parquet", "vocabularies/*.parquet"),
    *(f"{table}/run=*/{file}" for table in _TABLES for file in ("part-*.parquet", ".*.part")),
    *("answers/*.json", *(f"measured/*/*.{kind}" for kind in ("parquet", "npz", "jsonl"))),
)
_OWN_FOLDERS = (  # inner ones first
    *("generations/run=*", "traces/run=*", "measured/*"),
    *("runs", "times", "examples", "vocabularies", *_TABLES, "answers", "measured"),
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
BOUNDS = ("draft_entropy_bounds", "target_entropy_bounds", "total_variation_bounds")
"""Columns of traces of which some are known in part: at least and at most, where the value itself is null."""
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
    """A table from rows that have every column; its texts are made such that UTF-8 can hold them."""
    made = {}
    for name in schema.names:
        kind = schema.field(name).type
        values = [row[name] for row in rows]
        if pa.types.is_string(kind):
            values = [None if value is None else clean(value) for value in values]
        made[name] = pa.array(values, kind)
    return pa.table(made)


class Store:
    """The tables of a study's folder.

    Args:
        folder: made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sound: dict[str, dict[tuple[int, int], dict[str, str]]] = {}  # checksums of parts, by run and place

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
        plan = self._sound_json(self.folder / "study.json")
        found = SCHEMA if plan is None else plan.get("schema")
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

    def done(self, run: str) -> set[int]:
        """Which of a run's examples are written, by their places; what a crash left half done is removed."""
        known = (self.record(run) or {}).get("files", {})
        sound = self._sound[run] = {}
        done: set[int] = set()
        for start, stop in sorted({place for table in _TABLES for place in self._parts(table, run)}):
            files = {table: self._part(table, run, start, stop) for table in _TABLES}
            names = {table: part_name(table, file) for table, file in files.items()}
            try:
                found = {names[table]: check_table(file, known.get(names[table])) for table, file in files.items()}
            except DamagedError:
                found = {}
            if found and done.isdisjoint(range(start, stop)):
                sound[start, stop] = found
                done.update(range(start, stop))
            else:
                for file in files.values():
                    file.unlink(missing_ok=True)
        for table in _TABLES:
            for file in self._folder(table, run).glob(".*.part"):
                file.unlink()
        return done

    def write_part(self, run: str, start: int, stop: int, traces: pa.Table, generations: pa.Table) -> None:
        """Write what belongs to the examples `start` to `stop` of a run."""
        options: dict[str, Any] = {"compression_level": 9, "write_statistics": False}
        encoding = {"use_dictionary": _OTHERS, "column_encoding": dict.fromkeys(_FLOATS, "BYTE_STREAM_SPLIT")}
        for table, rows, more in (("traces", traces, encoding), ("generations", generations, {})):
            part = self._part(table, run, start, stop)
            checksum = write_table(part, rows, **options, **more)
            found = self._sound.setdefault(run, {}).setdefault((start, stop), {})
            found[part_name(table, part)] = checksum

    def checksums(self, run: str) -> dict[str, str]:
        """Those of the parts that were found by `done` or written since, for the record of the run."""
        return dict(sorted(each for part in self._sound.get(run, {}).values() for each in part.items()))

    def generations(self, run: str) -> pl.DataFrame:
        """One row a text."""
        return _joined(part_files(self.folder, "generations", run), GENERATION_SCHEMA)

    def traces(self, run: str) -> pl.DataFrame:
        """One row a token."""
        return _joined(part_files(self.folder, "traces", run), TRACE_SCHEMA)

    def texts(self, run: str, start: int, stop: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Generations and traces of the parts that have these examples, of a run that `done` has looked through."""
        parts = sorted(part for part in self._sound[run] if part[0] < stop and start < part[1])
        generations, traces = ([self._part(table, run, *part) for part in parts] for table in _TABLES)
        return _joined(generations, GENERATION_SCHEMA), _joined(traces, TRACE_SCHEMA)

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
        """Write a table that its key describes wholly, where it is not there yet, or damaged."""
        path = self.folder / name / f"{key}.parquet"
        try:
            if read_table(path).equals(pl.DataFrame(table)):
                return
        except DamagedError:
            pass
        write_table(path, table)

    # ---- records

    def record(self, run: str) -> dict[str, Any] | None:
        """The record of a run, None where there is none, or a damaged one."""
        return self._sound_json(self.folder / "runs" / f"{run}.json")

    def write_record(self, run: str, record: Mapping[str, Any]) -> None:
        """Write the record of a run."""
        write_json(self.folder / "runs" / f"{run}.json", record)

    # ---- times

    def times(self, run: str, batch_size: int) -> list[float]:
        """The seconds of each repetition of a run; none where they are of other batches, or their file is damaged."""
        found = self._sound_json(self._times(run)) or {}
        seconds: list[float] = found["seconds"] if found.get("batch_size") == batch_size else []
        return seconds

    def add_time(self, run: str, batch_size: int, seconds: float, tokens: int) -> None:
        """Add a repetition to those of a run that `times` gives."""
        before = self.times(run, batch_size)
        counts = (self._sound_json(self._times(run)) or {})["tokens"] if before else []
        content = {"batch_size": batch_size, "seconds": [*before, seconds], "tokens": [*counts, tokens]}
        write_json(self._times(run), content)

    def _times(self, run: str) -> Path:
        return self.folder / "times" / f"{run}.json"

    def write_study(self, study: Mapping[str, Any]) -> None:
        """Write the plan; what was made from another one is removed."""
        path = self.folder / "study.json"
        if self._sound_json(path) != study:
            for name in _PLAN_FILES:
                (self.folder / name).unlink(missing_ok=True)
            write_json(path, study)

    def _sound_json(self, path: Path) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = read_json(path)
        except DamagedError:
            return None
        return found


def _joined(files: Sequence[Path], schema: pa.Schema) -> pl.DataFrame:
    """The parts of a table as one."""
    empty = pl.from_arrow(schema.empty_table())
    assert isinstance(empty, pl.DataFrame)
    read = (pl.read_parquet(file, glob=False, hive_partitioning=False) for file in files)
    return pl.concat([empty, *read], how="diagonal")  # bounds are only where a text has some
