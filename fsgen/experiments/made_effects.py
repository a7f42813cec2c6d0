"""What the causes that were set in the made language do to mismatches: contrasts, charts and tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import polars as pl

from fsgen.analysis.answers import Chart, Point, Table
from fsgen.analysis.causes import contrast, mean, odds_ratios, rate, separation
from fsgen.analysis.intervals import Estimate
from fsgen.analysis.rates import in_points
from fsgen.experiments import made_language as made

LOW, HIGH = (float(edge([bits for bits, _ in made.CROSSED])) for edge in (min, max))
NARROW, WIDE = (float(edge([gap for _, gap in made.CROSSED])) for edge in (min, max))
RARE, COMMON = min(made.EXPOSURES), max(made.EXPOSURES)


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


@dataclass(frozen=True)
class Causes:
    """What each cause that was set does to the share of mismatches, the others held, and what goes with it."""

    mismatches: Estimate
    entropy: Estimate
    gap: Estimate
    training: Estimate
    own: Estimate
    area: Estimate

    @classmethod
    def of(cls, slots: pl.DataFrame) -> Causes:
        """Raises ValueError for slots that lack a value of a cause, or all of whose choices match."""
        found = (
            contrast(slots, "bits", LOW, HIGH, ["gap", "exposure"]),
            contrast(slots, "gap", WIDE, NARROW, ["bits", "exposure"]),
            contrast(slots, "exposure", COMMON, RARE, ["bits", "gap"]),
            contrast(slots, "fifth", 0, 4, ["bits"]),
            separation(slots, "draft_bits"),
        )
        if None in found:
            raise ValueError("the slots do not hold matches and mismatches at every entropy, gap and exposure")
        return cls(rate(slots), *cast(tuple[Estimate, Estimate, Estimate, Estimate, Estimate], found))

    def numbers(self) -> dict[str, Estimate]:
        return {
            "mismatches in the slots": self.mismatches,
            f"entropy from {LOW:g} to {HIGH:g} bits, the rest held": self.entropy,
            f"gap from {WIDE:g} to {NARROW:g}, the rest held": self.gap,
            f"met {COMMON / RARE:g} times less in training, the rest held": self.training,
            "draft's own entropy from its lowest to its highest fifth, the language's held": self.own,
            "AUROC of the draft's own entropy": self.area,
        }

    def finding(self, holds: bool | None) -> str:
        verdict = {
            True: "Uncertainty causes part of the need for help",
            False: "Uncertainty goes with the need for help and does not cause it"
            if self.area.above(0.5)
            else "Uncertainty neither goes with the need for help nor causes it",
            None: "Whether uncertainty causes the need for help stays open",
        }[holds]
        return (
            f"{verdict}: in the made language, {HIGH:g} bits of entropy instead of {LOW:g} at an equal gap change the "
            f"share of mismatches by {in_points(self.entropy)} points, a gap of {NARROW:g} instead of {WIDE:g} at "
            f"equal entropy by {in_points(self.gap)}, and "
            f"{COMMON / RARE:g} times less training at equal entropy and gap by "
            f"{in_points(self.training)}. The draft's own entropy ranks mismatches with an AUROC of {self.area}; at "
            f"equal entropy of the language, {in_points(self.own)} points lie between its lowest and its highest fifth."
        )


def _lines(frame: pl.DataFrame, by: str, x: str, name: str, panel: str = "") -> Iterator[Point]:
    """The share of mismatches at each value of x, a line for each value of `by`."""
    for (line, place), rows in frame.sort(by, x).partition_by(by, x, maintain_order=True, as_dict=True).items():
        share = rate(rows)
        yield Point.of(float(place), share, name.format(line), panel)


def by_truth(sizes: pl.DataFrame, twins: pl.DataFrame, causes: Causes) -> Chart:
    return Chart(
        name="truth",
        title="Mismatches by what was set",
        finding=f"From left to right, at an equal gap: {in_points(causes.entropy)} points. From the widest gap to the "
        f"narrowest, at equal entropy: {in_points(causes.gap)} points.",
        note="Slots of the made language. Entropy and gap are those of the language itself, each drawn by lot.",
        x="entropy of the language (bits)",
        y="share of mismatches",
        series="gap of the two likeliest",
        points=(
            *_lines(sizes, "gap", "bits", "gap {:g}", "draft and target"),
            *_lines(twins, "gap", "bits", "gap {:g}", "two models of the target's size"),
        ),
    )


def by_own(sizes: pl.DataFrame, causes: Causes) -> Chart:
    placed = sizes.with_columns(place=pl.col("draft_bits").mean().over("bits", "fifth"))
    return Chart(
        name="own",
        title="Mismatches by the draft's own entropy",
        finding=f"At equal entropy of the language, {in_points(causes.own)} points lie between the lowest and the "
        "highest fifth of the draft's own entropy.",
        note="The same slots; each line in fifths of the draft's own entropy.",
        x="the draft's own entropy (bits)",
        y="share of mismatches",
        series="entropy of the language",
        points=tuple(_lines(placed, "bits", "place", "{:g} bits")),
    )


def contrasts(sizes: pl.DataFrame) -> Table:
    rows = []
    for gap in sorted({gap for _, gap in made.CROSSED}):
        found = contrast(sizes.filter(pl.col("gap") == gap), "bits", LOW, HIGH, ["exposure"])
        rows.append((f"entropy from {LOW:g} to {HIGH:g} bits", f"a gap of {gap:g}", found))
    for bits in sorted({bits for bits, _ in made.CROSSED}):
        found = contrast(sizes.filter(pl.col("bits") == bits), "gap", WIDE, NARROW, ["exposure"])
        rows.append((f"gap from {WIDE:g} to {NARROW:g}", f"{bits:g} bits of entropy", found))
    return Table(
        name="contrasts",
        title="Each cause at each value of the other",
        note="The change of the share of mismatches, the share of the training held.",
        columns=("cause", "at", "change", "95 % from", "to"),
        rows=tuple((cause, at, it.value, it.low, it.high) for cause, at, it in rows if it is not None),
    )


_UNITS = {
    "bits": "one bit more of the language's entropy",
    "halvings": "half the gap",
    "rarer": "met a third as often in training",
    "own": "one bit more of the draft's own entropy",
    "excess": "one bit more of the draft's entropy than the language has",
}
_MODELS = (("bits",), ("halvings",), ("own",), ("bits", "halvings", "rarer"), ("bits", "halvings", "excess"))


def odds(sizes: pl.DataFrame) -> Table:
    return Table(
        name="odds",
        title="Factors on the odds of a mismatch",
        note="Logistic models of the slots in which all entropies stand with all gaps; rows of one number are one "
        "model, each factor at equal values of the others.",
        columns=("model", "unit", "factor", "95 % from", "to"),
        rows=tuple(
            (number, _UNITS[column], factor.value, factor.low, factor.high)
            for number, columns in enumerate(_MODELS, 1)
            for column, factor in odds_ratios(sizes, columns).items()
        ),
    )


def kinds(spoken: pl.DataFrame) -> Table:
    parts = spoken.filter(~pl.col("twins")).partition_by("kind", maintain_order=True, as_dict=True)
    columns = ("bits", "gap", "draft_bits", "variation", "differs")
    return Table(
        name="kinds",
        title="The positions of the made language",
        note="A statement is a name, a place, an outcome (all slots, those of extreme entropies included) and two "
        "endings. Names and places are drawn freely; the endings follow from the name.",
        columns=("kind", "positions", "entropy (bits)", "gap", "draft's entropy (bits)", "variation", "mismatches"),
        rows=tuple((str(kind), len(rows), *(mean(rows, c) for c in columns)) for (kind,), rows in parts.items()),
    )
