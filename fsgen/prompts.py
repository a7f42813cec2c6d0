"""What a prompt may be, and its token ids: the one place that decides what a shape means.

| given | means |
|---|---|
| `"a text"` | one prompt |
| `[5, 9, 2]` (a list, tuple, array or tensor of integers) | one prompt, as token ids |
| `[{"role": "user", "content": "Hi"}]` | one prompt, a conversation, by the model's chat template |
| `["a text", [5, 9, 2], [{"role": ...}], ...]` | several prompts, each a text, token ids or a conversation |
| `[]` | no prompt |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Message = Mapping[str, Any]
"""A `role` (system, user, assistant) and a `content`."""


class Array(Protocol):
    """An array or a tensor, of token ids."""

    def tolist(self) -> Any: ...


Prompt = str | Sequence[int] | Sequence[Message] | Array
"""A text, token ids, or a conversation."""

Prompts = Prompt | Sequence[Prompt]

CHARACTERS = 16  # for each token of the context window: of a longer text the beginning is looked at first

SHAPES = (
    'a prompt is a text, a list of token ids, or a list of messages such as {"role": "user", "content": "Hi"}; several '
    "are a list of these"
)


class Tokenizing(Protocol):
    """Members, loaded or only planned."""

    @property
    def tokenizer(self) -> Any: ...
    @property
    def context(self) -> int: ...


def separate(prompts: Prompts) -> list[Prompt]:
    """The prompts one by one, where one or several were given; see the table of this module.

    Raises:
        ValueError: anything that is no prompt, nor a list of them.
    """
    given: Any = _plain(prompts)
    if isinstance(given, str):
        return [given]
    kinds = _kinds(given)
    if kinds <= {"a text", "a list"}:
        return list(given)
    return [given] if _is_one(given, kinds) else []


def encode(members: Tokenizing, prompt: Prompt) -> list[int]:
    """Token ids of one prompt.

    A text is encoded with the special tokens that the tokenizer adds, a conversation by its chat template, which ends
    with the beginning of the assistant's next message.

    Raises:
        ValueError: no prompt, or several; messages where the model has no chat template, or which that refuses; a text
            far beyond the context window: some tokenizers take a minute for a megabyte.
    """
    given: Any = _plain(prompt)
    if isinstance(given, str):
        return _encoded(members, given)
    kinds = _kinds(given)
    if not given or kinds == {"a token id"}:
        return [int(token) for token in given]
    if not _is_one(given, kinds):
        raise ValueError(f"one prompt is wanted, and this is a list of several: {SHAPES}")
    return _encoded(members, chat_text(_tokenizer(members), given), add_special_tokens=False)


def fits(members: Tokenizing, text: str, more: int = 0) -> bool:
    """Whether a text has tokens, and leaves room for so many more in the context window."""
    try:
        return 0 < len(encode(members, text)) <= members.context - more
    except ValueError:  # far too long
        return False


def _encoded(members: Tokenizing, text: str, **options: bool) -> list[int]:
    """Token ids of a text, of which the beginning is looked at first if it is very long."""
    tokenizer, beginning = _tokenizer(members), CHARACTERS * members.context
    if len(text) > beginning:
        count = len(tokenizer.encode(text[:beginning], **options))
        if count > 2 * members.context:  # what follows cannot make fewer of them
            raise ValueError(
                f"a prompt of {len(text):,} characters exceeds the context window of {members.context:,} tokens: its "
                f"first {beginning:,} characters are {count:,} tokens"
            )
    return list(tokenizer.encode(text, **options))


def chat_text(tokenizer: Any, messages: Sequence[Message]) -> str:
    """Messages as the text that a tokenizer's chat template makes of them.

    Raises:
        ValueError: it has none, or refuses the messages.
    """
    require_template(tokenizer)
    plain = [dict(message) for message in messages]
    try:
        return str(tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template is a program: it may raise anything
        raise ValueError(f"the model's chat template refuses these messages: {error}") from error


def require_template(tokenizer: Any) -> None:
    """Raises ValueError where messages cannot become a prompt, with what to do."""
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"messages need a chat template, and the model {getattr(tokenizer, 'name_or_path', '') or ''!r} has none "
            "(base models such as the bundled ones have not): give a text, or a target that was tuned to chat, such as "
            "Qwen/Qwen2.5-7B-Instruct, with a small draft of its family"
        )


def _tokenizer(members: Tokenizing) -> Any:
    if members.tokenizer is None:
        raise ValueError("these models have no tokenizer: give token ids")
    return members.tokenizer


def _plain(value: Any) -> Any:
    """Arrays and tensors as lists."""
    return value.tolist() if hasattr(value, "tolist") else value


def _kinds(given: Any) -> set[str]:
    """What a list holds: texts, token ids, messages, lists. Raises ValueError for what is none of them, or no list."""
    if isinstance(given, Mapping):
        raise ValueError(f"a message stands in a list: write [{{...}}]; {SHAPES}")
    if isinstance(given, bytes) or not isinstance(given, Sequence):
        raise ValueError(f"{given!r:.60} is no prompt: {SHAPES}")
    return {_kind(item, number) for number, item in enumerate(given)}


def _kind(item: Any, number: int) -> str:
    if isinstance(item, str):
        return "a text"
    if isinstance(item, Mapping):
        if not isinstance(item.get("role"), str) or "content" not in item:
            raise ValueError(f'message {number} is not one: {item!r:.60}; it needs a "role", a text, and a "content"')
        return "a message"
    if isinstance(item, Sequence) and not isinstance(item, bytes):
        return "a list"
    plain = _plain(item)
    if isinstance(plain, int) and not isinstance(plain, bool):
        return "a token id"
    if isinstance(plain, list):
        return "a list"
    raise ValueError(f"item {number} of the prompt, {item!r:.60}, is neither text, token id nor message: {SHAPES}")


def _is_one(given: Any, kinds: set[str]) -> bool:
    """Whether a list is one prompt. Raises ValueError for one that mixes what cannot be mixed."""
    if len(kinds) > 1 and kinds != {"a text", "a list"}:
        raise ValueError(f"a list holds {' and '.join(sorted(kinds))}: {SHAPES}")
    return kinds in ({"a token id"}, {"a message"})
