"""The positions of recorded texts that routers are trained and evaluated on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fsgen.analysis.intervals import Floats
from fsgen.analysis.traces import collect, prepared
from fsgen.methods.learned.features import features

PARTS = {"train": 0.5, "calibration": 0.25, "test": 0.25}


@dataclass(frozen=True, eq=False)
class Positions:
    """Positions of texts where both greedy choices are known.

    Attributes:
        top: how many candidates are among the features.
        x: the features, [n, 4 + top].
        differs: System 2's greedy token is not the draft's, [n].
        names: ids of the examples.
        example: of each position, its index in `names`, [n].
        prob, margin, entropy: of the draft, [n].
    """

    top: int
    x: Floats
    differs: NDArray[np.bool_]
    names: tuple[str, ...]
    example: NDArray[np.int64]
    prob: Floats
    margin: Floats
    entropy: Floats

    def __len__(self) -> int:
        return len(self.differs)

    def of(self, examples: Sequence[str] | set[str]) -> Positions:
        """Those of some examples."""
        names = tuple(sorted(set(examples) & set(self.names)))
        index = {name: i for i, name in enumerate(names)}
        example = np.array([index.get(name, -1) for name in self.names], dtype=np.int64)[self.example]
        kept = example >= 0
        measures = (getattr(self, name)[kept] for name in ("prob", "margin", "entropy"))
        return Positions(self.top, self.x[kept], self.differs[kept], names, example[kept], *measures)

    def counts(self, consulted: NDArray[np.bool_]) -> pl.DataFrame:
        """By example: `tokens`, those at which a router consults, [n], and the mismatches that are `missed` then."""
        columns = {"tokens": np.full(len(self), True), "consulted": consulted, "missed": self.differs & ~consulted}
        positions = pl.DataFrame({"example": np.array(self.names)[self.example], **columns})
        return positions.group_by("example").agg(pl.col(*columns).sum().cast(pl.Int64))

    @cached_property
    def scores(self) -> dict[str, Floats]:
        """The measures of the routers without training, as scores: high where they consult System 2."""
        return {"max-prob": -self.prob, "margin": -self.margin, "entropy": self.entropy}


def positions(traces: pl.DataFrame | pl.LazyFrame | Sequence[pl.DataFrame | pl.LazyFrame]) -> Positions:
    """The positions of one run or several that consulted System 2 everywhere.

    Raises:
        ValueError: the traces keep fewer than two candidates.
    """
    frames = [traces] if isinstance(traces, (pl.DataFrame, pl.LazyFrame)) else list(traces)
    wanted = ("example", "position", "differs", "draft_prob", "draft_margin", "draft_entropy", "draft_top_probs")
    order = ("example", "turn", "position")  # a query has none; the same data train the same router
    table = pl.concat(
        [
            collect(prepared(frame).select(*wanted, "turn").filter(pl.col("differs").is_not_null())).sort(order)
            for frame in frames
        ]
    )
    kept = table["draft_top_probs"].list.len().min() if len(table) else 0
    top = int(kept) if isinstance(kept, int) else 0
    if top < 2:
        raise ValueError(f"the traces keep {top} candidates of the draft: run the study with candidates: 10")
    probs = table["draft_top_probs"].list.head(top).list.to_array(top).to_numpy()
    prob, margin, entropy = (table[f"draft_{name}"].to_numpy() for name in ("prob", "margin", "entropy"))
    known, example = np.unique(table["example"].to_numpy().astype(str), return_inverse=True)
    return Positions(
        top=top,
        x=features(probs, prob, margin, entropy, table["position"].to_numpy()),
        differs=table["differs"].to_numpy(),
        names=tuple(known.tolist()),
        example=example.astype(np.int64),
        prob=prob.astype(np.float64),
        margin=margin.astype(np.float64),
        entropy=entropy.astype(np.float64),
    )


def part_of(example: str) -> str:
    """Which of `PARTS` an example belongs to, by a hash of its id: the same one in every study."""
    place = int.from_bytes(hashlib.sha256(example.encode()).digest()[:8], "big") / 2**64
    return "train" if place < PARTS["train"] else "calibration" if place < 1 - PARTS["test"] else "test"
