"""Scores of learned routers: plain arrays, evaluated for many positions at once. A high score asks for System 2."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fsgen.methods.learned.features import Floats

Ints = NDArray[np.int32]
_BLOCK = 4096  # rows that are scored at a time: a kernel has a number for each row and centre


@dataclass(frozen=True, eq=False)
class Scorer(ABC):
    """Arrays, and how they make a score of the features [n, d]; every field is an array.

    Attributes:
        mean, scale: by which features are standardised, [d].
    """

    mean: Floats
    scale: Floats

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        for name, array in self.arrays().items():
            if not np.isfinite(array).all():
                raise ValueError(f"{name} has numbers that are not finite")
        if self.mean.ndim != 1 or self.mean.shape != self.scale.shape or not (self.scale > 0).all():
            raise ValueError("mean and scale do not standardise the features")
        self._check()

    def score(self, features: Floats) -> Floats:
        """The score of each row of features [n, d], [n]."""
        blocks = (features[start : start + _BLOCK] for start in range(0, max(1, len(features)), _BLOCK))
        return np.concatenate([self._score((block - self.mean) / self.scale) for block in blocks])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @abstractmethod
    def _check(self) -> None:
        """Raises ValueError where the arrays do not fit together."""

    @abstractmethod
    def _score(self, x: Floats) -> Floats:
        """Of standardised features."""


@dataclass(frozen=True, eq=False)
class Linear(Scorer):
    """w x + b: logistic regression.

    Attributes:
        weights: [d].
        bias: [1].
    """

    weights: Floats
    bias: Floats

    kind = "logistic"

    def _check(self) -> None:
        if self.weights.shape != self.mean.shape or self.bias.shape != (1,):
            raise ValueError("there is not one weight for each feature")

    def _score(self, x: Floats) -> Floats:
        score: Floats = x @ self.weights + self.bias[0]
        return score


@dataclass(frozen=True, eq=False)
class Kernel(Scorer):
    """A sum of Gaussians, sum_j w_j exp(-gamma |x - c_j|^2) + b: a support vector machine.

    Attributes:
        centres: [centres, d].
        weights: [centres].
        gamma, bias: [1].
    """

    centres: Floats
    weights: Floats
    gamma: Floats
    bias: Floats

    kind = "svm"

    def _check(self) -> None:
        fits = self.centres.ndim == 2 and self.centres.shape == (len(self.weights), len(self.mean))
        if not fits or self.weights.ndim != 1 or self.gamma.shape != (1,) or self.bias.shape != (1,):
            raise ValueError("there is not one weight for each centre")

    def _score(self, x: Floats) -> Floats:
        apart = (x**2).sum(1)[:, None] + (self.centres**2).sum(1) - 2 * x @ self.centres.T
        score: Floats = np.exp(-self.gamma[0] * np.maximum(apart, 0.0)) @ self.weights + self.bias[0]
        return score


@dataclass(frozen=True, eq=False)
class Trees(Scorer):
    """A sum of decision trees: gradient boosting.

    A node sends x on to `left` where x[feature] <= threshold, else to `right`; a leaf sends it to itself.

    Attributes:
        roots: the first node of each tree, [trees].
        feature, left, right: of all nodes, [nodes].
        threshold, value: of all nodes, [nodes]; `value` counts at leaves.
        bias: [1].
        depth: steps from a root to its farthest leaf, [1].
    """

    roots: Ints
    feature: Ints
    left: Ints
    right: Ints
    threshold: Floats
    value: Floats
    bias: Floats
    depth: Ints

    kind = "trees"

    def _check(self) -> None:
        nodes = len(self.feature)
        whole = [self.feature, self.left, self.right, self.roots, self.depth]
        if any(array.ndim != 1 or array.dtype.kind != "i" for array in whole) or len(self.depth) != 1:
            raise ValueError("the nodes of its trees are not numbered")
        if any(array.shape != (nodes,) for array in (self.left, self.right, self.threshold, self.value)):
            raise ValueError("its trees have nodes without their parts")
        places = np.concatenate([self.left, self.right, self.roots])
        if ((places < 0) | (places >= nodes)).any() or ((self.feature < 0) | (self.feature >= len(self.mean))).any():
            raise ValueError("its trees lead out of the file")
        if self.bias.shape != (1,) or not 0 <= self.depth[0] <= 64:
            raise ValueError("its trees have no bias, or a depth that is none")

    def _score(self, x: Floats) -> Floats:
        single = x.astype(np.float32)  # as scikit-learn compares
        rows = np.arange(len(x))[:, None]
        node = np.broadcast_to(self.roots, (len(x), len(self.roots)))
        for _ in range(int(self.depth[0])):
            goes_left = single[rows, self.feature[node]] <= self.threshold[node]
            node = np.where(goes_left, self.left[node], self.right[node])
        score: Floats = self.value[node].sum(1) + self.bias[0]
        return score


SCORERS: dict[str, type[Scorer]] = {scorer.kind: scorer for scorer in (Kernel, Linear, Trees)}


def scorer(kind: str, arrays: Mapping[str, NDArray[Any]]) -> Scorer:
    """A scorer from its arrays. Raises ValueError: an unknown kind, or arrays that are none of it."""
    if kind not in SCORERS:
        raise ValueError(f"unknown kind {kind!r}; there are {', '.join(SCORERS)}")
    wanted = {field.name: field.type for field in fields(SCORERS[kind])}
    if wanted.keys() != arrays.keys():
        raise ValueError(f"it has the arrays {', '.join(arrays)}, and needs {', '.join(wanted)}")
    for name, kind_of in wanted.items():
        if arrays[name].dtype != (np.int32 if kind_of == "Ints" else np.float64):
            raise ValueError(f"its array {name} is of the type {arrays[name].dtype}")
    return SCORERS[kind](**arrays)
