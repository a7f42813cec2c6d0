"""Prompts from a file and results into one, a JSON line each; what was cut off goes on where it stopped.

A line of the input is a prompt (a text, token ids or messages, see `fsgen.prompts`), or an object with a `prompt` and,
where it wants others than all lines, its `method` and its `sampling`:

    "Question: 2 + 2?\\nAnswer:"
    [{"role": "user", "content": "Hi"}]
    {"prompt": "Once", "method": "route", "sampling": {"temperature": 0.8, "n": 3, "seed": 7}}

Results stand in the order of the prompts, a line each text. Each carries a key of all that decides what is written, by
which a second run knows what is done, and refuses an input or settings that have changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from fsgen.api import choices, completed, method_for, mixable
from fsgen.engine import Engine
from fsgen.engine import Sequence as Text
from fsgen.generation import Generation, finite
from fsgen.methods.check import check
from fsgen.methods.fusions import SharedTokens
from fsgen.methods.method import Method
from fsgen.prompts import encode
from fsgen.types import SamplingParams

if TYPE_CHECKING:
    from fsgen.backends import Members, Plan

KEYS = ("prompt", "method", "sampling")
AHEAD = 4  # batches that are handed over at a time


@dataclass(frozen=True)
class Request:
    """One text that is wanted.

    Attributes:
        line: of the input, from 1; choice: which of its `n` texts, from 0.
        ids: of the prompt.
        key: of all that decides what is written.
    """

    line: int
    choice: int
    ids: list[int]
    method: Method
    sampling: SamplingParams
    key: str


def read_requests(
    text: str, planned: Plan | Members, method: Method, sampling: SamplingParams, settings: Sequence[Any] = ()
) -> list[Request]:
    """The texts that the lines of an input ask for.

    Args:
        text: of the input.
        planned: the models.
        method, sampling: of lines that do not have their own; what a line's sampling leaves out is from here.
        settings: anything else that decides what is written.

    Raises:
        ValueError: a line that is wrong, by its number, or none at all.
    """
    roles = [role for role in ("draft", "target", "base") if getattr(planned, role) is not None]
    models = [[role, *map(str, (each.name, each.digest))] for role in roles for each in [planned.identity(role)]]
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            wanted = _parsed(line)
            chosen = method_for(planned, wanted.get("method", method))
            params = _sampling(wanted.get("sampling", {}), sampling)
            ids = encode(planned, wanted["prompt"])
            check(planned, chosen, [ids], [replace(params, n=1)], measured_later=True)
        except (ValueError, RecursionError) as error:
            why = str(error).replace("prompt 0 has", "its prompt has")
            raise ValueError(f"line {number} of the input: {why.partition('; give ')[0]}") from None
        for choice, own in enumerate(choices(params)):
            content = repr([ids, chosen, own, models, list(settings)])
            key = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]
            found.append(Request(number, choice, ids, chosen, own, key))
    if not found:
        raise ValueError("the input has no prompt: it needs one a line, as JSON")
    return found


def _parsed(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ValueError(f'it is not JSON ({error}); a text is written as "..."') from None
    if not isinstance(value, dict) or {"role", "content"} <= value.keys():
        return {"prompt": value}
    if unknown := value.keys() - set(KEYS):
        raise ValueError(f"unknown key {min(unknown)!r}; there are {', '.join(KEYS)}")
    if "prompt" not in value:
        raise ValueError("it has no prompt")
    if not isinstance(value.get("method", ""), str):
        raise ValueError(f"method={value['method']!r} is no text")
    return value


def _sampling(given: Any, usual: SamplingParams) -> SamplingParams:
    if not isinstance(given, dict):
        raise ValueError(f"sampling={given!r} is no object")
    known = [field.name for field in fields(SamplingParams)]
    if unknown := given.keys() - set(known):
        raise ValueError(f"sampling has no parameter {min(unknown)!r}; it has {', '.join(known)}")
    return replace(usual, **given)


def results(
    members: Members, requests: Sequence[Request], batch_size: int = 16, candidates: int = 0, whole: bool = False
) -> Iterator[dict[str, Any]]:
    """The results in the order of the requests, each as soon as it and those before it are written.

    Args:
        batch_size: texts written at a time.
        candidates: as in `fsgen.generate`.
        whole: with the record of every token.
    """
    # Probabilities of different tokenizers are mixed by members of their own, made before the first text is written.
    parts = [list(part) for _, part in groupby(requests, _shares)]
    able = [mixable(members, part[0].method, [each.ids for each in part]) for part in parts]
    for found, part in zip(able, parts, strict=True):
        engine = Engine(found, min(batch_size, len(part)), every_round=False)
        texts = _texts(found, part, AHEAD * batch_size, candidates)
        waiting: dict[int, Generation] = {}
        following = 0
        for place, generation in completed(engine, texts, AHEAD * batch_size):
            waiting[place] = generation
            while following in waiting:
                yield result(part[following], waiting.pop(following), whole)
                following += 1


def _texts(members: Members, part: Sequence[Request], ahead: int, candidates: int) -> Iterator[Text]:
    """Texts for the engine. A target that writes whole texts by itself writes those of the next `ahead` at once."""
    for start in range(0, len(part), ahead):
        some = part[start : start + ahead]
        plain = [each for each in some if not each.method.drafts]
        members.write_ahead([each.ids for each in plain], [each.sampling for each in plain])
        yield from (Text(each.ids, each.method, each.sampling, candidates) for each in some)


def _shares(request: Request) -> float | None:
    """The bound of a method that mixes probabilities over the tokens that both tokenizers have; None for others."""
    return request.method.missing if isinstance(request.method.fusion, SharedTokens) else None


def result(request: Request, generation: Generation, whole: bool = False) -> dict[str, Any]:
    """What is stored of a text."""
    named = {"line": request.line, "choice": request.choice, "key": request.key, "method": request.method.name}
    return named | generation.as_dict(whole)


@contextmanager
def appending(path: Path, requests: Sequence[Request]) -> Iterator[tuple[int, Callable[[str], None]]]:
    """The results that a file has already, and what adds a line to it; one process at a time.

    A line that was cut off is removed. What was added is in the file's hands, whatever becomes of this process.

    Raises:
        ValueError: the file holds anything but the results of the first of these requests, or is being written.
    """
    with path.open("a+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"{str(path)!r} is being written by another process") from None
        done = _finished(path, stream, requests)

        def add(line: str) -> None:
            stream.write(line.encode() + b"\n")
            stream.flush()

        yield done, add
        os.fsync(stream.fileno())


def _finished(path: Path, stream: BinaryIO, requests: Sequence[Request]) -> int:
    stream.seek(0)
    *lines, rest = stream.read().split(b"\n")
    for number, line in enumerate(lines):
        try:
            key = json.loads(line)["key"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"line {number + 1} of {str(path)!r} is no result of fsgen: give another file") from None
        if number >= len(requests) or key != requests[number].key:
            raise ValueError(
                f"line {number + 1} of {str(path)!r} was written for another prompt, other models or other settings: "
                "give another file, or remove this one"
            )
    if rest:
        if lines or b'{"line": '.startswith(rest[:9]):
            stream.truncate(stream.tell() - len(rest))
        else:
            raise ValueError(f"{str(path)!r} holds something else than results of fsgen: give another file")
    return len(lines)


def as_line(record: dict[str, Any]) -> str:
    """A record as a line of JSON; a number that is not finite is null, and half a surrogate pair is escaped."""
    return json.dumps(finite(record), allow_nan=False)
