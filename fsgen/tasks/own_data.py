"""Your own data as a task, without code: a file of rows, a prompt with their fields, an answer and a metric.

    tasks:
      - name: jsonl
        data: capitals.jsonl                # {"country": "France", "capital": "Paris"}, one a line
        prompt: "Question: What is the capital of {country}?\\nAnswer:"
        answer: capital                     # the field with the right answer
        metric: contains

Scoring, by the metric: `number` compares the marked, else the last number of the text, as GSM8K does; `choice` the
letter from A to D, as MMLU-STEM does; `exact` the text up to a stop string, white space at its ends aside; `contains`
looks for the answer in it, whatever the case; `code` runs the program in the sandbox against the asserts that the
answer's field lists, as MBPP does.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fsgen.tasks import answers, assertions, sandbox, source
from fsgen.tasks.base import Judge, Row, Score, Task, cut, match
from fsgen.tasks.gsm8k import GSM8K
from fsgen.tasks.mbpp import MBPP
from fsgen.tasks.mmlu_stem import MMLUSTEM
from fsgen.types import Example

NAME = "jsonl"
METRICS = ("number", "choice", "exact", "contains", "code")
_FIELD = re.compile(r"\{\{|\}\}|\{(\w+)\}")  # {{ and }} are braces


@cache
def own_data(
    data: str,
    answer: str,
    metric: str,
    prompt: str | None = None,
    messages: str | None = None,
    system: str | None = None,
    stop: tuple[str, ...] = (),
    examples: str | None = None,
) -> Task:
    """The task of a file; see `OwnData`."""
    return OwnData(data, answer, metric, prompt, messages, system, stop, examples)


class OwnData(Task):
    """Rows of a file.

    Args:
        data: the file, or a data set of the hub (`fsgen.tasks.source`).
        answer: the field with the right answer; for `code` a list of asserts.
        metric: number, choice, exact, contains or code.
        prompt: of a row, with its fields in braces.
        messages: instead, the field with a conversation; for models with a chat template.
        system: what a model that chats is told first.
        stop: strings that end a completion.
        examples: a file of rows for few-shot examples; as many as there are, where `shots` says nothing.

    Raises:
        ValueError: an unknown metric, neither prompt nor messages or both, few-shot examples that cannot be read.
    """

    max_tokens = 256
    bundled = ""

    def __init__(
        self,
        data: str,
        answer: str,
        metric: str,
        prompt: str | None,
        messages: str | None,
        system: str | None,
        stop: tuple[str, ...],
        examples: str | None,
    ) -> None:
        if metric not in METRICS:
            raise ValueError(f"metric={metric!r} is unknown; there are {', '.join(METRICS)}")
        if (prompt is None) == (messages is None):
            raise ValueError("give a prompt, or messages: one of the two")
        if messages is not None and (system is not None or examples is not None):
            raise ValueError("messages have their own beginning: no system, and no examples")
        self._answer, self._metric, self._system = answer, metric, system
        self._prompt, self._messages = prompt or "", messages
        self.name = f"{NAME}-{re.sub(r'[^a-zA-Z0-9_]+', '-', Path(data).name.split('.')[0])}"  # type: ignore[misc]
        self.stop = stop  # type: ignore[misc]
        asked = [messages] if messages is not None else [name for name in _FIELD.findall(self._prompt) if name]
        self.fields = tuple(dict.fromkeys([*asked, answer]))  # type: ignore[misc]
        rows = source.rows(examples, "", self.fields) if examples is not None else []
        self._shots = [(self._filled(row), self._shown(row)) for row in rows]
        self.max_shots = self.default_shots = len(self._shots)  # type: ignore[misc]

    def _filled(self, row: Row) -> str:
        return _FIELD.sub(lambda found: str(row[found[1]]) if found[1] else found[0][0], self._prompt)

    def _shown(self, row: Row) -> str:
        """The answer as a few-shot example has it."""
        return str(row[self._answer])

    def ready(self) -> None:
        """Refuse a machine that cannot isolate a program, where programs are run."""
        if self._metric == "code":
            sandbox.isolation()

    def example(self, row: Row, number: int, shots: int) -> Example:
        """The example of one row."""
        reference = self._reference(row[self._answer])
        tests = [str(test) for test in row[self._answer]] if self._metric == "code" else []
        metadata: dict[str, Any] = {"metric": self._metric, "tests": tests}
        if self._messages is not None:
            return Example(f"{self.name}/{number}", "", _conversation(row[self._messages]), reference, metadata)
        prompt, messages = self._filled(row), [("system", self._system)] if self._system is not None else []
        shown = ""
        for question, answer in self._shots[:shots]:
            shown += f"{question}{'' if question[-1:].isspace() else ' '}{answer}\n\n"
            messages += [("user", question), ("assistant", answer)]
        return Example(f"{self.name}/{number}", shown + prompt, (*messages, ("user", prompt)), reference, metadata)

    def _reference(self, value: Any) -> str:
        """A row's answer in normal form. Raises ValueError for one that the metric cannot compare with."""
        text = str(value).strip()
        if self._metric == "number":
            number = answers.parse_number(text)
            if number is None:
                raise ValueError(f"field {self._answer!r} must be a number, not {value!r:.60}")
            return str(number)
        if self._metric == "choice" and text not in ("A", "B", "C", "D"):
            raise ValueError(f"field {self._answer!r} must be a letter from A to D, not {value!r:.60}")
        if self._metric == "code":
            if isinstance(value, str) or not isinstance(value, Sequence) or not value:
                raise ValueError(f"field {self._answer!r} must list at least one assert, not {value!r:.60}")
            for test in value:
                assertions.split(str(test), "")
        if not text:
            raise ValueError(f"field {self._answer!r} is empty")
        return text

    def extract(self, text: str) -> str | None:
        """The answer that a completion gives, by the metric."""
        text = cut(text, self.stop)
        extractors = {"number": GSM8K(), "choice": MMLUSTEM(), "code": MBPP()}
        if self._metric in extractors:
            return extractors[self._metric].extract(text)
        return text.strip() or None

    def score(self, example: Example, text: str, *, judge: Judge | None = None) -> Score:
        """Score one completion."""
        answer, right = self.extract(text), example.reference or ""
        if answer is not None and self._metric == "code":
            result = sandbox.run(answer, example.metadata["tests"], setup="")
            return Score(1.0 if result.passed else 0.0, answer, result.error)
        found = answer is not None and right.casefold() in answer.casefold()
        return match(answer, found if self._metric == "contains" else answer == right)


def _conversation(value: Any) -> tuple[tuple[str, str], ...]:
    """The messages of a row. Raises ValueError for anything else."""
    good = isinstance(value, list) and value and all(
        isinstance(one, dict) and isinstance(one.get("role"), str) and isinstance(one.get("content"), str)
        for one in value
    )  # fmt: skip
    if not good:
        raise ValueError('messages must be a list of objects with a "role" and a "content"')
    return tuple((one["role"], one["content"]) for one in value)
