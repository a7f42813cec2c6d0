"""What the interventions on a draft did: to mismatches, to rejections, and to what its entropy tells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import polars as pl

from fsgen.analysis.answers import Point, Row
from fsgen.analysis.causes import mean, predicted_rise, rate, separation
from fsgen.analysis.intervals import Estimate

KEPT = ("temperature", "evened", "shaken")  # what keeps the first choice
_NONE, _SWAPPED = ("none", 0.0), ("swapped", 1.0)


class Changes:
    """What the interventions did, by change and level."""

    def __init__(self, changed: pl.DataFrame, consulted: float) -> None:
        parts = changed.partition_by("change", "level", maintain_order=True, as_dict=True)
        self._frames = {(str(change), float(level)): rows for (change, level), rows in parts.items()}
        before = self._frames.get(_NONE)
        if before is None or any(len(rows) != len(before) for rows in self._frames.values()):
            raise ValueError("every change is measured at the same positions, and once nothing is changed")
        blurred = {key: rows for key, rows in self._frames.items() if key[0] == "blurred"}
        if not blurred:
            raise ValueError("no change of what the draft reads was measured")
        self._threshold = float(np.quantile(before["draft_bits"].to_numpy(), 1 - consulted, method="higher"))
        self._bits = {key: mean(rows, "draft_bits") for key, rows in self._frames.items()}
        self._rates = {key: rate(rows) for key, rows in self._frames.items()}
        self._rejections = {key: rate(rows, "variation") for key, rows in self._frames.items()}
        self._rises = {key: predicted_rise(before, rows, "draft_bits") for key, rows in blurred.items()}
        self._most_blurred = max(blurred)
        self._kept = [key for key in self._frames if key[0] in KEPT]
        # Positions at which a change that keeps the first choice made or unmade a mismatch, all changes together.
        self._moved = sum(int((self._frames[key]["differs"] != before["differs"]).sum()) for key in self._kept)

    @property
    def numbers(self) -> dict[str, Estimate]:
        """Those that the statement rests on."""
        rise, predicted, rest = self._rises[self._most_blurred]
        swapped = self._rates.get(_SWAPPED)
        return {
            "mismatches on real text": self._rates[_NONE],
            **({"mismatches with the first two swapped": swapped} if swapped else {}),
            "rise with the prompt replaced": rise,
            "rise that the draft's entropy predicted": predicted,
            "the first minus the second": rest,
        }

    @property
    def values(self) -> dict[str, Any]:
        """For the words of the answer."""
        kept = [(self._bits[key], self._rejections[key].value) for key in self._kept]
        bits, rejected = zip(*kept, strict=True) if kept else ((0.0,), (0.0,))
        rise, predicted, rest = self._rises[self._most_blurred]
        least, most = (edge(self._rejections, key=lambda key: self._rejections[key].value) for edge in (min, max))
        return {
            "real": self._rates[_NONE],
            "kept": bool(kept),
            "bits": (self._bits[_NONE], min(bits), max(bits)),
            "rejected": (self._rejections[_NONE].value, min(rejected), max(rejected)),
            "moved": self._moved,
            "some": self._moved > 0,
            "none": self._moved > 0,
            "swaps": _SWAPPED in self._rates,
            "swapped": self._rates.get(_SWAPPED),
            "blurred": 100 * self._most_blurred[1],
            "rise": rise,
            "predicted": predicted,
            "beyond": rest.above(0.0),
            "threshold": self._threshold,
            "least": f"{self._rejections[least]} of the positions after {least[0]} {least[1]:g}",
            "most": f"{self._rejections[most]} after {most[0]} {most[1]:g}",
        }

    def rows(self) -> Iterator[Row]:
        """All changes."""
        for key, frame in self._frames.items():
            consulted, differs = frame["draft_bits"].to_numpy() >= self._threshold, frame["differs"].to_numpy()
            area = separation(frame, "draft_bits")
            yield {
                "change": key[0],
                "level": key[1],
                "draft's entropy (bits)": self._bits[key],
                "its largest probability": mean(frame, "draft_prob"),
                "mismatches": self._rates[key].value,
                "rejected": self._rejections[key].value,
                "AUROC": None if area is None else area.value,
                "consulted": float(consulted.mean()),
                "missed": float((differs & ~consulted).sum() / differs.sum()) if differs.any() else None,
            }

    def charts(self) -> dict[str, Iterable[Point]]:
        """Mismatches and rejections by the entropy that each change left the draft with."""
        mismatches, rejections = (
            [Point.of(self._bits[key], rate, key[0]) for key, rate in rates.items()]
            for rates in (self._rates, self._rejections)
        )
        start = self._rates[_NONE].value
        for key, (_, rise, _) in self._rises.items():
            low, high = (None if end is None else end + start for end in (rise.low, rise.high))
            from_entropy = Estimate(start + rise.value, low, high)
            mismatches.append(Point.of(self._bits[key], from_entropy, "blurred, as its entropy predicted"))
        return {"mismatches": mismatches, "rejections": rejections}
