"""What routers would ask and miss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from fsgen.analysis.routers import RoutersResult
from fsgen.report.figure import COLOURS, NEUTRAL, Data, Figure, Key, listed
from fsgen.report.profiles import Profile


def curves(profiles: Sequence[Profile]) -> Figure | None:
    """For the main pair of each task, what each router misses by how often it asks."""
    chosen = [(p, p.routers) for p in profiles if p.main and p.routers.curves]
    if not chosen:
        return None
    names = [curve.router for curve in chosen[0][1].curves]
    kinds = [*names, "random", "perfect"]
    return Figure(
        name="routers",
        title="What a router misses, by how often it asks",
        finding=_finding(chosen),
        note="Every threshold of every router on the recorded texts of one pair a task. A perfect router asks just "
        "where the two differ; a random one does not look. A router at work leaves the recorded text at its first "
        "miss.",
        panels={f"{profile.task}, {profile.pair}": _curves(result, kinds) for profile, result in chosen},
        legend=(
            *(Key(name, COLOURS[i], "line") for i, name in enumerate(names)),
            Key("random", NEUTRAL, "dash"),
            Key("perfect", NEUTRAL, "dots"),
        ),
        remarks=tuple(
            f"{profile.task}, {profile.pair}: {sentence}"
            for profile, result in chosen
            for sentence in (result.finding, *(_budgets(result, name) for name in names))
        ),
        data=Data(
            ("task", "pair", "router", "threshold", "asked", "missed", "missed at random", "by a perfect router"),
            tuple(
                (
                    profile.task,
                    profile.pair,
                    curve.router,
                    point.threshold,
                    point.consulted_rate,
                    point.missed,
                    point.random_missed,
                    point.perfect_missed,
                )
                for profile, result in chosen
                for curve in result.curves
                for point in curve.points
            ),
        ),
    )


def _finding(chosen: Sequence[tuple[Profile, RoutersResult]]) -> str:
    """Which router is the best where."""
    parts = []
    for profile, result in chosen:
        best = max(result.curves, key=lambda curve: curve.gain)
        parts.append(f"{best.router} by {100 * best.gain:.0f} % on {profile.task}")
    return f"The way from a random router to a perfect one is gone furthest by {listed(parts)}."


def _curves(result: RoutersResult, kinds: list[str]) -> alt.LayerChart:
    frequency = result.collaboration_frequency or 0.0
    values: list[dict[str, Any]] = [
        {"router": curve.router, "consulted": p.consulted_rate, "missed": p.missed, "threshold": p.threshold}
        for curve in result.curves
        for p in curve.points
    ]
    straight = [
        {"router": "random", "consulted": 0.0, "missed": frequency},
        {"router": "random", "consulted": 1.0, "missed": 0.0},
        {"router": "perfect", "consulted": 0.0, "missed": frequency},
        {"router": "perfect", "consulted": frequency, "missed": 0.0},
        {"router": "perfect", "consulted": 1.0, "missed": 0.0},
    ]
    routers = kinds[:-2]
    colours = [*COLOURS[: len(routers)], NEUTRAL, NEUTRAL]
    dashes = [[1, 0]] * len(routers) + [[4, 3], [1, 3]]
    x = alt.X("consulted:Q", title="asked, share of the positions", axis=alt.Axis(format="%", tickCount=5, grid=False))
    y = alt.Y("missed:Q", title="missed, share of the positions", axis=alt.Axis(format="%", tickCount=5))
    colour = alt.Color("router:N", title="router", sort=None).scale(domain=kinds, range=colours)
    dash = alt.StrokeDash("router:N", title="router", sort=None).scale(domain=kinds, range=dashes)
    lines = [
        alt.Chart(alt.Data(values=data))
        .mark_line(strokeWidth=1.75)
        .encode(
            x=x,
            y=y,
            color=colour,
            strokeDash=dash,
            order="consulted:Q",
            tooltip=[
                alt.Tooltip("router:N"),
                alt.Tooltip("threshold:Q", format=".3g"),
                alt.Tooltip("consulted:Q", format=".1%"),
                alt.Tooltip("missed:Q", format=".1%"),
            ],
        )
        for data in (straight, values)
    ]
    return alt.layer(*lines).properties(height=220)


def _budgets(result: RoutersResult, router: str) -> str:
    """The thresholds of a router that meet the budgets."""
    calls, misses = (
        [
            f"{router}:{choice.point.threshold:.4g} asks at {choice.point.consulted_rate:.1%} and misses "
            f"{choice.point.missed:.1%}"
            for choice in result.choices
            if choice.router == router and choice.budget == budget
        ]
        for budget in ("calls", "misses")
    )
    return f"within a budget of calls {'; '.join(calls)}. Within a budget of misses {'; '.join(misses)}."
