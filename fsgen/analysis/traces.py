"""The one place that reads a study's traces: lazily, and only the columns that an analysis needs."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from fsgen.analysis.intervals import GROUPS
from fsgen.files import part_files

Frame = pl.DataFrame | pl.LazyFrame
_NEEDED = ("example", "turn", "position", "draft_token", "target_token")


def scan_traces(folder: Path, run: str) -> pl.LazyFrame:
    """The trace of a run, one row a token; nothing is read until it is collected.

    Raises:
        ValueError: the folder has no trace of this run, or a damaged one.
    """
    files = part_files(folder, "traces", run)
    if not files:
        raise ValueError(f"{str(folder)!r} has no traces of the run {run!r}")
    # Bounds of what is known in part are only where a text has some.
    return pl.scan_parquet(files, glob=False, hive_partitioning=False, missing_columns="insert", extra_columns="ignore")


def prepared(traces: Frame) -> pl.LazyFrame:
    """A trace with what every analysis needs; one that is prepared already is returned as it is.

    The new columns are `differs` (System 2's greedy token is not the draft's; null where one of them is not known),
    `length` (tokens of the text), `number` (of the example, from 0, in the order of their ids), and `group` (for
    intervals, see `fsgen.analysis.intervals`).

    Args:
        traces: of one run; columns as in `docs/study.md`.

    Raises:
        ValueError: the frame lacks a column that every analysis needs.
    """
    frame = traces.lazy()
    names = frame.collect_schema().names()
    if {"differs", "length", "number", "group"} <= set(names):
        return frame
    if missing := [name for name in _NEEDED if name not in names]:
        raise ValueError(f"not a trace: there is no column {', '.join(missing)}; there are {', '.join(names)}")
    texts = (
        frame.group_by("example", "turn")
        .agg(length=pl.len())
        .collect(engine="streaming")
        .with_columns(number=pl.col("example").rank("dense") - 1)
        .with_columns(group=(pl.col("number") % GROUPS).cast(pl.UInt16))
    )
    return frame.with_columns(differs=pl.col("draft_token") != pl.col("target_token")).join(
        texts.lazy(), on=("example", "turn")
    )


def collect(frame: pl.LazyFrame) -> pl.DataFrame:
    """The result of a query, computed in pieces: memory holds its groups, not the trace."""
    return frame.collect(engine="streaming")
