"""What each token of a tokenizer writes, in bytes: a token may end inside a character."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from fsgen.backends.alignment import decoder_parts

BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a tokenizer by id.

    Attributes:
        texts: what each adds to a text, in UTF-8; of a special token its name; empty for an id that nothing has.
        special: whether it means something that is no text, such as the end.
    """

    texts: tuple[bytes, ...]
    special: tuple[bool, ...]


def vocabulary(tokenizer: Any) -> Vocabulary:
    """The vocabulary of a `transformers` tokenizer.

    Byte-level tokens and those of SentencePiece are spelled exactly. A token of another kind is what the tokenizer
    makes of it alone.
    """
    ids: dict[str, int] = tokenizer.get_vocab()
    texts = [b""] * (max(ids.values(), default=-1) + 1)
    special = [False] * len(texts)
    added, named = tokenizer.get_added_vocab(), set(tokenizer.all_special_ids)
    parts = decoder_parts(tokenizer)
    for token, index in ids.items():
        special[index] = index in named
        if token in added or index in named:
            texts[index] = token.encode()
        elif "ByteLevel" in parts:
            texts[index] = bytes(_BYTES[char] for char in token if char in _BYTES)
        elif "ByteFallback" in parts and (byte := BYTE.fullmatch(token)):
            texts[index] = bytes([int(byte[1], 16)])
        elif parts & {"ByteFallback", "Metaspace"}:
            texts[index] = token.replace("\u2581", " ").encode()
        else:
            texts[index] = str(tokenizer.decode([index])).encode()
    return Vocabulary(tuple(texts), tuple(special))


def _byte_characters() -> dict[str, int]:
    """What byte-level tokenizers (GPT-2) write for the 256 bytes: printable characters stand for themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_characters()
