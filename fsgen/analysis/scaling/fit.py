"""Least squares by variable projection, for one set of frequencies or thousands of them at once.

The weights of a law's terms follow from its shape in closed form, so the search is over the shape alone: from the best
point of a grid, by Levenberg-Marquardt steps within the bounds (Golub & Pereyra 1973). All sets of frequencies belong
to the same pairs and so share the grid: a bootstrap of thousands of fits takes a tenth of a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from fsgen.analysis.intervals import Floats
from fsgen.analysis.scaling.laws import Law, Sizes

STEPS = 60
NOTHING = 1e-8  # a direction that is so much weaker than the others counts as none


@dataclass(frozen=True)
class Fits:
    """A law fitted to m sets of frequencies of the same n pairs.

    Attributes:
        law: which.
        weights: [m, k] of its terms.
        shape: [m, s].
        residuals: [m, n], measured less fitted.
    """

    law: Law
    weights: Floats
    shape: Floats
    residuals: Floats

    @property
    def values(self) -> Floats:
        """The law's parameters, [m, p]."""
        return self.law.values(self.weights, self.shape)

    def predict(self, sizes: Sizes) -> Floats:
        """The frequencies of n pairs by each of the fits, [m, n]."""
        predicted: Floats = np.einsum("mnk,mk->mn", self.law.basis(sizes, self.shape), self.weights)
        return predicted


def fit(law: Law, sizes: Sizes, frequencies: Floats) -> Fits:
    """The least-squares fit of a law to each row of `frequencies` [m, n].

    Where the pairs do not determine all weights, those of the last terms are as small as possible.
    """
    grid = np.array(list(product(*(one.starts for one in law.shape))))
    explained = np.einsum("gnk,mn->mgk", _orthonormal(law.basis(sizes, grid)), frequencies)
    shape = grid[(explained**2).sum(axis=-1).argmax(axis=1)]
    if law.shape:
        _refine(law, sizes, frequencies, shape)
    weights, residuals, _ = _solve(law.basis(sizes, shape), frequencies)
    return Fits(law, weights, shape, residuals)


def _refine(law: Law, sizes: Sizes, frequencies: Floats, shape: Floats) -> None:
    """Improve each row of `shape` [m, s] in place until its steps are too small to matter."""
    low = np.array([one.low for one in law.shape])
    high = np.array([one.high for one in law.shape])
    damping = np.full(len(shape), 1e-3)
    moving = np.arange(len(shape))
    for _ in range(STEPS):
        wanted, at = frequencies[moving], shape[moving]
        residuals, slopes = _linearized(law, sizes, wanted, at)
        gradient = np.einsum("mns,mn->ms", slopes, residuals)
        # A shape at its bound whose gradient points outside stays, and the others move as if it were known.
        held = ((at <= low) & (gradient < 0)) | ((at >= high) & (gradient > 0))
        gradient, slopes = np.where(held, 0.0, gradient), np.where(held[:, None, :], 0.0, slopes)
        curvature = np.einsum("mns,mnt->mst", slopes, slopes)
        diagonal = np.einsum("mss->ms", curvature)
        diagonal *= 1 + damping[moving, None]
        diagonal += np.finfo(float).tiny ** 0.5
        to = np.clip(at + np.linalg.solve(curvature, gradient[..., None])[..., 0], low, high)
        left = _solve(law.basis(sizes, to), wanted)[1]
        better = (left**2).sum(axis=1) <= (residuals**2).sum(axis=1)
        shape[moving[better]] = to[better]
        damping[moving] *= np.where(better, 0.1, 10.0)
        still = np.where(better, (np.abs(to - at) > 1e-7 * (1 + np.abs(at))).any(axis=1), damping[moving] < 1e8)
        moving = moving[still]
        if not len(moving):
            break


def _linearized(law: Law, sizes: Sizes, frequencies: Floats, shape: Floats) -> tuple[Floats, Floats]:
    """The residuals [m, n] at the best weights for a shape, and its slopes [m, n, s] projected off the basis."""
    weights, residuals, directions = _solve(law.basis(sizes, shape), frequencies)
    slopes = _shape_slopes(law, sizes, weights, shape)
    return residuals, slopes - directions @ (directions.swapaxes(1, 2) @ slopes)


def _solve(basis: Floats, frequencies: Floats) -> tuple[Floats, Floats, Floats]:
    """Linear least squares on a basis [m, n, k]: weights [m, k], residuals [m, n], and the basis made orthonormal."""
    directions = _orthonormal(basis)
    explained = np.einsum("mnk,mn->mk", directions, frequencies)
    triangle = directions.swapaxes(1, 2) @ basis
    weights = np.einsum("mjk,mk->mj", np.linalg.pinv(triangle, rcond=NOTHING), explained)
    return weights, frequencies - np.einsum("mnk,mk->mn", directions, explained), directions


def _shape_slopes(law: Law, sizes: Sizes, weights: Floats, shape: Floats) -> Floats:
    """How the frequencies change with the shape at fixed weights, [m, n, s], by central differences."""
    slopes = np.empty((len(shape), len(sizes), len(law.shape)))
    for number in range(len(law.shape)):
        step = np.zeros_like(shape)
        step[:, number] = 1e-5 * (0.1 + np.abs(shape[:, number]))
        rise = law.basis(sizes, shape + step) - law.basis(sizes, shape - step)
        slopes[..., number] = np.einsum("mnk,mk->mn", rise, weights) / (2 * step[:, number, None])
    return slopes


def _orthonormal(basis: Floats) -> Floats:
    """Gram-Schmidt on the columns [..., n, k]; a column that adds nothing becomes zero, so that it explains nothing."""
    directions = np.zeros_like(basis)
    for number in range(basis.shape[-1]):
        column = basis[..., number]
        length = np.linalg.norm(column, axis=-1, keepdims=True)
        before = directions[..., :number]
        for _ in range(2):  # twice is enough
            column = column - (before @ (before.swapaxes(-1, -2) @ column[..., None]))[..., 0]
        rest = np.linalg.norm(column, axis=-1, keepdims=True)
        adds = rest > NOTHING * length
        directions[..., number] = np.where(adds, column, 0.0) / np.where(adds, rest, 1.0)
    return directions


def slopes(law: Law, sizes: Sizes, weights: Floats, shape: Floats) -> Floats:
    """How the frequencies of n pairs change with weights [k] and shape [s] of one fit, [n, k + s]."""
    basis = law.basis(sizes, shape[None])[0]
    return np.concatenate([basis, _shape_slopes(law, sizes, weights[None], shape[None])[0]], axis=1)
