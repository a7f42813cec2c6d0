"""Learned routers for tests: random ones of each kind, for any draft."""

from __future__ import annotations

from typing import Any

import numpy as np

from fsgen.methods.learned.features import Floats, names
from fsgen.methods.learned.file import LearnedModel
from fsgen.methods.learned.scorers import Kernel, Linear, Scorer, Trees


def random_scorer(kind: str, top: int, seed: int = 0, mean: Floats | None = None) -> Scorer:
    """A scorer with random arrays; trees part at the mean of the features."""
    draw = np.random.default_rng(seed)
    size = len(names(top))
    mean = draw.normal(size=size) if mean is None else mean
    scale = draw.uniform(0.5, 2.0, size)
    if kind == "logistic":
        return Linear(mean, scale, draw.normal(size=size), np.array([0.1]))
    if kind == "svm":
        centres = draw.normal(size=(7, size))
        return Kernel(mean, scale, centres, draw.normal(size=7), np.array([0.1]), np.array([-0.1]))
    whole = {"roots": [0, 3], "feature": [0, 0, 0, 1, 0, 2, 0, 0], "left": [1, 1, 2, 4, 4, 6, 6, 7]}
    whole |= {"right": [2, 1, 2, 5, 4, 7, 6, 7], "depth": [2]}
    numbers = {name: np.array(values, dtype=np.int32) for name, values in whole.items()}
    return Trees(mean, scale, **numbers, threshold=np.zeros(8), value=draw.normal(size=8), bias=np.array([0.2]))


def random_router(
    kind: str, draft: Any, top: int = 4, threshold: float = 0.0, seed: int = 0, mean: Floats | None = None
) -> LearnedModel:
    """A router for a draft, whose identity it takes (`Members.identity`)."""
    known = {"name": draft.name, "digest": draft.digest}
    return LearnedModel(random_scorer(kind, top, seed, mean), top, threshold, known, draft.vocabulary, {"kind": kind})
