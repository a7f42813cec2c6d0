"""Runs a unit of work: writes its texts, turn by turn, and scores them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import torch

from fsgen.api import generate
from fsgen.backends import Members
from fsgen.backends.protocol import UnavailableError
from fsgen.generation import Generation
from fsgen.likelihood import encode_pair, log_likelihoods, require_q, within
from fsgen.replay import replay
from fsgen.study.cells import LoadedTask, Prompt
from fsgen.study.records import StoredText, Text
from fsgen.study.units import Unit
from fsgen.tasks import Score
from fsgen.tasks.sandbox import SandboxUnavailable
from fsgen.types import Example

Item = TypeVar("Item")
Result = TypeVar("Result")

Sources = Mapping[tuple[str, int], StoredText]
"""Stored texts of a run, by example and turn."""

BROKEN: tuple[type[Exception], ...] = (UnavailableError, getattr(torch, "AcceleratorError", UnavailableError))
"""Errors that are no text's fault: a server that is away, a GPU that no longer computes. The run fails for them."""

Answers = tuple[Generation, ...] | str
"""What was written for a question, a text for each cell; or what failed."""


@dataclass(frozen=True)
class Question:
    """One turn of a dialogue; most tasks have no more than one.

    Attributes:
        id: of the first turn's example, for all turns.
        turn: from 1.
        example, prompt: of this turn.
    """

    id: str
    turn: int
    example: Example
    prompt: Prompt


def run_unit(
    unit: Unit, members: Sequence[Members], scorer: Scorer, sources: Sources | None = None, keep_logits: bool = False
) -> list[list[Text]]:
    """Write the texts of a unit and score them. A text that fails is recorded as failed, and the others go on.

    Args:
        members: of each of the unit's cells.
        scorer: scores the texts.
        sources: the stored texts of `unit.source`; None where there is none.
        keep_logits: keep the target's logits with each text that is decoded.

    Returns:
        for each cell its texts: all turns of the first example, then those of the next.
    """
    task, tokenizer = unit.task, members[0].tokenizer
    if sources is not None:
        scorer.add(task, sources)
    texts: list[list[Text]] = [[] for _ in unit.cells]
    questions = [Question(each.id, 1, each, task.prompt(each, tokenizer)) for each in task.examples]
    with members[0].keeping():  # what a turn shares with the one before is not computed again
        while questions:
            if sources is None:
                written = _decode(unit, members[0], questions, keep_logits)
            else:
                written = _replay(unit, members, questions, sources)
            scores = _choice_scores(unit, members[0], questions)
            for number, found in enumerate(texts):
                mine = [w if isinstance(w, str) else w[number] for w in written]
                found += scorer.texts(task, questions, mine, scores)
            questions = list(_next_turns(task, tokenizer, questions, written))
    order = {example.id: place for place, example in enumerate(task.examples)}
    return [sorted(found, key=lambda text: (order[text.example], text.turn)) for found in texts]


def _choice_scores(unit: Unit, members: Members, questions: Sequence[Question]) -> list[Score | str] | None:
    """Of a task that compares choices, its scores by the likelihoods of q, or what failed; None of one whose texts
    are scored.

    All cells of a unit have the same q.
    """
    task, method = unit.task.task, unit.cells[0].method
    if not any(task.choices(question.example) for question in questions):
        return None
    try:
        require_q(members, method)
    except ValueError as error:
        return [Score(None, None, str(error)) for _ in questions]

    def attempt(chosen: Sequence[Question]) -> list[Score]:
        choices = [task.choices(question.example) for question in chosen]
        pairs = [within(members, encode_pair(members, *pair)) for each in choices for pair in each]
        found = iter(log_likelihoods(members, pairs, method, batch_size=len(chosen)))
        return [
            task.score_choices(question.example, list(islice(found, len(each))))
            for question, each in zip(chosen, choices, strict=True)
        ]

    return each_or_error(attempt, questions)


def _next_turns(
    task: LoadedTask, tokenizer: Any, questions: Sequence[Question], written: Sequence[Answers]
) -> Iterator[Question]:
    """The next turns of the dialogues that have one; a dialogue of which a turn failed ends."""
    for question, answers in zip(questions, written, strict=True):
        # All cells of a unit have the same texts, and so the same next turns.
        more = None if isinstance(answers, str) else task.task.follow_up(question.example, answers[0].text)
        if more is not None:
            yield Question(question.id, question.turn + 1, more, task.prompt(more, tokenizer))


def _decode(unit: Unit, members: Members, questions: Sequence[Question], keep_logits: bool) -> list[Answers]:
    """Write the texts of a unit of one cell, by the decode loop."""
    (cell,) = unit.cells

    def attempt(chosen: Sequence[Question]) -> list[tuple[Generation, ...]]:
        made = generate(
            members,
            [question.prompt.ids for question in chosen],
            cell.method,
            sampling=[cell.params(cell.text_seed(question.id, question.turn)) for question in chosen],
            batch_size=len(chosen),
            candidates=unit.candidates,
            keep_logits=keep_logits,
        )
        return [(text,) for text in made]

    return each_or_error(attempt, questions)


def _replay(unit: Unit, members: Sequence[Members], questions: Sequence[Question], sources: Sources) -> list[Answers]:
    """Make the texts of all cells of a unit from those that the target wrote alone."""
    stored = [sources[question.id, question.turn] for question in questions]
    good = [(question, text.generation) for question, text in zip(questions, stored, strict=True) if text.generation]

    def attempt(chosen: Sequence[tuple[Question, Generation]]) -> list[tuple[Generation, ...]]:
        each = replay(
            members,
            [question.prompt.ids for question, _ in chosen],
            [text for _, text in chosen],
            unit.cells[0].method,
            candidates=unit.candidates,
            batch_size=len(chosen),
        )
        return list(zip(*each, strict=True))

    replayed = iter(each_or_error(attempt, good))
    return [next(replayed) if text.generation else f"the target alone failed: {text.error}" for text in stored]


def each_or_error(attempt: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]) -> list[Result | str]:
    """The results of all items together; where that fails, of each alone, and of one that fails its error."""
    if not items:
        return []
    try:
        return [*attempt(items)]
    except BROKEN:
        raise  # the run fails, and is tried again
    except Exception as error:  # whatever it is, it is recorded, and the others go on
        if len(items) == 1:
            return [error_text(error)]
    return [result for item in items for result in each_or_error(attempt, [item])]


def error_text(error: BaseException) -> str:
    """An error as records have it."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class Scorer:
    """Scores texts, several at a time, and equal ones once.

    Args:
        scoring: False leaves all of them without a score.
    """

    def __init__(self, scoring: bool = True) -> None:
        self._scoring = scoring
        self._scores: dict[tuple[str, str, str, int, str], Score] = {}

    def add(self, task: LoadedTask, sources: Sources) -> None:
        """Take over scores that are stored."""
        for (example, turn), text in sources.items():
            if text.generation is not None and text.error is None:
                self._scores[self._key(task, example, turn, text.generation.text)] = text.score

    def texts(
        self,
        task: LoadedTask,
        questions: Sequence[Question],
        written: Sequence[Generation | str],
        scores: Sequence[Score | str] | None = None,
    ) -> list[Text]:
        """A scored text for each question, from its generation or from what failed.

        `scores` are those that are known, or why there are none.
        """

        def one(question: Question, result: Generation | str, known: Score | str | None) -> Text:
            place = question.id, question.turn, question.prompt
            if isinstance(result, str):
                return Text(*place, generation=None, score=None, error=result)
            if not self._scoring:
                return Text(*place, result, score=None)
            if isinstance(known, str):
                return Text(*place, result, score=None, error=f"not scored: {known}")
            if known is not None:
                return Text(*place, result, known)
            key = self._key(task, question.id, question.turn, result.text)
            try:
                if key not in self._scores:
                    self._scores[key] = task.task.score(question.example, result.text)
            except (OSError, MemoryError, SandboxUnavailable):
                raise  # the fault is the machine's, not the text's: the run fails, and is tried again
            except Exception as error:  # whatever went wrong, there is no score
                return Text(*place, result, score=None, error=f"not scored: {error_text(error)}")
            return Text(*place, result, self._scores[key])

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            return list(threads.map(one, questions, written, scores or [None] * len(questions)))

    def _key(self, task: LoadedTask, example: str, turn: int, text: str) -> tuple[str, str, str, int, str]:
        return task.config.name, task.digest, example, turn, text
