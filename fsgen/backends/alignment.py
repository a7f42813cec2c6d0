"""Whether two tokenizers are the same, and if not, how they differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Text that tokenizers with other rules split differently, for those that do not show their rules.
PROBES = (
    "The quick brown fox, it's 12,345.67 km away!",
    "  two  spaces\n\n\ttab\r\nline",
    "def f(x):\n    return x ** 2  # naïve façade",
    "価格は¥3,000です。 Привет, мир! 🙂👍🏽",
    "ALLCAPS camelCase snake_case 1e-10 <tag/> \\frac{1}{2}",
)
EMPTY = ("", None)  # what a prefix or a suffix is that there is none of
SECTIONS = ("normalizer", "pre_tokenizer", "decoder")


def first_difference(one: Any, two: Any, names: tuple[str, str]) -> str | None:
    """The first thing in which two tokenizers differ, in words; None where they map text alike.

    Added tokens (roles of a chat, say) that only one of the two knows are no difference, as long as the other uses
    their ids for nothing else.

    Args:
        one, two: `transformers` tokenizers.
        names: what the sentence calls them.
    """
    if one is two:
        return None
    difference = _vocabulary_difference(one, two, names)
    return difference or (None if _from_one_file(one, two) else _rules_difference(one, two, names))


def _from_one_file(one: Any, two: Any) -> bool:
    """Whether both were read from a tokenizer.json of one content: a class may put rules of its own in their place."""
    paths = [getattr(tokenizer, "name_or_path", "") for tokenizer in (one, two)]
    if not all(paths):
        return False
    files = [Path(path) / "tokenizer.json" for path in paths]
    return all(file.is_file() for file in files) and files[0].read_bytes() == files[1].read_bytes()


def _vocabulary_difference(one: Any, two: Any, names: tuple[str, str]) -> str | None:
    vocabularies = one.get_vocab(), two.get_vocab()
    if vocabularies[0] == vocabularies[1]:
        return None
    inverse = {index: token for token, index in vocabularies[1].items()}
    for token, index in sorted(vocabularies[0].items(), key=lambda entry: entry[1]):
        other = vocabularies[1].get(token)
        if other is not None and other != index:
            return f"the token {token!r} is {index} in {names[0]} and {other} in {names[1]}"
        if inverse.get(index, token) != token:
            return f"id {index} is {token!r} in {names[0]} and {inverse[index]!r} in {names[1]}"
    for here, there, tokenizer, name in ((0, 1, one, names[0]), (1, 0, two, names[1])):
        only = vocabularies[here].keys() - vocabularies[there].keys() - tokenizer.get_added_vocab().keys()
        if only:
            token = min(only, key=vocabularies[here].__getitem__)
            return f"the token {token!r} ({vocabularies[here][token]}) is only in {name}"
    return None


def _rules_difference(one: Any, two: Any, names: tuple[str, str]) -> str | None:
    left_rules, right_rules = _backend(one), _backend(two)
    if left_rules is None or right_rules is None:
        merges = _merges(one), _merges(two)
        if all(merges) and (difference := _list_difference("merges", *merges, names)):
            return difference
        for probe in PROBES:
            if one.encode(probe, add_special_tokens=False) != two.encode(probe, add_special_tokens=False):
                return f"{names[0]} and {names[1]} split {probe!r} differently"
        return None
    left_model, right_model = left_rules.get("model") or {}, right_rules.get("model") or {}
    for key in sorted((left_model.keys() | right_model.keys()) - {"vocab"}):
        left, right = left_model.get(key), right_model.get(key)
        if left == right or (left in EMPTY and right in EMPTY):
            continue
        if isinstance(left, list) and isinstance(right, list):
            return _list_difference(key, left, right, names)
        return f"the model's {key} is {left!r} in {names[0]} and {right!r} in {names[1]}"
    for section in SECTIONS:
        if left_rules.get(section) != right_rules.get(section):
            return f"their {section.replace('_', '-')}s differ"
    return None


def _list_difference(key: str, left: list[Any], right: list[Any], names: tuple[str, str]) -> str | None:
    if left == right:
        return None
    rank = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), None)
    if rank is None:
        return f"{names[0]} has {len(left)} {key} and {names[1]} {len(right)}"
    return f"{key} {rank} is {left[rank]!r} in {names[0]} and {right[rank]!r} in {names[1]}"


def _merges(tokenizer: Any) -> list[Any]:
    """The pairs of tokens that become one, in their order; empty where it does not show them."""
    rules = _backend(tokenizer)
    found = (rules.get("model") or {}).get("merges") if rules else getattr(tokenizer, "merges", None)
    return [merge.split(" ", 1) if isinstance(merge, str) else list(merge) for merge in found or []]


def _backend(tokenizer: Any) -> dict[str, Any] | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    described: dict[str, Any] = json.loads(backend.to_str())
    return described


def decoder_parts(tokenizer: Any) -> set[str]:
    """The kinds of steps (`ByteLevel`, `ByteFallback`, ...) that turn tokens into text; none where it hides them."""
    if (told := getattr(tokenizer, "decoder_parts", None)) is not None:  # it has no rules of that library
        return set(told)
    decoder = (_backend(tokenizer) or {}).get("decoder") or {}
    return {step["type"] for step in [decoder, *decoder.get("decoders", [])] if "type" in step}
