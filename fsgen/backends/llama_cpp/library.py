"""The one place where llama.cpp is imported: its calls, its messages, and what has to be given back to it."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any
from weakref import finalize

_ERROR, _CONTINUED = 4, 5  # levels of its messages
_REASON = "error loading model: "

_messages: list[str] = []
_kept: list[Any] = []  # what it calls back


@cache
def library() -> Any:
    """The low-level calls of llama.cpp, whose messages are kept and not printed.

    Raises:
        ValueError: the package llama-cpp-python is missing, or its library does not load.
    """
    try:
        import llama_cpp
    except ImportError as error:
        raise ValueError(
            f"GGUF files are run by the package llama-cpp-python ({error}): pip install 'fsgen[llama-cpp]'"
        ) from error
    except (OSError, RuntimeError) as error:
        raise ValueError(f"GGUF files are run by llama-cpp-python, whose library does not load: {error}") from error
    _kept.append(llama_cpp.llama_log_callback(_listen))
    llama_cpp.llama_log_set(_kept[0], None)
    llama_cpp.llama_backend_init()
    return llama_cpp


def _listen(level: int, text: bytes, _: object) -> None:
    message = text.decode("utf-8", "replace")
    if level == _ERROR:
        _messages.append(message)
        del _messages[:-8]
    elif level == _CONTINUED and _messages:
        _messages[-1] += message


def reason() -> str:
    """Why a call failed, in llama.cpp's words."""
    lines = [" ".join(message.split()) for message in _messages]
    _messages.clear()
    for line in lines:
        if _REASON in line:
            return line[line.index(_REASON) + len(_REASON) :]
    return lines[-1].partition(": ")[2] or lines[-1] if lines else "llama.cpp gives no reason"


class LoadedFile:
    """A GGUF file that llama.cpp holds, until nothing refers to it any more.

    Args:
        path: the file, of several the first.
        name: for messages.
        weights: they are loaded and checked; else the tokenizer alone.

    Attributes:
        name: as above.
        model, vocab: as llama.cpp's calls want them.

    Raises:
        ValueError: it cannot be loaded, with llama.cpp's reason.
    """

    def __init__(self, path: Path, name: str, weights: bool) -> None:
        calls = library()
        self.name, settings = name, calls.llama_model_default_params()
        settings.n_gpu_layers = 0
        settings.vocab_only, settings.check_tensors = not weights, weights
        _messages.clear()
        self.model: int | None = calls.llama_model_load_from_file(os.fsencode(path), settings)
        if self.model is None:
            raise ValueError(f"{name!r} cannot be loaded: {reason()}")
        finalize(self, calls.llama_model_free, self.model)
        self.vocab: int = calls.llama_model_get_vocab(self.model)
