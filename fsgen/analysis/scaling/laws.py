"""The scaling laws: how often System 2 differs from the draft, from the sizes of the two models alone.

S and L are the parameters of draft and target in billions, R = L / S. A law is a sum of terms, linear in their weights
once its `shape` (alpha, and the a of a power of S) is known. Those of R bend it by (1 - R^-alpha) / alpha, which is
ln R as alpha goes to 0: so fits stay well conditioned where beta and gamma grow without bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fsgen.analysis.intervals import Floats


@dataclass(frozen=True)
class Sizes:
    """The parameters, in billions, of the drafts and the targets of some pairs: two arrays of one length."""

    draft: Floats
    target: Floats

    def __len__(self) -> int:
        return len(self.draft)

    def __getitem__(self, index: npt.NDArray[np.bool_]) -> Sizes:
        return Sizes(self.draft[index], self.target[index])

    @property
    def log_ratio(self) -> Floats:
        return np.log(self.target / self.draft)


@dataclass(frozen=True)
class Shape:
    """A parameter that is not linear.

    Attributes:
        name: one of the law's parameters.
        low, high: the bounds of the search.
        starts: the grid that it starts from.
        lost_low, lost_high: the parameters that grow without bound, or have no effect any more, at either bound.
    """

    name: str
    low: float
    high: float
    starts: tuple[float, ...]
    lost_low: tuple[str, ...]
    lost_high: tuple[str, ...]

    def at_low(self, values: Floats) -> npt.NDArray[np.bool_]:
        return values <= self.low + 1e-3 * abs(self.low)

    def at_high(self, values: Floats) -> npt.NDArray[np.bool_]:
        return values >= self.high - 1e-3 * abs(self.high)


@dataclass(frozen=True)
class Law:
    """A law.

    Attributes:
        name: as in the tables.
        formula: in plain characters.
        parameters: their names.
        shape: those that are not linear.
        basis: sizes of n pairs and shapes [..., s] to terms [..., n, k].
        values: weights of the terms [..., k] and shapes [..., s] to the parameters [..., p].
    """

    name: str
    formula: str
    parameters: tuple[str, ...]
    shape: tuple[Shape, ...]
    basis: Callable[[Sizes, Floats], Floats]
    values: Callable[[Floats, Floats], Floats]

    def limits(self, values: Floats, shape: Floats) -> Floats:
        """The parameters [..., p]; infinite where a shape at its bound leaves them without a limit."""
        values = values.copy()
        for number, one in enumerate(self.shape):
            for at_end, lost in (
                (one.at_low(shape[..., number]), one.lost_low),
                (one.at_high(shape[..., number]), one.lost_high),
            ):
                for name in lost:
                    column = values[..., self.parameters.index(name)]
                    column[at_end] = np.copysign(np.inf, column[at_end])
        return values


def _bend(sizes: Sizes, alpha: Floats) -> Floats:
    """(1 - R^-alpha) / alpha, [..., n] for alpha [...]."""
    alpha = alpha[..., None]
    bent: Floats = -np.expm1(-alpha * sizes.log_ratio) / alpha
    return bent


def _ones(sizes: Sizes, shape: Floats) -> Floats:
    """The term of a constant: [..., n] for shapes [..., s]."""
    return np.ones((*shape.shape[:-1], len(sizes)))


def _columns(*columns: Floats) -> Floats:
    return np.stack(np.broadcast_arrays(*columns), axis=-1)


def _alpha(lost_low: tuple[str, ...], lost_high: tuple[str, ...]) -> Shape:
    # Below, the law is a + b ln R; above, a step that separates a ratio of 2 from 1 and nothing else.
    low, high = 1e-3, 8.0
    return Shape("alpha", low, high, tuple(np.geomspace(low, high, 32).tolist()), lost_low, lost_high)


CONSTANT = Law(
    "constant",
    "c",
    ("c",),
    (),
    basis=lambda sizes, shape: _columns(_ones(sizes, shape)),
    values=lambda weights, shape: weights,
)
_POWER = Shape("a", -3.0, 3.0, tuple(np.linspace(-3.0, 3.0, 17).tolist()), ("c", "a"), ("c", "a"))
DRAFT_ONLY = Law(
    "draft-only",
    "c S^-a",
    ("c", "a"),
    (_POWER,),
    basis=lambda sizes, shape: _columns(sizes.draft ** -shape[..., :1]),
    values=lambda weights, shape: _columns(weights[..., 0], shape[..., 0]),
)
RATIO = Law(
    "ratio-power-law",
    "beta + gamma R^-alpha",
    ("beta", "gamma", "alpha"),
    (_alpha(("beta", "gamma"), ("gamma", "alpha")),),
    basis=lambda sizes, shape: _columns(_ones(sizes, shape), _bend(sizes, shape[..., 0])),
    values=lambda weights, shape: _columns(
        weights[..., 0] + weights[..., 1] / shape[..., 0], -weights[..., 1] / shape[..., 0], shape[..., 0]
    ),
)
RATIO_ZERO = Law(
    "ratio-power-law-zero",
    "beta (1 - R^-alpha)",
    ("beta", "alpha"),
    (_alpha(("beta",), ("alpha",)),),
    basis=lambda sizes, shape: _columns(_bend(sizes, shape[..., 0])),
    values=lambda weights, shape: _columns(weights[..., 0] / shape[..., 0], shape[..., 0]),
)
LOG_SEPARABLE = Law(
    "log-separable",
    "c + a ln S + b ln L",
    ("c", "a", "b"),
    (),
    basis=lambda sizes, shape: _columns(_ones(sizes, shape), np.log(sizes.draft), np.log(sizes.target)),
    values=lambda weights, shape: weights,
)
POWER_SEPARABLE = Law(
    "power-separable",
    "c S^-a (1 - R^-alpha)",
    ("c", "a", "alpha"),
    (
        _POWER,
        _alpha(("c",), ("alpha",)),
    ),
    basis=lambda sizes, shape: _columns(sizes.draft ** -shape[..., :1] * _bend(sizes, shape[..., 1])),
    values=lambda weights, shape: _columns(weights[..., 0] / shape[..., 1], shape[..., 0], shape[..., 1]),
)

# In the order of the tables. The paper's is `ratio-power-law` (2406.12295).
LAWS = {law.name: law for law in (CONSTANT, DRAFT_ONLY, RATIO, RATIO_ZERO, LOG_SEPARABLE, POWER_SEPARABLE)}
