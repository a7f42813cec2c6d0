"""Matches and mismatches by the draft's probabilities, in two dimensions, as in arXiv 2406.12295."""

from __future__ import annotations

from collections.abc import Sequence

from fsgen.report.chart import MATCH, MISMATCH, Axis, Chart, Data, Figure, Key, Layer, Row, Series
from fsgen.report.profiles import Profile

_NAMES = {"pca": "PCA", "t-sne": "t-SNE"}


def projected(profiles: Sequence[Profile]) -> Figure | None:
    """For the main pair of each task, a sample of tokens by PCA and by t-SNE."""
    chosen = [
        (profile, projection)
        for profile in profiles
        if profile.projection is not None
        for projection in profile.projection.projections
    ]
    if not chosen:
        return None
    points: list[Row] = [
        {
            "task": profile.task,
            "projection": _NAMES[one.method],
            "first": round(x, 3),
            "second": round(y, 3),
            "greedy choices": "mismatch" if mismatch else "match",
        }
        for profile, one in chosen
        for x, y, mismatch in zip(one.x, one.y, one.mismatch, strict=True)
    ]
    table: list[Row] = [
        {
            **profile.names,
            "projection": _NAMES[one.method],
            "tokens": len(one.x),
            "silhouette": one.silhouette,
            "Davies-Bouldin": one.davies_bouldin,
            "adjusted Rand index": one.adjusted_rand_index,
        }
        for profile, one in chosen
    ]
    said = [(one.silhouette, f"{_NAMES[one.method]} on {profile.task}") for profile, one in chosen]
    (low, least), (high, most) = min(said), max(said)
    word = "mixed" if high < 0.1 else "separated" if low > 0.5 else "separated in part at the most"
    return Figure(
        name="projections",
        title="The draft's probabilities in two dimensions",
        finding=f"Matches and mismatches are {word}: the silhouette is from {low:.2f} ({least}) to {high:.2f} "
        f"({most}), where 1 would be two groups apart and 0 a single one.",
        note="Each point is a token: the probabilities of the draft's most likely tokens, the most likely first, in "
        "the two dimensions that PCA or t-SNE finds without knowing which is which. A sample of one pair a task.",
        remarks=tuple(
            profile.remark(profile.projection.finding) for profile in profiles if profile.projection is not None
        ),
        data=Data.of(table),
        chart=Chart(
            x=Axis("first", "first dimension", grid=False),
            y=Axis("second", "second", grid=False),
            layers=(Layer("point", points, size=12, shown=("greedy choices",)),),
            series=(Series("greedy choices", (Key("match", MATCH), Key("mismatch", MISMATCH))),),
            facets=("task", "projection"),
            height=200,
        ),
    )
