"""Benchmark tasks: prompts, answer extraction and scoring, one file a task.

>>> task = get("gsm8k")
>>> example = task.load(limit=1)[0]
>>> task.score(example, f" #### {example.reference}").value
1.0
"""

from fsgen.tasks.base import Judge, Score, Task
from fsgen.tasks.chains import Chains
from fsgen.tasks.facts import Facts
from fsgen.tasks.gsm8k import GSM8K
from fsgen.tasks.lookup import Lookup
from fsgen.tasks.math500 import MATH500
from fsgen.tasks.mbpp import MBPP
from fsgen.tasks.mmlu_stem import MMLUSTEM
from fsgen.tasks.mt_bench import MTBench
from fsgen.tasks.pocket_math import PocketMath
from fsgen.tasks.tiny_python import TinyPython

__all__ = ["Judge", "Score", "Task", "get", "names"]

_WRITTEN: tuple[Task, ...] = (GSM8K(), MATH500(), MBPP(), MMLUSTEM(), MTBench())
_MADE: tuple[Task, ...] = (Chains(), Facts(), Lookup(), PocketMath(), TinyPython())
_TASKS: dict[str, Task] = {task.name: task for task in (*_WRITTEN, *_MADE)}


def names() -> list[str]:
    """The names of all tasks, sorted."""
    return sorted(_TASKS)


def get(name: str) -> Task:
    """The task of that name.

    Raises:
        ValueError: There is none; the message lists the names.
    """
    if name not in _TASKS:
        raise ValueError(f"unknown task {name!r}; choose from {', '.join(names())}")
    return _TASKS[name]
