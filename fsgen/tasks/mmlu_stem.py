"""MMLU-STEM: four-choice questions of 19 subjects (Hendrycks et al., 2009.03300, MIT; 3,134 of them).

Example problem:

    The following are multiple choice questions (with answers) about abstract algebra.

    Q: Let p = (1, 2, 5, 4)(2, 3) in S_5 . Find the index of <p> in S_5.
    (A) 8 (B) 2 (C) 24 (D) 120
    A: Let's think step by step.

The reference is `C`. The data is the public copy of the test sets with its subjects restored; that copy lacks the first
question of each subject. The few-shot examples are those of chain-of-thought-hub (Fu et al., 2305.17306, MIT), five for
each subject, but four for college_chemistry: there five shots are four, and `metadata["shots"]` says how many a prompt
has. With fewer shots, the first of them.

Scoring: text from a made-up `Q:` on is dropped. The answer is the letter of the last `The answer is (C)`, `answer: C`,
`answer is $\\boxed{C}$` or the like; without any `answer is`, a text that ends in `(C)` or is nothing but the letter.
It is right when it is the letter of the reference. Two letters (`(A) or (B)`), or none, is no answer, and no answer is
wrong: no choice takes its place.
"""

import json
import re
from collections.abc import Sequence
from functools import cache
from typing import ClassVar

from fsgen.tasks import source
from fsgen.tasks.base import Judge, Row, Score, Task, cut, match
from fsgen.types import Example

_STEP_BY_STEP = "A: Let's think step by step."
_ASK = 'Think step by step, and end with "The answer is (X)."'
_OPEN = r"[\s:*_\"'$]*(?:\\boxed\s*\{\s*)?(?:\\text\w*\s*\{\s*)?[\s*]*"
_MARKED = re.compile(
    rf"\banswer\s*(?:is|:|=)\s*(?:the\s+)?(?:option|choice)?{_OPEN}"
    r"(?:\(\s*(?P<round>[A-Da-d])\s*\)|(?P<bare>[A-D])(?=[\s*_\"'$})]*(?:[.,;:)\n}]|$)))"
    r"(?!\s*(?:or|and|/)\s*\(?[A-Da-d]\b)",
    re.IGNORECASE,
)
_ANNOUNCED = re.compile(r"\banswer\s*(?:is|:|=)", re.IGNORECASE)
_CLOSING = re.compile(r"(?:^\s*\(?(?P<whole>[A-D])\)?|(?<![\w)])\((?P<end>[A-D])\))[\s.*]*$")


def prompt(subject: str, question: str, choices: Sequence[str], examples: Sequence[str] = ()) -> str:
    """The plain prompt of one question; the completion begins with a space.

    Args:
        subject: As in the data, with underscores or spaces.
        question: The question.
        choices: The four choices.
        examples: Few-shot examples, each from `Q:` to its answer.
    """
    header = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    return header + "\n\n".join([*examples, _block(question, choices)])


def _block(question: str, choices: Sequence[str]) -> str:
    options = " ".join(f"({letter}) {choice}" for letter, choice in zip("ABCD", choices, strict=True))
    return f"Q: {question}\n{options}\n{_STEP_BY_STEP}"


@cache
def _examples_by_subject() -> dict[str, tuple[str, ...]]:
    prompts = json.loads(source.read_bundled("mmlu_stem_cot_prompts.json"))
    return {subject: tuple(text.strip().split("\n\nQ: ")[1:]) for subject, text in prompts.items()}


def few_shot_examples(subject: str) -> list[str]:
    """The few-shot examples of a subject: five, or four for college_chemistry.

    Raises:
        ValueError: There are none for this subject; the message lists the subjects.
    """
    key = subject.replace(" ", "_")
    if key not in _examples_by_subject():
        raise ValueError(
            f"no few-shot examples for subject {subject!r}; choose from {', '.join(_examples_by_subject())}"
        )
    return [f"Q: {text}" for text in _examples_by_subject()[key]]


class MMLUSTEM(Task):
    """Four-choice questions of 19 subjects, 0 to 5 shots."""

    name: ClassVar[str] = "mmlu_stem"
    max_shots: ClassVar[int] = 5
    max_tokens: ClassVar[int] = 384
    stop: ClassVar[tuple[str, ...]] = ("\n\nQ:", "\nQ:")
    fields: ClassVar[tuple[str, ...]] = ("subject", "question", "choices", "answer")
    bundled: ClassVar[str] = "mmlu_stem_test.jsonl.gz"

    def example(self, row: Row, number: int, shots: int) -> Example:
        """The example of one row; the reference is a letter from A to D."""
        subject, question, choices = str(row["subject"]), str(row["question"]), list(row["choices"])
        answer = row["answer"]
        if len(choices) != 4:
            raise ValueError(f"field 'choices' must hold 4 choices, not {len(choices)}")
        letter = answer if answer in ("A", "B", "C", "D") else "ABCD"[range(4).index(int(answer))]
        examples = few_shot_examples(subject)[:shots] if shots else []
        messages: list[tuple[str, str]] = []
        for text in examples:
            before, steps = text.split(f"\n{_STEP_BY_STEP}", 1)
            messages += [("user", f"{before.removeprefix('Q: ')}\n\n{_ASK}"), ("assistant", steps.strip())]
        own = _block(question, choices).removeprefix("Q: ").removesuffix(f"\n{_STEP_BY_STEP}")
        messages.append(("user", f"{own}\n\n{_ASK}"))
        return Example(
            id=f"{self.name}/{number}",
            prompt=prompt(subject, question, choices, examples),
            messages=tuple(messages),
            reference=letter,
            metadata={"subject": subject, "shots": len(examples)},
        )

    def extract(self, text: str) -> str | None:
        """The letter that the text gives as its answer, from A to D."""
        text = cut(text, self.stop).replace("**", "")
        found = None
        for found in _MARKED.finditer(text):  # noqa: B007  # only the last one counts
            pass
        if found:
            letter = found["round"] or found["bare"]
            # A bare letter must be a capital: `the answer is a, as shown` names no choice.
            return letter.upper() if found["round"] or letter.isupper() else None
        # `The answer is (A) or (B)` must not become B: a text that announces an answer has it there or nowhere.
        closing = None if _ANNOUNCED.search(text) else _CLOSING.search(text)
        return (closing["whole"] or closing["end"]) if closing else None

    def score(self, example: Example, text: str, *, judge: Judge | None = None) -> Score:
        """Score one completion."""
        answer = self.extract(text)
        return match(answer, answer == example.reference)
