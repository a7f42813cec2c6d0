"""Many different prompts of real tasks: for checks that want more of them than one task has."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import fsgen.tasks as registry

# Where prompts are cut once all tasks are used up: a text that breaks off there is another prompt.
CUTS = (0.75, 0.5, 0.25)


@dataclass
class Prompts:
    """Texts of which no two are equal.

    Attributes:
        texts: the prompts.
        sources: how many of them come from where, in their order.
        left_out: how many were passed over, and why.
    """

    texts: list[str] = field(default_factory=list)
    sources: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def take(self, source: str, texts: list[str], most: int, fits: Callable[[str], bool]) -> None:
        """Adds those of `texts` that are new and fit, until there are `most` in all."""
        known = set(self.texts)
        for text in texts:
            if len(self.texts) >= most:
                return
            reason = "seen before" if text in known else "" if fits(text) else "too long"
            if reason:
                self.left_out[reason] = self.left_out.get(reason, 0) + 1
                continue
            known.add(text)
            self.texts.append(text)
            self.sources[source] = self.sources.get(source, 0) + 1


def from_tasks(task: str, count: int, fits: Callable[[str], bool] = lambda text: True) -> Prompts:
    """The prompts of a task; where it has fewer, then those of the other tasks; then all of them cut off earlier.

    Args:
        task: its name in the registry.
        count: how many, at least 1.
        fits: whether a prompt can be used.

    Raises:
        ValueError: an unknown task, an impossible count, or more than there are.
    """
    registry.get(task)
    _check(count)
    names = [task, *(name for name in registry.names() if name != task)]
    found = Prompts()
    whole: dict[str, list[str]] = {}
    for name in names:
        if len(found.texts) < count:
            whole[name] = [example.prompt for example in registry.get(name).load()]
            found.take(name, whole[name], count, fits)
    for part in CUTS:
        for name in names:
            if len(found.texts) < count:
                cut = [_cut(text, part) for text in whole[name]]
                found.take(f"{name} cut at {part:.0%}", [text for text in cut if text], count, fits)
    if len(found.texts) < count:
        raise ValueError(f"prompts={count} is impossible: the tasks give {len(found.texts)} different ones that fit")
    return found


def from_file(path: Path, count: int | None, fits: Callable[[str], bool] = lambda text: True) -> Prompts:
    r"""The prompts of a file, one a line: as plain text, or as a JSON string, which may hold line breaks (`"a\nb"`).

    Args:
        path: a UTF-8 file; empty lines are passed over.
        count: how many; None for all of them.
        fits: whether a prompt can be used.

    Raises:
        ValueError: an impossible count, or more than there are, or none at all.
        OSError: the file cannot be read.
    """
    if count is not None:
        _check(count)
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    found = Prompts()
    found.take(path.name, [_decoded(line) for line in lines], len(lines) if count is None else count, fits)
    if not found.texts or len(found.texts) < (count or 0):
        raise ValueError(f"{path} has {len(found.texts)} different prompts that fit, and {count or 'some'} are needed")
    return found


def _check(count: int) -> None:
    if count < 1:
        raise ValueError(f"prompts={count} is impossible: at least 1")


def _cut(text: str, part: float) -> str:
    """The beginning of a text, up to a space at or before this part of it; empty where there is none."""
    return text[: max(text.rfind(" ", 0, int(len(text) * part)), 0)]


def _decoded(line: str) -> str:
    try:
        value = json.loads(line)
    except ValueError:
        return line
    return value if isinstance(value, str) else line
