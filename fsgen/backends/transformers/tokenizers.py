"""Tokenizers as `transformers` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from fsgen.backends.checkpoint import on_hub
from fsgen.backends.transformers.settings import reason


def open_tokenizer(path: str | Path, name: str = "") -> Any:
    """The tokenizer of a folder or of a name on the hub. Raises ValueError where it cannot be read."""
    try:
        repository, revision = on_hub(str(path))
        return AutoTokenizer.from_pretrained(repository, revision=revision, trust_remote_code=False)
    except Exception as error:  # many kinds, by tokenizer and by what is wrong with its files
        raise ValueError(f"the tokenizer of {name or str(path)!r} cannot be read: {reason(error)}") from error
