"""The models of a study: first read without their weights, to check every cell; then loaded, as units need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from fsgen.backends import Members, Model, ModelInfo, load, places
from fsgen.backends.opening import open_checkpoint
from fsgen.backends.protocol import Capabilities, Session
from fsgen.study.config import StudyConfig

SMALL_MODEL = 100_000_000
"""Parameters up to which models stay loaded, and replay a target's texts together with other drafts."""


def bit_exact(model: Model | None) -> bool:
    """Whether a model's logits are the same to the last bit in every batch."""
    return model is not None and model.capabilities.bit_exact


@dataclass(eq=False)
class UnloadedModel:
    """A model of which only configuration and tokenizer are read: enough to check a cell, not to run it.

    Attributes:
        given: its name in the configuration, by which it is loaded. A server's address is in that alone: the name in
            records and keys (`info`) stays where the server moves.
        weight_bytes: that GPUs have to hold; None where it is not known.
    """

    given: str
    info: ModelInfo
    digest: str
    tokenizer: Any
    vocab_size: int
    context: int
    eos_ids: frozenset[int] = frozenset()
    capabilities: Capabilities = field(default_factory=Capabilities)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    weight_bytes: int | None = 0

    @property
    def small(self) -> bool:
        """Whether it can stay loaded; a model of unknown size counts as large."""
        return 0 < self.info.parameters <= SMALL_MODEL

    def session(self, batch_size: int) -> Session:
        raise NotImplementedError(f"the weights of {self.info.name} are not loaded")

    def cache_bytes(self, tokens: int) -> int:
        raise NotImplementedError(f"the weights of {self.info.name} are not loaded")


def open_model(name: str, config: StudyConfig) -> UnloadedModel:
    """Read a model without its weights. Raises ValueError: there is none of this name, or it cannot be used here."""
    checkpoint = open_checkpoint(name, config.dtype, config.device)
    places.place(checkpoint, config.device, config.dtype)
    return UnloadedModel(
        given=name,
        info=checkpoint.info if checkpoint.elsewhere else replace(checkpoint.info, name=name),
        digest=str(checkpoint.digest),
        tokenizer=checkpoint.tokenizer,
        vocab_size=checkpoint.vocab_size,
        context=checkpoint.context,
        capabilities=checkpoint.capabilities,
        weight_bytes=0 if places.on_cpu(config.device) else places.weight_bytes(checkpoint, config.dtype),
    )


def check_device(device: str) -> None:
    """Raises ValueError for a device that does not exist here."""
    places.check_device(device)


def resolve_dtype(dtype: str, device: str) -> str:
    """The type of the weights as keys have it; `checkpoint` where each model has its own. Raises ValueError."""
    places.check_dtype(dtype)
    if dtype != "auto":
        return dtype
    return "float32" if places.on_cpu(device) else "checkpoint"


class LoadedModels:
    """The models that are loaded, each once. Large ones that are not needed make room for those that are.

    Args:
        dtype, device: as in `fsgen.load`.
        loaded: models that are loaded already, by name; those that are loaded here are added.
    """

    def __init__(self, dtype: str, device: str, loaded: dict[str, Model] | None = None) -> None:
        self.loaded = {} if loaded is None else loaded
        self._dtype, self._device = dtype, device
        self._members: dict[tuple[tuple[str, str], ...], Members] = {}

    def members(self, roles: Sequence[Mapping[str, str]]) -> list[Members]:
        """The members of some runs, whose names are given by role. Raises ValueError or OSError as `fsgen.load`."""
        needed = {name for names in roles for name in names.values()}
        large = [name for name, model in self.loaded.items() if model.info.parameters > SMALL_MODEL]
        if unneeded := [name for name in large if name not in needed]:
            self._members.clear()
            for name in unneeded:
                del self.loaded[name]
        return [self._group(names) for names in roles]

    def _group(self, names: Mapping[str, str]) -> Members:
        key = tuple(sorted(names.items()))
        if key not in self._members:
            self._members[key] = Members.of(**{role: self._load(name) for role, name in names.items()})
        return self._members[key]

    def _load(self, name: str) -> Model:
        if name not in self.loaded:
            model = load(target=name, dtype=self._dtype, device=self._device).target
            assert model is not None
            self.loaded[name] = model
        return self.loaded[name]
