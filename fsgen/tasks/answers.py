r"""Reading numbers from text, exactly.

Numbers are compared as fractions, so `18.00` is `18`, `1/2` is `0.5`, `2,000` is `2000` and is not `1,000`, and `-5`
is not `5`. What counts as one number:

- digits, with thousands commas in groups of three (`2,000`; but `1,2` is two numbers), a decimal part (`.5`, `3.25`),
  an exponent (`1e3`, `3 x 10^5`); a final dot is punctuation;
- a fraction `1/2`, `\frac{1}{2}`, a mixed number `2 1/2`;
- a sign (`-` or U+2212) that touches the number or its currency sign and does not follow a letter, a digit or a closing
  bracket: `2-3` is 2 and 3, `(-5)` is -5. After an answer's mark, `- 5` is -5 too;
- currency and per cent signs are units: `$18`, `18%` and `18` are the same.
"""

import re
from collections.abc import Iterator
from fractions import Fraction

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)"
_NOT_IN_WORD = r"(?<![A-Za-z_\d])"
_SIMPLE = re.compile(
    rf"{_NOT_IN_WORD}(?P<n>{_DECIMAL})"
    rf"(?:\s?/\s?(?P<d>{_DECIMAL})"
    r"|[eE](?P<e>[+-]?\d{1,2})(?![\w])"
    r"|\s?(?:[x\u00d7*]|\\times|\\cdot)\s?10\^\{?(?P<p>-?\d{1,2})\}?)?"
)
_MIXED = re.compile(rf"{_NOT_IN_WORD}(?P<w>\d+)\s+(?P<n>\d+)/(?P<d>\d+)(?![\d.])")
_CURRENCY = re.compile(r"(?:\\?\$|[€£¥])\s?$")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))")


def numbers(text: str, *, loose_sign: bool = False) -> Iterator[Fraction]:
    """The numbers of a text, in order.

    Args:
        text: Any text; of LaTeX, fractions and spacing in numbers are understood.
        loose_sign: Whether a sign and spaces at the start of the text belong to the number that follows.
    """
    text = _plain(text)
    position = 0
    while found := _SIMPLE.search(text, position):
        mixed = _MIXED.match(text, found.start())
        if mixed and int(mixed["n"]) < int(mixed["d"]):
            found, value = mixed, int(mixed["w"]) + Fraction(int(mixed["n"]), int(mixed["d"]))
        else:
            value = _value(found)
        yield -value if _negative(text[: found.start()], loose_sign) else value
        position = found.end()


def last_number(text: str) -> Fraction | None:
    """The last number of a text; None where it has none."""
    found = None
    for found in numbers(text):  # noqa: B007  # only the last one counts
        pass
    return found


def marked_number(text: str) -> Fraction | None:
    """The number that a text marks as its answer; None where no mark is followed by a number.

    Marks are `####`, `answer is` (also `answer:`, `answer =`) and `\\boxed{}`. Of several the last counts, since a text
    that corrects itself does so later. A mark covers the rest of its sentence (`\\boxed`: its braces); there the first
    number counts, or, after an equals sign, the first number behind the last one: `The answer is 20 + 30 = 50.`
    """
    answer = None
    for mark in _MARK.finditer(text):
        if mark[0].startswith("\\"):
            covered = braced(text, mark.end() - 1) or ""
        else:
            covered = _SENTENCE_END.split(text[mark.end() :].lstrip(" \t\n:*"), maxsplit=1)[0]
            covered = _MARK.split(covered, maxsplit=1)[0]
        sides = [next(numbers(side, loose_sign=True), None) for side in covered.split("=")]
        number = next((side for side in reversed(sides) if side is not None), None)
        answer = answer if number is None else number
    return answer


def parse_number(text: str) -> Fraction | None:
    """The value of a text that is one number and nothing else but units; None for any other text."""
    text = _plain(text).strip()
    sign = -1 if text[:1] == "-" else 1
    text = text.lstrip("-").strip().strip("$€£¥%").strip()
    mixed = _MIXED.fullmatch(text)
    if mixed:
        if not 0 < int(mixed["n"]) < int(mixed["d"]):
            return None
        return sign * (int(mixed["w"]) + Fraction(int(mixed["n"]), int(mixed["d"])))
    found = _SIMPLE.fullmatch(text)
    if not found or (found["d"] is not None and not Fraction(_decimal(found["d"]))):
        return None
    return sign * _value(found)


def braced(text: str, start: int) -> str | None:
    """What is between the brace at `start` and its partner; None where it is never closed."""
    depth = 0
    for position in range(start, len(text)):
        escaped = text[position - 1] == "\\" if position else False
        if text[position] == "{" and not escaped:
            depth += 1
        elif text[position] == "}" and not escaped:
            depth -= 1
            if depth == 0:
                return text[start + 1 : position]
    return None


_MARK = re.compile(r"####|\\boxed\s*\{|\banswer\s*(?:is|:|=)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\n|[.!?](?=\s|$)")


def _plain(text: str) -> str:
    """One minus sign, no LaTeX spacing inside numbers, no bold, fractions as `1/2`."""
    text = text.replace("\u2212", "-").replace("{,}", ",").replace("\\!", "").replace("**", "")
    text = re.sub(r"(?<=\d)\\,\s?(?=\d)", "", text)
    text = re.sub(r"(?<=\d)(?=\\[dtc]?frac)", " ", text)
    return _FRACTION.sub(lambda found: f"{found[1] or found[2]}/{found[3] or found[4]}", text)


def _value(found: re.Match[str]) -> Fraction:
    value = Fraction(_decimal(found["n"]))
    if found["d"] is not None:
        below = Fraction(_decimal(found["d"]))
        return value / below if below else value
    power = int(found["e"] or found["p"] or 0)
    return value * Fraction(10) ** power


def _decimal(text: str) -> str:
    text = text.replace(",", "")
    return "0" + text if text.startswith(".") else text


def _negative(before: str, loose: bool) -> bool:
    """Whether a number that follows this text has a minus sign."""
    if loose and re.fullmatch(r"[^\w-]*-\s*(?:\\?\$|[€£¥])?\s*", before[-16:]) and len(before) <= 16:
        return True
    before = _CURRENCY.sub("", before[-16:])
    return before.endswith("-") and not re.search(r"[\w)\]}%-]$", before[:-1])
