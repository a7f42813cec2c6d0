"""Where the rows of a task come from: the package, a file, or a data set of the Hugging Face hub."""

import csv
import gzip
import json
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")
_HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]+))?(?:@(?P<split>[\w.\[\]:%-]+))?")


def rows(data: str | None, bundled: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a task's data, each checked to have every field.

    Args:
        data: None for the bundled file; a path that ends in one of `SUFFIXES` (`.json`: a list of objects; `.csv`:
            lists are written as JSON); or a data set of the hub, `owner/name[:config][@split]`, split `test` where
            none is named. Code that comes with a data set is never run.
        bundled: The name of the file in the package.
        fields: What every row must have.

    Raises:
        ValueError: The file or data set cannot be read, is empty, or a row lacks a field.
    """
    if data is None:
        found, where = _parse(bundled, read_bundled(bundled)), f"bundled {bundled}"
    elif data.endswith(SUFFIXES):
        from fsgen.files import cleaned  # with a library of tables, which bundled data do not need

        found, where = cleaned(_from_file(Path(data))), data
    elif Path(data).exists():
        raise ValueError(f"data file {data!r} must end in one of {', '.join(SUFFIXES)}")
    elif hub := _HUB.fullmatch(data):
        found, where = _from_hub(hub["name"], hub["config"], hub["split"] or "test"), data
    else:
        raise ValueError(
            f"data {data!r} is neither a file ({', '.join(SUFFIXES)}) nor a data set owner/name[:config][@split]"
        )
    if not found:
        raise ValueError(f"data {where} has no rows")
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict):
            raise ValueError(f"data {where}, row {number}: an object with named fields is needed")
        for field in fields:
            if row.get(field) is None:
                has = ", ".join(sorted(map(str, row)))
                raise ValueError(f"data {where}, row {number}: field {field!r} is missing (it has {has})")
    return found


@cache
def read_bundled(name: str) -> bytes:
    """A data file of the package, unpacked where its name ends in .gz."""
    content = (resources.files("fsgen.tasks") / "data" / name).read_bytes()
    return gzip.decompress(content) if name.endswith(".gz") else content


def _from_file(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise ValueError(f"data file {str(path)!r} does not exist")
    if path.suffix == ".parquet":
        import pyarrow.parquet

        try:
            table: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
        except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
            raise ValueError(f"data file {str(path)!r} cannot be read: {error}") from error
        return table
    try:
        content = path.read_bytes()
        return _parse(path.name, gzip.decompress(content) if path.suffix == ".gz" else content)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"data file {str(path)!r} cannot be read: {error}") from error


def _parse(name: str, content: bytes) -> list[dict[str, Any]]:
    text = content.decode("utf-8")
    if name.endswith(".csv"):
        return [{key: _cell(value) for key, value in row.items()} for row in csv.DictReader(text.splitlines(True))]
    if name.endswith(".json"):
        try:
            found = json.loads(text)
        except ValueError as error:
            raise ValueError(f"data file {name!r} is not JSON: {error}") from error
        if not isinstance(found, list):
            raise ValueError(f"data file {name!r} must hold a list of objects")
        return found
    parsed = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                parsed.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"data file {name!r}, line {number} is not JSON: {error}") from error
    return parsed


def _cell(value: Any) -> Any:
    """A CSV cell, where lists are written as JSON."""
    if isinstance(value, str) and value[:1] == "[" and value[-1:] == "]":
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _from_hub(name: str, config: str | None, split: str) -> list[dict[str, Any]]:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"data set {name!r} needs the package `datasets`: pip install 'fsgen[hub]'") from error
    try:
        found = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the hub's errors are many; whichever it is, there is no data
        raise ValueError(f"data set {name!r} (config {config}, split {split}) cannot be loaded: {error}") from error
    return [dict(row) for row in found]
