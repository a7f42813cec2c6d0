"""Routers at several budgets of calls: their files, and their accuracies compared at equal calls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from fsgen.analysis.intervals import Floats
from fsgen.analysis.learning import Positions
from fsgen.analysis.ranking import RESAMPLES
from fsgen.analysis.rates import Sums
from fsgen.backends.identity import identity
from fsgen.experiments.lab import Lab
from fsgen.methods.learned.file import LearnedModel
from fsgen.methods.learned.scorers import Scorer
from fsgen.study.cells import Cell

NEVER, ALWAYS = "never", "always"


def learned_file(lab: Lab, cell: Cell, name: str, scorer: Scorer, chosen_on: Positions) -> Path:
    """The file of a learned router for the draft of a run; its threshold is said where it is used.

    Args:
        name: what kind of router it is, for its record.
        chosen_on: the positions on which its thresholds are chosen.
    """
    draft = identity(lab.model(cell.members["draft"]))
    assert draft.digest is not None, "a study knows its models"
    assert draft.vocabulary is not None, "a study knows its models"
    record = {"experiment": lab.name, "runs": [cell.key], "kind": name, "examples": list(chosen_on.names)}
    known = {"name": draft.name, "digest": draft.digest}
    model = LearnedModel(scorer, chosen_on.top, 0.0, known, draft.vocabulary, record)
    return lab.router(model, {"digest": model.digest, "draft": draft.digest})


class Budgets:
    """Accuracy and calls of each router and budget on one pair, from how often each example is drawn.

    Args:
        texts: a row a text, with `router` (also `NEVER` and `ALWAYS`), `budget`, `example`, `score`, `tokens`,
            `consulted`; those without a score are left out.
    """

    def __init__(self, texts: pl.DataFrame) -> None:
        texts = texts.filter(pl.col("score").is_not_null())
        by = ("router", "budget")
        self.conditions = sorted(set(texts.select(by).rows()))
        self.routers = list(dict.fromkeys(name for name, _ in self.conditions))
        self.sums = Sums.of(texts, by, ("consulted", "tokens", "score"), self.conditions, resamples=RESAMPLES)
        self.accuracies = dict(zip(self.conditions, self.sums.each("score", "texts"), strict=True))

    def rates(self, weights: Floats, *routers: str) -> tuple[Floats, Floats]:
        """Calls and accuracy of some routers at their budgets, [resamples, budgets] each."""
        at = [i for i, (name, _) in enumerate(self.conditions) if name in routers]
        return self.sums.ratio("consulted", "tokens", weights, at), self.sums.ratio("score", "texts", weights, at)

    def at(self, router: str, calls: Floats, weights: Floats) -> Floats:
        """Its accuracy where it makes so many calls, [resamples, n], straight between its budgets, never and always."""
        x, y = self.rates(weights, router, NEVER, ALWAYS)
        order = np.argsort(x, axis=1)
        x, y = np.take_along_axis(x, order, 1), np.take_along_axis(y, order, 1)
        return np.stack([np.interp(wanted, xs, ys) for wanted, xs, ys in zip(calls, x, y, strict=True)])

    def over(self, router: str, usual: str, weights: Floats) -> Floats:
        """Its accuracy less that of another router at the other's calls, as a mean over the budgets."""
        calls, accuracy = self.rates(weights, usual)
        return np.asarray((self.at(router, calls, weights) - accuracy).mean(1))
