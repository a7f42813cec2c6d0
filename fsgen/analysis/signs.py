"""Signs of failure, as arXiv 2406.12295 names them: too few, too many, too late consultations.

A run with a router knows System 2's choice only where it consulted System 2. What the router misses is therefore
counted on another run of the same pair and task that consulted everywhere: there the router decides again, token by
token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from fsgen.analysis.intervals import Estimate, mean_change, ratio
from fsgen.analysis.traces import Frame, collect, prepared
from fsgen.methods.learned.file import located

MISSED, NEEDLESS, LATE = 0.1, 0.5, 0.25
"""A sign is found where the whole interval lies above these: the share of the mismatches that are missed; of the
consultations that change nothing, or, where every token is verified, of the drafted tokens that are rejected; and of
the texts whose first mismatch comes before the first consultation."""
_UNKNOWN = "no run of this pair consulted everywhere, or a trace does not show where this router consults"


@dataclass(frozen=True)
class Sign:
    """One sign of failure in a run.

    Attributes:
        sign: `too few`, `too many` or `too late`.
        found: whether it is there; None where these traces cannot tell.
        finding: the same in words, with its numbers.
        numbers: these, by name.
    """

    sign: str
    found: bool | None
    finding: str
    numbers: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class Routed:
    """What a router would do on a run that consulted everywhere; each number with its interval over examples.

    Attributes:
        consulted_rate: positions at which it consults / n.
        missed: of the mismatches, those at which it does not consult.
        missed_early, missed_late: the same in the first third of the texts, and after it.
        needless: of its consultations, those where both choose the same token.
        late: of the texts with a mismatch, those whose first mismatch comes before the first consultation.
        delay: of these texts that have a consultation, the median number of tokens from the first mismatch to it.
    """

    consulted_rate: Estimate | None
    missed: Estimate | None
    missed_early: Estimate | None
    missed_late: Estimate | None
    needless: Estimate | None
    late: Estimate | None
    delay: float | None


def routed(traces: Frame, router: str) -> Routed | None:
    """Apply a router to every token of a run; None for a router that needs more than a trace has.

    Args:
        traces: of one run that consulted System 2 everywhere; columns as in `docs/study.md`.
        router: as a record names it, `max-prob:0.5`.
    """
    consults = _consults(router)
    if consults is None:
        return None
    frame = prepared(traces).filter(pl.col("differs").is_not_null()).with_columns(consults=consults)
    early = 3 * pl.col("position") < pl.col("length")
    missed = pl.col("differs") & ~pl.col("consults")
    texts = collect(
        frame.group_by("number", "turn").agg(
            tokens=pl.len(),
            consulted=pl.col("consults").sum(),
            differing=pl.col("differs").sum(),
            missed=missed.sum(),
            early=(pl.col("differs") & early).sum(),
            missed_early=(missed & early).sum(),
            needless=(pl.col("consults") & ~pl.col("differs")).sum(),
            first=pl.col("position").filter("differs").min().cast(pl.Float64),
            first_call=pl.col("position").filter("consults").min().cast(pl.Float64),
        )
    ).with_columns(
        is_late=pl.col("first") < pl.col("first_call").fill_null(float("inf")),
        delay=pl.col("first_call") - pl.col("first"),
    )
    sums = (
        texts.with_columns(
            late=pl.col("differing") - pl.col("early"),
            missed_late=pl.col("missed") - pl.col("missed_early"),
            late_texts=pl.col("is_late").fill_null(False),
            texts=pl.col("first").is_not_null(),
        )
        .group_by("number")
        .agg(pl.exclude("turn", "is_late", "delay", "first", "first_call").cast(pl.Float64).sum())
        .sort("number")
    )

    def share(part: str, whole: str) -> Estimate | None:
        return ratio(sums[part].to_numpy(), sums[whole].to_numpy())

    return Routed(
        consulted_rate=share("consulted", "tokens"),
        missed=share("missed", "differing"),
        missed_early=share("missed_early", "early"),
        missed_late=share("missed_late", "late"),
        needless=share("needless", "consulted"),
        late=share("late_texts", "texts"),
        delay=_median(texts.filter("is_late")["delay"]),
    )


def _median(values: pl.Series) -> float | None:
    middle = values.drop_nulls().median()
    return float(middle) if isinstance(middle, (int, float)) else None


def _consults(router: str) -> pl.Expr | None:
    """Where a router consults System 2, as an expression of a trace's columns; a random one is drawn again."""
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
    """Where a learned router consults System 2; None where its file is gone, or holds another router."""
    try:
        model, threshold = located(argument)
    except ValueError:
        return None

    def consults(table: pl.Series) -> pl.Series:
        columns = table.struct.unnest()
        probs = columns["draft_top_probs"].list.head(model.top).list.to_array(model.top).to_numpy()
        scalars = (columns[name].to_numpy() for name in ("draft_prob", "draft_margin", "draft_entropy", "position"))
        return pl.Series(model.score(probs, *scalars) > threshold)

    read = ("draft_top_probs", "draft_prob", "draft_margin", "draft_entropy", "position")
    return pl.struct(read).map_batches(consults, return_dtype=pl.Boolean, is_elementwise=True)


# ---- the signs of a run


def signs(
    texts: pl.DataFrame,
    alone: pl.DataFrame | None = None,
    router: str | None = None,
    applied: Routed | None = None,
    time: Estimate | None = None,
) -> tuple[Sign, ...]:
    """The signs of failure of a run.

    Args:
        texts: its generations; columns as in `docs/study.md`.
        alone: those of the target alone, for scores.
        router: of a run that trusts tokens where it does not consult; None for one that verifies every token, and so
            cannot consult too rarely or too late.
        applied: this router on a run that consulted everywhere, where there is one.
        time: how many times as long a token takes as with the target alone, over repetitions of both runs
            (`fsgen.analysis.times`); None where they were not repeated.
    """
    if router is None:
        return (_many(texts, time, None, None),)
    lost = score_lost(texts, alone)
    return (_few(router, applied, lost), _many(texts, time, router, applied), _late(router, applied))


def _few(router: str, applied: Routed | None, lost: Estimate | None) -> Sign:
    numbers = _named(missed=applied.missed if applied else None, score_lost=lost)
    said, found = [], [_above(lost, 0.0)]
    if applied is None:
        said.append(f"Which mismatches {router} misses is not known: {_UNKNOWN}")
    elif applied.missed is None:
        found.append(False)
        said.append("The two never differ")
    else:
        found.append(_above(applied.missed, MISSED))
        said.append(f"The router {router} misses {_percent(applied.missed)} of the mismatches")
    if lost is not None:
        said.append(f"compared to the target alone, the score {change_in_words(lost)}")
    return _sign("too few", found, said, numbers)


def change_in_words(lost: Estimate) -> str:
    """What happens to a score, by its sign: `falls by 3.1 points [0.2, 6.0]`, `does not change [-5.7, 5.7]`."""
    if not round(100 * lost.value, 1):
        return f"does not change{Estimate(0.0, lost.low, lost.high).shown('.1f', 100).removeprefix('0.0')}"
    return f"{'falls' if lost.value > 0 else 'rises'} by {lost.magnitude().shown('.1f', 100, ' points')}"


def _many(texts: pl.DataFrame, time: Estimate | None, router: str | None, applied: Routed | None) -> Sign:
    """Found by what is consulted for nothing; the time that it took is said beside it, and decides nothing."""
    needless = _rejected(texts) if router is None else applied.needless if applied else None
    said: list[str] = []
    if router is None:
        said += [f"{_percent(needless)} of the drafted tokens are rejected"] if needless else ["Nothing was drafted"]
    elif needless is not None:
        said.append(f"At {_percent(needless)} of the positions where {router} consults both choose the same token")
    elif applied is not None:
        said.append(f"{router} never consults")
    if time is not None:
        saved = {True: "so that no time is saved", False: "so that time is saved", None: "which may save time or not"}
        said.append(
            f"{'a' if said else 'A'} token takes {time.shown('.2f')} times as long as with the target alone, "
            f"{saved[time.above(1.0)]}"
        )
    else:
        said.append(f"{'w' if said else 'W'}hether time is saved is not known: the runs were not repeated")
    never = router is None or applied is not None
    found = [_above(needless, NEEDLESS) if needless is not None else False if never else None]
    name = "rejected" if router is None else "needless"
    return _sign("too many", found, said, _named(**{name: needless, "time": time}))


def _rejected(texts: pl.DataFrame) -> Estimate | None:
    """Of the drafted tokens that were verified, those that were rejected."""
    sums = texts.group_by("example").agg(pl.col("accepted", "recovered").cast(pl.Float64).sum()).sort("example")
    rejected = sums["recovered"].to_numpy()
    return ratio(rejected, rejected + sums["accepted"].to_numpy())


def _late(router: str, applied: Routed | None) -> Sign:
    if applied is None:
        return Sign("too late", None, f"Whether {router} consults too late is not known: {_UNKNOWN}.")
    if applied.late is None:
        return Sign("too late", False, "The two never differ.")
    numbers = _named(late=applied.late, missed_early=applied.missed_early, missed_late=applied.missed_late)
    said = [f"In {_percent(applied.late)} of the texts the first mismatch comes before {router} first consults"]
    if applied.delay is not None:
        said[0] += f", in the median by {applied.delay:g} {'token' if applied.delay == 1 else 'tokens'}"
    if applied.missed_early is not None and applied.missed_late is not None:
        said.append(
            f"it misses {_percent(applied.missed_early)} of the mismatches in the first third of a text and "
            f"{_percent(applied.missed_late)} of those after it"
        )
    return _sign("too late", [_above(applied.late, LATE)], said, numbers)


def _sign(name: str, found: list[bool | None], said: list[str], numbers: dict[str, Estimate]) -> Sign:
    known = [one for one in found if one is not None]
    return Sign(name, any(known) if known else None, f"{'; '.join(said)}.", numbers)


def _named(**numbers: Estimate | None) -> dict[str, Estimate]:
    return {name: number for name, number in numbers.items() if number is not None}


def _above(estimate: Estimate | None, limit: float) -> bool | None:
    """Whether the whole interval lies above a limit."""
    if estimate is None:
        return None
    return (estimate.value if estimate.low is None else estimate.low) > limit


# ---- against the target alone


def score_lost(texts: pl.DataFrame, alone: pl.DataFrame | None) -> Estimate | None:
    """How much better the target alone scores on the same examples; None without examples of both.

    Args:
        texts, alone: the generations of both; columns as in `docs/study.md`.
    """
    if alone is None or alone.is_empty():
        return None
    both = [frame.group_by("example").agg(pl.col("score").drop_nulls().mean()) for frame in (texts, alone)]
    scores = both[0].join(both[1], on="example", suffix="_alone").sort("example").drop_nulls()
    return mean_change((scores["score_alone"] - scores["score"]).to_numpy()) if len(scores) else None


def _percent(estimate: Estimate) -> str:
    return estimate.shown(".0f", 100, " %")
