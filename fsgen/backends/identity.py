"""What identifies a model and its tokenizer, by content: for keys of runs, and for what was trained on one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fsgen.backends.vocabulary import Vocabulary, vocabulary

_HASHED_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_WEIGHTS = (".safetensors", ".gguf")
_BLOCK, _BLOCKS = 1 << 16, 1024


@dataclass(frozen=True)
class Identity:
    """What identifies a model, for something that was trained on it.

    Attributes:
        name: as it is called here.
        digest: of settings and weights: of a folder that of its files, of a model of the hub its commit.
        vocabulary: the digest of its tokenizer's vocabulary. Both are None where it has neither folder nor commit, or
            no tokenizer.
    """

    name: str
    digest: str | None
    vocabulary: str | None


def identity(model: Any) -> Identity:
    """The identity of a model, a checkpoint, or whatever has a digest of its own."""
    info = getattr(model, "info", None)
    name, path = (info.name, info.path) if info is not None else (model.name, model.path)
    digest = getattr(model, "digest", None)
    if digest is None and path and Path(path).is_dir():
        digest = folder_digest(Path(path))
    if digest is None:
        digest = getattr(model, "revision", None)
    tokenizer = getattr(model, "tokenizer", None)
    return Identity(name, digest, _tokenizer_digest(tokenizer) if hasattr(tokenizer, "get_vocab") else None)


@lru_cache(maxsize=8)
def _tokenizer_digest(tokenizer: Any) -> str:
    return vocabulary_digest(vocabulary(tokenizer))


def vocabulary_digest(known: Vocabulary) -> str:
    """A digest of what every token writes."""
    content = [[text.hex() for text in known.texts], known.special]
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()[:16]


def folder_digest(folder: Path) -> str:
    """A digest of a model's folder: its settings, and its weights.

    Of a weight file up to 1,024 blocks of 64 KiB are read, evenly over it, so that large models take no time and
    small ones are read whole.
    """
    weights = sorted(folder.glob("*.safetensors"))
    return files_digest([*(file for name in _HASHED_FILES if (file := folder / name).is_file()), *weights])


def files_digest(files: Iterable[Path]) -> str:
    """A digest of files; see `folder_digest`."""
    return _digest(tuple((file, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files))


@lru_cache(maxsize=64)
def _digest(stamps: tuple[tuple[Path, int, int], ...]) -> str:
    """Of files with their sizes and times, by which a change of them is seen."""
    result = hashlib.sha256()
    for file, size, _ in stamps:
        if file.suffix not in _WEIGHTS:
            result.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
            continue
        blocks = -(-size // _BLOCK)
        step = max(1, -(-blocks // _BLOCKS))
        name = file.name if file.suffix == ".safetensors" else ""  # others may be called anything
        result.update(f"{name}\0{size}\0".encode())
        with file.open("rb") as stream:
            for block in range(0, blocks, step):
                stream.seek(block * _BLOCK)
                result.update(stream.read(_BLOCK))
    return result.hexdigest()
