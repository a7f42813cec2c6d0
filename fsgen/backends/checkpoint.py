"""A model before its weights."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fsgen.backends.identity import folder_digest
from fsgen.backends.protocol import Capabilities
from fsgen.models.bundled import bundled_path, model_info
from fsgen.types import ModelInfo

if TYPE_CHECKING:
    from fsgen.backends.protocol import Model


@dataclass(frozen=True)
class Checkpoint(ABC):
    """A model of which only the configuration and the tokenizer have been read.

    Attributes:
        name: as the user gave it, or the short name of a bundled model.
        path: local folder or hub name.
        local: the folder, None for a model of the hub.
        tokenizer: with the interface of `transformers`.
        own_weights: its weights stay in the types that they have in its file.
        four_bits: it can have weights of four bits.
        elsewhere: it runs on no device of this machine.
    """

    name: str
    path: str
    local: Path | None
    tokenizer: Any

    own_weights: ClassVar[bool] = False
    four_bits: ClassVar[bool] = False
    elsewhere: ClassVar[bool] = False

    @property
    @abstractmethod
    def model_type(self) -> str:
        """Its family, as `transformers` calls it."""

    @property
    @abstractmethod
    def revision(self) -> str | None:
        """The commit of a model of the hub."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Rows of the logits, padding rows included."""

    @property
    @abstractmethod
    def context(self) -> int:
        """The longest sequence that the model can score, in tokens."""

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end a text, as far as its files say."""
        return frozenset()

    @property
    def capabilities(self) -> Capabilities:
        """What is known of it before it is loaded; see `Capabilities`."""
        return Capabilities()

    @property
    def info(self) -> ModelInfo:
        """What lists show of it; sizes of 0 where its weights are still to be fetched."""
        if self.local is None:
            return ModelInfo(self.name, self.name, self.model_type, 0, 0)
        return replace(model_info(self.local), name=self.name)

    @property
    def digest(self) -> str | None:
        """What identifies its settings and weights."""
        return self.revision if self.local is None else folder_digest(self.local)

    @abstractmethod
    def load(self, dtype: str = "auto", device: str = "auto") -> Model:
        """The model with its weights; `dtype` may be int8 too, on a CPU. Raises ValueError where it cannot be used."""


def on_hub(name: str) -> tuple[str, str | None]:
    """The name of a model on the hub, and the branch, tag or commit behind an @; None where none is said."""
    repository, _, revision = name.partition("@")
    return (name, None) if Path(name).is_dir() else (repository, revision or None)


def locate(name: str | Path) -> Path | None:
    """The folder of a bundled or local model, None for a name on the hub.

    Raises:
        ValueError: a folder that is not there, or is none of a model.
    """
    shown = str(name)
    local = bundled_path(shown) if isinstance(name, str) else None
    if local is not None:
        return local
    folder = Path(os.path.expanduser(name))  # noqa: PTH111  # Path's own raises RuntimeError for an unknown user
    if (folder / "config.json").is_file():
        return folder
    if folder.is_dir() and any(folder.glob("*.gguf")):
        raise ValueError(f"{shown!r} is a folder of GGUF files: name one of them")
    if folder.exists() or isinstance(name, Path) or shown.startswith(("/", ".", "~")) or shown.count("/") > 1:
        raise ValueError(f"no model at {shown!r}: there is no such folder with a config.json in it")
    return None
