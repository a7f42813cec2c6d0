"""A study's MT-Bench texts, judged by a model behind a server; what it says is kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsgen import tasks
from fsgen.analysis.frequency import read_generations, read_run, read_study
from fsgen.backends.remote.address import Address, parse
from fsgen.backends.remote.http import BadAnswerError, Client
from fsgen.study.cells import canonical_hash
from fsgen.tasks import mt_bench
from fsgen.types import Example

TASK = mt_bench.MTBench.name
LONGEST = 2048  # tokens of a verdict
Place = tuple[str, int]
"""An example, and its turn."""


@dataclass(frozen=True)
class Rating:
    """What a judge has said of one answer.

    Attributes:
        run, example, turn, category: which answer.
        rating: from 1 to 10; None where its words have none that can be read.
        words: the judge's.
    """

    run: str
    example: str
    turn: int
    category: str
    rating: float | None
    words: str


@dataclass(frozen=True)
class Comparison:
    """What a judge has said of two answers, in both orders.

    Attributes:
        example, turn, category: of the question.
        winner: 1 or 2 where it prefers the same answer in both orders, 0 for a tie or where the order decides; None
            where one of its verdicts cannot be read.
        words: the judge's, with the first answer first, and with the second first.
    """

    example: str
    turn: int
    category: str
    winner: int | None
    words: tuple[str, str]


@dataclass(frozen=True)
class Question:
    """A turn with the answers to it so far."""

    example: Example
    answer: str
    first_answer: str
    place: Place


class Judge:
    """A model behind an OpenAI-compatible server (`/v1/chat/completions`).

    Args:
        name: `openai:URL#MODEL`, see `fsgen.backends.remote.address`.
        folder: of the study; what is said is kept there, and not asked for again.

    Raises:
        ValueError: the name is none of a model behind a server.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._address: Address = parse(name)
        if self._address.kind != "openai":
            raise ValueError(f"{name!r} is no judge: write openai:URL#MODEL, whatever the server is")
        self._client = Client(
            self._address.url, self._address.concurrency, self._address.timeout, self._address.patience
        )
        self._file = folder / "measured" / "judged" / f"{canonical_hash(self._address.model)[:16]}.jsonl"
        self._said = dict(_read(self._file))

    def verdicts(self, asked: Sequence[tuple[str, str]]) -> list[str]:
        """What it says to each system prompt and question; equal ones are asked once.

        Raises:
            ValueError: the server refuses one; what it said to others is kept.
            UnavailableError: it is away.
        """
        bodies = {key: self._body(messages) for messages in asked if (key := _key(messages)) not in self._said}
        keys = list(bodies)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        cut_off = self._file.is_file() and not self._file.read_bytes().endswith(b"\n")
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write("\n" * cut_off)

            def read(i: int, answer: Any) -> None:
                words = answer["choices"][0]["message"]["content"]
                if not isinstance(words, str):
                    raise BadAnswerError("a verdict without words")
                self._said[keys[i]] = words
                lines.write(json.dumps({"judge": self._address.model, "asked": keys[i], "words": words}) + "\n")
                lines.flush()

            if keys:
                self._client.read_all("/v1/chat/completions", list(bodies.values()), read)
        return [self._said[_key(messages)] for messages in asked]

    def _body(self, messages: tuple[str, str]) -> dict[str, Any]:
        system, question = messages
        spoken = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        return {"model": self._address.model, "messages": spoken, "temperature": 0, "max_tokens": LONGEST}


def judged_runs(folder: Path) -> list[str]:
    """The finished MT-Bench runs of a study. Raises ValueError where it has none."""
    rows = read_study(folder)["rows"]
    every = dict.fromkeys(run for row in rows for run in (row["run"], row["draft_alone"], row["target_alone"]) if run)
    found = [run for run in every if (folder / "runs" / f"{run}.json").is_file() and _can_be_judged(folder, run)]
    if not found:
        raise ValueError(f"{str(folder)!r} has no finished runs of {TASK}: nothing else is judged")
    return found


def _can_be_judged(folder: Path, run: str) -> bool:
    record = read_run(folder, run)
    return bool(record["status"] == "finished" and record["task"]["name"] == TASK)


def rate(folder: Path, judge: Judge, runs: Iterable[str]) -> list[Rating]:
    """The judge's rating of every text of some runs, both turns."""
    answered = [(run, question) for run in runs for question in _questions(folder, run)]
    words = judge.verdicts([mt_bench.judge_messages(one.example, one.answer) for _, one in answered])
    return [
        Rating(run, *one.place, one.example.metadata["category"], mt_bench.rating(said), said)
        for (run, one), said in zip(answered, words, strict=True)
    ]


def compare(folder: Path, judge: Judge, one: str, two: str) -> list[Comparison]:
    """The judge's choice between the texts of two runs, in both orders: position alone wins nothing.

    Raises:
        ValueError: the runs have no question in common.
    """
    first, second = ({question.place: question for question in _questions(folder, run)} for run in (one, two))
    places = [place for place in first if place in second]
    if not places:
        raise ValueError(f"the runs {one} and {two} answer no question in common")
    asked = []
    for place in places:
        for pair in ((first[place], second[place]), (second[place], first[place])):
            answers, before = [each.answer for each in pair], [each.first_answer for each in pair]
            asked.append(mt_bench.pair_messages(pair[0].example, answers, before))
    words = judge.verdicts(asked)
    return [
        Comparison(*place, first[place].example.metadata["category"], _winner(*said), said)
        for place, said in zip(places, zip(words[::2], words[1::2], strict=True), strict=True)
    ]


def _winner(forward: str, swapped: str) -> int | None:
    choices = mt_bench.choice(forward), mt_bench.choice(swapped)
    if None in choices:
        return None
    return {("A", "B"): 1, ("B", "A"): 2}.get((str(choices[0]), str(choices[1])), 0)


def _questions(folder: Path, run: str) -> Iterator[Question]:
    """The turns of a run that were answered."""
    about = read_run(folder, run)["task"]
    task = tasks.get(TASK)
    examples = {each.id: each for each in task.load(about["limit"], data=about["data"], seed=about.get("order", 0))}
    rows = read_generations(folder, run).sort("example", "turn").iter_rows(named=True)
    texts = {(row["example"], row["turn"]): row["text"] for row in rows if row["text"] is not None}
    for (name, turn), text in texts.items():
        example: Example | None = examples[name]
        before = texts.get((name, 1), "")
        if turn == 2 and example is not None:
            example = task.follow_up(example, before)
        if example is not None:
            yield Question(example, task.extract(text) or "", example.metadata.get("first_answer", ""), (name, turn))


def _key(messages: tuple[str, str]) -> str:
    return canonical_hash(list(messages))


def _read(file: Path) -> Iterator[tuple[str, str]]:
    """What was said before; a line that a crash cut off counts as never said."""
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                said: Mapping[str, str] = json.loads(line)
            except ValueError:
                continue
            yield said["asked"], said["words"]


def mean(ratings: Iterable[float | None]) -> float | None:
    """Of those that could be read; None where none could."""
    known = [rating for rating in ratings if rating is not None]
    return sum(known) / len(known) if known else None
