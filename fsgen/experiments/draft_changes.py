"""What the interventions on a draft did: to mismatches, to rejections, and to what its entropy tells."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import polars as pl

from fsgen.analysis.answers import Chart, Point, Table
from fsgen.analysis.causes import mean, predicted_rise, rate, separation
from fsgen.analysis.intervals import Estimate
from fsgen.analysis.rates import in_points

KEPT = ("temperature", "evened", "shaken")  # what keeps the first choice


class Changes:
    """What the interventions did."""

    def __init__(self, changed: pl.DataFrame, consulted: float) -> None:
        parts = changed.partition_by("change", "level", maintain_order=True, as_dict=True)
        self._frames = {(str(change), float(level)): rows for (change, level), rows in parts.items()}
        before = self._frames.get(("none", 0.0))
        if before is None or any(len(rows) != len(before) for rows in self._frames.values()):
            raise ValueError("every change is measured at the same positions, and once nothing is changed")
        if not any(change == "blurred" for change, _ in self._frames):
            raise ValueError("no change of what the draft reads was measured")
        self._before = before
        self._threshold = float(np.quantile(before["draft_bits"].to_numpy(), 1 - consulted, method="higher"))
        self._rates = {key: rate(rows) for key, rows in self._frames.items()}
        self._rejections = {key: rate(rows, "variation") for key, rows in self._frames.items()}
        self._most_blurred = max(key for key in self._frames if key[0] == "blurred")
        self._kept = [key for key in self._frames if key[0] in KEPT]

    def moved(self) -> int:
        """Positions at which a change that keeps the first choice made or unmade a mismatch, all changes together."""
        return sum(int((self._frames[key]["differs"] != self._before["differs"]).sum()) for key in self._kept)

    @cached_property
    def _foretold(self) -> dict[tuple[str, float], tuple[Estimate, Estimate, Estimate]]:
        """Of each share of the prompt: what `predicted_rise` says."""
        return {
            key: predicted_rise(self._before, rows, "draft_bits")
            for key, rows in self._frames.items()
            if key[0] == "blurred"
        }

    def numbers(self) -> dict[str, Estimate]:
        """Those that the statement rests on."""
        rise, told, rest = self._foretold[self._most_blurred]
        swapped = self._rates.get(("swapped", 1.0))
        return {
            "mismatches on real text": self._rates["none", 0.0],
            **({"mismatches with the first two swapped": swapped} if swapped else {}),
            "rise with the prompt replaced": rise,
            "rise that the draft's entropy foretold": told,
            "the first minus the second": rest,
        }

    def finding(self, pair: str) -> str:
        """In a few sentences."""
        said = [f"With {pair}, {self._rates['none', 0.0]} of the positions are mismatches."]
        if self._kept:
            bits = [mean(self._frames[key], "draft_bits") for key in self._kept]
            rejected = [self._rejections[key].value for key in self._kept]
            said.append(
                f"Changing the draft's mean entropy from {mean(self._before, 'draft_bits'):.2f} to between "
                f"{min(bits):.2f} and {max(bits):.2f} bits with its first choice kept changes "
                f"{self.moved() or 'none'} of them, but takes rejections "
                f"when sampling from {self._rejections['none', 0.0].value:.3f} to between "
                f"{min(rejected):.3f} and {max(rejected):.3f}."
            )
        if ("swapped", 1.0) in self._rates:
            said.append(
                f"Swapping its first two choices at the same entropy makes {self._rates['swapped', 1.0]} mismatches."
            )
        rise, told, rest = self._foretold[self._most_blurred]
        beyond = {True: "more than", False: "less than", None: "not discernibly other than"}[rest.above(0.0)]
        said.append(
            f"Replacing {100 * self._most_blurred[1]:.0f} % of the prompt for the draft alone raises them by "
            f"{in_points(rise)} points, {beyond} the {in_points(told)} that its entropy foretold."
        )
        return " ".join(said)

    def table(self) -> Table:
        """All changes."""
        rows = []
        for key, frame in self._frames.items():
            asked, differs = frame["draft_bits"].to_numpy() >= self._threshold, frame["differs"].to_numpy()
            area = separation(frame, "draft_bits")
            rows.append(
                (
                    *key,
                    mean(frame, "draft_bits"),
                    mean(frame, "draft_prob"),
                    self._rates[key].value,
                    self._rejections[key].value,
                    None if area is None else area.value,
                    float(asked.mean()),
                    float((differs & ~asked).sum() / differs.sum()) if differs.any() else None,
                )
            )
        return Table(
            name="changes",
            title="What each change did",
            note=f"Consulted: at an entropy of {self._threshold:.2f} bits or more, whatever the change. Missed: of the "
            "mismatches, those at which nobody is consulted. Rejected: the mean total variation. AUROC: of the draft's "
            "entropy, for mismatches. Temperature divides the logits; evened spreads a share of what the first choice "
            "does not have over all other tokens; shaken gives each position a temperature of its own; swapped "
            "exchanges the two likeliest tokens; blurred replaces a share of the prompt for the draft alone.",
            columns=(
                *("change", "level", "draft's entropy (bits)", "its largest probability", "mismatches", "rejected"),
                *("AUROC", "consulted", "missed"),
            ),
            rows=tuple(rows),
        )

    def charts(self) -> tuple[Chart, ...]:
        """Mismatches and rejections by the entropy that each change left the draft with."""
        entropy = {key: mean(rows, "draft_bits") for key, rows in self._frames.items()}

        def points(rates: dict[tuple[str, float], Estimate]) -> list[Point]:
            return [Point.of(entropy[key], rate, key[0]) for key, rate in rates.items()]

        start = self._rates["none", 0.0].value
        told = [
            Point(entropy[key], start + rise.value, *_moved(rise, start), "blurred, as its entropy foretold")
            for key, (_, rise, _) in self._foretold.items()
        ]
        least = min(self._rejections, key=lambda key: self._rejections[key].value)
        most = max(self._rejections, key=lambda key: self._rejections[key].value)
        return (
            Chart(
                name="mismatches",
                title="Mismatches after a change of the draft",
                finding=f"Changes that keep the first choice move the entropy and {self.moved() or 'no'} mismatches. "
                "What changes the choice (a swap, a replaced prompt) moves mismatches, with the entropy or without.",
                note="A point is a strength of a change; all on the same positions of the same texts.",
                x="the draft's mean entropy (bits)",
                y="share of mismatches",
                kind="point",
                series="change",
                points=(*points(self._rates), *told),
            ),
            Chart(
                name="rejections",
                title="Rejections when sampling, after a change of the draft",
                finding="When sampling, the entropy itself counts: the same texts are rejected at "
                f"{self._rejections[least]} of the positions after {least[0]} {least[1]:g} and at "
                f"{self._rejections[most]} after {most[0]} {most[1]:g}.",
                note="The mean total variation of the changed draft and the target, which is left as it is.",
                x="the draft's mean entropy (bits)",
                y="share of rejections",
                kind="point",
                series="change",
                points=tuple(points(self._rejections)),
            ),
        )


def _moved(estimate: Estimate, by: float) -> tuple[float | None, float | None]:
    """The interval of an estimate plus a constant."""
    low, high = (None if end is None else end + by for end in (estimate.low, estimate.high))
    return low, high
