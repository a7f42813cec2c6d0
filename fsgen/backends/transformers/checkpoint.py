"""A model before its weights: found, read, and refused where no session could serve it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fsgen.backends.checkpoint import Checkpoint, locate
from fsgen.backends.int8 import quantise
from fsgen.backends.places import BITS, DTYPES, check_device, check_rounded, check_weights, place
from fsgen.backends.transformers.context import context_of
from fsgen.backends.transformers.continuation import text_config, ways_to_continue
from fsgen.backends.transformers.model import TransformersModel, model_facts
from fsgen.backends.transformers.settings import check_buildable, check_generation, read_config
from fsgen.backends.transformers.tokenizers import open_tokenizer
from fsgen.backends.transformers.weights import check_files, check_finite, load_module
from fsgen.models.bundled import model_info


@dataclass(frozen=True)
class TransformersCheckpoint(Checkpoint):
    """A model that `transformers` is going to run, of which only configuration and tokenizer have been read."""

    config: Any

    @property
    def model_type(self) -> str:
        return str(self.config.model_type)

    @property
    def revision(self) -> str | None:
        found: str | None = getattr(self.config, "_commit_hash", None)
        return found

    @property
    def vocab_size(self) -> int:
        return int(text_config(self.config).vocab_size)

    @property
    def ends(self) -> frozenset[int]:
        found = getattr(self.config, "eos_token_id", None)
        return frozenset([] if found is None else found if isinstance(found, list) else [found])

    @property
    def context(self) -> int:
        return context_of(self.config, self.tokenizer)

    def load(self, dtype: str = "auto", device: str = "auto", *, compiled: bool = True) -> TransformersModel:
        """The model with its weights.

        Args:
            compiled: it may run on the compiled forward pass.
            dtype: auto (float32 on a CPU, the checkpoint's own type on a GPU), float32, bfloat16, float16, or int8 (on
                a CPU, `fsgen.backends.int8`).
            device: auto (the GPUs if there are any, else the CPU), cpu, cuda or cuda:N.

        Raises:
            ValueError: an unknown dtype or device, weights that are not as the configuration wants them, a model that
                turns out not to continue its cached state exactly, or one that cannot have int8 weights.
        """
        check_weights(dtype)
        check_device(device)
        where = place(self, device, dtype)
        if dtype == "auto":
            kind: torch.dtype | str = torch.float32 if where == "cpu" else "auto"
        elif dtype in BITS:
            check_rounded(self, dtype, device)
            kind = "auto"  # rounded from what the checkpoint holds
        else:
            kind = DTYPES[dtype]
        model = load_module(self.name, self.path, self.config, kind, spread=where == "auto")
        if where not in ("cpu", "auto"):
            model = model.to(where)
        if self.local is not None and (self.local / "pocket.json").is_file():
            info = model_info(self.local)
        else:
            info = model_facts(model, self.name, self.path)  # before they are rounded
        if dtype in BITS:
            check_finite(self.name, model)
            quantise(model, self.name)
        return TransformersModel(model, self.tokenizer, self.name, self.path, info, compiled=compiled)


def open_with_transformers(name: str | Path) -> TransformersCheckpoint:
    """Reads the configuration and the tokenizer of a model, and refuses it if no session could serve it.

    Args:
        name: a bundled model, a local folder, or a name on the Hugging Face hub.

    Raises:
        ValueError: nothing of this name, no safetensors weights, or a model whose state no session can keep.
    """
    shown, local = str(name), locate(name)
    if local is not None:
        check_files(shown, local)
        check_generation(shown, local)
    path = str(local) if local is not None else shown
    config = read_config(shown, path)
    ways_to_continue(config, shown)
    check_buildable(shown, config)
    return TransformersCheckpoint(shown, path, local, open_tokenizer(path, shown), config)
