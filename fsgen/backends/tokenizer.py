"""The tokenizer of a folder, without `transformers` where its files say all: importing that takes seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

# Classes that only read `tokenizer.json`; what others change is not in it.
_PLAIN = frozenset({"PreTrainedTokenizerFast", "TokenizersBackend"})
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Settings that change what `tokenizer.json` says.
_CHANGES = (
    "add_prefix_space", "split_special_tokens", "clean_up_tokenization_spaces",
    "fix_mistral_regex", "additional_special_tokens", "extra_special_tokens",
)  # fmt: skip


class Tokenizer:
    """A tokenizer that is all in its `tokenizer.json`; it maps texts as `transformers` would.

    Args:
        folder: of the model.
        backend: what is in that file.
        settings: what is in its `tokenizer_config.json`.

    Attributes:
        backend_tokenizer, name_or_path: as `transformers` calls them: its rules, and its folder.
        model_max_length: the longest text, in tokens; None where nothing is said.
        eos_token_id, all_special_ids: as `transformers` has them.
        chat_template: how messages become a prompt; None where nothing is said.
    """

    def __init__(self, folder: Path, backend: Backend, settings: dict[str, Any]) -> None:
        self._folder, self.name_or_path, self.backend_tokenizer = folder, str(folder), backend
        self.model_max_length: int | None = settings.get("model_max_length")
        names = {name: _content(settings[name]) for name in _NAMED if settings.get(name) is not None}
        self._names, self.chat_template = names, _template(folder, settings)
        self.eos_token_id: int | None = backend.token_to_id(names["eos_token"]) if "eos_token" in names else None
        ids = (backend.token_to_id(name) for name in names.values())
        self.all_special_ids = sorted({one for one in ids if one is not None})

    def __repr__(self) -> str:
        return f"Tokenizer({str(self._folder)!r})"

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size())

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text."""
        return list(self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of token ids."""
        return str(self.backend_tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id."""
        return dict(self.backend_tokenizer.get_vocab())

    def get_added_vocab(self) -> dict[str, int]:
        """The tokens beside those of the model of the tokenizer."""
        return {token.content: index for index, token in self.backend_tokenizer.get_added_tokens_decoder().items()}

    def apply_chat_template(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """Messages as the text of a prompt; `add_generation_prompt` begins the assistant's next one."""
        if self.chat_template is None:
            raise ValueError(f"the tokenizer of {self.name_or_path!r} has no chat template")
        if options.pop("tokenize", False):
            raise ValueError("apply_chat_template(tokenize=True) is for transformers' tokenizers: encode the text")
        from fsgen.backends.chat_template import render  # here, for it imports jinja2

        return render(self.chat_template, messages, **self._names, **options)


def plain_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a folder; None where its files do not say all, and `transformers` has to read it."""
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        backend = Backend.from_file(str(folder / "tokenizer.json"))
        elsewhere = (folder / name for name in ("special_tokens_map.json", "additional_chat_templates"))
        if not _says_all(backend, settings) or any(file.exists() for file in elsewhere):
            return None
        return Tokenizer(folder, backend, settings)
    except Exception:  # of many kinds, among them the library's own; the other way tells what is wrong
        return None


def _says_all(backend: Backend, settings: dict[str, Any]) -> bool:
    added = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    named = [_content(settings[name]) for name in _NAMED if settings.get(name) is not None]
    listed = [entry["content"] for entry in settings.get("added_tokens_decoder", {}).values()]
    length = settings.get("model_max_length")
    return (
        settings.get("tokenizer_class") in _PLAIN
        and not {"add_bos_token", "add_eos_token"} & settings.keys()  # which, if only False, replace its last step
        and not any(settings.get(name) for name in _CHANGES)
        and all(name in added and added[name].special for name in named)
        and all(name in added for name in listed)
        and (length is None or isinstance(length, (int, float)))
        and backend.truncation is None
        and backend.padding is None
    )


def _template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The chat template of a folder: its file, or what `tokenizer_config.json` says."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    said = settings.get("chat_template")
    if isinstance(said, list):  # several, by name
        said = {each["name"]: each["template"] for each in said}.get("default")
    return None if said is None else str(said)


def _content(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)
