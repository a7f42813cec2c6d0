"""Fits the scores of learned routers with scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsgen.analysis.intervals import Floats
from fsgen.analysis.learning.positions import Positions
from fsgen.methods.learned.scorers import SCORERS, Scorer

KINDS = tuple(SCORERS)
_MOST = 50_000  # positions that are trained on
_LEAST = 10  # mismatches, and matches, without which nothing is learned
_CENTRES = 200


def learn(known: Positions, kind: str, seed: int = 0) -> Scorer:
    """Fit a score of positions that is high where the two differ.

    Args:
        known: the positions to train on; at most 50,000 of them, drawn at random.
        kind: `svm` (Gaussian kernel by 200 Nystroem centres, squared hinge loss), `logistic` (regression), or `trees`
            (gradient boosting).
        seed: the random seed.

    Raises:
        ValueError: an unknown kind, or too few mismatches or matches.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}: choose one of {', '.join(KINDS)}")
    differing = int(known.differs.sum())
    if min(differing, len(known) - differing) < _LEAST:
        raise ValueError(
            f"there are {differing} mismatches among {len(known)} positions to train on: at least {_LEAST} of "
            "each kind are needed; run more examples"
        )
    chosen = np.random.default_rng(seed).permutation(len(known))[:_MOST]
    x, y = known.x[chosen], known.differs[chosen]
    mean, scale = x.mean(0), x.std(0)
    scale[scale < 1e-9] = 1.0
    fits: dict[str, Callable[[Floats, NDArray[np.bool_], int], dict[str, Any]]] = {
        "svm": _svm,
        "logistic": _logistic,
        "trees": _trees,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an optimiser that stops at its last step
        return SCORERS[kind](mean, scale, **fits[kind]((x - mean) / scale, y, seed))


def _logistic(x: Floats, y: NDArray[np.bool_], seed: int) -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=500).fit(x, y)
    return {"weights": model.coef_[0].astype(np.float64), "bias": model.intercept_.astype(np.float64)}


def _svm(x: Floats, y: NDArray[np.bool_], seed: int) -> dict[str, Any]:
    from sklearn.kernel_approximation import Nystroem
    from sklearn.svm import LinearSVC

    gamma = 1.0 / x.shape[1]
    kernel = Nystroem(gamma=gamma, n_components=min(_CENTRES, len(x)), random_state=seed).fit(x)
    machine = LinearSVC(random_state=seed, max_iter=2000).fit(kernel.transform(x), y)
    return {
        "centres": np.ascontiguousarray(kernel.components_),
        "weights": kernel.normalization_.T @ machine.coef_[0],
        "gamma": np.array([gamma]),
        "bias": np.array([machine.intercept_[0]]),
    }


def _trees(x: Floats, y: NDArray[np.bool_], seed: int) -> dict[str, Any]:
    from sklearn.ensemble import GradientBoostingClassifier

    model = GradientBoostingClassifier(
        n_estimators=100, learning_rate=0.1, max_depth=3, min_samples_leaf=20, subsample=0.5, random_state=seed
    ).fit(x, y)
    trees = [stage[0].tree_ for stage in model.estimators_]
    roots = np.concatenate([[0], np.cumsum([tree.node_count for tree in trees])[:-1]])

    def joined(part: Callable[[Any], Any]) -> NDArray[Any]:
        return np.concatenate([part(tree) for tree in trees])

    def child(side: str) -> NDArray[np.int32]:
        each = []
        for root, tree in zip(roots, trees, strict=True):
            to = getattr(tree, f"children_{side}")
            each.append(root + np.where(to < 0, np.arange(tree.node_count), to))  # a leaf is its own child
        return np.concatenate(each).astype(np.int32)

    prior = float(y.mean())
    return {
        "roots": roots.astype(np.int32),
        "feature": np.maximum(joined(lambda tree: tree.feature), 0).astype(np.int32),
        "left": child("left"),
        "right": child("right"),
        "threshold": joined(lambda tree: tree.threshold).astype(np.float64),
        "value": model.learning_rate * joined(lambda tree: tree.value[:, 0, 0]).astype(np.float64),
        "bias": np.array([np.log(prior / (1 - prior))]),
        "depth": np.array([max(tree.max_depth for tree in trees)], dtype=np.int32),
    }
