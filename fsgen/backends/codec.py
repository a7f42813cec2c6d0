"""Between token ids and bytes, for tokenizers of which one reads what the other has written.

A special token is no text. In bytes it is a mark, which no text contains, followed by its id.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

from fsgen.backends.alignment import decoder_parts
from fsgen.backends.vocabulary import vocabulary

_MARK = b"\xff\xff"  # not in UTF-8
MARKED = re.compile(rb"\xff\xff([0-9a-f]{8})")
ONLY_MARKS = re.compile(rb"(?:\xff\xff[0-9a-f]{8})*")
_STRAY = re.compile("([\udc80-\udcff]+)")  # bytes that are no characters, as Python escapes them


class Piece(NamedTuple):
    """A token, and how many bytes of the text there are up to its end."""

    id: int
    end: int


def mark(token: int) -> bytes:
    """A special token, in bytes."""
    return _MARK + b"%08x" % token


def readable(tokenizer: Any) -> bool:
    """Whether a tokenizer says where in a text its tokens lie: all of the library `tokenizers` do."""
    return hasattr(tokenizer, "backend_tokenizer") and hasattr(tokenizer, "get_vocab")


class Codec:
    """What a tokenizer's tokens are in bytes, and bytes in its tokens.

    Args:
        tokenizer: for which `readable` holds.

    Attributes:
        texts: of each id its bytes; of a special token its mark; empty for an id without a token.
        special: by name, the ids of the special tokens.
        ids: the token that writes these bytes, for each that one does; the first one where several do.
        longest: bytes of the longest token.
        beginning: special tokens that it puts before a text.
    """

    def __init__(self, tokenizer: Any) -> None:
        known, parts = vocabulary(tokenizer), decoder_parts(tokenizer)
        names = {index: token for token, index in tokenizer.get_vocab().items()}
        self.special = {names[i]: i for i, special in enumerate(known.special) if special and i in names}
        self.texts = list(known.texts)
        if "WordPiece" in parts:
            self.texts = [names.get(i, "").encode() for i in range(len(self.texts))]
            self.texts = [text[2:] if text.startswith(b"##") else b" " + text if text else b"" for text in self.texts]
        for index in self.special.values():
            self.texts[index] = mark(index)
        self.ids: dict[bytes, int] = {}
        for index, text in enumerate(self.texts):
            if text and not known.special[index]:
                self.ids.setdefault(text, index)
        self.longest = max(map(len, self.ids), default=0)
        # A text that is decoded alone loses its first space where it only stands for the beginning of a word.
        self._drops_space = bool(parts & {"Metaspace", "Strip", "WordPiece"})
        self._backend = tokenizer.backend_tokenizer
        if self._backend.truncation is not None or self._backend.padding is not None:
            self._backend = copy.deepcopy(self._backend)
            self._backend.no_truncation()
            self._backend.no_padding()
        named = set(self.special.values())
        ids = tokenizer.encode("a")
        self.beginning = ids[: next((i for i, token in enumerate(ids) if token not in named), 0)]

    def spell(self, ids: Sequence[int], first: bool) -> list[bytes]:
        """The bytes of each of these tokens; `first`: a text begins with them."""
        texts = [self.texts[token] if token < len(self.texts) else b"" for token in ids]
        place = next((i for i, text in enumerate(texts) if text and not MARKED.match(text)), None)
        if first and self._drops_space and place is not None:
            texts[place] = texts[place].removeprefix(b" ")
        return texts

    def encode(self, text: bytes) -> list[Piece]:
        """The tokens of bytes without marks. Bytes that no token has are left out, and no character is either."""
        found: list[Piece] = []
        start = 0
        for part in filter(None, _STRAY.split(text.decode("utf-8", "surrogateescape"))):
            data = part.encode("utf-8", "surrogateescape")
            made = self._bytes(data) if _STRAY.match(part) else self._characters(part, data)
            found += [Piece(piece.id, start + piece.end) for piece in made]
            start += len(data)
        return found

    def _bytes(self, data: bytes) -> Iterator[Piece]:
        """Each byte alone, as far as there are tokens for them."""
        for end in range(1, len(data) + 1):
            if (token := self.ids.get(data[end - 1 : end])) is not None:
                yield Piece(token, end)

    def _characters(self, text: str, data: bytes) -> list[Piece]:
        made = self._backend.encode(text, add_special_tokens=False)
        texts = self.spell(made.ids, first=False)
        joined = b"".join(texts)
        if joined == data or joined == b" " + data:  # SentencePiece puts a space before a text
            extra = len(joined) - len(data)
            ends = [max(0, end - extra) for end in accumulate(map(len, texts))]
        else:  # what it reads is not what it would write: characters that it changes, or does not know
            before = [0, *accumulate(len(character.encode()) for character in text)]
            ends = list(accumulate((before[end] for _, end in made.offsets), max))
        return [Piece(token, end) for token, end in zip(made.ids, ends, strict=True)]

    def longest_prefix(self, text: bytes) -> Piece | None:
        """The longest token that these bytes begin with."""
        for size in range(min(self.longest, len(text)), 0, -1):
            if (token := self.ids.get(text[:size])) is not None:
                return Piece(token, size)
        return None


@lru_cache(maxsize=8)
def codec(tokenizer: Any) -> Codec:
    """The codec of a tokenizer; large vocabularies take a second."""
    return Codec(tokenizer)
