"""Finds a model, and has it opened by the backend that is going to run it."""

from __future__ import annotations

from pathlib import Path

from fsgen.backends.checkpoint import Checkpoint, locate
from fsgen.backends.cpu.checkpoint import open_for_cpu
from fsgen.backends.llama_cpp.checkpoint import SUFFIX, open_gguf
from fsgen.backends.places import on_cpu


def open_checkpoint(name: str | Path, dtype: str = "auto", device: str = "auto") -> Checkpoint:
    """Finds a model, and reads its configuration and tokenizer.

    Args:
        name: a bundled model, a local folder, a GGUF file, or a name on the Hugging Face hub.
        dtype, device: for which it is going to be loaded; see `places`.

    Raises:
        ValueError: nothing of this name, no safetensors weights, or a model whose state no session can keep.
    """
    if str(name).endswith(SUFFIX):
        return open_gguf(str(name), device)
    if on_cpu(device) and dtype != "float16" and (found := open_for_cpu(str(name), locate(name))) is not None:
        return found
    from fsgen.backends.transformers.checkpoint import open_with_transformers  # here: importing it takes seconds

    return open_with_transformers(name)
