"""More context and less: few-shot examples that fit a small context, cut contexts, and the prompt of another text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fsgen import tasks
from fsgen.backends import Model
from fsgen.backends.reader import Reader
from fsgen.files import write_text
from fsgen.study.cells import canonical_hash
from fsgen.study.config import TaskConfig
from fsgen.tasks import source
from fsgen.tasks.base import Row
from fsgen.tasks.gsm8k import GSM8K
from fsgen.tasks.mbpp import MBPP

_ROWS = 64  # contexts that a draft reads at a time
_TEXTS = 16


@dataclass(frozen=True)
class _Form:
    """How the prompt of a task begins, the field that it asks, and how a solution of it is written."""

    fields: tuple[str, ...]
    head: str
    asked: str
    solution: Callable[[Row], str]


_FORMS = (
    _Form(GSM8K.fields, "Question: ", "question", lambda row: f" {row['answer']}"),
    _Form(
        MBPP.fields,
        "You are an expert Python programmer, and here is your task: ",
        "text",
        lambda row: f"{row['code']}\n[DONE]".replace("\r\n", "\n"),
    ),
)


def short_data(folder: Path, config: TaskConfig, count: int) -> Path:
    """A data file of a task's questions, each behind the same solved questions in the form of the task's own prompt.

    Those are the shortest of the data that are not asked, so that eight of them fit a small context.

    Args:
        folder: of the experiment.
        config: the task, with a limit: what it does not ask is there to be shown.
        count: solved questions before each.

    Raises:
        ValueError: not a task of questions and written solutions, or too few questions.
    """
    task = tasks.get(config.name)
    form = next((form for form in _FORMS if form.fields == task.fields), None)
    if form is None or config.limit is None or config.chat:
        raise ValueError(f"worked: short is for limited plain tasks of questions and solutions, not {config.name}")
    rows = source.rows(config.data, task.bundled, task.fields)
    by_id = {
        task.example(row, number, 0).id: (task.example(row, number, 0).prompt, row) for number, row in enumerate(rows)
    }
    ordered = [by_id[example.id] for example in task.load(shots=0, data=config.data, seed=config.order)]
    questions, rest = ordered[: config.limit], ordered[config.limit :]
    if len(questions) < config.limit or len(rest) < count:
        raise ValueError(f"{config.name} has {len(rows)} questions: {config.limit} and {count} worked ones are needed")
    solved = sorted((prompt + form.solution(row) for prompt, row in rest), key=len)[:count]
    before = "\n\n".join([*solved, form.head]).removeprefix(form.head)  # the task itself puts the head before it
    lines = [json.dumps({**row, form.asked: before + row[form.asked]}) for _, row in questions]
    text = "".join(f"{line}\n" for line in lines)
    path = folder / "measured" / "questions" / f"{config.name}-{count}-{canonical_hash(text)[:16]}.jsonl"
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)
    return path


def windowed(
    model: Model, texts: Sequence[tuple[Sequence[int], Sequence[int]]], window: int, vocab: int
) -> list[list[int | None]]:
    """What a model would write at each position of some completions if it saw only the last tokens before it.

    Every position is a sequence of its own. A mask of such a width would not do: what a token of the window has in its
    state comes from further back. Special tokens that the tokenizer puts before a text stay there.

    Args:
        model: a draft.
        texts: prompt and completion of each, as token ids.
        window: tokens that it sees.
        vocab: token ids that it shares with the target.

    Returns:
        for each text and position the greedy token, None where nothing was cut.
    """
    head = list(model.tokenizer.encode(""))
    found: list[list[int | None]] = [[None] * len(completion) for _, completion in texts]
    places: list[tuple[int, int]] = []
    sequences: list[list[int]] = []
    for number, (prompt, completion) in enumerate(texts):
        ids = [*prompt, *completion]
        kept = head if ids[: len(head)] == head and len(head) < window else []
        for position in range(len(completion)):
            end = len(prompt) + position
            if end > window:
                places.append((number, position))
                sequences.append([*kept, *ids[end - window + len(kept) : end]])
    reader = Reader(model, sequences, [1] * len(sequences), vocab)
    for start in range(0, len(places), _ROWS):
        batch = [*range(len(places))][start : start + _ROWS]
        for i, choice in zip(batch, reader.read(batch)[0].argmax(-1).tolist(), strict=True):
            number, position = places[i]
            found[number][position] = choice
    return found


def misled(model: Model, texts: Sequence[tuple[Sequence[int], Sequence[int]]], vocab: int) -> list[list[int]]:
    """What a model would write at each position of some completions if it read the prompt of another text before them.

    Args:
        model: a draft.
        texts: prompt and completion of each, as token ids; each is read behind the prompt of the next one.
        vocab: token ids that it shares with the target.

    Returns:
        for each text and position the greedy token.
    """
    prompts = [prompt for prompt, _ in texts]
    lengths = [len(completion) for _, completion in texts]
    sequences = [
        [*prompts[(number + 1) % len(texts)], *completion[:-1]] for number, (_, completion) in enumerate(texts)
    ]
    reader = Reader(model, sequences, lengths, vocab)
    found: list[int] = []
    for start in range(0, len(texts), _TEXTS):
        found.extend(reader.read([*range(len(texts))][start : start + _TEXTS])[0].argmax(-1).tolist())
    ends = [sum(lengths[: number + 1]) for number in range(len(lengths))]
    return [found[end - length : end] for end, length in zip(ends, lengths, strict=True)]
