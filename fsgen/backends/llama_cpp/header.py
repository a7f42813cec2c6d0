"""The header of a GGUF file: what it says of its model, its tokenizer and its tensors, without the weights."""

from __future__ import annotations

import math
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAGIC, VERSIONS = b"GGUF", (2, 3)
# Of each type of a value that is a number, the letter that `struct` has for it.
_NUMBERS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


@dataclass(frozen=True)
class Header:
    """What stands before the weights.

    Attributes:
        metadata: its values by key.
        shapes: of each tensor.
        types: of each tensor, as numbers of the format.
        parts: the files that hold the model, this one first.
    """

    metadata: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    types: dict[str, int]
    parts: tuple[Path, ...]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def get(self, name: str, default: Any = None) -> Any:
        """A value of the model, whose key begins with its architecture."""
        return self.metadata.get(f"{self.architecture}.{name}", default)

    def size(self, name: str, default: int | None = None) -> int:
        """A size of the model. Raises ValueError where it is missing, or no whole number above 0."""
        found = self.get(name, default)
        if type(found) is not int or found < 1:
            raise ValueError(f"its {name} is {found!r}")
        return found


def read_header(path: Path) -> Header:
    """The header of a GGUF file; of one that is split into several, that of all of them.

    Raises:
        ValueError: it is empty, cut off, or no GGUF file; a part of it is missing.
    """
    header = _read(path)
    count = header.metadata.get("split.count", 0)
    if count in (0, 1):
        return header
    named = _PART.search(path.name)
    if named is None or int(named[1]) != 1 or int(named[2]) != count:
        raise ValueError(f"it is one of {count} files, and the first has to be named: ...-00001-of-{count:05}.gguf")
    parts = [path.with_name(_PART.sub(f"-{n:05}-of-{count:05}.gguf", path.name)) for n in range(1, count + 1)]
    others = [_read(part) for part in parts[1:]]
    shapes, types = dict(header.shapes), dict(header.types)
    for other in others:
        shapes |= other.shapes
        types |= other.types
    return Header(header.metadata, shapes, types, tuple(parts))


def _read(path: Path) -> Header:
    try:
        with path.open("rb") as stream:
            if not path.stat().st_size:
                raise ValueError("it is empty")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _Reader(content).header(path)
    except OSError as error:
        raise ValueError(f"{path.name}: {error.strerror}") from error


class _Reader:
    """Reads one value after the other."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content, self._at = content, 0

    def header(self, path: Path) -> Header:
        magic = self._content[:4]
        if magic != MAGIC:
            raise ValueError(f"it begins with {magic!r}, not with {MAGIC!r}")
        self._at = len(MAGIC)
        version = self._number("I")
        if version not in VERSIONS:
            raise ValueError(f"its version is {version}, and {' and '.join(map(str, VERSIONS))} can be read")
        tensors, values = self._number("Q"), self._number("Q")
        metadata: dict[str, Any] = {}
        for _ in range(values):
            key = self._string()
            metadata[key] = self._value(self._number("I"))
        shapes: dict[str, tuple[int, ...]] = {}
        types: dict[str, int] = {}
        last = 0
        for _ in range(tensors):
            name = self._string()
            shapes[name] = tuple(reversed(self._numbers("Q", self._number("I"))))
            types[name], offset = self._number("I"), self._number("Q")
            last = max(last, offset)
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1:
            raise ValueError(f"its general.alignment is {alignment!r}")
        start = -(-self._at // alignment) * alignment
        if shapes and start + last >= len(self._content):
            raise ValueError("it is cut off: its weights end before the last tensor begins")
        return Header(metadata, shapes, types, (path,))

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind != _ARRAY:
            raise ValueError(f"a value is of type {kind}, which the format does not have")
        inner, count = self._number("I"), self._number("Q")
        if inner == _STRING:
            return [self._string() for _ in range(count)]
        if inner not in _NUMBERS:
            raise ValueError(f"a list is of type {inner}, which the format does not have")
        return self._numbers(_NUMBERS[inner], count)

    def _number(self, letter: str) -> Any:
        return self._numbers(letter, 1)[0]

    def _numbers(self, letter: str, count: int) -> tuple[Any, ...]:
        end = self._at + count * struct.calcsize(letter)
        if end > len(self._content):
            raise ValueError("it is cut off within its header")
        found = struct.unpack(f"<{count}{letter}", self._content[self._at : end])
        self._at = end
        return found

    def _string(self) -> str:
        length = self._number("Q")
        end = self._at + length
        if end > len(self._content):
            raise ValueError("it is cut off within its header")
        found = self._content[self._at : end].decode("utf-8", "backslashreplace")
        self._at = end
        return found


def parameters(header: Header) -> tuple[int, int]:
    """Parameters of a model: all, and those outside the embedding and the head."""
    counts = {name: math.prod(shape) for name, shape in header.shapes.items()}
    total = sum(counts.values())
    return total, total - counts.get("token_embd.weight", 0) - counts.get("output.weight", 0)
