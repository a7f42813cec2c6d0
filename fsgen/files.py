"""How the files of a study's folder are written and read: whole or not at all, and checked by checksums."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

_SURROGATES = re.compile("[\ud800-\udfff]")
_CHECKSUM = "checksum"


class DamagedError(ValueError):
    """A stored file is not what was written, or is gone."""

    def __init__(self, path: Path, why: object) -> None:
        reason = " ".join(str(why).split())
        super().__init__(
            f"{str(path)!r} is damaged ({reason}): remove it, if it is there, and start the study again, which writes "
            "it once more"
        )


class WriteError(OSError):
    """A file cannot be written."""


def clean(text: str) -> str:
    """A text that UTF-8 can hold: halves of surrogate pairs become U+FFFD."""
    return _SURROGATES.sub("\ufffd", text)


def cleaned(content: Any) -> Any:
    """The same for all texts in plain data."""
    if isinstance(content, dict):
        return {key: cleaned(value) for key, value in content.items()}
    if isinstance(content, list):
        return [cleaned(value) for value in content]
    return clean(content) if isinstance(content, str) else content


# ---- writing


def atomically(path: Path, write: Callable[[Path], object]) -> str:
    """Write a file so that a crash at any moment leaves the old one or the new one.

    Returns:
        its checksum.

    Raises:
        WriteError: it cannot be written; nothing of it is left.
    """
    unfinished = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(unfinished)
        with unfinished.open("rb") as stream:
            os.fsync(stream.fileno())
            checksum = hashlib.file_digest(stream, "sha256").hexdigest()
        unfinished.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        why = error.strerror or error
        raise WriteError(f"{str(path)!r} cannot be written: {why}; what is finished is kept, so start again") from error
    return checksum


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises WriteError."""
    atomically(path, lambda file: file.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, whole or not at all. Raises WriteError."""
    write_bytes(path, clean(text).encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all, an object with its checksum. Raises WriteError."""
    text = clean(_as_json(content))
    if isinstance(content, dict):
        text = _as_json(json.loads(text) | {_CHECKSUM: _json_checksum(text)})
    write_text(path, text + "\n")


def write_table(path: Path, table: pa.Table, **options: Any) -> str:
    """Write a Parquet file whole or not at all, each page with its checksum; returns that of the file.

    Raises:
        WriteError: it cannot be written.
    """
    options |= {"compression": "zstd", "store_schema": False, "write_page_checksum": True}

    def write(file: Path) -> None:
        with file.open("wb") as stream:
            pq.write_table(table, stream, **options)

    return atomically(path, write)


def _as_json(content: Any) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)


def _json_checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# ---- reading


def read_json(path: Path, kind: type = dict) -> Any:
    """The content of a JSON file, without its checksum; a file of a former version has none.

    Args:
        path: the file.
        kind: what it has to be, an object or a list.

    Raises:
        DamagedError: it is not JSON, of another kind, or not what was written.
    """
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, kind):
            raise ValueError(f"not a JSON {'object' if kind is dict else 'list'}")
        checksum = content.pop(_CHECKSUM, None) if isinstance(content, dict) else None
        if checksum is not None and checksum != _json_checksum(_as_json(content)):
            raise ValueError("its checksum is another")
    except (ValueError, RecursionError, FileNotFoundError) as error:
        raise DamagedError(path, "it is not there" if isinstance(error, OSError) else error) from None
    return content


def read_table(path: Path, checksum: str | None = None) -> pl.DataFrame:
    """A Parquet file, checked as `check_table` does. Raises DamagedError."""
    check_table(path, checksum)
    return pl.read_parquet(path, glob=False, hive_partitioning=False)


def check_table(path: Path, checksum: str | None = None) -> str:
    """Check a Parquet file by its checksum, or without one by reading it; returns the checksum. Raises DamagedError."""
    try:
        state = path.stat()
    except FileNotFoundError:
        raise DamagedError(path, "it is not there") from None
    return _checked(path, checksum, state.st_size, state.st_mtime_ns, state.st_ino)


@lru_cache(4096)
def _checked(path: Path, checksum: str | None, *_state: int) -> str:
    """The same, once for each state of a file."""
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if checksum is None:
        try:
            with path.open("rb") as stream:
                pq.ParquetFile(stream, page_checksum_verification=True).read()
        except Exception as error:  # whatever the reader says of it
            raise DamagedError(path, error) from None
    elif found != checksum:
        raise DamagedError(path, "its checksum is another")
    return found


def part_name(table: str, file: Path) -> str:
    """What the record of a run calls a part of a table."""
    return f"{table}/{file.name}"


def part_files(folder: Path, table: str, run: str) -> list[Path]:
    """The parts of a run's table, in their order, checked.

    Args:
        folder: of the study.
        table: `generations` or `traces`.
        run: its key.

    Raises:
        DamagedError: one of them, or the record of the run, is damaged; or one that the record has is gone.
    """
    path = folder / "runs" / f"{run}.json"
    record = read_json(path) if path.is_file() else {}
    known: dict[str, str] = record.get("files", {})
    place = folder / table / f"run={run}"
    files = {place / Path(name).name for name in known if name.startswith(f"{table}/")}
    if not known or record.get("status") != "finished":
        files.update(place.glob("part-*.parquet"))
    for file in files:
        check_table(file, known.get(part_name(table, file)))
    return sorted(files)
