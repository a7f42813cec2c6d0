"""The summary of a study: each metric of each run, with bootstrap intervals over examples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fsgen.analysis.intervals import RESAMPLES, Estimate, ratio, wilson
from fsgen.analysis.published import published_metrics
from fsgen.files import DamagedError, part_files, read_json, read_table, write_json
from fsgen.metrics import METRICS, Counts, ratio_counts

_SCORES = ("accuracy", "draft_accuracy", "target_accuracy")


@dataclass(frozen=True)
class SummaryRow:
    """One run as `summary.json` has it; the metrics are those of `fsgen.metrics`.

    Attributes:
        run: its key.
        task, shots, chat: the benchmark, its few-shot examples, and whether prompts have the chat format.
        draft, target, base: names of the members; None for a role that the method does not use.
        draft_parameters, target_parameters: all parameters; None where not known.
        method, router, draft_tokens, sampling: how it was written.
        engine: `loop` or `replay`.
        examples: of the task; `failed`: texts of them that failed.
        tokens: n, written tokens.
        ci_low, ci_high: 95 % bootstrap interval of the collaboration frequency, over examples.
        accuracy: the mean score of the texts that have one; of the draft and the target alone likewise.
        seconds: wall clock; of a replay, that of the passes.
        intervals: 95 % bootstrap intervals over examples, of every metric and accuracy that has one, by its name.
        published: of a study with `definitions: published`, metrics counted as arXiv 2406.12295 did, by their name;
            see `fsgen.analysis.published`.
    """

    run: str
    task: str
    shots: int
    chat: bool
    draft: str | None
    target: str
    base: str | None
    draft_parameters: int | None
    target_parameters: int | None
    method: str
    router: str | None
    draft_tokens: int
    sampling: str
    engine: str
    examples: int
    failed: int
    tokens: int
    collaboration_frequency: float | None
    ci_low: float | None
    ci_high: float | None
    consulted_rate: float | None
    acceptance_rate: float | None
    mean_accepted_length: float | None
    target_calls_per_token: float | None
    target_tokens_per_token: float | None
    accuracy: float | None
    draft_accuracy: float | None
    target_accuracy: float | None
    seconds: float
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    published: dict[str, float] = field(default_factory=dict)

    def estimate(self, metric: str) -> Estimate | None:
        """A metric or accuracy with its interval; None where the run has none."""
        value = getattr(self, metric)
        if metric == "collaboration_frequency":
            return None if value is None else Estimate(value, self.ci_low, self.ci_high)
        return None if value is None else Estimate(value, *self.intervals.get(metric, ()))


def read_study(folder: Path) -> dict[str, Any]:
    """The plan of a study. Raises ValueError where the folder has none."""
    path = folder / "study.json"
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} is not the folder of a study: there is no study.json in it")
    content: dict[str, Any] = read_json(path)
    return content


def read_run(folder: Path, run: str) -> dict[str, Any]:
    """The record of a run. Raises ValueError where it is damaged."""
    content: dict[str, Any] = read_json(folder / "runs" / f"{run}.json")
    return content


def read_generations(folder: Path, run: str) -> pl.DataFrame:
    """One row a text of a run. Raises ValueError where one of its files is damaged."""
    files = part_files(folder, "generations", run)
    tables = [pl.read_parquet(file, glob=False, hive_partitioning=False) for file in files]
    return pl.concat(tables) if files else pl.DataFrame()


def read_examples(folder: Path, record: dict[str, Any]) -> pl.DataFrame | None:
    """Name, prompt and reference of the examples of a run, from its record; None where the folder has none."""
    digest = str((record.get("identity") or {}).get("task", {}).get("examples", ""))[:16]
    path = folder / "examples" / f"{digest}.parquet"
    return read_table(path) if path.is_file() else None


def summarize(folder: Path) -> list[SummaryRow]:
    """The runs of a study's plan that are finished, in its order; see `SummaryRow`.

    Raises:
        ValueError: the folder is not that of a study.
    """

    @cache
    def texts(run: str) -> pl.DataFrame:
        there = (folder / "runs" / f"{run}.json").is_file()
        return read_generations(folder, run) if there else pl.DataFrame()

    @cache
    def alone(run: str | None) -> Estimate | None:
        return estimates(texts(run)).get("accuracy") if run is not None else None

    rows = []
    study = read_study(folder)
    as_published = study["config"].get("definitions") == "published"
    for planned in study["rows"]:
        generations = texts(planned["run"])
        if generations.is_empty():
            continue
        record = read_run(folder, planned["run"])
        if record["status"] == "finished":
            scores = {f"{role}_accuracy": alone(planned[f"{role}_alone"]) for role in ("draft", "target")}
            known = {name: score for name, score in scores.items() if score is not None}
            row = _row(record, generations, estimates(generations) | known)
            if as_published and row.draft is not None:
                row = replace(row, published=published_metrics(generations))
            rows.append(row)
    return rows


def _row(record: dict[str, Any], generations: pl.DataFrame, found: dict[str, Estimate]) -> SummaryRow:
    members, counts = record["members"], total_counts(generations)
    intervals = {
        name: (estimate.low, estimate.high)
        for name, estimate in found.items()
        if estimate.low is not None and estimate.high is not None
    }
    low, high = intervals.get("collaboration_frequency", (None, None))
    scores: dict[str, Any] = {name: found[name].value if name in found else None for name in _SCORES}
    draft, target, base = (members.get(role, {}) for role in ("draft", "target", "base"))
    metrics: dict[str, Any] = {name: getattr(counts, name) for name in ("tokens", *METRICS, "seconds")}
    return SummaryRow(
        run=record["run"],
        task=record["task"]["name"],
        shots=record["task"]["shots"],
        chat=record["task"]["chat"],
        method=record["method"]["name"],
        router=record["method"]["router"],
        draft_tokens=record["method"]["draft_tokens"],
        sampling=record["sampling"]["name"],
        engine=record["engine"],
        examples=generations["example"].n_unique(),
        failed=generations["error"].drop_nulls().len(),
        ci_low=low,
        ci_high=high,
        draft=draft.get("name"),
        target=target["name"],
        base=base.get("name"),
        draft_parameters=draft.get("parameters") or None,
        target_parameters=target["parameters"] or None,
        intervals=intervals,
        **scores,
        **metrics,
    )


def total_counts(generations: pl.DataFrame) -> Counts:
    """The counts of all texts of a run together."""
    if generations.is_empty():
        return Counts()
    names = [field.name for field in fields(Counts) if field.name != "sampled"]
    sums = generations.select(pl.col(names).sum()).row(0, named=True)
    return Counts(sampled=bool(generations["sampled"].any()), **sums)


def accuracy(generations: pl.DataFrame) -> float | None:
    """The mean score of the texts that have one; None where none has."""
    scores = generations["score"].drop_nulls() if "score" in generations.columns else pl.Series([], dtype=pl.Float64)
    return float(np.mean(scores.to_numpy())) if len(scores) else None


def estimates(generations: pl.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Estimate]:
    """Every metric of a run that has a value, and its accuracy, with intervals over examples; by name.

    Examples are resampled, not tokens: those of one text, and the turns of one dialogue, are not independent. A metric
    is the ratio of two sums over the drawn examples.

    Args:
        generations: the texts of a run, of each its counts and score.
        resamples: how often the examples are drawn.
        seed: of the draws.
    """
    if generations.is_empty():
        return {}
    sampled = bool(generations["sampled"].any())
    wanted = {metric: ratio_counts(metric, sampled) for metric in METRICS} | {"accuracy": (("score",), ("scored",))}
    counts = sorted({name for names in wanted.values() for side in names for name in side})
    sums = (
        generations.with_columns(scored=pl.col("score").is_not_null(), score=pl.col("score").fill_null(0.0))
        .group_by("example")
        .agg(pl.col(counts).cast(pl.Float64).sum())
        .sort("example")
    )
    found = {}
    for metric, sides in wanted.items():
        part, whole = (sums.select(pl.sum_horizontal(side)).to_series().to_numpy() for side in sides)
        estimate = ratio(part, whole, resamples, seed)
        if metric == "accuracy" and estimate is not None and estimate.low is None and estimate.value in (0.0, 1.0):
            scored = int((whole > 0).sum())
            estimate = wilson(round(estimate.value * scored), scored)
        if estimate is not None:
            found[metric] = estimate
    return found


def write_summary(folder: Path, rows: Iterable[SummaryRow]) -> Path:
    """Write `summary.json`, whole or not at all."""
    path = folder / "summary.json"
    write_json(path, [asdict(row) for row in rows])
    return path


def read_summary(folder: Path) -> list[SummaryRow]:
    """The summary of a finished study. Raises ValueError where there is none."""
    path = folder / "summary.json"
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} has no summary.json: the study is not finished")
    rows = read_json(path, list)
    try:
        for row in rows:
            row["intervals"] = {name: tuple(ends) for name, ends in row.get("intervals", {}).items()}
        return [SummaryRow(**row) for row in rows]
    except (TypeError, AttributeError) as error:
        raise DamagedError(path, error) from None
