"""Signs of failure, named by the study that fsgen starts from (2406.12295): too few, too many, too late consultations.

A run with a router knows System 2's choice only where it asked. What the router passes over is therefore counted on
another run of the same pair and task that asked everywhere: there the router is asked again, token by token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from fsgen.analysis.intervals import Estimate, draws, grouped, percentiles, ratio
from fsgen.analysis.traces import Frame, collect, prepared
from fsgen.methods.learned.file import located

MISSED, NEEDLESS, LATE = 0.1, 0.5, 0.25
"""Above these a sign is found, with the whole interval: the share of the mismatches that is passed over, of the
consultations that change nothing, and of the texts whose first mismatch comes before the first consultation."""
_UNKNOWN = "no run of this pair asked everywhere, or a trace does not tell where this router asks"


@dataclass(frozen=True)
class Sign:
    """One sign of failure in a run.

    Attributes:
        sign: `too few`, `too many` or `too late`.
        found: it is there; None where these traces cannot tell.
        finding: the same in words, with the numbers that show it.
        numbers: these numbers, by name.
    """

    sign: str
    found: bool | None
    finding: str
    numbers: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class Routed:
    """What a router would do on a run that asked everywhere; each number with its interval over examples.

    Attributes:
        consulted_rate: positions at which it asks / n.
        missed: of the mismatches, those at which it does not ask.
        missed_early, missed_late: the same in the first third of the texts, and behind it.
        needless: of its consultations, those where both choose the same token.
        late: of the texts with a mismatch, those whose first mismatch comes before the router's first consultation.
        delay: in the late texts that it asks in at all, the median of the tokens from the first mismatch to the first
            consultation.
    """

    consulted_rate: Estimate | None
    missed: Estimate | None
    missed_early: Estimate | None
    missed_late: Estimate | None
    needless: Estimate | None
    late: Estimate | None
    delay: float | None


def routed(traces: Frame, router: str) -> Routed | None:
    """Ask a router again at every token of a run; None for a router that a trace does not suffice for.

    Args:
        traces: of one run in which System 2 was asked everywhere; columns as in `docs/study.md`.
        router: as a record names it, `max-prob:0.5`.
    """
    asks = _asks(router)
    if asks is None:
        return None
    frame = prepared(traces).filter(pl.col("differs").is_not_null()).with_columns(asks=asks)
    early = 3 * pl.col("position") < pl.col("length")
    caught = pl.col("differs") & pl.col("asks")
    texts = collect(
        frame.group_by("number", "turn").agg(
            tokens=pl.len(),
            asked=pl.col("asks").sum(),
            differing=pl.col("differs").sum(),
            missed=(pl.col("differs") & ~pl.col("asks")).sum(),
            early=(pl.col("differs") & early).sum(),
            missed_early=(pl.col("differs") & early & ~pl.col("asks")).sum(),
            needless=(pl.col("asks") & ~pl.col("differs")).sum(),
            caught=caught.sum(),
            first=pl.col("position").filter("differs").min().cast(pl.Float64),
            first_asked=pl.col("position").filter("asks").min().cast(pl.Float64),
        )
    ).with_columns(
        is_late=pl.col("first") < pl.col("first_asked").fill_null(float("inf")),
        delay=pl.col("first_asked") - pl.col("first"),
    )
    sums = (
        texts.with_columns(
            late=pl.col("differing") - pl.col("early"),
            missed_late=pl.col("missed") - pl.col("missed_early"),
            late_texts=pl.col("is_late").fill_null(False),
            texts=pl.col("first").is_not_null(),
        )
        .group_by("number")
        .agg(pl.exclude("turn", "is_late", "delay", "first", "first_asked").cast(pl.Float64).sum())
        .sort("number")
    )

    def share(part: str, whole: str) -> Estimate | None:
        return ratio(sums[part].to_numpy(), sums[whole].to_numpy())

    return Routed(
        consulted_rate=share("asked", "tokens"),
        missed=share("missed", "differing"),
        missed_early=share("missed_early", "early"),
        missed_late=share("missed_late", "late"),
        needless=share("needless", "asked"),
        late=share("late_texts", "texts"),
        delay=_median(texts.filter("is_late")["delay"]),
    )


def _median(values: pl.Series) -> float | None:
    middle = values.drop_nulls().median()
    return float(middle) if isinstance(middle, (int, float)) else None


def _asks(router: str) -> pl.Expr | None:
    """Where a router asks, as an expression of a trace's columns; a random one is drawn anew."""
    name, _, argument = router.partition(":")
    match name:
        case "always":
            return pl.lit(True)
        case "never":
            return pl.lit(False)
        case "max-prob":
            return pl.col("draft_prob") < float(argument)
        case "margin":
            return pl.col("draft_margin") < float(argument)
        case "entropy":
            return pl.col("draft_entropy") > float(argument)
        case "position":
            start, _, stop = argument.partition("-")
            return pl.col("position").is_between(int(start), int(stop), closed="left")
        case "learned":
            return _learned(argument)
        case "random":
            drawn = pl.struct("number", "turn", "position").hash(seed=0) % 1_000_003
            return drawn < float(argument) * 1_000_003
        case _:
            return None


def _learned(argument: str) -> pl.Expr | None:
    """Where a learned router asks; None where its file is not there any more, or is another one."""
    try:
        model, threshold = located(argument)
    except ValueError:
        return None

    def asks(table: pl.Series) -> pl.Series:
        columns = table.struct.unnest()
        probs = columns["draft_top_probs"].list.head(model.top).list.to_array(model.top).to_numpy()
        scalars = (columns[name].to_numpy() for name in ("draft_prob", "draft_margin", "draft_entropy", "position"))
        return pl.Series(model.score(probs, *scalars) > threshold)

    read = ("draft_top_probs", "draft_prob", "draft_margin", "draft_entropy", "position")
    return pl.struct(read).map_batches(asks, return_dtype=pl.Boolean, is_elementwise=True)


# ---- the signs of a run


def signs(
    texts: pl.DataFrame, alone: pl.DataFrame | None = None, router: str | None = None, again: Routed | None = None
) -> tuple[Sign, ...]:
    """The signs of failure of a run.

    Args:
        texts: its generations; columns as in `docs/study.md`.
        alone: those of the target alone, for scores and times.
        router: of a run that trusts what it does not ask about; None for one that verifies every token, and so cannot
            ask too rarely or too late.
        again: this router on a run that asked everywhere, where there is one.
    """
    faster = _time(texts, alone)
    if router is None:
        return (_many(faster, None, None),)
    lost = _score_lost(texts, alone)
    return (_few(router, again, lost), _many(faster, router, again), _late(router, again))


def _few(router: str, again: Routed | None, lost: Estimate | None) -> Sign:
    numbers = _named(missed=again.missed if again else None, score_lost=lost)
    said, found = [], [_above(lost, 0.0)]
    if again is None:
        said.append(f"Which mismatches {router} passes over is not known: {_UNKNOWN}")
    elif again.missed is None:
        found.append(False)
        said.append("The two never differ")
    else:
        found.append(_above(again.missed, MISSED))
        said.append(f"The router {router} passes over {_share(again.missed)} of the mismatches")
    if lost is not None:
        said.append(
            f"against the target alone {100 * lost.value:.1f} points{_ends(lost, 100, '.1f')} of the score are lost"
        )
    return _sign("too few", found, said, numbers)


def _many(time: Estimate | None, router: str | None, again: Routed | None) -> Sign:
    numbers = _named(needless=again.needless if again else None, time=time)
    said, found = [], [_above(time, 1.0)]
    if router is not None and again is not None and again.needless is not None:
        found.append(_above(again.needless, NEEDLESS))
        said.append(f"At {_share(again.needless)} of the positions where {router} asks both choose the same token")
    if time is not None:
        saved = "no time is saved" if time.value >= 1 else "time is saved"
        said.append(
            f"{'a' if said else 'A'} token takes {time.value:.2f}{_ends(time, 1.0, '.2f')} times as long as with the "
            f"target alone, so that {saved}"
        )
    if not said:
        said.append("Neither needless consultations nor the time of the target alone are known")
    return _sign("too many", found, said, numbers)


def _late(router: str, again: Routed | None) -> Sign:
    if again is None:
        return Sign("too late", None, f"Whether {router} asks too late is not known: {_UNKNOWN}.")
    if again.late is None:
        return Sign("too late", False, "The two never differ.")
    numbers = _named(late=again.late, missed_early=again.missed_early, missed_late=again.missed_late)
    said = [f"In {_share(again.late)} of the texts the first mismatch comes before the first time that {router} asks"]
    if again.delay is not None:
        said[0] += f", in the median by {again.delay:g} {'token' if again.delay == 1 else 'tokens'}"
    if again.missed_early is not None and again.missed_late is not None:
        said.append(
            f"it passes over {_share(again.missed_early)} of the mismatches in the first third of a text and "
            f"{_share(again.missed_late)} of those behind it"
        )
    return _sign("too late", [_above(again.late, LATE)], said, numbers)


def _sign(name: str, found: list[bool | None], said: list[str], numbers: dict[str, Estimate]) -> Sign:
    known = [one for one in found if one is not None]
    return Sign(name, any(known) if known else None, f"{'; '.join(said)}.", numbers)


def _named(**numbers: Estimate | None) -> dict[str, Estimate]:
    return {name: number for name, number in numbers.items() if number is not None}


def _above(estimate: Estimate | None, limit: float) -> bool | None:
    """The whole interval lies above a limit."""
    if estimate is None:
        return None
    return (estimate.value if estimate.low is None else estimate.low) > limit


# ---- against the target alone


def _score_lost(texts: pl.DataFrame, alone: pl.DataFrame | None) -> Estimate | None:
    """How much better the target alone scores on the same examples."""
    if alone is None or alone.is_empty():
        return None
    scored = [frame.drop_nulls("score").group_by("example").agg(pl.col("score").mean()) for frame in (texts, alone)]
    both = scored[0].join(scored[1], on="example", suffix="_alone").sort("example")
    if both.is_empty():
        return None
    return ratio((both["score_alone"] - both["score"]).to_numpy(), np.ones(len(both)))


def _time(texts: pl.DataFrame, alone: pl.DataFrame | None) -> Estimate | None:
    """Seconds a token, over those of the target alone on the same examples."""
    if alone is None or alone.is_empty():
        return None
    sums = [frame.group_by("example").agg(pl.col("seconds", "tokens").sum()) for frame in (texts, alone)]
    both = sums[0].join(sums[1], on="example", suffix="_alone").sort("example")
    table = both.select(pl.exclude("example").cast(pl.Float64)).to_numpy()
    seconds, tokens, seconds_alone, tokens_alone = table.sum(0) if len(table) else np.zeros(4)
    if not (tokens and tokens_alone and seconds_alone):
        return None
    value = float(seconds / tokens / (seconds_alone / tokens_alone))
    table = grouped(table)
    if len(table) < 2:
        return Estimate(value)
    drawn = draws(len(table)) @ table
    with np.errstate(invalid="ignore", divide="ignore"):
        return Estimate(value, *percentiles(drawn[:, 0] / drawn[:, 1] / (drawn[:, 2] / drawn[:, 3])))


# ---- words


def _ends(estimate: Estimate, scale: float, form: str) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f" [{scale * estimate.low:{form}}, {scale * estimate.high:{form}}]"


def _share(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.0f} %{_ends(estimate, 100, '.0f')}"
