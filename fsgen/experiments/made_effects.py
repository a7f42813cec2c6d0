"""What the causes that were set in the made language do to mismatches: contrasts, charts and tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import numpy as np
import polars as pl

from fsgen.analysis.answers import Point, Row
from fsgen.analysis.causes import contrast, mean, odds_ratios, rate, separation
from fsgen.analysis.intervals import Estimate
from fsgen.analysis.trainings import Groups, reach, widened
from fsgen.experiments import made_language as made

_ALL_BITS, _ALL_GAPS = (sorted({cell[i] for cell in made.CROSSED}) for i in (0, 1))
LOW, HIGH, NARROW, WIDE = _ALL_BITS[0], _ALL_BITS[-1], _ALL_GAPS[0], _ALL_GAPS[-1]
RARE, COMMON = min(made.EXPOSURES), max(made.EXPOSURES)
_UNITS = {
    "bits": "one bit more of the language's entropy",
    "halvings": "half the gap",
    "rarer": "met a third as often in training",
    "own": "one bit more of the draft's own entropy",
    "excess": "one bit more of the draft's entropy than the language has",
}
# By name the column of a cause, its values from and to, and the columns that are held.
_CAUSES = {
    f"entropy from {LOW:g} to {HIGH:g} bits, the rest held": ("bits", LOW, HIGH, ["gap", "exposure"]),
    f"gap from {WIDE:g} to {NARROW:g}, the rest held": ("gap", WIDE, NARROW, ["bits", "exposure"]),
    f"met {COMMON / RARE:g} times less in training, the rest held": ("exposure", COMMON, RARE, ["bits", "gap"]),
    "draft's own entropy from its lowest to its highest fifth, the language's held": ("fifth", 0, 4, ["bits"]),
}
_MODELS = (("bits",), ("halvings",), ("own",), ("bits", "halvings", "rarer"), ("bits", "halvings", "excess"))


def slots_of(spoken: pl.DataFrame) -> pl.DataFrame:
    """The slots in which every entropy stands with every gap, with the units of the models."""
    cells = pl.DataFrame(made.CROSSED, schema=["bits", "gap"], orient="row")
    slots = spoken.filter(pl.col("kind") == "outcome").join(cells, on=["bits", "gap"], how="semi")
    return slots.with_columns(
        halvings=-pl.col("gap").log(2),
        rarer=-pl.col("exposure").log(3),
        own=(10 * pl.col("draft_bits")).round() / 10,
        excess=(10 * (pl.col("draft_bits") - pl.col("bits"))).round() / 10,
        fifth=pl.col("draft_bits").rank("ordinal").over("bits").sub(1).mul(5).floordiv(pl.len().over("bits")),
    )


def causes(slots: pl.DataFrame) -> dict[str, Estimate]:
    """What each cause that was set does to the share of mismatches, the others held, and what goes with it.

    Raises:
        ValueError: the slots lack a value of a cause, or all of their choices match.
    """
    found = {name: contrast(slots, *how) for name, how in _CAUSES.items()}
    found["AUROC of the draft's own entropy"] = separation(slots, "draft_bits")
    known = {name: estimate for name, estimate in found.items() if estimate is not None}
    if len(known) < len(found):
        raise ValueError("the slots do not hold matches and mismatches at every entropy, gap and exposure")
    return {"mismatches in the slots": rate(slots), **known}


def by_training(slots: pl.DataFrame) -> dict[tuple[str, str], dict[str, Estimate]]:
    """The same of each draft with each target, which are trainings of two sizes."""
    parts = slots.partition_by("draft", "target", maintain_order=True, as_dict=True)
    return {(str(draft), str(target)): causes(some) for (draft, target), some in parts.items()}


def with_trainings(
    found: dict[str, Estimate], each: Mapping[tuple[str, str], Mapping[str, Estimate]], trainings: Groups
) -> dict[str, Estimate]:
    """What was found, with intervals that contain what other trainings of draft and target would change."""

    def mean(name: str, left_out: str | None) -> float:
        values = [one[name].value for pair, one in each.items() if left_out not in pair]
        return float(np.mean(values)) if values else float("nan")

    return {name: widened(one, reach(partial(mean, name), trainings)) for name, one in found.items()}


def training_rows(each: Mapping[tuple[str, str], Mapping[str, Estimate]]) -> Iterator[Row]:
    """Each draft with each target, a row each."""
    for (draft, target), found in each.items():
        yield {"draft": draft, "target": target, **{name: str(one) for name, one in found.items()}}


def charts(sizes: pl.DataFrame, twins: pl.DataFrame) -> dict[str, Iterable[Point]]:
    """Mismatches by what was set, and by the draft's own entropy."""
    placed = sizes.with_columns(place=pl.col("draft_bits").mean().over("bits", "fifth"))
    return {
        "truth": (
            *_lines(sizes, "gap", "bits", "gap {:g}", "draft and target"),
            *_lines(twins, "gap", "bits", "gap {:g}", "two models of the target's size"),
        ),
        "own": _lines(placed, "bits", "place", "{:g} bits"),
    }


def _lines(frame: pl.DataFrame, by: str, x: str, name: str, panel: str = "") -> Iterator[Point]:
    """The share of mismatches at each value of x, a line for each value of `by`."""
    for (line, place), rows in frame.sort(by, x).partition_by(by, x, maintain_order=True, as_dict=True).items():
        yield Point.of(float(place), rate(rows), name.format(line), panel)


def tables(spoken: pl.DataFrame, sizes: pl.DataFrame) -> dict[str, Iterable[Row]]:
    """Each cause at each value of the other, factors on the odds of a mismatch, and the kinds of positions."""
    odds = (
        {"model": number, "unit": _UNITS[column], "factor": factor}
        for number, columns in enumerate(_MODELS, 1)
        for column, factor in odds_ratios(sizes, columns).items()
    )
    columns = ("bits", "gap", "draft_bits", "variation", "differs")
    names = ("entropy (bits)", "gap", "draft's entropy (bits)", "variation", "mismatches")
    parts = spoken.filter(~pl.col("twins")).partition_by("kind", maintain_order=True, as_dict=True)
    kinds = (
        {"kind": str(kind), "positions": len(rows)}
        | {name: mean(rows, column) for name, column in zip(names, columns, strict=True)}
        for (kind,), rows in parts.items()
    )
    return {"contrasts": _contrasts(sizes), "odds": odds, "kinds": kinds}


def _contrasts(sizes: pl.DataFrame) -> Iterator[Row]:
    for cause, low, high, change, other, values, at in (
        ("bits", LOW, HIGH, "entropy from {:g} to {:g} bits", "gap", _ALL_GAPS, "a gap of {:g}"),
        ("gap", WIDE, NARROW, "gap from {:g} to {:g}", "bits", _ALL_BITS, "{:g} bits of entropy"),
    ):
        for value in values:
            found = contrast(sizes.filter(pl.col(other) == value), cause, low, high, ["exposure"])
            if found is not None:
                yield {"cause": change.format(low, high), "at": at.format(value), "change": found}
