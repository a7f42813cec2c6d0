"""From one tokenizer's tokens to another's: which they share, and by their text where they do not."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from typing import Any

from fsgen.backends.codec import MARKED, Codec, Piece, codec, mark

LOOK_BACK = 8
"""Tokens before new text that are read again with it: how a text is cut into tokens depends on what is before it."""


class Translation:
    """Between the tokens of a draft and those of a target.

    Args:
        draft, target: their tokenizers.
        draft_ends, target_ends: the tokens that end a text, of each.
        draft_size, target_size: rows of their logits; ids beyond are never used.

    Attributes:
        shared: of each token of the draft that the target has too, the target's id; one to one. Tokens are the same
            where they write the same bytes, special tokens where they have the same name, or end a text.
        texts: of each token of the draft its bytes, a special token being the target's; empty where the target has
            nothing of that kind, or it writes nothing.
        end: the target's token for the end of a text.
        filler: a token of the draft to begin a text with that has none of its tokens.
    """

    def __init__(
        self,
        draft: Any,
        target: Any,
        draft_ends: Collection[int],
        target_ends: Collection[int],
        draft_size: int,
        target_size: int,
    ) -> None:
        self.draft: Codec = codec(draft)
        self.target: Codec = codec(target)
        self._draft_size, self._target_size = draft_size, target_size
        usual = getattr(target, "eos_token_id", None)
        self.end = usual if usual in target_ends else min(target_ends, default=None)
        special = {
            index: self.target.special[name]
            for name, index in self.draft.special.items()
            if self.target.special.get(name, target_size) < target_size
        }
        if self.end is not None:
            special |= dict.fromkeys(draft_ends, self.end)
        self._special_of_draft = {other: index for index, other in reversed(special.items())}
        self.texts = [
            text if index not in named else b""
            for named in [frozenset(self.draft.special.values()) | frozenset(draft_ends)]
            for index, text in enumerate(self.draft.texts[:draft_size])
        ]
        self.texts += [b""] * (draft_size - len(self.texts))
        pairs = dict[int, int]()  # by the target's ids
        for index, other in special.items():
            if index < draft_size:
                self.texts[index] = mark(other)
                pairs.setdefault(other, index)
        for text, index in self.draft.ids.items():
            other = self.target.ids.get(text, target_size)
            if index < draft_size and other < target_size and self.texts[index] == text:
                pairs.setdefault(other, index)
        self.shared = {index: other for other, index in pairs.items()}
        self._begun = {
            text[:size]
            for text, index in self.target.ids.items()
            if index < target_size and text not in self.draft.ids
            for size in range(1, len(text))
        }
        self.filler = next(iter([*self.draft.beginning, *sorted(draft_ends)]), 0)

    def to_draft(self, text: bytes) -> list[Piece]:
        """The draft's tokens of the target's bytes. What the draft has no tokens for is left out."""
        found: list[Piece] = []
        start = 0
        for match in [*MARKED.finditer(text), None]:
            stop = match.start() if match else len(text)
            made = self.draft.encode(text[start:stop])
            found += [Piece(piece.id, start + piece.end) for piece in made if piece.id < self._draft_size]
            if match:
                start = match.end()
                if (token := self._special_of_draft.get(int(match[1], 16))) is not None:
                    found.append(Piece(token, start))
        return found

    def to_target(self, before: bytes, ahead: bytes) -> tuple[int | None, bool]:
        """The target's token that goes on from a text, and whether more text would not change it.

        Args:
            before: the end of the text so far, at which a token of the target ends; `LOOK_BACK` tokens will do.
            ahead: how it goes on.

        Returns:
            the token; None where no token of the target begins what is ahead. More text could change it where that is
            the beginning of a token that the draft lacks (one that both have, the draft would have written itself), or
            ends inside of a character.
        """
        match = MARKED.search(ahead)
        if match and not match.start():
            return int(match[1], 16), True
        text = ahead[: match.start()] if match else ahead
        *_, before = MARKED.split(before)
        while before and 0x80 <= before[0] < 0xC0:  # it begins inside of a character
            before = before[1:]
        pieces, place = self.target.encode(before + text), len(before)
        ends = [piece.end for piece in pieces]
        i = bisect_left(ends, place + 1)
        found = pieces[i] if i < len(pieces) and (ends[i - 1] if i else 0) == place else None
        if found is None or found.id >= self._target_size or found.id in self._target_special:
            found = self.target.longest_prefix(text)  # it would make one token of what is before and what is ahead
            if found is None or found.id >= self._target_size:
                return None, bool(match)
        return found.id, bool(match) or (text not in self._begun and _whole(text))

    @property
    def _target_special(self) -> Collection[int]:
        return self.target.special.values()


def _whole(text: bytes) -> bool:
    """Whether bytes end with the end of a character."""
    for n, byte in enumerate(reversed(text[-3:]), 1):
        if byte < 0x80 or byte >= 0xC0:
            return n >= (1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4)
    return True


def tail(bounds: Sequence[int], text: bytes) -> bytes:
    """The bytes of the last `LOOK_BACK` tokens of a text, whose tokens end at `bounds`."""
    return text[bounds[-1 - LOOK_BACK] if len(bounds) > LOOK_BACK else 0 :]
