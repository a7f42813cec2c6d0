"""Reads the frequencies of pairs: the published values, a CSV file of the same form, or a study."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from fsgen.analysis.frequency import SummaryRow, read_generations, read_run, summarize
from fsgen.analysis.labels import method_label, task_label
from fsgen.analysis.scaling.results import BILLION
from fsgen.metrics import frequency_counts

Sizing = Literal["total", "non-embedding"]
SIZINGS: tuple[Sizing, ...] = ("total", "non-embedding")
PUBLISHED = "published"
PUBLISHED_FILE = Path(__file__).parent.parent / "data" / "published_cof.csv"

SCHEMA: dict[str, pl.DataType] = {
    "family": pl.String(),
    "method": pl.String(),
    "task": pl.String(),
    "target": pl.String(),
    "draft": pl.String(),
    "target_parameters": pl.Float64(),
    "draft_parameters": pl.Float64(),
    "target_tuned": pl.Boolean(),
    "draft_tuned": pl.Boolean(),
    "collaboration_frequency": pl.Float64(),
    "part": pl.List(pl.Float64()),
    "whole": pl.List(pl.Float64()),
}


@dataclass(frozen=True)
class Points:
    """The measured pairs.

    Attributes:
        frame: a row a pair, with the columns of `SCHEMA`. `part` and `whole` are, for each example, the counts whose
            ratio is the frequency, in the same order of examples for all pairs of a set; null where they are not known.
            `target_tuned` and `draft_tuned`: whether it was tuned or distilled from another model; null if not known.
        notes: what was left out, in words.
    """

    frame: pl.DataFrame
    notes: tuple[str, ...] = ()


def read_points(source: str | Path, sizes: str = "total", runs: Collection[str] | None = None) -> Points:
    """Read the pairs of a source.

    Args:
        source: `published` for the values of 2406.12295, a CSV file, or the folder of a study.
        sizes: `total` for all parameters, `non-embedding` for those outside the embeddings.
        runs: of a study's folder, only these.

    Raises:
        ValueError: there is no such source, or its columns or values are not valid.
    """
    if sizes not in SIZINGS:
        raise ValueError(f"sizes {sizes!r} is none of {', '.join(SIZINGS)}")
    path = PUBLISHED_FILE if source == PUBLISHED else Path(source)
    if path.is_dir():
        return _read_folder(path, sizes, runs)
    if not path.is_file():
        raise ValueError(
            f"{str(source)!r} is neither a CSV file nor the folder of a study; "
            f"{PUBLISHED!r} names the published values, which come with fsgen"
        )
    return Points(_read_csv(path, sizes))


def _read_csv(path: Path, sizes: str) -> pl.DataFrame:
    try:
        table = pl.read_csv(path, infer_schema=False)
    except (pl.exceptions.PolarsError, UnicodeError) as error:
        raise ValueError(f"{str(path)!r} is not a CSV file: {str(error).splitlines()[0]}") from None
    kind = "" if sizes == "total" else "non_embedding_"
    large, small, frequency = f"large_{kind}billion", f"small_{kind}billion", "collaboration_frequency"
    missing = [name for name in ("method", "task", large, small, frequency) if name not in table.columns]
    if missing:
        hint = "; its sizes are those of whole models" if kind and "large_billion" in table.columns else ""
        raise ValueError(f"{str(path)!r} has no column {', '.join(map(repr, missing))}{hint}")
    rows = []
    for line, row in enumerate(table.iter_rows(named=True), start=2):
        where = f"{str(path)!r}, line {line}"
        sizes_of = {name: _number(row, name, where) for name in (large, small)}
        measured = _number(row, frequency, where)
        if not 0 <= measured <= 1:
            raise ValueError(f"{where}: {frequency} {measured:g} is not between 0 and 1")
        if not 0 < sizes_of[small] <= sizes_of[large]:
            raise ValueError(
                f"{where}: sizes must be positive and the large model not the smaller one; "
                f"{large} is {sizes_of[large]:g}, {small} is {sizes_of[small]:g}"
            )
        rows.append(
            {
                "family": row.get("family") or "",
                "method": row["method"] or "",
                "task": row["task"] or "",
                "target": row.get("large") or f"{sizes_of[large]:g}B",
                "draft": row.get("small") or f"{sizes_of[small]:g}B",
                "target_parameters": sizes_of[large] * BILLION,
                "draft_parameters": sizes_of[small] * BILLION,
                "target_tuned": None,
                "draft_tuned": None,
                frequency: measured,
                "part": None,
                "whole": None,
            }
        )
    if not rows:
        raise ValueError(f"{str(path)!r} has no rows")
    return pl.DataFrame(rows, schema=SCHEMA)


def _number(row: dict[str, str | None], name: str, where: str) -> float:
    try:
        value = float(row[name] or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: {name} {row[name]!r} is not a number")
    return value


def _read_folder(folder: Path, sizes: str, runs: Collection[str] | None) -> Points:
    """The runs of a study that measure every position (router `always`): each method and task is a set."""
    key = "parameters" if sizes == "total" else "non_embedding_parameters"
    rows, notes = [], []
    for run in summarize(folder):
        if run.router != "always" or run.collaboration_frequency is None or (runs is not None and run.run not in runs):
            continue
        members = read_run(folder, run.run)["members"]
        unknown = [members[role]["name"] for role in ("target", "draft") if not members[role].get(key)]
        if unknown:
            notes.append(f"left out, {key.replace('_', ' ')} not known: {run.run} ({', '.join(unknown)})")
            continue
        rows.append(
            {
                "family": "",
                "method": method_label(run),
                "task": task_label(run),
                "target": run.target,
                "draft": run.draft,
                "target_parameters": members["target"][key],
                "draft_parameters": members["draft"][key],
                "target_tuned": bool(members["target"].get("tuned_from")),
                "draft_tuned": bool(members["draft"].get("tuned_from")),
                "collaboration_frequency": run.collaboration_frequency,
                "examples": _examples(folder, run),
            }
        )
    if not rows:
        raise ValueError(f"{str(folder)!r} has no finished run that measures every position, such as method oracle")
    return Points(_aligned(rows), tuple(notes))


def _examples(folder: Path, run: SummaryRow) -> dict[str, tuple[float, float]]:
    """The two counts of each example of a run."""
    texts = read_generations(folder, run.run)
    part, whole = frequency_counts(sampled=bool(texts["sampled"].any()))
    sums = texts.group_by("example").agg(pl.col(part, whole).sum().cast(pl.Float64))
    return {example: (a, b) for example, a, b in sums.iter_rows()}


def _aligned(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """The frame, with the examples of each set in one order; one that failed in a run counts nothing there."""
    of_set: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        of_set.setdefault((row["method"], row["task"]), set()).update(row["examples"])
    for row in rows:
        examples = row.pop("examples")
        counts = [examples.get(example, (0.0, 0.0)) for example in sorted(of_set[row["method"], row["task"]])]
        row["part"], row["whole"] = [part for part, _ in counts], [whole for _, whole in counts]
    return pl.DataFrame(rows, schema=SCHEMA)
