"""What routers would consult and miss."""

from __future__ import annotations

from collections.abc import Sequence

from fsgen.analysis.labels import listed
from fsgen.analysis.routers import RoutersResult
from fsgen.report.chart import NEUTRAL, Axis, Chart, Data, Figure, Key, Layer, Row, Series, coloured
from fsgen.report.profiles import Profile

_RANDOM, _PERFECT = "random", "perfect"


def curves(profiles: Sequence[Profile]) -> Figure | None:
    """For the main pair of each task, what each router misses by how often it consults System 2."""
    chosen = [profile for profile in profiles if profile.main and profile.routers.curves]
    if not chosen:
        return None
    names = [curve.router for curve in chosen[0].routers.curves]
    rows = [
        {
            **profile.names,
            "router": curve.router,
            "threshold": point.threshold,
            "consulted": point.consulted_rate,
            "missed": point.missed,
            "missed at random": point.random_missed,
            "by a perfect router": point.perfect_missed,
        }
        for profile in chosen
        for curve in profile.routers.curves
        for point in curve.points
    ]
    references = [row for profile in chosen for row in _references(profile)]
    return Figure(
        name="routers",
        title="What a router misses, by how often it consults",
        finding=_finding(chosen),
        note="Every threshold of every router on the recorded texts of one pair a task. A perfect router consults "
        "System 2 exactly where the two differ; a random one does not look. A router at work leaves the recorded text "
        "at its first miss.",
        remarks=tuple(
            profile.remark(sentence)
            for profile in chosen
            for sentence in (profile.routers.finding, *(_budgets(profile.routers, name) for name in names))
        ),
        data=Data.of(rows),
        chart=Chart(
            x=Axis("consulted", "consulted, share of the positions", low=0, high=1, format="%"),
            y=Axis("missed", "missed, share of the positions", low=0, format="%"),
            layers=(
                Layer("line", references, shown=("router", "consulted", "missed")),
                Layer("line", rows, shown=("router", "threshold", "consulted", "missed")),
            ),
            series=(
                Series(
                    "router", (*coloured(names, "line"), Key(_RANDOM, NEUTRAL, "dash"), Key(_PERFECT, NEUTRAL, "dots"))
                ),
            ),
            facets=("task", "pair"),
            height=180,
        ),
    )


def _references(profile: Profile) -> list[Row]:
    """The straight lines of a random and of a perfect router."""
    frequency = profile.routers.collaboration_frequency or 0.0
    lines = {_RANDOM: ((0.0, frequency), (1.0, 0.0)), _PERFECT: ((0.0, frequency), (frequency, 0.0), (1.0, 0.0))}
    return [
        {**profile.names, "router": router, "consulted": consulted, "missed": missed}
        for router, points in lines.items()
        for consulted, missed in points
    ]


def _finding(chosen: Sequence[Profile]) -> str:
    """Which router is the best where."""
    parts = []
    for profile in chosen:
        best = profile.routers.best
        assert best is not None, "there are curves"
        parts.append(f"{best.router} with {100 * best.gain:.0f} % on {profile.task}")
    return f"Of the gap between a random and a perfect router most is closed by {listed(parts)}."


def _budgets(result: RoutersResult, router: str) -> str:
    """The thresholds of a router that meet the budgets."""
    calls, misses = (
        [
            f"{router}:{choice.point.threshold:.4g} consults at {choice.point.consulted_rate:.1%} and misses "
            f"{choice.point.missed:.1%}"
            for choice in result.choices
            if choice.router == router and choice.budget == budget
        ]
        for budget in ("calls", "misses")
    )
    return f"within a budget of calls {'; '.join(calls)}. Within a budget of misses {'; '.join(misses)}."
