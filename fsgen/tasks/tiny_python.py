r"""Tiny Python: writing a function of one to five operations from a description, judged by hidden inputs.

Example problem:

    Write f(x), where x is a list of numbers: sort it, then before you add 3 to each number, drop repeats, then take
    the sum.
    [BEGIN]
    def f(x):
        x = sorted(x)
        x = list(dict.fromkeys(x))
        x = [v + 3 for v in x]
        return sum(x)
    [DONE]

Some forty operations on lists of numbers and on strings are composed; most have several wordings, and a `before you`
tells two of them in the other order. Made by `ladder/graded/tiny_python.py`: no composition of a test problem is in the
training text, in any wording.

Scoring: the program is what stands before `[DONE]`, read as in `fsgen.tasks.mbpp`. It runs in `fsgen.tasks.sandbox`
and is right when all asserts hold, on inputs that the prompt does not show.
"""

from typing import ClassVar

from fsgen.tasks import assertions
from fsgen.tasks.base import Row
from fsgen.tasks.mbpp import MBPP
from fsgen.types import Example

KINDS = {"list": "a list of numbers", "string": "a string"}


def prompt(kind: str, description: str) -> str:
    """The plain prompt of one problem; the completion is the code, a line break and `[DONE]`.

    Args:
        kind: What x is, `list` or `string`.
        description: What to do with it.
    """
    return f"Write f(x), where x is {KINDS[kind]}: {description}.\n[BEGIN]\n"


class TinyPython(MBPP):
    """Functions of one to five operations, 0 shots."""

    name: ClassVar[str] = "tiny_python"
    max_shots: ClassVar[int] = 0
    max_tokens: ClassVar[int] = 128
    fields: ClassVar[tuple[str, ...]] = ("kind", "description", "operations", "code", "tests")
    bundled: ClassVar[str] = "tiny_python.jsonl.gz"

    def is_test(self, row: Row) -> bool:
        """All rows are."""
        return True

    def example(self, row: Row, number: int, shots: int) -> Example:
        """The example of one row; the reference is a program, the asserts are in the metadata."""
        tests = [assertions.split(str(test)).text for test in row["tests"]]
        asked = prompt(str(row["kind"]), str(row["description"]))
        return Example(
            id=f"{self.name}/{number}",
            prompt=asked,
            messages=(("user", asked.removesuffix("\n[BEGIN]\n") + "\n\nAnswer with one Python code block."),),
            reference=str(row["code"]),
            metadata={"tests": tests, "setup": "", "operations": len(row["operations"])},
        )
