"""What every threshold of every router would have consulted, and missed, on a recorded run.

The run consulted System 2 everywhere, so at each position it is known whether that was needed. A router at work leaves
the recorded text at its first miss: these curves are those of the recorded text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fsgen.analysis.histograms import MEASURES, Histogram, histograms
from fsgen.analysis.intervals import Floats
from fsgen.analysis.traces import Frame

POINTS = 100
CALLS = (0.1, 0.2, 0.3, 0.5)
MISSES = (0.01, 0.02, 0.05)


@dataclass(frozen=True)
class RouterPoint:
    """A router at one threshold.

    Attributes:
        threshold: as it is written after the router's name.
        consulted_rate: positions at which it consults / n.
        missed: positions at which it does not consult although the two differ / n.
        random_missed, perfect_missed: the same of a random and of a perfect router that consult as often.
    """

    threshold: float
    consulted_rate: float
    missed: float
    random_missed: float
    perfect_missed: float


@dataclass(frozen=True)
class RouterCurve:
    """A router at all its thresholds, from the one that consults least on.

    Attributes:
        router: `max-prob`, `margin` or `entropy`.
        points: every threshold that consults at other positions than the one before it; of more than 100, those whose
            consulted rates are the most evenly spread.
        gain: the area between this curve and that of `random`, over that between the perfect router and `random`: 1 is
            perfect, 0 is chance.
    """

    router: str
    points: tuple[RouterPoint, ...]
    gain: float


@dataclass(frozen=True)
class RouterChoice:
    """The threshold of a router that meets a budget, to the width of a bin.

    Attributes:
        router: its name.
        budget, allowed: `calls`: it consults at no more than this share of the positions, and misses as little as
            possible; `misses`: it misses no more than this share of the positions, and consults as rarely as possible;
            where every threshold misses more, it misses as little as possible.
        point: what it does there.
    """

    router: str
    budget: str
    allowed: float
    point: RouterPoint


@dataclass(frozen=True)
class RoutersResult:
    """What routers would do on a run.

    Attributes:
        tokens: positions where both greedy choices are known.
        collaboration_frequency: the share where they differ, which a perfect router must consult.
        curves: of each uncertainty router.
        choices: thresholds for some budgets.
        finding: the same in a sentence.
    """

    tokens: int
    collaboration_frequency: float | None
    curves: tuple[RouterCurve, ...]
    choices: tuple[RouterChoice, ...]
    finding: str

    @property
    def best(self) -> RouterCurve | None:
        """The router with the largest gain; None where there is no curve."""
        return max(self.curves, key=lambda curve: curve.gain, default=None)


def routers(
    traces: Frame,
    counted: Mapping[str, Histogram] | None = None,
    calls: Sequence[float] = CALLS,
    misses: Sequence[float] = MISSES,
) -> RoutersResult:
    """Every threshold of the uncertainty routers on a run.

    Args:
        traces: of one run that consulted System 2 everywhere; columns as in `docs/study.md`.
        counted: its histograms, where they are known already.
        calls, misses: the budgets for which thresholds are chosen, shares of the positions.

    Raises:
        ValueError: a budget that is not between 0 and 1.
    """
    check_budgets(calls, misses)
    wanted = [measure for measure in MEASURES if measure.router]
    if counted is None:
        counted = histograms(traces, wanted)
    curves, choices = [], []
    tokens, frequency = 0, None
    for measure in wanted:
        if measure.name not in counted:
            continue
        histogram = counted[measure.name]
        tokens = histogram.tokens
        full = _Curve(histogram)
        frequency = full.frequency
        curves.append(RouterCurve(measure.name, full.shown(), full.gain()))
        choices += [RouterChoice(measure.name, "calls", share, full.within_calls(share)) for share in calls]
        choices += [RouterChoice(measure.name, "misses", share, full.within_misses(share)) for share in misses]
    return RoutersResult(tokens, frequency, tuple(curves), tuple(choices), _finding(frequency, curves, choices))


def check_budgets(calls: Sequence[float], misses: Sequence[float]) -> None:
    """Raises ValueError for a budget that is not between 0 and 1."""
    for name, budgets in (("calls", calls), ("misses", misses)):
        for budget in budgets:
            if not 0.0 <= budget <= 1.0:
                raise ValueError(f"a budget of {name} of {budget:g} is impossible: it is a share, from 0 to 1")


class _Curve:
    """All thresholds of a router, the one that consults least first."""

    def __init__(self, histogram: Histogram) -> None:
        matches, mismatches = (by_group.sum(0) for by_group in histogram.ordered())
        self.thresholds = histogram.measure.edges if histogram.measure.low else histogram.measure.edges[::-1]
        tokens = float(histogram.tokens)
        # The last bin lies beyond the last threshold: its tokens, the most certain ones, are never consulted on.
        self.consulted: Floats = (matches + mismatches).cumsum()[:-1] / tokens
        self.frequency = float(mismatches.sum() / tokens)
        self.missed: Floats = (mismatches.sum() - mismatches.cumsum()[:-1]) / tokens

    def point(self, i: int) -> RouterPoint:
        consulted = float(self.consulted[i])
        return RouterPoint(
            threshold=self._written(i),
            consulted_rate=consulted,
            missed=float(self.missed[i]),
            random_missed=(1 - consulted) * self.frequency,
            perfect_missed=max(0.0, self.frequency - consulted),
        )

    def shown(self) -> tuple[RouterPoint, ...]:
        different = np.flatnonzero(np.diff(self.consulted, prepend=-1.0) > 0)
        if len(different) > POINTS:
            steps = np.linspace(self.consulted[different[0]], self.consulted[different[-1]], POINTS)
            nearest = np.searchsorted(self.consulted[different], steps - 1e-12)
            different = np.unique(different[np.clip(nearest, 0, len(different) - 1)])
        return tuple(self.point(int(i)) for i in different)

    def gain(self) -> float:
        consulted = np.concatenate([[0.0], self.consulted, [1.0]])
        missed = np.concatenate([[self.frequency], self.missed, [0.0]])
        area = float(np.trapezoid(missed, consulted))
        chance, perfect = self.frequency / 2, self.frequency**2 / 2
        return (chance - area) / (chance - perfect) if chance > perfect else 0.0

    def within_calls(self, share: float) -> RouterPoint:
        return self._roundest(int(np.searchsorted(self.consulted, share, side="right")) - 1)

    def within_misses(self, share: float) -> RouterPoint:
        return self._roundest(int(np.searchsorted(-self.missed, -share)))

    def _roundest(self, place: int) -> RouterPoint:
        """Of the thresholds that consult as this one does the one that is the shortest to write."""
        place = min(max(place, 0), len(self.thresholds) - 1)
        alike = np.flatnonzero(self.consulted == self.consulted[place])
        return self.point(min(alike.tolist(), key=lambda i: len(repr(self._written(i)))))

    def _written(self, place: int) -> float:
        """The shortest number that is this threshold once a router rounds it to float32."""
        return float(str(self.thresholds[place]))


def _finding(frequency: float | None, curves: Sequence[RouterCurve], choices: Sequence[RouterChoice]) -> str:
    if not curves or frequency is None:
        return "There is no position where both choices are known."
    best = max(curves, key=lambda curve: curve.gain)
    said = (
        f"The two differ at {100 * frequency:.1f} % of the positions. {best.router} closes {100 * best.gain:.0f} % of "
        "the gap between a random router and a perfect one"
    )
    for choice in choices:
        if choice.router == best.router and choice.budget == "calls" and choice.allowed >= frequency:
            point = choice.point
            return (
                f"{said}; {best.router}:{point.threshold:.4g} consults at {100 * point.consulted_rate:.1f} % of the "
                f"positions and misses {100 * point.missed:.1f} % of them, where random consulting would miss "
                f"{100 * point.random_missed:.1f} %."
            )
    return said + "."
