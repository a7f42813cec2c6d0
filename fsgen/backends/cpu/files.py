"""The tensors of a folder's safetensors files, read one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fsgen.backends.cpu.shape import Shape

_INDEX = "model.safetensors.index.json"


class Tensors(Mapping[str, Tensor]):
    """The tensors of a model's files by name; each is read when it is asked for, and not kept.

    Args:
        folder: with one `.safetensors` file, or with several and their index.

    Raises:
        ValueError: a file that is missing, cut or no safetensors file, named.
    """

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in _files(folder):
            try:
                with safe_open(file, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118 - no mapping
                        self._files[name] = file
                        self.shapes[name] = tuple(opened.get_slice(name).get_shape())
            except (SafetensorError, OSError) as error:
                raise ValueError(f"the weights in {file} cannot be read: {error}") from error

    def __getitem__(self, name: str) -> Tensor:
        """Raises ValueError for a tensor that has NaN or infinity in it, named."""
        with safe_open(self._files[name], framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"the weight {name} of {self._files[name]} has NaN or infinity in it")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _files(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    try:
        names: Any = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        files = [folder / Path(name).name for name in sorted(names)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is no index of weights: {error}") from error
    if missing := [file for file in files if not file.is_file()]:
        raise ValueError(f"{missing[0]} is not there, though {index.name} names it")
    return files


def check(shape: Shape, found: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Compares the tensors of a model with those that its configuration asks for.

    Args:
        found: their shapes by name.
        name: of the model.

    Raises:
        ValueError: tensors are missing, unexpected, or of another shape; names the first of them.
    """
    wanted, optional = shape.weights(), shape.biases()
    known = wanted | optional
    found = {tensor: size for tensor, size in found.items() if not tensor.endswith(_IGNORED)}
    if shape.tied:  # the head may be stored all the same
        known["lm_head.weight"] = wanted["model.embed_tokens.weight"]
    faults = {
        "lacks": sorted(wanted.keys() - found.keys()),
        "has no place for": sorted(found.keys() - known.keys()),
    }
    for fault, names in faults.items():
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"{name!r} {fault} the weight {names[0]}{more}, by its config.json")
    for tensor, size in found.items():
        if size != known[tensor]:
            raise ValueError(
                f"{name!r} has the weight {tensor} of shape {list(size)}, and its config.json asks for "
                f"{list(known[tensor])}"
            )


_IGNORED = ("rotary_emb.inv_freq",)  # which older versions stored, and which follow from the configuration
