"""What is done to a draft, to what it says or to what it reads, and what that does to mismatches and rejections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from fsgen.analysis.answers import Point, Row
from fsgen.analysis.causes import mean, predicted_rise, rate, separation
from fsgen.analysis.intervals import Estimate
from fsgen.probs import uniforms

KEPT = ("temperature", "evened", "shaken")  # what keeps the first choice
_NONE, _SWAPPED = ("none", 0.0), ("swapped", 1.0)
_WHERE, _WHAT = range(2)  # what numbers are drawn for


def tempered(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Logits [n, vocab] over one temperature, or over one for each position [n, 1]: the order of the tokens stays."""
    return logits / temperature


def shaken(logits: Tensor, factor: float, seed: int) -> Tensor:
    """Logits [n, vocab], each position at a temperature of its own, drawn from 1 / `factor` to `factor`.

    What the entropy of a position becomes is then partly random; the order of its tokens stays.
    """
    numbers = uniforms(np.array([seed], dtype=np.uint64), np.arange(len(logits)), _WHERE)
    return tempered(logits, torch.from_numpy(factor ** (2 * numbers - 1)).to(logits)[:, None])


def evened(logits: Tensor, share: float) -> Tensor:
    """Log-probabilities [n, vocab] with a share of what the first choice does not have spread over all other tokens.

    The first choice keeps its probability, and stays first: the others' mean is below the largest of them.
    """
    probs = logits.softmax(-1)
    top = probs.argmax(-1, keepdim=True)
    kept = probs.gather(-1, top)
    spread = (1 - kept) / (probs.shape[-1] - 1)
    return ((1 - share) * probs + share * spread).scatter(-1, top, kept).log()


def swapped(logits: Tensor) -> Tensor:
    """Logits [n, vocab] whose two most likely tokens have changed places: another first choice, the same entropy."""
    best = logits.topk(2, dim=-1)
    return logits.scatter(-1, best.indices, best.values.flip(-1))


def blurred(prompts: Sequence[Sequence[int]], share: float, seed: int) -> list[list[int]]:
    """Prompts of which a share of the tokens is replaced, each by any token of the prompts together.

    What a smaller share replaces, a larger one replaces too, and by the same tokens.
    """
    pool = np.concatenate([np.asarray(prompt) for prompt in prompts])
    made = []
    for i, prompt in enumerate(prompts):
        seeds, places = np.array([seed + i], dtype=np.uint64), np.arange(len(prompt))
        others = pool[(uniforms(seeds, places, _WHAT) * len(pool)).astype(np.int64)]
        made.append([int(x) for x in np.where(uniforms(seeds, places, _WHERE) < share, others, np.asarray(prompt))])
    return made


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
