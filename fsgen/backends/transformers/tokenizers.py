"""Tokenizers as `transformers` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from fsgen.backends.checkpoint import on_hub
from fsgen.backends.transformers.settings import reason


def open_tokenizer(path: str | Path, name: str = "") -> Any:
    """The tokenizer of a folder or of a name on the hub. Raises ValueError where it cannot be read."""
    try:
        repository, revision = on_hub(str(path))
        return AutoTokenizer.from_pretrained(repository, revision=revision, trust_remote_code=False)
    except Exception as error:  # many kinds, by tokenizer and by what is wrong with its files
        raise ValueError(f"the tokenizer of {name or str(path)!r} cannot be read: {reason(error)}") from error


def render_chat(template: str, messages: Any, values: dict[str, Any]) -> str:
    """Messages as a prompt, by a chat template. Raises ValueError where it fails on them."""
    try:
        (text,), _ = render_jinja_template([messages], chat_template=template, **values)
    except Exception as error:  # of Jinja's, or whatever the template raises
        raise ValueError(f"the chat template fails: {reason(error)}") from error
    return str(text)
