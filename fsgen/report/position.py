"""Where in the texts the two systems differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from fsgen.analysis.labels import short_name
from fsgen.report.figure import COLOURS, MISMATCH, Data, Figure, Key, listed
from fsgen.report.profiles import Profile

_ROW = 19


def heatmap(profiles: Sequence[Profile]) -> Figure | None:
    """For each task, the frequency of every pair by tenth of the text."""
    chosen = [profile for profile in profiles if len(profile.position.relative) > 1]
    if not chosen:
        return None
    tasks = list(dict.fromkeys(profile.task for profile in chosen))
    top = max(place.frequency.value for profile in chosen for place in profile.position.relative)
    return Figure(
        name="position-pairs",
        title="By tenth of the text, every pair",
        finding=_trend(chosen),
        note="Each row is a pair, draft → target, by the sizes of both; each cell a tenth of the texts from their "
        "start (left) to their end.",
        panels={task: _cells([profile for profile in chosen if profile.task == task], top) for task in tasks},
        legend=(Key(f"0 to {top:.2f}", MISMATCH, "ramp"),),
        data=Data(
            (
                "task",
                "draft",
                "target",
                "from",
                "to",
                "tokens",
                "frequency",
                "95 % from",
                "to ",
                "draft's entropy, nats",
            ),
            tuple(
                (
                    profile.task,
                    short_name(profile.row.draft),
                    short_name(profile.row.target),
                    place.start,
                    place.stop,
                    place.tokens,
                    place.frequency.value,
                    place.frequency.low,
                    place.frequency.high,
                    place.entropy,
                )
                for profile in chosen
                for place in profile.position.relative
            ),
        ),
    )


def along(profiles: Sequence[Profile]) -> Figure | None:
    """For the main pair of each task, frequency and the draft's doubt from the first token on."""
    chosen = [profile for profile in profiles if profile.main and len(profile.position.absolute) > 1]
    if not chosen:
        return None
    judged = [profile for profile in profiles if profile.position.matters is not None]
    still = [profile for profile in judged if profile.position.matters]
    said = []
    if judged:
        said.append(
            f"In {len(still)} of {len(judged)} runs position still matters once the draft's uncertainty is known "
            "(logistic model, errors clustered by example, 5 %)."
        )
    effects = [_effect(profile) for profile in chosen if profile.position.models]
    if effects:
        said.append(f"At equal uncertainty the odds of a mismatch go {listed(effects)}.")
    return Figure(
        name="position-tokens",
        title="From the first token on, beside the draft's doubt",
        finding=" ".join(said),
        note="How often the two differ, with 95 % intervals over examples, and one minus the draft's largest "
        "probability, at the same positions; behind the 32nd token positions are put into ranges that double. Of each "
        "task one pair, named in the panel.",
        panels={f"{profile.task}, {profile.pair}": _lines(profile) for profile in chosen},
        legend=(Key("frequency", MISMATCH, "line"), Key("the draft's doubt", COLOURS[0], "dash")),
        remarks=tuple(f"{profile.task}, {profile.pair}: {profile.position.finding}" for profile in judged),
        data=Data(
            ("task", "pair", "from token", "to", "tokens", "frequency", "95 % from", "to ", "doubt", "entropy, nats"),
            tuple(
                (
                    profile.task,
                    profile.pair,
                    int(place.start),
                    int(place.stop),
                    place.tokens,
                    place.frequency.value,
                    place.frequency.low,
                    place.frequency.high,
                    place.doubt,
                    place.entropy,
                )
                for profile in chosen
                for place in profile.position.absolute
            ),
        ),
    )


def _trend(profiles: Sequence[Profile]) -> str:
    """Whether the two differ less towards the end."""
    falls = [p for p in profiles if p.position.relative[-1].frequency.value < p.position.relative[0].frequency.value]

    def change(profile: Profile) -> float:
        return profile.position.relative[-1].frequency.value - profile.position.relative[0].frequency.value

    steepest = min(profiles, key=change) if len(falls) * 2 >= len(profiles) else max(profiles, key=change)
    first, last = steepest.position.relative[0].frequency.value, steepest.position.relative[-1].frequency.value
    return (
        f"From the first to the last tenth of a text the frequency falls in {len(falls)} of {len(profiles)} runs; it "
        f"changes the most with {steepest.pair} on {steepest.task}, from {first:.2f} to {last:.2f}."
    )


def _effect(profile: Profile) -> str:
    """What position does at equal uncertainty."""
    model = profile.position.models[-1]
    given = model.given_uncertainty
    over = {"relative": "from start to end", "absolute": "with each doubling of the position"}[model.scale]
    return f"by {given.odds_ratio:.2f} [{given.low:.2f}, {given.high:.2f}] {over} on {profile.task}"


def _cells(profiles: Sequence[Profile], top: float) -> alt.Chart:
    ordered = sorted(profiles, key=lambda p: (p.row.target_parameters or 0, p.row.draft_parameters or 0, p.pair))
    pairs = [profile.pair for profile in ordered]
    values: list[dict[str, Any]] = [
        {
            "pair": profile.pair,
            "from": 100 * place.start,
            "to": 100 * place.stop,
            "frequency": place.frequency.value,
            "low": place.frequency.low,
            "high": place.frequency.high,
            "entropy": place.entropy,
        }
        for profile in ordered
        for place in profile.position.relative
    ]
    axis = alt.Axis(values=[0, 50, 100], labelExpr="datum.value + ' %'", grid=False)
    return (
        alt.Chart(alt.Data(values=values))
        .mark_rect(fill=MISMATCH)
        .encode(
            x=alt.X("from:Q", title="place in the text", axis=axis).scale(domain=[0, 100], nice=False),
            x2="to:Q",
            y=alt.Y("pair:N", title=None, sort=pairs, axis=alt.Axis(grid=False, ticks=False)),
            fillOpacity=alt.FillOpacity("frequency:Q", title="frequency", legend=None).scale(
                domain=[0, top], range=[0.03, 1.0]
            ),
            tooltip=[
                alt.Tooltip("pair:N"),
                alt.Tooltip("from:Q", title="from, %"),
                alt.Tooltip("to:Q", title="to, %"),
                alt.Tooltip("frequency:Q", format=".3f"),
                alt.Tooltip("low:Q", format=".3f", title="95 % from"),
                alt.Tooltip("high:Q", format=".3f", title="to"),
                alt.Tooltip("entropy:Q", format=".2f", title="draft's entropy, nats"),
            ],
        )
        .properties(height=_ROW * len(pairs))
    )


def _lines(profile: Profile) -> alt.LayerChart:
    values: list[dict[str, Any]] = [
        {
            "token": (place.start + place.stop - 1) / 2 + 1,
            "frequency": place.frequency.value,
            "low": place.frequency.low,
            "high": place.frequency.high,
            "doubt": place.doubt,
        }
        for place in profile.position.absolute
    ]
    axis = alt.Axis(values=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096], grid=False, labelOverlap=True)
    base = alt.Chart(alt.Data(values=values)).encode(
        x=alt.X("token:Q", title="token of the text", axis=axis).scale(type="log", nice=False)
    )
    y = alt.Y("frequency:Q", title="share").scale(domainMin=0)
    tooltip = [
        alt.Tooltip("token:Q"),
        alt.Tooltip("frequency:Q", format=".3f"),
        alt.Tooltip("doubt:Q", format=".3f", title="the draft's doubt"),
    ]
    band = [base.mark_area(color=MISMATCH, opacity=0.2).encode(y="low:Q", y2="high:Q")]
    if all(value["low"] is None for value in values):
        band = []
    doubt = base.mark_line(color=COLOURS[0], strokeDash=[4, 3]).encode(y="doubt:Q")
    frequency = base.mark_line(color=MISMATCH, point={"filled": True, "size": 16, "color": MISMATCH}).encode(
        y=y, tooltip=tooltip
    )
    return alt.layer(*band, doubt, frequency).properties(height=220)
