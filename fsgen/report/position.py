"""Where in the texts the two systems differ."""

from __future__ import annotations

from collections.abc import Sequence

from fsgen.analysis.labels import listed
from fsgen.analysis.position import Place, more_or_less
from fsgen.report.chart import (
    COLOURS,
    MISMATCH,
    Axis,
    Chart,
    Data,
    Figure,
    Key,
    Layer,
    Row,
    Series,
    Shade,
    estimated,
)
from fsgen.report.profiles import Profile

_FREQUENCY, _UNCERTAINTY = "frequency", "the draft's uncertainty"


def heatmap(profiles: Sequence[Profile]) -> Figure | None:
    """For each task, the frequency of every pair by tenth of the text."""
    chosen = [profile for profile in profiles if len(profile.position.relative) > 1]
    if not chosen:
        return None
    tasks = list(dict.fromkeys(profile.task for profile in chosen))
    chosen.sort(key=lambda p: (tasks.index(p.task), p.row.target_parameters or 0, p.row.draft_parameters or 0, p.pair))
    rows: list[Row] = [
        {**profile.names, "from": place.start, "to": place.stop, **_measured(place)}
        for profile in chosen
        for place in profile.position.relative
    ]
    return Figure(
        name="position-pairs",
        title="By tenth of the text, every pair",
        finding=_trend(chosen),
        note="Each row is a pair, draft → target, by the sizes of both; each cell a tenth of the texts from their "
        "start (left) to their end.",
        data=Data.of(rows),
        chart=Chart(
            x=Axis("from", "place in the text", low=0, high=1, end="to", format="%", ticks=(0, 0.5, 1)),
            y=Axis("pair", step=15),
            layers=(Layer("cell", rows),),
            shade=Shade("frequency", max(row["frequency"] for row in rows)),
        ),
    )


def along(profiles: Sequence[Profile]) -> Figure | None:
    """For the main pair of each task, frequency and the draft's uncertainty from the first token on."""
    chosen = [profile for profile in profiles if profile.main and len(profile.position.absolute) > 1]
    if not chosen:
        return None
    judged = [profile for profile in profiles if profile.position.matters is not None]
    rows: list[Row] = [
        {**profile.names, "from token": int(place.start), "to token": int(place.stop), **_measured(place)}
        for profile in chosen
        for place in profile.position.absolute
    ]
    return Figure(
        name="position-tokens",
        title="From the first token on, beside the draft's uncertainty",
        finding=_judged(judged, chosen),
        note="How often the two differ, with 95 % intervals over examples, and the draft's uncertainty (one minus its "
        "largest probability) at the same positions; behind the 32nd token positions are put into ranges that double. "
        "Of each task one pair, named in the panel.",
        remarks=tuple(profile.remark(profile.position.finding) for profile in judged),
        data=Data.of(rows),
        chart=_lines(chosen),
    )


def _measured(place: Place) -> Row:
    """The numbers of a place."""
    return {
        "tokens": place.tokens,
        **estimated("frequency", place.frequency),
        "uncertainty": place.uncertainty,
        "entropy, nats": place.entropy,
    }


def _trend(profiles: Sequence[Profile]) -> str:
    """What the first tenth has over the rest, of each task's main pair: the pairs of a task share their texts."""
    said = [
        f"{more_or_less(profile.position.first_tenth)} on {profile.task} ({profile.pair})"
        for profile in profiles
        if profile.main and profile.position.first_tenth is not None
    ]
    return f"In the first tenth of a text the frequency is, compared to the rest, {listed(said)}." if said else ""


def _judged(judged: Sequence[Profile], shown: Sequence[Profile]) -> str:
    """Where position matters at equal uncertainty, and what it does: of each task's main pair."""
    said = []
    main = [profile for profile in judged if profile.main]
    if main:
        where = listed([profile.task for profile in main if profile.position.matters]) or "no task"
        said.append(
            f"Once the draft's uncertainty is known, position still matters on {where} of {len(main)} (logistic model, "
            "errors clustered by example, 5 %)."
        )
    effects = [_effect(profile) for profile in shown if profile.position.models]
    if effects:
        said.append(f"At equal uncertainty the odds of a mismatch change {listed(effects)}.")
    return " ".join(said)


def _effect(profile: Profile) -> str:
    """What position does at equal uncertainty."""
    model = profile.position.models[-1]
    given = model.given_uncertainty
    over = {"relative": "from start to end", "absolute": "with each doubling of the position"}[model.scale]
    return f"by {given.odds_ratio:.2f} [{given.low:.2f}, {given.high:.2f}] {over} on {profile.task}"


def _lines(chosen: Sequence[Profile]) -> Chart:
    frequencies: list[Row] = []
    uncertainties: list[Row] = []
    for profile in chosen:
        for place in profile.position.absolute:
            at = profile.names | {"token": (place.start + place.stop - 1) / 2 + 1}
            frequencies.append({**at, "curve": _FREQUENCY, **estimated("share", place.frequency)})
            uncertainties.append({**at, "curve": _UNCERTAINTY, "share": place.uncertainty})
    return Chart(
        x=Axis("token", "token of the text", log=True, ticks=tuple(2**i for i in range(13))),
        y=Axis("share", "share", low=0),
        layers=(
            Layer("band", frequencies),
            Layer("line", uncertainties),
            Layer("line", frequencies),
            Layer("point", frequencies, size=16, intervals=False),
        ),
        series=(Series("curve", (Key(_FREQUENCY, MISMATCH, "line"), Key(_UNCERTAINTY, COLOURS[0], "dash"))),),
        facets=("task", "pair"),
        height=180,
    )
