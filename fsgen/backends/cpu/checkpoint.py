"""Models that go straight from their files onto the compiled forward pass, without `transformers`."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsgen.backends.checkpoint import Checkpoint, on_hub
from fsgen.backends.cpu.files import Tensors, fits, names
from fsgen.backends.cpu.shape import Shape
from fsgen.backends.places import BITS, DTYPES, check_rounded, check_weights
from fsgen.backends.protocol import LONGEST
from fsgen.backends.tokenizer import plain_tokenizer
from fsgen.models.bundled import model_info
from fsgen.types import ModelInfo

if TYPE_CHECKING:
    from fsgen.backends.protocol import Model
    from fsgen.backends.transformers.model import TransformersModel

_SETTINGS = ["*.json", "*.jinja", "tokenizer*"]  # of a model of the hub


@dataclass(frozen=True)
class CpuCheckpoint(Checkpoint):
    """A model for the compiled forward pass.

    Attributes:
        folder: of its files; of a model of the hub, where they were put.
        shape: what its configuration says.
        eos_ids: the tokens that end a text.
        tensors: of its files; None for a model of the hub, whose weights are fetched when they are loaded.
    """

    four_bits = True

    folder: Path
    shape: Shape
    eos_ids: frozenset[int]
    tensors: Tensors | None

    @property
    def model_type(self) -> str:
        return self.shape.model_type

    @property
    def revision(self) -> str | None:
        return None if self.local is not None else self.folder.name

    @property
    def vocab_size(self) -> int:
        return self.shape.vocab_size

    @property
    def ends(self) -> frozenset[int]:
        return self.eos_ids

    @property
    def context(self) -> int:
        return min(self.shape.context, LONGEST)

    def load(self, dtype: str = "auto", device: str = "auto") -> Model:
        if dtype == "float16":  # which the compiled pass does not compute
            return self._with_transformers(dtype)
        import torch

        from fsgen.backends.cpu.model import CpuModel  # here: it imports numba
        from fsgen.backends.cpu.weights import CpuWeights

        check_weights(dtype)
        if dtype in BITS:
            check_rounded(self, dtype, device)
        kind = torch.float32 if dtype == "auto" or dtype in BITS else DTYPES[dtype]
        tensors = self.tensors or _fitting(self.name, _fetched(self.name, self.folder), self.shape)
        if tensors is None:  # of the hub, and not as its configuration wants them
            return self._with_transformers(dtype)
        weights = CpuWeights(self.shape, tensors, kind, bits=BITS.get(dtype, 0))
        about = (self._info(tensors), self.tokenizer, self.context, self.eos_ids, self.revision)
        # `transformers` has no weights of four bits.
        return CpuModel(weights, *about, None if weights.bits == 4 else partial(self._module, dtype))

    def _with_transformers(self, dtype: str) -> TransformersModel:
        from fsgen.backends.transformers.checkpoint import open_with_transformers

        return open_with_transformers(self.local or self.name).load(dtype, "cpu", compiled=False)

    def _module(self, dtype: str) -> Any:
        """The weights as a `transformers` model."""
        return self._with_transformers(dtype).module

    def _info(self, tensors: Tensors) -> ModelInfo:
        if self.local is not None and (self.local / "pocket.json").is_file():
            return model_info(self.local)
        counts = {name: math.prod(shape) for name, shape in tensors.shapes.items()}
        outside = {f"{self.shape.family.embed}.weight", "lm_head.weight"}
        total, inside = sum(counts.values()), sum(n for name, n in counts.items() if name not in outside)
        return ModelInfo(self.name, self.path, self.model_type, total, inside)


def open_for_cpu(name: str, local: Path | None) -> CpuCheckpoint | None:
    """Opens a model for the compiled forward pass.

    Args:
        name: as the user gave it.
        local: its folder, None for a model of the hub.

    Returns:
        None where this is no model for it, or anything about its files is odd: `transformers` runs it, or says what is
        wrong.
    """
    folder = local or _fetched(name)
    config = _read(folder / "config.json") if folder is not None else None
    shape = Shape.of(config) if config is not None else None
    if folder is None or config is None or shape is None:
        return None
    eos = _eos_ids(folder, config)
    tensors = None if local is None else _fitting(name, local, shape)
    if eos is None or (local is not None and tensors is None):
        return None
    tokenizer: Any = plain_tokenizer(folder)
    if tokenizer is None:
        from fsgen.backends.transformers.tokenizers import open_tokenizer

        tokenizer = open_tokenizer(folder, name)
    if tokenizer.eos_token_id is not None:
        eos |= {tokenizer.eos_token_id}
    return CpuCheckpoint(name, name if local is None else str(local), local, tokenizer, folder, shape, eos, tensors)


def _fitting(name: str, folder: Path | None, shape: Shape) -> Tensors | None:
    """The tensors of a folder, if they are those that its configuration asks for."""
    try:
        tensors = None if folder is None else Tensors(name, folder, shape.family.former)
    except ValueError:
        return None
    return tensors if tensors is not None and fits(shape, tensors.shapes) else None


def _fetched(name: str, settings: Path | None = None) -> Path | None:
    """The folder of a model of the hub: its settings, or, beside those at hand, its weights; None if it has none."""
    from huggingface_hub import snapshot_download

    repository, revision = on_hub(name)
    try:
        if settings is None:
            return Path(snapshot_download(repository, allow_patterns=_SETTINGS, revision=revision))
        return Path(
            snapshot_download(repository, allow_patterns=[*_SETTINGS, *names(settings)], revision=settings.name)
        )
    except Exception:  # no such model, no network, no right to it: the other way tells
        return None


def _read(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _eos_ids(folder: Path, config: dict[str, Any]) -> frozenset[int] | None:
    """The tokens that end a text; None where the files are odd about it."""
    file = folder / "generation_config.json"
    settings = _read(file) if file.is_file() else config
    if settings is None:
        return None
    found = settings.get("eos_token_id")
    ids = [] if found is None else found if isinstance(found, list) else [found]
    return frozenset(ids) if all(type(one) is int and one >= 0 for one in ids) else None
