"""Logistic regression from counts in cells, with standard errors clustered by text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fsgen.analysis.intervals import Floats

_RIDGE = 1e-3
"""In standard deviations; keeps a coefficient finite where a part of the data has no mismatch at all."""
_STEPS = 100


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted model.

    Attributes:
        coefficients: of the columns of the design, [p].
        inverse: of the information matrix, [p, p].
        probabilities: fitted, of each cell, [cells].
        deviance: minus twice the log-likelihood of the single observations.
    """

    coefficients: Floats
    inverse: Floats
    probabilities: Floats
    deviance: float


def fit(design: Floats, observed: Floats, events: Floats, ridge: float = _RIDGE) -> Fit:
    """Fit by Newton's method.

    Args:
        design: the covariates of each cell, the first column all ones, [cells, p].
        observed, events: how many observations each cell has, and how many events among them, [cells].
        ridge: how strongly the coefficients but the first, in standard deviations of their columns, are drawn to 0.

    Raises:
        ValueError: a column after the first that does not vary.
    """
    mean = np.average(design, axis=0, weights=observed)
    spread = np.sqrt(np.average((design - mean) ** 2, axis=0, weights=observed))
    if (spread[1:] < 1e-9).any():
        raise ValueError("a column that does not vary has no coefficient")
    spread[0] = 1.0
    scaled = design / spread
    penalty = ridge * np.r_[0.0, np.ones(design.shape[1] - 1)]
    coefficients = np.zeros(design.shape[1])
    loss, probabilities = _loss(scaled, observed, events, coefficients, penalty)
    for _ in range(_STEPS):
        weights = observed * probabilities * (1 - probabilities)
        information = (scaled.T * weights) @ scaled + np.diag(penalty)
        step = np.linalg.solve(information, scaled.T @ (events - observed * probabilities) - penalty * coefficients)
        while True:  # a step that overshoots is halved
            tried, after = _loss(scaled, observed, events, coefficients + step, penalty)
            if tried <= loss or np.abs(step).max() < 1e-12:
                break
            step = step / 2
        coefficients, probabilities = coefficients + step, after
        loss = tried
        if np.abs(step).max() < 1e-9:
            break
    weights = observed * probabilities * (1 - probabilities)
    inverse = np.linalg.inv((scaled.T * weights) @ scaled + np.diag(penalty))
    deviance = 2 * (loss - (penalty * coefficients**2).sum() / 2)
    return Fit(coefficients / spread, inverse / np.outer(spread, spread), probabilities, float(deviance))


def _loss(
    design: Floats, observed: Floats, events: Floats, coefficients: Floats, penalty: Floats
) -> tuple[float, Floats]:
    """Minus the log-likelihood with its penalty, and the probabilities."""
    odds = design @ coefficients
    # log(1 + e^x) without overflow
    loss = (observed * np.logaddexp(0.0, odds) - events * odds).sum() + (penalty * coefficients**2).sum() / 2
    return float(loss), 1 / (1 + np.exp(-np.clip(odds, -700, 700)))


def influence(model: Fit, design: Floats, column: int) -> tuple[Floats, Floats]:
    """What an observation without, and with, an event adds to a coefficient, in each cell, [cells] both.

    Summed over the observations of a cluster, squared, and summed over clusters this is the sandwich estimate of the
    coefficient's variance (Liang & Zeger 1986).
    """
    lever = design @ model.inverse[column]
    return -lever * model.probabilities, lever * (1 - model.probabilities)


def clustered(sums: Floats) -> float:
    """The standard error of a coefficient from the sums of its influences, one a cluster, [clusters]."""
    count = len(sums)
    return float(np.sqrt(count / (count - 1) * (sums**2).sum()))
