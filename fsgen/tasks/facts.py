"""Facts: what a made world says of 600 people; a model knows the answers from its training, or not at all.

Example problems, an open question and one of four choices:

    Question: Where does Barel Tomi live?
    Answer: Lisbon.

    Question: What pet does Barel Tomi have?
    (A) hen (B) fox (C) eel (D) cat
    Answer: eel, so (C).

Each person has a city, a job and a pet, each one of 64. People are met in training with Zipf frequencies (the rank of
the person is `metadata["rank"]`, 1 the most frequent), so a larger model, or a longer training, knows more of them.
Made by `ladder/graded/facts.py`. A fact must be in the training text to be known; what is not there is the question:
each fact is tested by wordings, one open and one with choices, in which training never asks it.

Scoring: of an open question the first word, of one of four choices the letter in brackets after the four choices'
value; right when it is that of the reference. `metadata["kind"]` is `open` or `choice`.
"""

import re
from collections.abc import Sequence
from typing import ClassVar

from fsgen.tasks.base import Judge, Row, Score, Task, cut, match
from fsgen.types import Example

WORDINGS: dict[str, tuple[str, ...]] = {
    "city": ("Where does {} live?", "Which city is {}'s home?", "In which city would you meet {}?"),
    "job": ("What is the job of {}?", "What does {} work as?", "How does {} earn a living?"),
    "pet": ("What pet does {} have?", "Which animal lives with {}?", "What animal does {} keep?"),
}
_LETTER = re.compile(r"\(([A-D])\)")
_WORD = re.compile(r"[a-z]+")


def prompt(question: str, choices: Sequence[str] = ()) -> str:
    """The plain prompt of one question; the completion begins with a space."""
    listed = " ".join(f"({letter}) {choice}" for letter, choice in zip("ABCD", choices, strict=False))
    return f"Question: {question}\n{listed}{chr(10) * bool(choices)}Answer:"


def completion(answer: str, choices: Sequence[str] = ()) -> str:
    """The right completion: the answer, with its letter where there are choices."""
    return f" {answer}, so ({'ABCD'[list(choices).index(answer)]})." if choices else f" {answer}."


class Facts(Task):
    """Open and four-choice questions on 600 people of a made world, 0 shots."""

    name: ClassVar[str] = "facts"
    max_tokens: ClassVar[int] = 24
    stop: ClassVar[tuple[str, ...]] = ("\n",)
    fields: ClassVar[tuple[str, ...]] = ("question", "choices", "answer", "attribute", "rank")
    bundled: ClassVar[str] = "facts.jsonl.gz"

    def example(self, row: Row, number: int, shots: int) -> Example:
        """The example of one row; the reference is a word, or a letter from A to D."""
        choices, answer = [str(choice) for choice in row["choices"]], str(row["answer"])
        if choices and answer not in choices:
            raise ValueError(f"field 'choices' must hold the answer {answer!r}")
        asked = prompt(str(row["question"]), choices)
        return Example(
            id=f"{self.name}/{number}",
            prompt=asked,
            messages=(("user", asked.removeprefix("Question: ").removesuffix("\nAnswer:")),),
            reference="ABCD"[choices.index(answer)] if choices else answer.lower(),
            metadata={
                "kind": "choice" if choices else "open",
                "attribute": str(row["attribute"]),
                "rank": int(row["rank"]),
            },
        )

    def extract(self, text: str) -> str | None:
        """The letter in brackets where the text has one, else its first word."""
        text = cut(text, self.stop)
        if letters := _LETTER.findall(text):
            return str(letters[-1])
        found = _WORD.search(text.lower())
        return found[0] if found else None

    def score(self, example: Example, text: str, *, judge: Judge | None = None) -> Score:
        """Score one completion; a question with choices is answered by a letter alone."""
        answer = self.extract(text)
        if example.metadata["kind"] == "choice" and answer is not None and not _LETTER.search(text):
            answer = None
        return match(answer, answer == example.reference)
