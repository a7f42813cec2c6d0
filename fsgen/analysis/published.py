"""Counts as arXiv 2406.12295 defines them, beside ours, to show what its definitions change.

Counted again is what a trace suffices for: mismatches over consulted positions, positions among the consulted ones,
work without catching up, and answers compared as the last run of digits. `NOT_RECOUNTED` names the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import polars as pl

from fsgen.analysis.intervals import Estimate, ratio
from fsgen.analysis.traces import Frame, collect, prepared
from fsgen.metrics import frequency_counts

TENTHS = 10
PUBLISHED = {
    "collaboration_frequency": ("differing", "consulted"),
    "target_tokens_per_token": ("consulted", "tokens"),
}
"""The published definitions: the numerator and the denominator."""
NOT_RECOUNTED = {
    "contrastive": "As published, contrastive decoding averages the logits of both models; a trace keeps no logits. "
    "The method `ensemble` is that average: run it for the published numbers.",
    "proxy": "As published, proxy tuning counts where System 2 differs from the untuned small model; a trace keeps "
    "what the tuned one, the draft, would have chosen.",
    "mmlu_stem": "The published MMLU-STEM prompts have few-shot examples of a wrong subject, which change the texts "
    "themselves.",
    "mbpp": "Published MBPP programs ran inside the process that judged them; a stored score is that of a sandbox.",
}
"""What cannot be counted again, by its method or task."""
_DIGITS = re.compile(r"\d*\.?\d+")


@dataclass(frozen=True)
class Both:
    """One number by our definition, and as published."""

    ours: Estimate | None
    published: Estimate | None


@dataclass(frozen=True)
class Tenth:
    """A tenth of the texts: which share of all mismatches lies there, by the place in the text and as published."""

    start: float
    stop: float
    ours: float
    published: float


@dataclass(frozen=True)
class PublishedResult:
    """A run counted both ways.

    Attributes:
        frequency: how often the two differ. Ours is over all positions, and so None for a router that did not consult
            everywhere, unless there is a run that did; the published mismatch ratio is over those consulted.
        target_tokens_per_token: work of the target; published, without catching up on tokens that it did not decide.
        accuracy: of GSM8K, where published answers are the last run of digits, without sign or separators.
        tenths: where the mismatches are; published positions are counted among the consulted ones.
        not_recounted: the published definitions that a trace does not suffice for.
        finding: the same in a sentence.
    """

    frequency: Both
    target_tokens_per_token: Both
    accuracy: Both
    tenths: tuple[Tenth, ...]
    not_recounted: tuple[str, ...]
    finding: str


def published(
    texts: pl.DataFrame,
    traces: Frame,
    *,
    method: str = "oracle",
    task: str = "",
    everywhere: pl.DataFrame | None = None,
    references: pl.DataFrame | None = None,
) -> PublishedResult:
    """Count a run as arXiv 2406.12295 did.

    Args:
        texts: its generations; columns as in `docs/study.md`.
        traces: its tokens.
        method, task: of the run; they decide what cannot be counted again.
        everywhere: the generations of a run of the same pair and task that consulted System 2 everywhere; the run
            itself if it did.
        references: the right answers, columns `example` and `reference`.
    """
    ours = None
    if everywhere is not None:
        ours = _ratio(everywhere, *frequency_counts(bool(everywhere["sampled"].any())))
    counted = {name: _ratio(texts, *counts) for name, counts in PUBLISHED.items()}
    frequency = Both(ours, counted["collaboration_frequency"])
    work = Both(_ratio(texts, "target_tokens", "tokens"), counted["target_tokens_per_token"])
    scores = Both(_scored(texts), _rescored(texts, references) if task == "gsm8k" else None)
    return PublishedResult(
        frequency=frequency,
        target_tokens_per_token=work,
        accuracy=scores,
        tenths=_tenths(prepared(traces)),
        not_recounted=tuple(NOT_RECOUNTED[name] for name in (method.partition(":")[0], task) if name in NOT_RECOUNTED),
        finding=_finding(frequency, work, scores),
    )


def published_metrics(texts: pl.DataFrame) -> dict[str, float]:
    """The metrics of a run whose published definition differs, by the names of ours."""
    counted = {name: _ratio(texts, *counts) for name, counts in PUBLISHED.items()}
    return {name: estimate.value for name, estimate in counted.items() if estimate is not None}


def _ratio(texts: pl.DataFrame, part: str, whole: str) -> Estimate | None:
    sums = texts.group_by("example").agg(pl.col(part, whole).cast(pl.Float64).sum()).sort("example")
    return ratio(sums[part].to_numpy(), sums[whole].to_numpy())


def _scored(texts: pl.DataFrame) -> Estimate | None:
    scored = texts.drop_nulls("score")
    return _ratio(scored.with_columns(one=pl.lit(1)), "score", "one") if len(scored) else None


def _rescored(texts: pl.DataFrame, references: pl.DataFrame | None) -> Estimate | None:
    if references is None:
        return None
    joined = texts.drop_nulls("score").join(references, on="example").drop_nulls(["text", "reference"]).sort("example")
    if joined.is_empty():
        return None
    right = [
        (found := _DIGITS.findall(text)) != [] and found[-1] == (_DIGITS.findall(reference) or [""])[-1]
        for text, reference in joined.select("text", "reference").iter_rows()
    ]
    return ratio(np.array(right, dtype=np.float64), np.ones(len(right)))


def _tenths(frame: pl.LazyFrame) -> tuple[Tenth, ...]:
    """Of all mismatches, the share in each tenth; published positions are those among the consulted tokens."""
    consulted = frame.filter(pl.col("target_token").is_not_null())
    text = ("number", "turn")
    skipped = collect(frame.select(pl.col("target_token").is_null().any())).item()
    place = pl.col("position").rank("ordinal").over(text) - 1 if skipped else pl.col("position")
    length = pl.len().over(text) if skipped else pl.col("length")
    counts = np.zeros((TENTHS, 2))
    for side, tenth in enumerate((TENTHS * pl.col("position") // pl.col("length"), TENTHS * place // length)):
        rows = consulted.select("differs", tenth=tenth.cast(pl.Int64)).filter(pl.col("differs"))
        table = collect(rows.group_by("tenth").agg(mismatches=pl.len()))
        counts[table["tenth"].to_numpy(), side] = table["mismatches"].to_numpy()
    if not counts.any():
        return ()
    shares = counts / counts.sum(0)
    return tuple(
        Tenth(i / TENTHS, (i + 1) / TENTHS, float(ours), float(theirs)) for i, (ours, theirs) in enumerate(shares)
    )


def _finding(frequency: Both, work: Both, scores: Both) -> str:
    if frequency.published is None:
        return "System 2 was not consulted."
    said = [f"Counted as published, the mismatch ratio is {frequency.published}"]
    if frequency.ours is not None:
        said[0] += f"; over all positions the two differ at {frequency.ours}"
    if work.ours is not None and work.published is not None and work.ours.value > 1.05 * work.published.value:
        said.append(
            f"with catching up, {work.ours.value:.2f} tokens run through the target for each token written, not "
            f"{work.published.value:.2f}"
        )
    if scores.ours is not None and scores.published is not None and scores.ours.value != scores.published.value:
        said.append(f"the published way of comparing answers gives a score of {scores.published}, ours {scores.ours}")
    return "; ".join(said) + "."
