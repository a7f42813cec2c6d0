"""The tokenizer of a GGUF file: llama.cpp splits texts, what tokens write stands in the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from fsgen.backends.llama_cpp.header import Header
from fsgen.backends.llama_cpp.library import LoadedFile, library
from fsgen.backends.vocabulary import Vocabulary, vocabulary

# How tokens are spelled, by the kind of tokenizer: the steps of a decoder, as `tokenizers` calls them.
SPELLINGS = {
    "gpt2": frozenset({"ByteLevel"}),
    "llama": frozenset({"ByteFallback", "Metaspace"}),
    "gemma4": frozenset({"ByteFallback", "Metaspace"}),
    "t5": frozenset({"Metaspace"}),
}
UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 2, 3, 4, 5  # kinds of tokens
_NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


class GgufTokenizer:
    """Maps texts as llama.cpp does; with the interface of `transformers` as far as it is used here.

    Args:
        header: of the file.
        file: as llama.cpp holds it; None where nothing is encoded.
        name: of the file, for messages.

    Attributes:
        name_or_path: as `transformers` calls it.
        eos_token_id, all_special_ids: as `transformers` has them.
        decoder_parts: how tokens are spelled.
        merges: the pairs of tokens that become one, in their order; None for tokenizers of another kind.
        chat_template: how messages become a prompt; None where the file does not say.

    Raises:
        ValueError: it has no tokenizer, one of a kind that is not known, or one that contradicts itself.
    """

    def __init__(self, header: Header, file: LoadedFile | None = None, name: str = "") -> None:
        found = header.metadata
        kind, tokens = found.get("tokenizer.ggml.model"), found.get("tokenizer.ggml.tokens")
        if kind not in SPELLINGS:
            raise ValueError(f"its tokenizer is of the kind {kind!r}, and {', '.join(SPELLINGS)} can be used")
        if not isinstance(tokens, list) or not tokens:
            raise ValueError("its tokenizer has no tokens")
        self._tokens: list[str] = tokens
        self._kinds = found.get("tokenizer.ggml.token_type") or [1] * len(self._tokens)
        if len(self._kinds) < len(self._tokens):
            raise ValueError(f"its tokenizer has {len(self._tokens)} tokens and the kinds of {len(self._kinds)}")
        if len(set(self._tokens)) < len(self._tokens):
            twice = Counter(self._tokens).most_common(1)[0][0]
            raise ValueError(f"its tokenizer has the token {twice!r} twice")
        self.name_or_path, self._file = name, file
        self.decoder_parts = SPELLINGS[kind]
        merges = found.get("tokenizer.ggml.merges")
        self.merges = [tuple(merge.split(" ", 1)) for merge in merges] if kind == "gpt2" and merges else None
        self.chat_template: str | None = found.get("tokenizer.chat_template")
        named = {role: found.get(f"tokenizer.ggml.{key}_token_id") for role, key in _NAMED.items()}
        self._named = {role: self._tokens[i] for role, i in named.items() if i is not None and i < len(self._tokens)}
        self.eos_token_id: int | None = named["eos_token"] if "eos_token" in self._named else None
        self.all_special_ids = [i for i, kind in enumerate(self._kinds) if kind in (UNKNOWN, CONTROL)]
        # SentencePiece writes a space before the first word, which is none of the text.
        self._begins_with_space = kind == "llama" and found.get("tokenizer.ggml.add_space_prefix", True)

    def __repr__(self) -> str:
        return f"GgufTokenizer({self.name_or_path!r})"

    def __len__(self) -> int:
        return len(self._tokens)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text; names of special tokens in it are these tokens."""
        assert self._file is not None
        calls, content = library(), text.encode("utf-8", "replace")
        room = len(content) + 8
        while True:
            ids = (calls.llama_token * room)()
            count = calls.llama_tokenize(self._file.vocab, content, len(content), ids, room, add_special_tokens, True)
            if count >= 0:
                return list(ids[:count])
            room = -count

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of token ids."""
        known = self._vocabulary
        shown = [i for i in ids if i < len(known.texts) and not (skip_special_tokens and known.special[i])]
        text = b"".join(known.texts[i] for i in shown).decode("utf-8", "replace")
        return text[1:] if self._begins_with_space and text.startswith(" ") else text

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id; rows of the logits that are padding have none."""
        return {
            token: i for i, (token, kind) in enumerate(zip(self._tokens, self._kinds, strict=False)) if kind != UNUSED
        }

    def get_added_vocab(self) -> dict[str, int]:
        """The tokens beside those of the model of the tokenizer."""
        kinds = (UNKNOWN, CONTROL, USER_DEFINED)
        return {self._tokens[i]: i for i in range(len(self._tokens)) if self._kinds[i] in kinds}

    def apply_chat_template(
        self, messages: Any, tokenize: bool = True, add_generation_prompt: bool = False, **options: Any
    ) -> str | list[int]:
        """Messages as a prompt; see `transformers`. Raises ValueError where the file has no template."""
        if self.chat_template is None:
            raise ValueError(f"{self.name_or_path!r} has no chat template")
        from fsgen.backends.transformers.tokenizers import render_chat  # here, because importing it takes time

        options |= {"add_generation_prompt": add_generation_prompt}
        text = render_chat(self.chat_template, messages, self._named | options)
        return self.encode(text, add_special_tokens=False) if tokenize else text

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return vocabulary(self)
