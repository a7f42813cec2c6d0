"""Finds a model, and has it opened by the backend that is going to run it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsgen.backends.checkpoint import Checkpoint, locate
from fsgen.backends.cpu.checkpoint import open_for_cpu
from fsgen.backends.llama_cpp.checkpoint import SUFFIX, open_gguf
from fsgen.backends.places import on_cpu
from fsgen.backends.remote.address import is_remote
from fsgen.backends.remote.checkpoint import open_remote
from fsgen.plugins import find

if TYPE_CHECKING:
    from fsgen.backends.protocol import Model


def open_loaded(model: Any, tokenizer: Any = None) -> Model:
    """A model that is in memory already.

    Args:
        model: of this package, which is given back; or a causal language model of `transformers`, put into eval mode.
        tokenizer: of the latter, or a folder or name of one; None: that of the place it was loaded from.

    Raises:
        ValueError: it is no model, its tokenizer is nowhere to be found, or no session could serve it.
    """
    if hasattr(model, "session"):
        found: Model = model
        return found
    if not (hasattr(model, "config") and hasattr(model, "generate")):
        raise ValueError(
            f"{model!r:.60} is no model: give a name, a folder, or a loaded causal language model of transformers"
        )
    from fsgen.backends.transformers.model import TransformersModel
    from fsgen.backends.transformers.tokenizers import open_tokenizer

    name = str(getattr(model.config, "name_or_path", "") or "")
    if tokenizer is None and not name:
        raise ValueError(f"the loaded {type(model).__name__} has no tokenizer: give tokenizer=")
    if tokenizer is None or isinstance(tokenizer, (str, Path)):
        tokenizer = open_tokenizer(tokenizer or name)
    return TransformersModel(model, tokenizer, name, name if Path(name).is_dir() else "")


def open_checkpoint(name: str | Path, dtype: str = "auto", device: str = "auto") -> Checkpoint:
    """Finds a model, and reads its configuration and tokenizer.

    Args:
        name: a bundled model, a local folder, a GGUF file, a name on the hub, with a revision behind an @, or a model
            behind a server (`fsgen.backends.remote`).
        dtype, device: for which it is going to be loaded; see `places`.

    Raises:
        ValueError: nothing of this name, no safetensors weights, or a model whose state no session can keep.
    """
    if is_remote(str(name)):
        return open_remote(str(name), lambda of: open_checkpoint(of, dtype, device))
    if (own := _own(str(name), dtype, device)) is not None:
        return own
    if str(name).endswith(SUFFIX):
        return open_gguf(str(name), device)
    if on_cpu(device) and dtype != "float16" and (found := open_for_cpu(str(name), locate(name))) is not None:
        return found
    from fsgen.backends.transformers.checkpoint import open_with_transformers  # here: importing it takes seconds

    return open_with_transformers(name)


def _own(name: str, dtype: str, device: str) -> Checkpoint | None:
    """A model of a backend from elsewhere (`fsgen.plugins`): `backend:model`, or `module:Name:model`.

    The backend is called with the model's name, the type and the device, and gives a `Checkpoint`.

    Raises:
        ValueError: it gives anything else, or has another reason.
    """
    found = find("backends", name) if ":" in name and not Path(name).exists() else None
    if found is None:
        return None
    backend, shown, model = found
    if not callable(backend):
        raise ValueError(f"backend {shown!r} breaks the protocol: it cannot be called")
    try:
        checkpoint = backend(model, dtype, device)
    except ValueError:
        raise
    except Exception as error:  # whatever it raises
        raise ValueError(f"backend {shown!r} breaks the protocol: {type(error).__name__}: {error}") from error
    if not isinstance(checkpoint, Checkpoint):
        raise ValueError(f"backend {shown!r} breaks the protocol: it gives no fsgen.backends.checkpoint.Checkpoint")
    return checkpoint
