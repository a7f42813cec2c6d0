"""Whether the draft is as sure as it should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from fsgen.analysis.labels import short_name
from fsgen.analysis.uncertainty import UncertaintyResult
from fsgen.report.figure import COLOURS, NEUTRAL, Data, Figure, Key
from fsgen.report.profiles import Profile
from fsgen.report.uncertainty import drafts_of, measured


def reliability(profiles: Sequence[Profile]) -> Figure | None:
    """For each task, how often System 2 agrees where the draft is so sure, by draft."""
    chosen = [(p, r) for p, r in measured(profiles) if r.reliability and r.calibration_error is not None]
    if not chosen:
        return None
    tasks = list(dict.fromkeys(profile.task for profile, _ in chosen))
    drafts = drafts_of(profile for profile, _ in chosen)
    errors = {
        (profile.task, profile.pair): result.calibration_error.value
        for profile, result in chosen
        if result.calibration_error is not None
    }
    (low_task, low_pair), (high_task, high_pair) = (
        min(errors, key=errors.__getitem__),
        max(errors, key=errors.__getitem__),
    )
    finding = (
        "As the probability that System 2 agrees, the draft's largest probability is off on average by "
        f"{100 * errors[low_task, low_pair]:.1f} points ({low_pair} on {low_task})"
    )
    if len(errors) > 1:
        finding += (
            f" at the least and by {100 * errors[high_task, high_pair]:.1f} points at the most "
            f"({high_pair} on {high_task})"
        )
    return Figure(
        name="calibration",
        title="Is the draft as sure as it should be?",
        finding=f"{finding}.",
        note="How often the greedy choices agree where the draft's largest probability lies in each twentieth that "
        "holds at least 10 tokens; on the dashed line confidence and agreement are the same. The expected "
        "calibration error is the mean distance from it over all tokens.",
        panels={task: _panel([(p, r) for p, r in chosen if p.task == task], drafts) for task in tasks},
        legend=tuple(Key(name, COLOURS[i % len(COLOURS)]) for i, name in enumerate(drafts)),
        data=Data(
            ("task", "pair", "from", "to", "tokens", "confidence", "agreement"),
            tuple(
                (profile.task, profile.pair, bin.low, bin.high, bin.tokens, bin.confidence, bin.agreement)
                for profile, result in chosen
                for bin in result.reliability
            ),
        ),
    )


def _panel(chosen: Sequence[tuple[Profile, UncertaintyResult]], drafts: list[str]) -> alt.LayerChart:
    values: list[dict[str, Any]] = [
        {
            "draft": short_name(profile.row.draft),
            "confidence": bin.confidence,
            "agreement": bin.agreement,
            "tokens": bin.tokens,
        }
        for profile, result in chosen
        for bin in result.reliability
        if bin.tokens >= 10
    ]
    x = alt.X("confidence:Q", title="the draft's largest probability", axis=alt.Axis(grid=False)).scale(domain=[0, 1])
    y = alt.Y("agreement:Q", title="System 2 agrees").scale(domain=[0, 1])
    same = (
        alt.Chart(alt.Data(values=[{"confidence": 0, "agreement": 0}, {"confidence": 1, "agreement": 1}]))
        .mark_line(strokeDash=[4, 3], strokeWidth=1, color=NEUTRAL)
        .encode(x=x, y=y)
    )
    lines = (
        alt.Chart(alt.Data(values=values))
        .mark_line(strokeWidth=1.5, point={"filled": True, "size": 16})
        .encode(
            x=x,
            y=y,
            color=alt.Color("draft:N", title="draft", sort=None).scale(domain=drafts, range=list(COLOURS)),
            tooltip=[
                alt.Tooltip("draft:N"),
                alt.Tooltip("confidence:Q", format=".3f"),
                alt.Tooltip("agreement:Q", format=".3f"),
                alt.Tooltip("tokens:Q"),
            ],
        )
    )
    return alt.layer(same, lines).properties(height=240)
