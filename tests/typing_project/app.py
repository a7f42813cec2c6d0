"""A user's small project: what it does need not make sense, but every type in it must be right."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

import fsgen
from fsgen.analysis.learning import train
from fsgen.engine import Engine, Sequence
from fsgen.likelihood import log_likelihoods
from fsgen.methods.fusions import Fusion
from fsgen.methods.routers import Router
from fsgen.report import write
from fsgen.study import run_study
from fsgen.tasks import Score, Task
from fsgen.types import Example


@dataclass(frozen=True)
class EverySecond(Router):
    """Consults the target at every second token."""

    name = "every-second"

    def consult(self, logits: Tensor, positions: NDArray[np.int64], seeds: NDArray[np.uint64]) -> list[bool]:
        return [bool(position % 2) for position in positions]


@dataclass(frozen=True)
class Least(Fusion):
    """The lower of two logits."""

    name = "least"
    reads_draft = True

    def __call__(self, target: Tensor, draft: Tensor | None, base: Tensor | None) -> Tensor:
        assert draft is not None
        return target.minimum(draft)


class Reverse(Task):
    """A word backwards."""

    name = "reverse"
    max_tokens = 8
    fields = ("word",)
    bundled = ""

    def example(self, row: Mapping[str, object], number: int, shots: int) -> Example:
        word = str(row["word"])
        return Example(id=word, prompt=f"{word} backwards is", reference=word[::-1])

    def extract(self, text: str) -> str | None:
        return text.strip() or None

    def score(self, example: Example, text: str, *, judge: object = None) -> Score:
        answer = self.extract(text)
        return Score(1.0 if answer == example.reference else 0.0, answer)


def texts(draft: str, target: str) -> dict[str, float | None]:
    """What two models write."""
    members = fsgen.load(draft=draft, target=target)
    sampling = fsgen.SamplingParams(max_tokens=16, temperature=0.8, stop=["\n"])
    found: dict[str, float | None] = {}
    for generation in fsgen.generate(members, ["Hello", "Good day"], method="route", sampling=sampling):
        found[generation.text] = generation.stats.collaboration_frequency
        sources: list[str] = [token.source for token in generation.tokens]
        assert sources
    for token in fsgen.stream(members, "Hello", router=EverySecond()):
        print(token.text, token.draft_prob)
    with fsgen.chat(members, system="Be brief.") as talk:
        print(talk("Hi").text)
    (likelihood,) = log_likelihoods(members, [([1], [2])], fsgen.Method("least", Least()))
    found["likelihood"] = likelihood.logprob
    return found


def engine(members: fsgen.Members) -> int:
    """Texts that come and go."""
    running = Engine(members, rows=2)
    running.add(Sequence([1, 2, 3], method="speculative"))
    count = 0
    while not running.idle:
        count += len(list(running.step()))
    return count


def measured(folder: Path) -> float | None:
    """A study, its page, and a router."""
    result = run_study({"tasks": ["gsm8k"], "pairs": [{"ladder": "pocket"}], "methods": ["oracle"]}, folder)
    page: Path = write(folder)
    training = train(folder, kind="trees", draft="pocket-0.6m", target="pocket-4m")
    training.write(page.with_suffix(".npz"))
    return result.rows[0].accuracy
