"""The file of a learned router: plain arrays and a JSON header in NumPy's .npz format, with no pickle in it."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fsgen.methods.learned.features import Floats, features, names
from fsgen.methods.learned.scorers import Scorer, scorer
from fsgen.types import shortest

FORMAT = "fsgen learned router 1"
_LARGEST = 64 * 2**20  # bytes, unpacked
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
        if self.top < 2 or len(self.scorer.mean) != len(names(self.top)):
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
    where = Path(path).expanduser()
    if not where.is_file():
        raise ValueError(f"there is no learned router {str(path)!r}; `fsgen router train` writes one")
    try:
        return _read(where)
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{str(path)!r} is no learned router, or is damaged: {error}") from error


def located(argument: str) -> tuple[LearnedModel, float]:
    """A router and its threshold from FILE, or FILE@T for another threshold than its own.

    Raises:
        ValueError: as `read`, or a threshold that is none.
    """
    file, at, value = argument.rpartition("@")
    if not at or Path(argument).expanduser().is_file():
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


def _read(path: Path) -> LearnedModel:
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST} bytes")
    with np.load(path, allow_pickle=False) as content:
        arrays = {name: content[name] for name in content.files}
    if _HEADER not in arrays or arrays[_HEADER].dtype != np.uint8:
        raise ValueError("it has no header")
    header = json.loads(arrays.pop(_HEADER).tobytes())
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"its header does not say {FORMAT!r}")
    if header["features"] != list(names(header["top"])):
        raise ValueError("it reads features that this version does not make")
    draft = header["draft"]
    return LearnedModel(
        scorer=scorer(header["kind"], arrays),
        top=int(header["top"]),
        threshold=float(header["threshold"]),
        draft={"name": str(draft["name"]), "digest": str(draft["digest"])},
        vocabulary=str(header["vocabulary"]),
        record=dict(header["record"]),
    )
