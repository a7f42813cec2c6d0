"""Whether the draft's confidence is calibrated."""

from __future__ import annotations

from collections.abc import Sequence

from fsgen.report.chart import NEUTRAL, Axis, Chart, Data, Figure, Key, Layer, Row, Series, coloured
from fsgen.report.profiles import Profile
from fsgen.report.uncertainty import drafts_of, measured

_FEWEST = 10
_CALIBRATED = "calibrated"


def reliability(profiles: Sequence[Profile]) -> Figure | None:
    """For each task, how often System 2 agrees at each confidence of the draft, by draft."""
    chosen = [profile for profile in measured(profiles) if profile.uncertainty.reliability]
    rows: list[Row] = [
        {
            **profile.names,
            "draft": profile.draft,
            "from": bin.low,
            "to": bin.high,
            "tokens": bin.tokens,
            "confidence": bin.confidence,
            "agreement": bin.agreement,
        }
        for profile in chosen
        for bin in profile.uncertainty.reliability
    ]
    errors = [
        (error.value, f"{profile.pair} on {profile.task}")
        for profile in chosen
        if (error := profile.uncertainty.calibration_error) is not None
    ]
    if not errors:
        return None
    return Figure(
        name="calibration",
        title="Is the draft's confidence calibrated?",
        finding=_finding(errors),
        note="How often the greedy choices agree where the draft's largest probability lies in each twentieth that "
        f"holds at least {_FEWEST} tokens; on the dashed line confidence and agreement are the same. The expected "
        "calibration error is the mean distance from it over all tokens.",
        data=Data.of(rows),
        chart=_chart(rows, drafts_of(chosen)),
    )


def _finding(errors: list[tuple[float, str]]) -> str:
    (low, least), (high, most) = min(errors), max(errors)
    said = (
        "As the probability that System 2 agrees, the draft's largest probability is off on average by "
        f"{100 * low:.1f} points ({least})"
    )
    return said + (f" at the least and by {100 * high:.1f} points at the most ({most})." if len(errors) > 1 else ".")


def _chart(rows: list[Row], drafts: list[str]) -> Chart:
    seen = [row for row in rows if int(row["tokens"] or 0) >= _FEWEST]
    tasks = dict.fromkeys(row["task"] for row in rows)
    diagonal = [
        {"task": task, "draft": _CALIBRATED, "confidence": at, "agreement": at} for task in tasks for at in (0, 1)
    ]
    return Chart(
        x=Axis("confidence", "the draft's largest probability", low=0, high=1),
        y=Axis("agreement", "System 2 agrees", low=0, high=1),
        layers=(Layer("line", diagonal, shown=()), Layer("line", seen, shown=()), Layer("point", seen, size=16)),
        series=(Series("draft", (*coloured(drafts), Key(_CALIBRATED, NEUTRAL, "dash"))),),
    )
