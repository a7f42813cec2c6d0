"""What the draft's uncertainty predicts: distributions, and areas under curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from fsgen.analysis.labels import names_by_size
from fsgen.report.chart import MATCH, MISMATCH, Axis, Chart, Data, Figure, Key, Layer, Series, coloured, estimated
from fsgen.report.profiles import Profile

_SHOWN = "max-prob"


def measured(profiles: Sequence[Profile]) -> list[Profile]:
    """The profiles of each task's largest target, and its main pair, that have matches and mismatches."""
    return [profile for profile in profiles if (profile.largest or profile.main) and profile.uncertainty.measures]


def drafts_of(profiles: Iterable[Profile]) -> list[str]:
    """The drafts of some profiles, the smallest first."""
    return names_by_size((profile.row.draft, profile.row.draft_parameters) for profile in profiles)


def distributions(profiles: Sequence[Profile]) -> Figure | None:
    """For the main pair of each task, the draft's largest probability on matches and on mismatches."""
    chosen = [
        (profile, measure)
        for profile in measured(profiles)
        if profile.main
        for measure in profile.uncertainty.measures
        if measure.name == _SHOWN
    ]
    if not chosen:
        return None
    said = ", ".join(
        f"{measure.mean_match:.2f} on matches and {measure.mean_mismatch:.2f} on mismatches on {profile.task}"
        for profile, measure in chosen
    )
    rows = [
        {
            **profile.names,
            "from": bar.low,
            "to": bar.high,
            "greedy choices": kind,
            "tokens": getattr(bar, counted),
            "share": getattr(bar, counted) / sum(getattr(each, counted) for each in measure.bars),
        }
        for profile, measure in chosen
        for bar in measure.bars
        for kind, counted in (("match", "matches"), ("mismatch", "mismatches"))
    ]
    return Figure(
        name="uncertainty",
        title="The draft's confidence on matches and mismatches",
        finding=f"The draft's largest probability is on average {said}.",
        note="The share of the matches, and of the mismatches, in each fiftieth of the draft's largest probability. "
        "Of each task one pair, named in the panel.",
        data=Data.of(rows),
        chart=Chart(
            x=Axis("from", "the draft's largest probability", low=0, high=1, end="to"),
            y=Axis("share", "share", low=0, format="%"),
            layers=(Layer("bar", rows),),
            series=(Series("greedy choices", (Key("match", MATCH, "area"), Key("mismatch", MISMATCH, "area"))),),
            facets=("task", "pair"),
            height=160,
        ),
    )


def areas(profiles: Sequence[Profile]) -> Figure | None:
    """For each task, how well each measure predicts mismatches, by draft."""
    chosen = measured(profiles)
    if not chosen:
        return None
    # Every measure with the same weight: which is the best of most runs, and in what range.
    wins = Counter(profile.uncertainty.best.name for profile in chosen)
    best, runs = wins.most_common(1)[0]
    values = [m.auroc.value for profile in chosen for m in profile.uncertainty.measures if m.name == best]
    rows = [
        {
            **profile.names,
            "draft": profile.draft,
            "measure": measure.name,
            **estimated("AUROC", measure.auroc),
            "average precision": measure.average_precision.value,
            "mean on matches": measure.mean_match,
            "on mismatches": measure.mean_mismatch,
        }
        for profile in chosen
        for measure in profile.uncertainty.measures
    ]
    return Figure(
        name="uncertainty-auroc",
        title="Which measure predicts mismatches best",
        finding=f"{best} predicts mismatches best in {runs} of {len(chosen)} runs, with an AUROC from "
        f"{min(values):.2f} to {max(values):.2f} (0.5 is chance).",
        note="AUROC: of a mismatch and a match, how often the draft is less certain at the mismatch; with 95 % "
        "intervals over examples. Drafts of each task's largest target.",
        remarks=tuple(profile.remark(profile.uncertainty.finding) for profile in chosen),
        data=Data.of(rows),
        chart=Chart(
            x=Axis("AUROC", "AUROC", grid=True),
            y=Axis("measure", step=44),
            layers=(Layer("point", rows, size=36),),
            series=(Series("draft", coloured(drafts_of(chosen))),),
            beside=True,
        ),
    )
