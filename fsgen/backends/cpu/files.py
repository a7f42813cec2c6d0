"""The tensors of a folder's safetensors files, read one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fsgen.backends.cpu.shape import Shape

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# What older versions stored, and follows from the configuration.
COMPUTED = ("rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")


class Tensors(Mapping[str, Tensor]):
    """The tensors of a model's files by name; each is read when it is asked for, and not kept.

    Args:
        name: of the model, for messages.
        folder: with `model.safetensors`, or with several files and their index.
        former: names in older files, each with today's.

    Attributes:
        shapes: of each tensor.

    Raises:
        ValueError: a file that is missing, cut or no safetensors file.
    """

    def __init__(self, name: str, folder: Path, former: Mapping[str, str] | None = None) -> None:
        self._name = name
        names_now = former or {}
        self._files: dict[str, tuple[Path, str]] = {}  # where each is, and how it is called there
        self.shapes: dict[str, tuple[int, ...]] = {}
        try:
            for file in [folder / one for one in names(folder)]:
                with safe_open(file, framework="pt") as opened:
                    keys = [key for key in opened.keys() if not key.endswith(COMPUTED)]  # noqa: SIM118 - no mapping
                    self._files |= {names_now.get(key, key): (file, key) for key in keys}
                    self.shapes |= {names_now.get(key, key): tuple(opened.get_slice(key).get_shape()) for key in keys}
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the weights of {name!r} cannot be read: {error}") from error

    def __getitem__(self, name: str) -> Tensor:
        """Raises ValueError for a tensor with NaN or infinity in it."""
        file, key = self._files[name]
        with safe_open(file, framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(key)
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{self._name!r} cannot be used: {name} holds numbers that are not finite")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def names(folder: Path) -> list[str]:
    """The names of the weight files: the one that is whole, or those that the index names, as `transformers` chooses.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: an index that is none.
    """
    index = folder / INDEX
    if (folder / WHOLE).is_file() or not index.is_file():
        return [WHOLE]
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def fits(shape: Shape, found: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the tensors of a model, by their shapes, are those that its configuration asks for."""
    return shape.tensors() == found
