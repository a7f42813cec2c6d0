"""The registry of the models that come with the package: read from their files, no weights loaded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from fsgen.types import ModelInfo

FAMILY = "pocket"  # of the ladder; there are models of other families beside it
ROOT = Path(__file__).parent / FAMILY
MADE = Path(__file__).parent / "made"
"""Models of the made language of the experiment `uncertainty`; found by name, but no part of the ladder."""
PREFIX = "pocket-"
DEFAULT_DRAFT, DEFAULT_TUNED, DEFAULT_TARGET = "pocket-0.6m", "pocket-0.6m-tuned", "pocket-4m"
"""What writes where no model is named; proxy tuning drafts with the tuned model, against its own base."""
_PREFIXES = (PREFIX, "made-")

# What the architectures call the input embeddings and the output head.
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", ".embeddings.weight")
_HEADS = ("lm_head.weight", "embed_out.weight")


def bundled() -> list[ModelInfo]:
    """The bundled models, the smallest first."""
    if not ROOT.is_dir():
        return []
    found = [model_info(folder) for folder in ROOT.iterdir() if (folder / "config.json").is_file()]
    return sorted(found, key=lambda info: (info.parameters, info.name))


def ladder() -> list[str]:
    """The names of the bundled ladder, the smallest first: no tuned models, no other families, no further seeds."""
    return [info.name for info in _sizes() if not _facts(Path(info.path)).get("seed")]


def seeds_of(name: str) -> list[str]:
    """The names of the models of one size of the ladder, by their seeds: that of the ladder first.

    Raises:
        ValueError: the ladder has no such size; lists those that it has.
    """
    if name not in ladder():
        raise ValueError(f"there is no size {name!r} of the bundled ladder: {', '.join(ladder())}")
    others = [info for info in _sizes() if info.name.startswith(f"{name}-s")]
    return [name, *(info.name for info in sorted(others, key=lambda info: int(_facts(Path(info.path))["seed"])))]


def _sizes() -> list[ModelInfo]:
    return [info for info in bundled() if info.family == FAMILY and info.tuned_from is None]


def bundled_path(name: str) -> Path | None:
    """The folder of a bundled model, None where no bundled model has this name.

    Raises:
        ValueError: a name of the form `pocket-...` or `made-...` that does not exist; lists those that do.
    """
    for folder in (ROOT / name, MADE / name):
        if name and Path(name).name == name and (folder / "config.json").is_file():
            return folder
    if name.startswith(_PREFIXES) and not Path(name).is_dir():
        raise ValueError(f"there is no bundled model {name!r}: {bundled_names()}")
    return None


def bundled_names() -> str:
    """The names of the bundled models, as error messages show them."""
    names = [info.name for info in bundled()]
    return f"the bundled models are {', '.join(names)}" if names else "no models are bundled in this installation"


def model_info(folder: Path) -> ModelInfo:
    """What `fsgen models` shows of a local folder, from its config and the headers of its weight files.

    Raises:
        ValueError: the folder has no weights in the safetensors format.
    """
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    ours = _facts(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} has no weights in the safetensors format")
    total = embedding = 0
    for file in files:
        for tensor, size in _tensor_sizes(file).items():
            total += size
            if tensor.endswith(_EMBEDDINGS + _HEADS):
                embedding += size
    return ModelInfo(
        name=folder.name,
        path=str(folder),
        family=str(ours.get("family", FAMILY if folder.parent == ROOT else config.get("model_type", "unknown"))),
        parameters=total,
        non_embedding_parameters=total - embedding,
        tuned_from=ours.get("tuned_from"),
    )


def recipe(info: ModelInfo) -> tuple[int, int] | None:
    """The version of the recipe of a bundled model, and the tokens of its second stage; None where it is not known."""
    facts = _facts(Path(info.path))
    return (facts["recipe_version"], facts.get("second_stage_tokens", 0)) if "recipe_version" in facts else None


def _facts(folder: Path) -> dict[str, Any]:
    """What the recipe tells of a bundled model."""
    file = folder / "pocket.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found


def _tensor_sizes(file: Path) -> dict[str, int]:
    """Elements of each tensor, from the header alone: a little-endian length of 8 bytes, then JSON."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return {name: math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
