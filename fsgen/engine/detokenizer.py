"""Text as it grows by tokens: characters that span tokens, and stop strings that span them too."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

SHORT = 8  # tokens whose text is remembered


@lru_cache(maxsize=2**15)
def decoded(tokenizer: Any, ids: tuple[int, ...]) -> str:
    """The text of a few tokens. Needed twice for every token of every text, mostly for pairs that were there before."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True)
    return text


class Detokenizer:
    """The text of one completion.

    A token's text is what it adds; a token that ends inside a character adds nothing until the character is whole.

    Args:
        tokenizer: with `decode`.
        stop: strings before which the text ends, once it has `least` tokens.

    Attributes:
        text: so far; once stopped, what stands before the stop string.
        stopped: a stop string has appeared.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], least: int = 0) -> None:
        self._tokenizer, self._stop, self._least, self._count = tokenizer, tuple(stop), least, 0
        # A token's text may depend on its left: the last settled tokens are decoded together with those after them.
        self._context: tuple[int, ...] = ()
        self._context_text = ""
        self._unsettled: tuple[int, ...] = ()  # tokens that end inside a character
        self.text, self.stopped = "", False

    def push(self, token: int, last: bool = False) -> int:
        """Add a token; if it is the last one, an incomplete character is shown as it is. Gives the text's length."""
        return self._extend((*self._unsettled, token), last)

    def close(self) -> int:
        """End the text with what is there: a token that only ends it adds nothing. Gives its length."""
        return self._extend(self._unsettled, last=True) if self._unsettled else len(self.text)

    def _extend(self, tokens: tuple[int, ...], last: bool) -> int:
        grown = self._decode(self._context + tokens)
        if grown.endswith("\ufffd") and not last:
            self._unsettled = tokens
            return len(self.text)
        context_text, before = self._decode(tokens), len(self.text)  # decoding may raise: only now anything changes
        self.text += grown[len(self._context_text) :]
        self._context, self._context_text, self._unsettled = tokens, context_text, ()
        self._count += len(tokens)
        found = [index for stop in self._stop if (index := self.text.find(stop, max(0, before - len(stop) + 1))) >= 0]
        if found and self._count >= self._least:
            self.text, self.stopped = self.text[: min(found)], True
        return len(self.text)

    def restarted(self, tokens: Sequence[int]) -> Detokenizer:
        """A fresh text of the same kind that holds `tokens`."""
        text = Detokenizer(self._tokenizer, self._stop, self._least)
        for token in tokens:
            text.push(token)
        return text

    def settled(self) -> int:
        """How many characters can no longer be cut off by a stop string that has begun."""
        begun = [n for stop in self._stop for n in range(1, len(stop)) if self.text.endswith(stop[:n])]
        return len(self.text) - max(begun, default=0) if not self.stopped else len(self.text)

    def _decode(self, ids: tuple[int, ...]) -> str:
        return (decoded if len(ids) <= SHORT else decoded.__wrapped__)(self._tokenizer, ids)
