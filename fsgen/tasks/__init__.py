"""Benchmark tasks: prompts, answer extraction and scoring, one file a task.

>>> task = get("gsm8k")
>>> example = task.load(limit=1)[0]
>>> task.score(example, f" #### {example.reference}").value
1.0
"""

from functools import cache
from typing import Any

from fsgen.plugins import find, registered, subclass, tried
from fsgen.tasks.base import Judge, Score, Task
from fsgen.tasks.chains import Chains
from fsgen.tasks.facts import Facts
from fsgen.tasks.gsm8k import GSM8K
from fsgen.tasks.harness import PREFIX, harness_task
from fsgen.tasks.lookup import Lookup
from fsgen.tasks.math500 import MATH500
from fsgen.tasks.mbpp import MBPP
from fsgen.tasks.mmlu_stem import MMLUSTEM
from fsgen.tasks.mt_bench import MTBench
from fsgen.tasks.own_data import NAME, own_data
from fsgen.tasks.pocket_math import PocketMath
from fsgen.tasks.tiny_python import TinyPython

__all__ = ["Judge", "Score", "Task", "get", "names"]

_WRITTEN: tuple[Task, ...] = (GSM8K(), MATH500(), MBPP(), MMLUSTEM(), MTBench())
_MADE: tuple[Task, ...] = (Chains(), Facts(), Lookup(), PocketMath(), TinyPython())
_TASKS: dict[str, Task] = {task.name: task for task in (*_WRITTEN, *_MADE)}


def names() -> list[str]:
    """The names of all tasks, sorted; those of other packages, by their entry points, too."""
    return sorted({*_TASKS, *registered("tasks")})


def get(name: str, **settings: Any) -> Task:
    """The task of that name; `settings` are those of your own data (`fsgen.tasks.own_data`), or of `harness`.

    Raises:
        ValueError: There is none; the message lists the names.
    """
    if name == NAME:
        if not {"data", "answer", "metric"} <= settings.keys():
            raise ValueError(f"task {NAME!r} is your own data: it needs data, prompt, answer and metric, in a study")
        return own_data(**settings)
    if name.startswith(PREFIX):
        return harness_task(name, **settings)
    if name not in _TASKS:
        own = _own(name)
        if own is None:
            raise ValueError(
                f"unknown task {name!r}; choose from {', '.join(names())}, "
                "lm_eval:NAME of lm-evaluation-harness, or your own as module:Name"
            )
        return own
    return _TASKS[name]


@cache
def _own(text: str) -> Task | None:
    """A task from elsewhere (`fsgen.plugins`). Raises ValueError for one that breaks the protocol."""
    found = find("tasks", text)
    if found is None:
        return None
    part, name, rest = found
    if rest:
        raise ValueError(f"task {name!r} takes no argument, but {rest!r} was given")
    kind = subclass(part, Task, name, "task")
    lacking = [key for key in ("name", "max_tokens") if not hasattr(kind, key)]
    if lacking:
        raise ValueError(f"task {name!r} breaks the protocol: it has no {lacking[0]}")
    with tried("task", name):
        task: Task = kind()
    return task
