"""The results of the comparison of the laws, in numbers and in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from fsgen.analysis.scaling.fit import Fits
from fsgen.analysis.scaling.laws import LOG_SEPARABLE, RATIO, Sizes

BILLION = 1e9
# Errors that differ by less than this share are called equal.
ALIKE = 0.05


def as_sizes(draft_parameters: Sequence[float], target_parameters: Sequence[float]) -> Sizes:
    """The sizes of pairs, from counts of parameters."""
    return Sizes(np.asarray(draft_parameters, float) / BILLION, np.asarray(target_parameters, float) / BILLION)


def sizes_of(points: pl.DataFrame) -> Sizes:
    """The sizes of pairs, from a table with the parameters of both models."""
    return as_sizes(points["draft_parameters"].to_list(), points["target_parameters"].to_list())


@dataclass(frozen=True)
class Model:
    """A model by name, and its size in parameters."""

    name: str
    parameters: float


@dataclass(frozen=True)
class Parameter:
    """A parameter of a law.

    Attributes:
        value: None where the pairs do not determine it.
        low, high: its 95 % bootstrap interval; None for an end that is not finite.
        why_not: why it is not identified, in words; empty where it is.
    """

    value: float | None
    low: float | None
    high: float | None
    why_not: str = ""

    @property
    def identified(self) -> bool:
        return not self.why_not

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        low = "-∞" if self.low is None else f"{self.low:.3g}"
        high = "∞" if self.high is None else f"{self.high:.3g}"
        return f"{self.value:.3g} [{low}, {high}]"


@dataclass(frozen=True)
class LawFit:
    """A law fitted to the pairs of a set by least squares.

    Attributes:
        law: its name in `LAWS`.
        r2: 1 - squared residuals / squared distances from the mean; None where all frequencies are the same.
        aicc: n ln(squared residuals / n) + 2 k + 2 k (k + 1) / (n - k - 1), where k counts the parameters and the
            variance; None where there are too few pairs for it.
        leave_one_model_out_rmse: the root mean squared error of the pairs of each model, predicted from the pairs
            without it; None where these do not determine them.
        parameters: by name. Sizes are in billions of parameters.
    """

    law: str
    r2: float | None
    aicc: float | None
    leave_one_model_out_rmse: float | None
    parameters: dict[str, Parameter]
    fits: Fits = field(repr=False, compare=False)

    @property
    def not_identified(self) -> list[str]:
        """The names of the parameters that are not."""
        return [name for name, parameter in self.parameters.items() if not parameter.identified]

    def frequency(self, target_parameters: float, draft_parameters: float) -> float:
        """What the law gives for a pair of these sizes, not clipped: far from the pairs it may be outside 0 to 1."""
        return float(self.fits.predict(as_sizes([draft_parameters], [target_parameters]))[0, 0])


@dataclass(frozen=True)
class Prediction:
    """The frequency that the best law expects of a pair.

    Attributes:
        target, draft: names, or the sizes as they were given.
        target_parameters, draft_parameters: sizes.
        law: that predicts it.
        value: the expected frequency.
        low, high: the 95 % interval for a new measurement: bootstrap of the parameters, and the noise of one frequency.
        outside: whether a size, or their ratio, is outside those of the measured pairs.
    """

    target: str
    draft: str
    target_parameters: float
    draft_parameters: float
    law: str
    value: float
    low: float
    high: float
    outside: bool


@dataclass(frozen=True)
class Scaling:
    """The laws on one set of pairs.

    Attributes:
        family, method, task: of the set; the family is empty where there is only one.
        pairs: the measured pairs, a row each, as they were given.
        best: the law with the least leave-one-model-out error; of equals, the one with the fewest parameters.
        laws: in the order of `LAWS`.
        predictions: of the pairs that were given.
    """

    family: str
    method: str
    task: str
    pairs: pl.DataFrame = field(repr=False, compare=False)
    best: str
    laws: tuple[LawFit, ...]
    predictions: tuple[Prediction, ...] = ()

    @property
    def points(self) -> int:
        """How many pairs."""
        return len(self.pairs)

    @property
    def finding(self) -> str:
        """The sentences of `findings`, joined."""
        return " ".join(findings(self))

    def __getitem__(self, law: str) -> LawFit:
        return next(one for one in self.laws if one.law == law)

    def as_dict(self) -> dict[str, Any]:
        """What `fsgen scaling --json` prints of it."""
        record: dict[str, Any] = {"family": self.family} if self.family else {}
        record |= {"method": self.method, "task": self.task, "points": self.points, "best": self.best}
        record["laws"] = [
            {
                "law": one.law,
                "r2": one.r2,
                "aicc": one.aicc,
                "leave_one_model_out_rmse": one.leave_one_model_out_rmse,
                "parameters": {
                    name: {
                        "value": parameter.value,
                        "low": parameter.low,
                        "high": parameter.high,
                        "identified": parameter.identified,
                    }
                    for name, parameter in one.parameters.items()
                },
            }
            for one in self.laws
        ]
        if self.predictions:
            record["predictions"] = [vars(prediction) for prediction in self.predictions]
        return record


def findings(scaling: Scaling) -> list[str]:
    """Sentences: which law predicts best, how the frequency changes with the sizes, what is not identified."""
    said = [_choice(scaling), _direction(scaling[LOG_SEPARABLE.name])]
    for one in scaling.laws:
        reasons: dict[str, list[str]] = {}
        for name, parameter in one.parameters.items():
            if not parameter.identified:
                reasons.setdefault(parameter.why_not, []).append(name)
        if reasons:
            listed = "; ".join(f"{' and '.join(names)} ({why})" for why, names in reasons.items())
            said.append(f"Not identified in {one.law}: {listed}.")
    return [*said, *map(expectation, scaling.predictions)]


def expectation(prediction: Prediction) -> str:
    """A prediction in words."""
    pair = f"{prediction.target} with draft {prediction.draft}"
    text = (
        f"Expected for {pair}: {prediction.value:.3f}, 95 % from {prediction.low:.3f} to {prediction.high:.3f}, "
        f"by {prediction.law}"
    )
    beyond = " This is outside the sizes that were measured: the law itself may not hold there."
    return text + "." + beyond * prediction.outside


def _choice(scaling: Scaling) -> str:
    errors = {one.law: error for one in scaling.laws if (error := one.leave_one_model_out_rmse) is not None}
    if len(errors) < 2:
        return "There are too few models to hold one out and compare the laws."
    best = errors[scaling.best]
    text = f"{scaling.best} predicts the pairs of a held-out model best (error {best:.4f}"
    if lost := scaling[scaling.best].not_identified:
        text = f"With {' and '.join(lost)} not identified, {text}"
    if scaling.best != RATIO.name and RATIO.name in errors:
        text += f"; the paper's {RATIO.name}: {errors[RATIO.name]:.4f}"
    alike = [law for law, error in errors.items() if law != scaling.best and error <= best * (1 + ALIKE) + 1e-12]
    return text + ")" + (f", and {' and '.join(alike)} about as well" if alike else "") + "."


def _direction(one: LawFit) -> str:
    """How the frequency changes with each size, as far as the intervals tell."""
    moves = [
        f"{_moves(one.parameters[name])} as the {model} grows" for name, model in (("a", "draft"), ("b", "target"))
    ]
    return f"By {one.law}, the frequency {moves[0]} and {moves[1]}."


def _moves(parameter: Parameter) -> str:
    if parameter.low is not None and parameter.low > 0:
        return "rises"
    if parameter.high is not None and parameter.high < 0:
        return "falls"
    return "does not clearly change"
