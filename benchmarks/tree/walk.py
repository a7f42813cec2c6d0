"""Fixed texts, walked round by round as the loop would go: tokens per target call, and per ms of forward calls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import fsgen
from benchmarks.tree.drafted import Drafted, Floats, Ints
from benchmarks.tree.forms import NEVER, Form, Stop, chain
from benchmarks.tree.times import Times
from fsgen import Members, SamplingParams
from fsgen.metrics import Counts

TASKS = ("gsm8k", "mmlu_stem", "mbpp")


def visited(d: Drafted, form: Form) -> Ints:
    """The positions at which rounds begin. System 2 adds a token to what stands, where the text goes on."""
    steps, position, starts = np.minimum(form.gained + 1, d.left).tolist(), 0, []
    while position < len(steps):
        starts.append(position)
        position += steps[position]
    return np.array(starts)


@dataclass(frozen=True)
class Outcome:
    """What a form brings, counted apart for every second text (the halves) and for each task.

    Attributes:
        tokens, rounds: [2, tasks]; seconds: of forward calls, [2, tasks], by type of the weights.
        nodes, calls: drafted tokens that the target reads in a round, and draft calls in a round, on average.
    """

    kind: str
    name: str
    size: int
    tokens: Floats
    rounds: Floats
    seconds: dict[str, Floats]
    nodes: float
    calls: float

    @property
    def per_call(self) -> float:
        """Tokens per target call."""
        return float(self.tokens.sum() / self.rounds.sum())

    def speed(self, dtype: str) -> float:
        """Tokens per ms of forward calls."""
        return float(self.tokens.sum() / self.seconds[dtype].sum() / 1e3)

    def speeds(self, dtype: str) -> list[float]:
        """Of each task."""
        return list(self.tokens.sum(0) / self.seconds[dtype].sum(0) / 1e3)


def outcome(d: Drafted, form: Form, times: dict[str, Times]) -> Outcome:
    starts = visited(d, form)
    text = np.cumsum(np.append(0, d.left[:-1] == 1))
    group = text % 2 * len(TASKS) + d.task

    def sums(of: Ints, weights: Floats | None = None) -> Floats:
        return np.bincount(of, weights, minlength=2 * len(TASKS)).astype(float).reshape(2, -1)

    return Outcome(
        form.kind,
        form.name,
        form.size,
        sums(group),
        sums(group[starts]),
        {dtype: sums(group[starts], t.of(form, starts)) for dtype, t in times.items()},
        float(form.nodes[starts].mean()),
        float((form.widths[starts] > 0).sum(1).mean()),
    )


def fastest(outcomes: list[Outcome], dtype: str) -> tuple[Outcome, float]:
    """The fastest of them, and the speed on each half of the texts of what was the fastest on the other half."""
    seconds = 0.0
    for half in (0, 1):
        chosen = min(outcomes, key=lambda o: o.seconds[dtype][1 - half].sum())
        seconds += chosen.seconds[dtype][half].sum()
    best = max(outcomes, key=lambda o: o.speed(dtype))
    return best, float(best.tokens.sum() / seconds / 1e3)


def check_walker(members: Members, prompts: list[list[str]], d: Drafted, sampling: SamplingParams) -> list[str]:
    """Tokens per target call of chains, walked and in the real loop. Raises AssertionError where they differ."""
    lines = []
    for most, stop in ((1, NEVER), (3, NEVER), (5, NEVER), (10, NEVER), (8, Stop(0.5))):
        router = f"max-prob:{stop.least:g}" if stop.least else None
        for index, questions in enumerate(prompts):
            texts = fsgen.generate(members, questions, "speculative", router, most, sampling)
            counts = Counts.total(text.stats for text in texts)
            starts = visited(d, form := chain(d, most, stop))
            walked = (int((d.task == index).sum()), int((d.task[starts] == index).sum()))
            if walked != (counts.tokens, counts.target_calls):
                raise AssertionError(
                    f"{TASKS[index]}, {form.name}: {walked[1]} rounds were walked for {walked[0]} tokens, the loop "
                    f"took {counts.target_calls} for {counts.tokens}"
                )
            lines.append(f"{TASKS[index]} {form.name}: {walked[0] / walked[1]:.4f}")
    return lines
