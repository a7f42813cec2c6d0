"""The threshold of a learned router, and how the router compares with others on held-out examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fsgen.analysis.intervals import FEWER_RESAMPLES, Estimate, Floats, grouped, resampled
from fsgen.analysis.learning.positions import Positions
from fsgen.analysis.ranking import Ranking
from fsgen.analysis.routers import check_budgets
from fsgen.methods.learned.file import LearnedModel


def threshold(
    score: Floats, differs: NDArray[np.bool_], calls: float | None = None, misses: float | None = None
) -> float:
    """The threshold of a score that meets a budget; System 2 is consulted where the score is above it.

    Args:
        score, differs: of the positions to choose it on, [n].
        calls: consult at no more than this share of the positions, as often as possible.
        misses: miss mismatches at no more than this share of the positions, and consult as rarely as possible.

    Raises:
        ValueError: not one budget, or one that is not between 0 and 1.
    """
    check_budget(calls, misses)
    order = np.argsort(-score, kind="stable")
    falling, caught = score[order], differs[order].cumsum()
    ends = np.flatnonzero(np.diff(falling) < 0) + 1  # positions with equal scores are consulted together
    consulted = np.concatenate([[0], ends, [len(score)]])
    missed = caught[-1] - np.concatenate([[0], caught[consulted[1:] - 1]])
    if calls is not None:
        best = int(np.searchsorted(consulted, calls * len(score), side="right")) - 1
    else:
        assert misses is not None
        best = int(np.argmax(missed <= misses * len(score)))
    at = int(consulted[best])
    if at == 0:
        return float(falling[0]) + 1.0
    if at == len(score):
        return float(falling[-1]) - 1.0
    return float(falling[at - 1] + falling[at]) / 2


def check_budget(calls: float | None, misses: float | None) -> None:
    """Raises ValueError for none or two budgets, or one that is not between 0 and 1."""
    if (calls is None) == (misses is None):
        raise ValueError("give one budget, of calls or of misses")
    check_budgets([] if calls is None else [calls], [] if misses is None else [misses])


@dataclass(frozen=True)
class Evaluation:
    """A router on the held-out examples, consulting as often as the learned one does there.

    Attributes:
        router: its name.
        auroc: of its score, mismatches being the positive class; None for `random` and `perfect`.
        missed: the mismatches at which it does not consult / all positions.
        beside: how much more it misses than the learned router, on the same resamples; None for the learned router.
    """

    router: str
    auroc: Estimate | None
    missed: Estimate
    beside: Estimate | None


def evaluate(model: LearnedModel, held_out: Positions) -> tuple[Estimate, tuple[Evaluation, ...]]:
    """How often a learned router consults System 2 on held-out examples, and what it and others then miss."""
    score = model.scorer.score(held_out.x)
    scores = {"learned": score, **held_out.scores}
    rankings = {name: Ranking.of(each, held_out.differs, held_out.example) for name, each in scores.items()}
    sums = np.zeros((len(held_out.names), 3))
    for column, values in enumerate((score > model.threshold, held_out.differs, np.ones(len(score)))):
        np.add.at(sums[:, column], held_out.example, values)
    sums = grouped(sums)

    def rates(drawn: Floats) -> Floats:
        """Consulted rate and frequency, [2, resamples]."""
        total: Floats = drawn @ sums
        shares: Floats = (total[:, :2] / total[:, 2:]).T
        return shares

    def missed(name: str, drawn: Floats) -> Floats:
        calls, frequency = rates(drawn)
        found: Floats
        match name:
            case "random":
                found = (1 - calls) * frequency
            case "perfect":
                found = np.maximum(0.0, frequency - calls)
            case _:
                found = rankings[name].missed(calls, drawn)
        return found

    def more_than_learned(name: str, drawn: Floats) -> Floats:
        return missed(name, drawn) - missed("learned", drawn)

    def estimated(measured: Callable[[Floats], Floats]) -> Estimate:
        return resampled(measured, len(sums), resamples=FEWER_RESAMPLES)

    return estimated(lambda drawn: rates(drawn)[0]), tuple(
        Evaluation(
            router=name,
            auroc=rankings[name].auroc() if name in rankings else None,
            missed=estimated(partial(missed, name)),
            beside=None if name == "learned" else estimated(partial(more_than_learned, name)),
        )
        for name in (*scores, "random", "perfect")
    )
