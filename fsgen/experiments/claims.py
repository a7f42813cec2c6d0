"""`claims`: each claim of arXiv 2406.12295 with its verdict on these models and on the published values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
import polars as pl
from pydantic import Field

from fsgen.analysis import claims
from fsgen.analysis.answers import Answer, Point, Row
from fsgen.analysis.claims import Claim
from fsgen.analysis.frequency import SummaryRow
from fsgen.analysis.intervals import Estimate, Floats, mean_of
from fsgen.analysis.labels import method_label, short_name, task_label
from fsgen.analysis.projections import project
from fsgen.analysis.ranking import Ranking
from fsgen.analysis.scaling import PUBLISHED, read_points
from fsgen.analysis.trainings import Groups
from fsgen.analysis.uncertainty import auroc
from fsgen.experiments.base import Experiment
from fsgen.experiments.config import words
from fsgen.experiments.lab import Lab, Study
from fsgen.study.config import Keys

_RESAMPLES = 500
_VERDICTS = {True: "yes", False: "no", None: "open"}


class Options(Keys):
    """Which few-shot settings were published, and how many tokens of a run are projected; see `claims.yaml`."""

    shots: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    projected: Annotated[int, Field(ge=10)] = 400


def check(lab: Lab, options: Options) -> None:
    """Refuse runs that skip positions, sampled ones, and a study without the oracle or without candidates."""
    plan = lab.plan()
    for row in plan.rows:
        if row.cell.sampling.temperature > 0 or row.cell.router != "always":
            raise ValueError(
                f"{row.cell.label}: the claims are of greedy texts, and of routers that consult everywhere"
            )
    if not any(row.cell.method.name == "oracle" for row in plan.rows):
        raise ValueError("the study has no method oracle, which the laws and the positions are of")
    if lab.varied().candidates < 2:
        raise ValueError("the study keeps fewer than 2 candidates, which the projections are of (candidates: 10)")


def measure(
    lab: Lab, options: Options
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, list[Row], dict[str, Estimate], Options, Groups, pl.DataFrame]:
    """Every pair by every method, and what their traces say; see `estimate`."""
    study = lab.study()
    points = read_points(lab.folder, runs=[row.run for row in study.rows]).frame
    tenths = pl.concat(_tenths(study, row) for row in study.rows)
    oracles = [row for row in study.rows if row.method.startswith("oracle")]
    nats = pl.concat(_nats(study, row) for row in oracles)
    projected = [row for run in oracles for row in _projected(lab, study, run, options)]
    published = read_points(PUBLISHED).frame
    return points, tenths, nats, projected, _areas(study, oracles), options, study.trainings, published


def _about(row: SummaryRow) -> dict[str, str]:
    names = {"draft": short_name(row.draft), "target": short_name(row.target)}
    return {"task": task_label(row), "method": method_label(row), **names}


def _labelled(frame: pl.LazyFrame, row: SummaryRow) -> pl.DataFrame:
    return frame.with_columns(pl.lit(value).alias(name) for name, value in _about(row).items()).collect()


def _tenths(study: Study, row: SummaryRow) -> pl.DataFrame:
    """Tokens and mismatches of the first tenth of each text, and of the rest."""
    known = study.traces(row.run).filter(pl.col("differs").is_not_null())
    first = 10 * pl.col("position").cast(pl.Int64) < pl.col("length").cast(pl.Int64)
    sums = known.group_by("example", early=first).agg(tokens=pl.len().cast(pl.Int64), differing=pl.col("differs").sum())
    return _labelled(sums.sort("example", "early"), row)


def _nats(study: Study, row: SummaryRow) -> pl.DataFrame:
    """Both models' entropies on the same positions, at matches and at mismatches."""
    known = study.traces(row.run).filter(pl.col("differs").is_not_null(), pl.col("target_entropy").is_not_null())
    mine, theirs = (pl.col(f"{role}_entropy").cast(pl.Float64) for role in ("draft", "target"))
    sums = known.group_by("example", "differs").agg(
        tokens=pl.len().cast(pl.Int64), draft_nats=mine.sum(), target_nats=theirs.sum(), higher=(mine > theirs).sum()
    )
    return _labelled(sums.sort("example", "differs"), row)


def _projected(lab: Lab, study: Study, row: SummaryRow, options: Options) -> Iterator[Row]:
    """The measures of PCA and t-SNE of a run, and how far apart the two models' entropies are as distributions."""

    def made() -> pl.DataFrame:
        found = project(study.traces(row.run), options.projected)
        sides = study.traces(row.run).select("draft_entropy", "target_entropy").drop_nulls().collect()
        apart = claims.distance(*(sides[name].to_numpy().astype(float) for name in sides.columns))
        rows = [
            (one.method, one.silhouette, one.davies_bouldin, one.adjusted_rand_index, apart)
            for one in found.projections
        ]
        names = ["projection", "silhouette", "Davies-Bouldin", "adjusted Rand index", "entropies apart"]
        return pl.DataFrame(rows, schema=dict(zip(names, [pl.String, *[pl.Float64] * 4], strict=True)), orient="row")

    table = lab.table("projected", {"run": row.run, "tokens": options.projected}, made)
    return ({**_about(row), **one} for one in table.iter_rows(named=True))


def _areas(study: Study, rows: Sequence[SummaryRow]) -> dict[str, Estimate]:
    """By task the AUROC of the draft's largest probability for mismatches, as a mean over the pairs."""
    rankings: dict[str, list[Ranking]] = {}
    for row in rows:
        columns = (
            study.traces(row.run).filter(pl.col("differs").is_not_null()).select("draft_prob", "differs", "number")
        )
        one = columns.collect()
        differs = one["differs"].to_numpy()
        if 0 < differs.sum() < len(differs):
            score = -one["draft_prob"].to_numpy().astype(float)
            ranking = Ranking.of(score, differs, one["number"].to_numpy().astype(np.int64))
            rankings.setdefault(task_label(row), []).append(ranking)

    def area(ranking: Ranking, drawn: Floats) -> Floats:
        return auroc(*ranking.sums(drawn))

    return {
        task: mean_of([(partial(area, one), one.groups) for one in each], _RESAMPLES) for task, each in rankings.items()
    }


def estimate(
    points: pl.DataFrame,
    tenths: pl.DataFrame,
    nats: pl.DataFrame,
    projected: Sequence[Row],
    areas: Mapping[str, Estimate],
    options: Options,
    trainings: Groups,
    published: pl.DataFrame,
) -> Answer:
    """The answer: a verdict for each claim.

    Args:
        points: the pairs, tasks and methods, as `read_points` gives them.
        tenths: of the early claim; `fsgen.analysis.claims.early`.
        nats: of both entropies; `fsgen.analysis.claims.entropies`.
        projected: measures of the projections of each run.
        areas: the AUROC of each task.
        options: of the experiment.
        trainings: the models that are trainings of one size.
        published: the paper's values, like `points`.
    """
    oracle = claims.of_kind(tenths, "oracle")
    silhouettes = [(row["task"], row["projection"], row["silhouette"], row["adjusted Rand index"]) for row in projected]
    found = {
        "few": claims.few(points, published),
        "law": claims.law(points, published),
        "early": claims.early(oracle, trainings),
        "ranked": claims.ranked(areas),
        "clustered": claims.clustered(silhouettes),
        "entropies": claims.entropies(nats, trainings),
        "common": claims.common(points, published, tenths, trainings),
        "few-shot": claims.few_shot(points, options.shots),
        "mt-bench": claims.on_task(points, published, "mt_bench"),
    }
    told = words("claims")["claims"]
    known = {name: claim for name, claim in found.items() if claim.numbers}
    verdicts = [claim.holds for claim in known.values()]
    return Answer.of(
        words("claims"),
        holds=claims.agreed(verdicts),
        numbers={f"{name}: {key}": number for name, claim in known.items() for key, number in claim.numbers.items()},
        charts={"few": (*_shares(found["few"].numbers, "these models"), *_shares(found["few"].values, "published"))},
        tables={
            "claims": (_row(told[name], claim) for name, claim in found.items()),
            "published": _beside(found),
            "projections": projected,
        },
        each=" ".join(
            f"{told[name]['short']}: {_VERDICTS[claim.holds]}{_also(claim)}{_first(claim)}."
            for name, claim in known.items()
        ),
        yes=verdicts.count(True),
        no=verdicts.count(False),
        left=verdicts.count(None),
        count=len(verdicts),
        missing=len(known) < len(found),
        absent=", ".join(told[name]["short"] for name in found if name not in known),
    )


def _first(claim: Claim) -> str:
    """The first number of a claim."""
    name, number = next(iter(claim.numbers.items()))
    return f" ({number}" + ("" if name == "all" else f", {name}") + ")"


def _also(claim: Claim) -> str:
    return f"; published: {_VERDICTS[claim.published]}" if claim.values else ""


def _row(told: Mapping[str, Any], claim: Claim) -> Row:
    return {
        "claim": told["claim"],
        "on these models": _VERDICTS[claim.holds] if claim.numbers else "not measured",
        "numbers": "; ".join(f"{name} {number}" for name, number in claim.numbers.items()),
        "on the published values": _VERDICTS[claim.published] if claim.values else "no values",
        "what would overturn it": told["overturn"],
    }


def _beside(found: Mapping[str, Claim]) -> Iterator[Row]:
    """The numbers that both have."""
    for name, claim in found.items():
        for key in dict.fromkeys([*claim.numbers, *claim.values]):
            if claim.values:
                ours, theirs = claim.numbers.get(key), claim.values.get(key)
                yield {
                    "claim": name,
                    "number": key,
                    "these models": None if ours is None else str(ours),
                    "published": None if theirs is None else theirs.value,
                }


def _shares(numbers: Mapping[str, Estimate], series: str) -> Iterator[Point]:
    return (Point.of(name, number, series) for name, number in numbers.items())


EXPERIMENT = Experiment(Options, measure, estimate, check)
