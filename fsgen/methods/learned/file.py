"""The file of a learned router: plain arrays and a JSON header in NumPy's .npz format, with no pickle in it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from fsgen.methods.learned.features import Floats, features, names
from fsgen.methods.learned.scorers import Scorer, scorer
from fsgen.types import shortest

FORMAT = "fsgen learned router 1"
_LARGEST = 64 * 2**20  # bytes, unpacked
_LARGEST_HEADER = 2**20
_MOST_TOP = 1000  # as many as a trace can have
_HEADER = "header"


@dataclass(frozen=True, eq=False)
class LearnedModel:
    """A trained score with its threshold, and where it comes from.

    Attributes:
        scorer: of the features.
        top: how many of p's largest probabilities it reads.
        threshold: System 2 is consulted where the score is above it.
        draft: name and digest of the draft whose traces it was trained on.
        vocabulary: the digest of its tokenizer's vocabulary.
        record: of the training: the study and its runs, task, counts, metrics on held-out examples, versions.
    """

    scorer: Scorer
    top: int
    threshold: float
    draft: Mapping[str, str]
    vocabulary: str
    record: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 2 <= self.top <= _MOST_TOP or len(self.scorer.mean) != len(names(self.top)):
            raise ValueError(f"it scores {len(self.scorer.mean)} features, not those of {self.top} probabilities")
        if not math.isfinite(self.threshold):
            raise ValueError(f"its threshold is {self.threshold}")

    @property
    def digest(self) -> str:
        """What tells its scores from others, in hex: neither the threshold nor the record is part of it."""
        result = hashlib.sha256(f"{FORMAT}\0{self.scorer.kind}\0{self.top}\0".encode())
        for name, array in sorted(self.scorer.arrays().items()):
            result.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode() + array.tobytes())
        return result.hexdigest()

    def score(self, top_probs: Any, prob: Any, margin: Any, entropy: Any, position: Any) -> Floats:
        """The score of each position, [n]; arguments as in `features`, of which `top_probs` may have more columns."""
        probs = np.asarray(top_probs)[:, : self.top]
        return self.scorer.score(features(probs, prob, margin, entropy, position))

    def identity(self, threshold: float) -> str:
        """What tells its decisions at a threshold from those of another router, wherever its file is."""
        return f"learned:{self.digest[:16]}@{shortest(threshold)}"

    @property
    def header(self) -> dict[str, Any]:
        """All but the arrays, as plain JSON."""
        return {
            "format": FORMAT,
            "kind": self.scorer.kind,
            "top": self.top,
            "features": names(self.top),
            "threshold": self.threshold,
            "draft": dict(self.draft),
            "vocabulary": self.vocabulary,
            "record": dict(self.record),
        }

    def write(self, path: Path) -> None:
        """Write the file."""
        text = json.dumps(self.header, ensure_ascii=False, allow_nan=False).encode()
        arrays: dict[str, Any] = {_HEADER: np.frombuffer(text, dtype=np.uint8), **self.scorer.arrays()}
        with path.open("wb") as stream:
            np.savez(stream, **arrays)


def read(path: str | Path) -> LearnedModel:
    """A learned router from its file.

    Raises:
        ValueError: no such file, or one that is none, or is damaged; it is named.
    """
    where = _located(path)
    if not where.is_file():
        raise ValueError(f"there is no learned router {str(path)!r}; `fsgen router train` writes one")
    try:
        return _read(where)
    except Exception as error:  # whatever a hostile file makes of zipfile, NumPy and json
        raise ValueError(f"{str(path)!r} is no learned router, or is damaged: {error}") from error


def located(argument: str) -> tuple[LearnedModel, float]:
    """A router and its threshold from FILE, or FILE@T for another threshold than its own.

    Raises:
        ValueError: as `read`, or a threshold that is none.
    """
    file, at, value = argument.rpartition("@")
    if not at or _located(argument).is_file():
        model = read(argument)
        return model, model.threshold
    model = read(file)
    try:
        threshold = float(value)
    except ValueError:
        raise ValueError(f"learned:{argument}: {value!r} is no threshold") from None
    if not math.isfinite(threshold):
        raise ValueError(f"learned:{argument}: a threshold is a finite number")
    return model, threshold


def _located(path: str | Path) -> Path:
    return Path(os.path.expanduser(path))  # noqa: PTH111  # Path's own raises RuntimeError for an unknown user


def _read(path: Path) -> LearnedModel:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST} bytes")
        for entry in entries:
            with archive.open(entry) as stream:
                _check_size(stream, entry.file_size)
    with np.load(path, allow_pickle=False) as content:
        arrays = {name: content[name] for name in content.files}
    if _HEADER not in arrays or arrays[_HEADER].dtype != np.uint8:
        raise ValueError("it has no header")
    text = arrays.pop(_HEADER).tobytes()
    if len(text) > _LARGEST_HEADER:
        raise ValueError(f"its header is larger than {_LARGEST_HEADER} bytes")
    header = json.loads(text)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"its header does not say {FORMAT!r}")
    if type(header["top"]) is not int or not 2 <= header["top"] <= _MOST_TOP:
        raise ValueError(f"it reads no count of probabilities from 2 to {_MOST_TOP}")
    if header["features"] != list(names(header["top"])):
        raise ValueError("it reads features that this version does not make")
    draft = header["draft"]
    return LearnedModel(
        scorer=scorer(header["kind"], arrays),
        top=header["top"],
        threshold=float(header["threshold"]),
        draft={"name": str(draft["name"]), "digest": str(draft["digest"])},
        vocabulary=str(header["vocabulary"]),
        record=dict(header["record"]),
    )


def _check_size(stream: IO[bytes], size: int) -> None:
    """Raises ValueError where an array is said to be larger than what is there: NumPy would make room for it first."""
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read_header(stream)
    if math.prod(shape) * kind.itemsize > size:
        raise ValueError(f"it has an array of {shape} that is not there")
