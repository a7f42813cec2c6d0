r"""MATH-500: competition problems (Hendrycks et al., 2103.03874; the 500 of Lightman et al., 2305.20050; MIT).

Example problem:

    Problem: Convert the point $(0,3)$ in rectangular coordinates to polar coordinates.  Enter your answer in the form
    $(r,\theta),$ where $r > 0$ and $0 \le \theta < 2 \pi.$
    Solution: We have that $r = \sqrt{0^2 + 3^2} = 3.$ ... Therefore, the polar coordinates are
    $\boxed{\left( 3, \frac{\pi}{2} \right)}.$

The reference is `\left( 3, \frac{\pi}{2} \right)`.

Scoring, after the rule of the MATH paper's own grader (github.com/hendrycks/math): text from a made-up `Problem:` on is
dropped; the answer is the content of the last `\boxed{}` (or `\fbox{}`), else what follows the last `answer is` (the
form of Lewkowycz et al., 2206.14858), else there is none. It is right when both sides are alike in normal form, or are
the same number as exact fractions, or are lists, points or intervals of the same brackets whose parts are so, in
order. The normal form drops spaces, `$`, `\left` and `\right`, degree, per cent and currency signs, a final dot, words
of units after a value (`5.4 \text{ cents}`), a left side `x =` or `x \in`, and writes `\dfrac`, `\frac12` and `1/2`
alike, likewise `\sqrt2`, `x^{2}`, `52_{8}`, `.5`, `(C)` and `10,\!080`. Nothing is simplified: `2/4` is `1/2` as a
number, but `\sqrt{8}` is not `2\sqrt{2}`.
"""

import re
from typing import ClassVar

from fsgen.tasks import answers
from fsgen.tasks.base import Judge, Row, Score, Task, cut, match
from fsgen.types import Example

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:(\{)|(?![A-Za-z])(\S))")
_SAID = re.compile(r"\banswer\s*(?:is|:)\s*:?\s*", re.IGNORECASE)
_ASK = r"Put the final answer in \boxed{}."


def prompt(problem: str) -> str:
    """The plain prompt of one problem; the completion begins with a space."""
    return f"Problem: {problem}\nSolution:"


class MATH500(Task):
    """Competition problems, 0 shots."""

    name: ClassVar[str] = "math500"
    max_tokens: ClassVar[int] = 768
    stop: ClassVar[tuple[str, ...]] = ("\n\nProblem:", "\nProblem:")
    fields: ClassVar[tuple[str, ...]] = ("problem", "answer")
    bundled: ClassVar[str] = "math500_test.jsonl.gz"

    def example(self, row: Row, number: int, shots: int) -> Example:
        """The example of one row; the reference is the answer in LaTeX."""
        problem = str(row["problem"])
        return Example(
            id=f"{self.name}/{number}",
            prompt=prompt(problem),
            messages=(("user", f"{problem}\n\n{_ASK}"),),
            reference=str(row["answer"]),
            metadata={key: row[key] for key in ("subject", "level", "unique_id") if key in row},
        )

    def extract(self, text: str) -> str | None:
        """The LaTeX of the answer as written."""
        text = cut(text, self.stop)
        found = None
        for box in _BOX.finditer(text):
            content = answers.braced(text, box.end() - 1) if box[1] else box[2]
            if content is not None and content.strip():
                found = content.strip()
        if found is None:
            said = _SAID.split(text)[1:]
            # The sentence ends at a dot before a space, or with the line.
            found = re.split(r"\.(?=\s|$)|\n", said[-1], maxsplit=1)[0].strip() if said else None
        return found or None

    def score(self, example: Example, text: str, *, judge: Judge | None = None) -> Score:
        """Score one completion."""
        answer = self.extract(text)
        return match(answer, answer is not None and is_equal(answer, str(example.reference)))


def is_equal(one: str, other: str) -> bool:
    """Whether two answers are the same by the rule of this module."""
    return _same(normalise(one), normalise(other))


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    left, right = _number(one), _number(other)
    if left is not None or right is not None:
        return left == right
    if one[:1] in "([{\\" and one[-1:] in ")]}" and len(one) > 2:
        if (one[0], one[-1]) != (other[:1], other[-1:]):
            return False
        one, other = one[1:-1], other[1:-1]
    parts, others = _parts(one), _parts(other)
    return len(parts) == len(others) > 1 and all(_same(*pair) for pair in zip(parts, others, strict=True))


def _parts(text: str) -> list[str]:
    """Split at the commas that stand outside all brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _number(text: str) -> object | None:
    """The value of a normal form that is a number."""
    if re.fullmatch(r"-?(?:\d+(?:\.\d+)?|(?:\d+)?\\frac\{\d+\}\{\d+\})", text):
        return answers.parse_number(text)
    return None


_SPACING = re.compile(r"\\[!,;: ]|\\q?quad(?![A-Za-z])|~|\\(?:left|right|[bB]igg?[lr]?|displaystyle)(?![A-Za-z])")
_WORDS = r"\\(?:text|mbox|textbf|textrm|textit|mathrm|mathbf|mathit|operatorname)\s*\{([^{}]*)\}"


def normalise(text: str) -> str:
    """The normal form of an answer in LaTeX."""
    text = text.replace("\u2212", "-").strip()
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            text = text[len(opening) : -len(closing)]
    text = _SPACING.sub(lambda found: " " if found[0] in ("~", r"\ ") else "", text.replace("\\\\", "\0"))
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    text = re.sub(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|°|\\degree|\\?%|\\?\$", "", text).strip().rstrip(".").strip()
    text = re.sub(r"^[A-Za-z]\s*(?:=|\\in(?![A-Za-z]))", "", text).strip()
    # Words after a value are its unit; words alone are the answer.
    text = re.sub(rf"(?<=\S)\s*{_WORDS}\s*(?:\^\s*(?:\d|\{{\d\}}))?\s*$", "", text)
    text = re.sub(_WORDS, r"\1", text).strip()
    text = re.sub(r"(?<=[\d}])\s*(?:degrees?|units?|dollars?|cents?|inches|feet|cm|meters?)\s*$", "", text)
    text = re.sub(r"\\(frac|sqrt)\s+(?=[\d{])", r"\\\1", text)
    text = re.sub(r"\s+", "", text).rstrip(".")
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac(\d)\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\\frac\{[^{}]*\})(\d)", r"\1{\2}", text)
    text = re.sub(r"\\frac\{-(\w+)\}", r"-\\frac{\1}", text)
    text = re.sub(r"\\sqrt(\d)", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<![\w.)])(\d+|\d*(?:\\pi|\\sqrt\{[^{}]*\}))/(\d+)(?![\w{.(])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"([\^_])\{(\w)\}", r"\1\2", text)
    text = re.sub(r"(?<!\d)\.(?=\d)", "0.", text)
    if re.fullmatch(r"-?\d{1,3}(?:(?:,|\{,\})\d{3})+(?:\.\d+)?", text):
        text = text.replace("{,}", "").replace(",", "")
    return re.sub(r"^\(([A-Za-z])\)$", r"\1", text)
