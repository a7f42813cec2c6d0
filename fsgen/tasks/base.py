"""What every task offers: examples with their prompts, answer extraction and scores."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fsgen.tasks import source
from fsgen.types import Example

Judge = Callable[[str], str]
"""Given a judge prompt, the judge's verdict in words."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Score:
    """The score of one completion.

    Attributes:
        value: 1.0 or 0.0; a rating from 1 to 10 in MT-Bench; None where the completion is not scored.
        answer: The answer read from the text, None where there is none.
        note: Why it scored as it did, empty where the value says all.
    """

    value: float | None
    answer: str | None
    note: str = ""


class Task(ABC):
    """One benchmark.

    A task without state: all of it may be shared by threads. `stop` and the `prompt` of its examples are for models
    that continue plain text; the `messages` of the examples are for models with a chat template.

    Attributes:
        name: The name in the registry.
        max_shots: The most few-shot examples a prompt may hold.
        default_shots: The number of few-shot examples where none is given.
        max_tokens: The budget of a completion where none is given, in tokens.
        stop: Strings that end a plain completion.
        fields: What every row of the data must have.
        bundled: The data file in the package.
    """

    name: ClassVar[str]
    max_shots: ClassVar[int] = 0
    default_shots: ClassVar[int] = 0
    max_tokens: ClassVar[int]
    stop: ClassVar[tuple[str, ...]] = ()
    fields: ClassVar[tuple[str, ...]]
    bundled: ClassVar[str]

    @property
    def allowed_shots(self) -> range:
        """The numbers of few-shot examples that `load` accepts."""
        return range(self.max_shots + 1)

    def check(self, limit: int | None = None, shots: int | None = None) -> None:
        """Refuse settings that `load` would refuse, without reading data.

        Raises:
            ValueError: The number of shots is not allowed, or the limit is not positive.
        """
        if shots is not None and shots not in self.allowed_shots:
            choices = "0" if self.max_shots == 0 else f"0 to {self.max_shots}"
            raise ValueError(f"{self.name} takes {choices} shots, not {shots!r}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit of {self.name} must be at least 1, not {limit!r}")

    def ready(self) -> None:  # noqa: B027  # most tasks need nothing
        """Refuse a machine on which completions cannot be scored, before any are made.

        Raises:
            SandboxUnavailable: The task runs programs, and they cannot be isolated here.
        """

    def load(
        self, limit: int | None = None, *, shots: int | None = None, data: str | None = None, seed: int = 0
    ) -> list[Example]:
        """Examples, in an order that mixes the data and depends on nothing but the ids and `seed`.

        Rows are sorted by the SHA-256 hash of seed and id, so a smaller limit is a prefix of a larger one.

        Args:
            limit: How many; all where None.
            shots: Few-shot examples in each prompt; `default_shots` where None.
            data: None for the bundled data, else a file or a data set of the hub, see `fsgen.tasks.source`.
            seed: Selects another order.

        Raises:
            ValueError: Shots that are not allowed, a limit above what there is, data that is missing or malformed.
        """
        shots = self.default_shots if shots is None else shots
        self.check(limit, shots)
        rows = source.rows(data, self.bundled, self.fields)
        examples = []
        seen: set[str] = set()
        for number, row in enumerate(rows):
            if data is None and not self.is_test(row):
                continue
            try:
                example = self.example(row, number, shots)
            except (KeyError, TypeError, IndexError, ValueError) as error:
                raise ValueError(f"{self.name} data, row {number + 1}: {error}") from error
            if example.id in seen:
                raise ValueError(f"{self.name} data, row {number + 1}: the id {example.id!r} appears twice")
            seen.add(example.id)
            examples.append(example)
        if limit is not None and limit > len(examples):
            raise ValueError(f"limit={limit}, but the data of {self.name} holds {len(examples)} examples")
        examples.sort(key=lambda example: hashlib.sha256(f"{seed}/{example.id}".encode()).digest())
        return examples[:limit]

    def is_test(self, row: Row) -> bool:
        """Whether a row of the bundled data belongs to the test set."""
        return True

    @abstractmethod
    def example(self, row: Row, number: int, shots: int) -> Example:
        """The example of one row.

        Args:
            row: A row that has all of `fields`.
            number: Its place in the data, from 0.
            shots: Few-shot examples in the prompt.
        """

    @abstractmethod
    def extract(self, text: str) -> str | None:
        """The answer that a completion gives, in normal form; None where it gives none. Pure."""

    @abstractmethod
    def score(self, example: Example, text: str, *, judge: Judge | None = None) -> Score:
        """Score one completion; the rule is in the docstring of the task's module.

        Args:
            example: The question.
            text: The completion, cut at the stop strings or not.
            judge: Used by tasks that need one, ignored by the others.
        """

    def choices(self, example: Example) -> list[tuple[str, str]]:
        """Contexts and continuations whose likelihoods are scored instead of the text; most tasks have none."""
        return []

    def score_choices(self, example: Example, found: Sequence[tuple[float, bool]]) -> Score:
        """Score the choices: of each its log-probability in nats, and whether greedy decoding would write it."""
        raise NotImplementedError

    def follow_up(self, example: Example, answer: str) -> Example | None:
        """The next turn of a dialogue, given the answer to this one; None where there is none."""
        return None


def match(answer: str | None, correct: bool, note: str = "") -> Score:
    """The score of an answer that is right or wrong."""
    if answer is None:
        return Score(0.0, None, "no answer")
    return Score(1.0 if correct else 0.0, answer, note)


def cut(text: str, marks: tuple[str, ...]) -> str:
    """The text before the first of `marks`: what follows is a question that the model made up."""
    return text[: min((at for at in (text.find(mark) for mark in marks) if at >= 0), default=len(text))]
