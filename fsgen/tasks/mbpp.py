"""MBPP: short Python programs, judged by their asserts (Austin et al., 2108.07732, CC-BY-4.0).

Example problem (task 11):

    You are an expert Python programmer, and here is your task: Write a python function to remove first and last
    occurrence of a given character from the string. Your code should pass these tests:

    assert remove_Occ("hello","l") == "heo"
    assert remove_Occ("abcda","a") == "bcd"
    assert remove_Occ("PHP","P") == "H"
    [BEGIN]

The completion is the code, a line break and `[DONE]`. The paper's split: tasks 11 to 510 are the test set (500), tasks
1 to 10 the few-shot examples, the first of them with fewer shots. Another data file or set is used whole.

Scoring (the paper's, one sample): the program is the text before `[DONE]`, without the code fences of a chat model. It
runs with the set-up code in `fsgen.tasks.sandbox` and makes the calls of the three asserts there; what they return is
compared elsewhere. It is right when all asserts hold within 10 seconds of processor time and 512 MiB. An empty program
is no answer. The note of the score names the error or the limit.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import ClassVar

from fsgen.tasks import assertions, sandbox, source
from fsgen.tasks.base import Judge, Row, Score, Task, cut
from fsgen.types import Example

_TEST_IDS = range(11, 511)
_SHOT_IDS = range(1, 11)
_FENCE = re.compile(r"```[ \t]*(?:python|py|Python)?[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_ONLY_CLOSED = re.compile(r"\A(?!\s*```)(?:(?!```).)*\S\n```[ \t]*(?:\n(?:(?!```).)*)?\Z", re.DOTALL)


def prompt(text: str, tests: Sequence[str]) -> str:
    """The plain 0-shot prompt of one task; the completion is the code, a line break and `[DONE]`."""
    return (
        f"You are an expert Python programmer, and here is your task: {text} "
        "Your code should pass these tests:\n\n" + "\n".join(tests) + "\n[BEGIN]\n"
    )


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


@cache
def _shots() -> tuple[tuple[str, str], ...]:
    """Prompt and code of the ten few-shot examples."""
    rows = source.rows(None, MBPP.bundled, MBPP.fields)
    chosen = sorted((row for row in rows if row["task_id"] in _SHOT_IDS), key=lambda row: int(row["task_id"]))
    return tuple((prompt(_unix(row["text"]), [*map(_unix, row["test_list"])]), _unix(row["code"])) for row in chosen)


class MBPP(Task):
    """Short Python programs, 0 to 10 shots."""

    name: ClassVar[str] = "mbpp"
    max_shots: ClassVar[int] = 10
    max_tokens: ClassVar[int] = 384
    stop: ClassVar[tuple[str, ...]] = ("[DONE]",)
    fields: ClassVar[tuple[str, ...]] = ("task_id", "text", "code", "test_list")
    bundled: ClassVar[str] = "mbpp.jsonl.gz"

    def ready(self) -> None:
        """Refuse a machine that cannot isolate a program."""
        sandbox.isolation()

    def is_test(self, row: Row) -> bool:
        """Whether the task is one of the paper's test set."""
        return row["task_id"] in _TEST_IDS

    def example(self, row: Row, number: int, shots: int) -> Example:
        """The example of one row; the reference is the data's own program, the asserts are in the metadata."""
        tests = [_unix(str(test)) for test in row["test_list"]]
        if isinstance(row["test_list"], str) or not tests:
            raise ValueError("field 'test_list' must hold at least one assert")
        setup = _unix(str(row.get("test_setup_code") or ""))
        for test in tests:
            assertions.split(test, setup)
        question = prompt(_unix(str(row["text"])), tests)
        messages: list[tuple[str, str]] = []
        for shot, code in _shots()[:shots]:
            messages += [("user", _as_message(shot)), ("assistant", f"```python\n{code.strip()}\n```")]
        return Example(
            id=f"{self.name}/{row['task_id']}",
            prompt="\n\n".join([*(f"{shot}{code}\n[DONE]" for shot, code in _shots()[:shots]), question]),
            messages=(*messages, ("user", _as_message(question))),
            reference=_unix(str(row["code"])),
            metadata={"tests": tests, "setup": setup},
        )

    def extract(self, text: str) -> str | None:
        """The program: what comes before `[DONE]`, of fenced text the first fenced block."""
        text = cut(_unix(text), self.stop)
        fenced = _FENCE.search(text)
        if _ONLY_CLOSED.search(text):  # the fence was opened before the completion began
            fenced = None
        code = fenced[1] if fenced else text.split("\n```", 1)[0]
        code = code.rsplit("[BEGIN]\n", 1)[-1].strip("\n").rstrip()
        return code if code.strip() else None

    def score(self, example: Example, text: str, *, judge: Judge | None = None) -> Score:
        """Run the program in the sandbox and compare what its calls return.

        Raises:
            SandboxUnavailable: This machine cannot isolate a program.
        """
        code = self.extract(text)
        if code is None:
            return Score(0.0, None, "no answer")
        result = sandbox.run(code, example.metadata["tests"], setup=example.metadata["setup"])
        return Score(1.0 if result.passed else 0.0, code, result.error)


def _as_message(question: str) -> str:
    return question.removesuffix("\n[BEGIN]\n") + "\n\nAnswer with one Python code block."
