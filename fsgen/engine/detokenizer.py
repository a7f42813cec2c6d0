"""Text as it grows by tokens: characters that span tokens, and stop strings that span them too."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=2**15)
def decoded(tokenizer: Any, ids: tuple[int, ...]) -> str:
    """The text of a few tokens. Asked twice for every token of every text, mostly for pairs that were there before."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True)
    return text


class Detokenizer:
    """The text of one completion.

    A token's text is what it adds; a token that ends inside a character adds nothing until the character is whole.

    Args:
        tokenizer: with `decode`.
        stop: strings before which the text ends.

    Attributes:
        text: so far; once stopped, what stands before the stop string.
        stopped: a stop string has appeared.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._done = 0  # tokens whose text is settled
        self._context = 0  # tokens decoded together with the unsettled ones: a token's text may depend on its left
        self._context_text = ""
        self.text = ""
        self.stopped = False

    def push(self, token: int, last: bool = False) -> int:
        """Add a token; where it is the last one, a character left incomplete is shown as it is.

        Returns:
            the length of the text after it (before a stop string is cut off).
        """
        self._ids.append(token)
        return self._extend(last)

    def close(self) -> int:
        """End the text with what is there: a token that only ends it adds nothing. Gives its length, as `push`."""
        return self._extend(last=True) if self._done < len(self._ids) else len(self.text)

    def _extend(self, last: bool) -> int:
        grown = self._decode(self._context)
        if not grown.endswith("\ufffd") or last:
            before = len(self.text)
            self.text += grown[len(self._context_text) :]
            self._context, self._done = self._done, len(self._ids)
            self._context_text = self._decode(self._context)
            self._find_stop(before)
        return len(self.text)

    def restarted(self, tokens: Sequence[int]) -> Detokenizer:
        """A fresh text of the same kind that holds `tokens`."""
        text = Detokenizer(self._tokenizer, self._stop)
        for token in tokens:
            text.push(token)
        return text

    def settled(self) -> int:
        """How many characters can no longer be cut off by a stop string that has begun."""
        held = 0
        for stop in self._stop if not self.stopped else ():
            for length in range(min(len(stop) - 1, len(self.text)), held, -1):
                if self.text.endswith(stop[:length]):
                    held = length
                    break
        return len(self.text) - held

    def _decode(self, start: int) -> str:
        return decoded(self._tokenizer, tuple(self._ids[start:]))

    def _find_stop(self, before: int) -> None:
        found = [index for stop in self._stop if (index := self.text.find(stop, max(0, before - len(stop) + 1))) >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.stopped = True
