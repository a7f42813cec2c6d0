"""What the draft's uncertainty tells: distributions, and areas under curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt

from fsgen.analysis.labels import short_name
from fsgen.analysis.uncertainty import MeasureResult, UncertaintyResult
from fsgen.report.figure import COLOURS, MATCH, MISMATCH, Data, Figure, Key, intervals
from fsgen.report.profiles import Profile

_SHOWN = "max-prob"


def measured(profiles: Sequence[Profile]) -> list[tuple[Profile, UncertaintyResult]]:
    """The profiles of each task's largest target, and its main pair, whose uncertainty can tell something."""
    return [(p, p.uncertainty) for p in profiles if (p.largest or p.main) and p.uncertainty.measures]


def drafts_of(profiles: Iterable[Profile]) -> list[str]:
    """The drafts of some profiles, the smallest first."""
    sized = sorted({(profile.row.draft_parameters or 0, str(profile.row.draft)) for profile in profiles})
    return list(dict.fromkeys(short_name(name) for _, name in sized))


def _named(result: UncertaintyResult, name: str) -> MeasureResult | None:
    return next((measure for measure in result.measures if measure.name == name), None)


# ---- distributions


def distributions(profiles: Sequence[Profile]) -> Figure | None:
    """For the main pair of each task, the draft's largest probability on matches and on mismatches."""
    chosen = [
        (profile, measure)
        for profile, result in measured(profiles)
        if profile.main and (measure := _named(result, _SHOWN)) is not None
    ]
    if not chosen:
        return None
    said = ", ".join(
        f"{measure.mean_match:.2f} on matches and {measure.mean_mismatch:.2f} on mismatches on {profile.task}"
        for profile, measure in chosen
    )
    return Figure(
        name="uncertainty",
        title="The draft's confidence on matches and mismatches",
        finding=f"The draft's largest probability is on average {said}.",
        note="The share of the matches, and of the mismatches, in each fiftieth of the draft's largest probability. "
        "Of each task one pair, named in the panel.",
        panels={f"{profile.task}, {profile.pair}": _bars(measure) for profile, measure in chosen},
        legend=(Key("match", MATCH, "area"), Key("mismatch", MISMATCH, "area")),
        data=Data(
            ("task", "pair", "from", "to", "matches", "mismatches"),
            tuple(
                (profile.task, profile.pair, bar.low, bar.high, bar.matches, bar.mismatches)
                for profile, measure in chosen
                for bar in measure.bars
            ),
        ),
    )


def _bars(measure: MeasureResult) -> alt.Chart:
    matches, mismatches = (sum(getattr(bar, name) for bar in measure.bars) for name in ("matches", "mismatches"))
    values: list[dict[str, Any]] = [
        {"low": bar.low, "high": bar.high, "kind": kind, "share": count / whole, "count": count}
        for bar in measure.bars
        for kind, count, whole in (("match", bar.matches, matches), ("mismatch", bar.mismatches, mismatches))
    ]
    colour = alt.Color("kind:N", title=None).scale(domain=["match", "mismatch"], range=[MATCH, MISMATCH])
    return (
        alt.Chart(alt.Data(values=values))
        .mark_bar(opacity=0.55, binSpacing=0)
        .encode(
            x=alt.X("low:Q", title="the draft's largest probability", bin="binned", axis=alt.Axis(grid=False)).scale(
                domain=[0, 1]
            ),
            x2="high:Q",
            y=alt.Y("share:Q", title="share", stack=None, axis=alt.Axis(format="%", tickCount=4)),
            color=colour,
            tooltip=[
                alt.Tooltip("kind:N", title="greedy choices"),
                alt.Tooltip("low:Q", title="from"),
                alt.Tooltip("high:Q", title="to"),
                alt.Tooltip("share:Q", format=".1%"),
                alt.Tooltip("count:Q", title="tokens"),
            ],
        )
        .properties(height=200)
    )


# ---- areas


def areas(profiles: Sequence[Profile]) -> Figure | None:
    """For each task, how well each measure tells mismatches, by draft."""
    chosen = measured(profiles)
    if not chosen:
        return None
    tasks = list(dict.fromkeys(profile.task for profile, _ in chosen))
    drafts = drafts_of(profile for profile, _ in chosen)
    # Every measure with the same weight: which is the best of most runs, and by how much over the worst.
    wins: dict[str, int] = {}
    for _, result in chosen:
        first = max(result.measures, key=lambda measure: measure.auroc.value)
        wins[first.name] = wins.get(first.name, 0) + 1
    best = max(wins, key=lambda name: wins[name])
    low, high = (end(m.auroc.value for _, r in chosen for m in r.measures if m.name == best) for end in (min, max))
    rows = [(profile, result, measure) for profile, result in chosen for measure in result.measures]
    return Figure(
        name="uncertainty-auroc",
        title="Which measure tells mismatches best",
        finding=f"{best} tells mismatches best in {wins[best]} of {len(chosen)} runs, with an AUROC from {low:.2f} to "
        f"{high:.2f} (0.5 is chance).",
        note="AUROC: of a mismatch and a match, how often the mismatch is the less sure one; with 95 % intervals over "
        "examples. Drafts of each task's largest target.",
        panels={
            task: _areas([(p, r) for p, r in chosen if p.task == task], drafts, [m.name for m in chosen[0][1].measures])
            for task in tasks
        },
        legend=tuple(Key(name, COLOURS[i % len(COLOURS)]) for i, name in enumerate(drafts)),
        remarks=tuple(f"{profile.task}, {profile.pair}: {result.finding}" for profile, result in chosen),
        data=Data(
            (
                "task",
                "pair",
                "measure",
                "AUROC",
                "95 % from",
                "to",
                "average precision",
                "mean on matches",
                "on mismatches",
            ),
            tuple(
                (
                    profile.task,
                    profile.pair,
                    measure.name,
                    measure.auroc.value,
                    measure.auroc.low,
                    measure.auroc.high,
                    measure.average_precision.value,
                    measure.mean_match,
                    measure.mean_mismatch,
                )
                for profile, _, measure in rows
            ),
        ),
    )


def _areas(
    chosen: Sequence[tuple[Profile, UncertaintyResult]], drafts: list[str], measures: list[str]
) -> alt.LayerChart:
    values: list[dict[str, Any]] = [
        {
            "draft": short_name(profile.row.draft),
            "measure": measure.name,
            "auroc": measure.auroc.value,
            "low": measure.auroc.low,
            "high": measure.auroc.high,
        }
        for profile, result in chosen
        for measure in result.measures
    ]
    colour = alt.Color("draft:N", title="draft", sort=None).scale(domain=drafts, range=list(COLOURS))
    base = alt.Chart(alt.Data(values=values)).encode(
        y=alt.Y("measure:N", title=None, sort=measures, axis=alt.Axis(grid=False, ticks=False)),
        yOffset=alt.YOffset("draft:N", sort=drafts),
        color=colour,
    )
    x = alt.X("auroc:Q", title="AUROC").scale(zero=False)
    points = base.mark_point(filled=True, size=36, opacity=1).encode(
        x=x,
        tooltip=[
            alt.Tooltip("draft:N"),
            alt.Tooltip("measure:N"),
            alt.Tooltip("auroc:Q", format=".3f", title="AUROC"),
            alt.Tooltip("low:Q", format=".3f", title="95 % from"),
            alt.Tooltip("high:Q", format=".3f", title="to"),
        ],
    )
    return alt.layer(*intervals(base, values, x="low:Q", x2="high:Q"), points).properties(height=44 * len(measures))
