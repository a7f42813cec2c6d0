"""What of a frequency is size, and what is only being another model: swapped pairs, equal sizes, and the variance."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import polars as pl

from fsgen.analysis.answers import Row
from fsgen.analysis.components import components, shares
from fsgen.analysis.intervals import Estimate, Floats, of_draws
from fsgen.analysis.scaling.compare import resampled_frequencies
from fsgen.analysis.trainings import of_points, reach, untuned, widened

_SET = ("method", "task")
BOTH_WAYS = "the first less the second: what which of the two drafts changes"
SHARE = "share of a pair's frequency that two models of its sizes have, too"
FORWARD, SWAPPED, EQUAL = "smaller draft", "larger draft", "a draft of the same size"


def controls(points: pl.DataFrame) -> dict[str, Estimate]:
    """Frequencies of the same sizes both ways, of models of equal size, and their differences; means over sizes.

    Trainings of one size are averaged first, so that each two sizes weigh alike; tuned models are none. What the
    pairs do not have is left out: a ladder whose smaller models draft for larger ones alone has no controls.

    Args:
        points: as `fsgen.analysis.scaling.read_points` gives them.
    """
    points = untuned(points)
    found: dict[str, Callable[[pl.DataFrame], Floats | None]] = {
        f"frequency of {FORWARD}s, where both ways ran": lambda some: _both_ways(some, 1, 0),
        f"frequency of {SWAPPED}s, the same sizes": lambda some: _both_ways(some, 0, 1),
        BOTH_WAYS: lambda some: _both_ways(some, 1, -1),
        f"frequency of {EQUAL}": _equal,
        SHARE: _share,
    }
    numbers = {name: _estimated(points, measure) for name, measure in found.items()}
    return {name: number for name, number in numbers.items() if number is not None}


def _estimated(points: pl.DataFrame, measure: Callable[[pl.DataFrame], Floats | None]) -> Estimate | None:
    values = measure(points)
    if values is None:
        return None

    def without(model: str | None) -> float:
        found = measure(points.filter(pl.col("draft") != model, pl.col("target") != model))
        return float("nan") if found is None else float(found[0])

    return widened(of_draws(values), reach(without, of_points(points)))


def _by_sizes(points: pl.DataFrame) -> Iterator[dict[tuple[float, float], Floats]]:
    """Of each method and task the frequencies by the sizes of draft and target, [1 + resamples], over trainings."""
    for some in points.partition_by(_SET, maintain_order=True):
        frequencies = resampled_frequencies(some)
        places: dict[tuple[float, float], list[int]] = {}
        for number, sizes in enumerate(some.select("draft_parameters", "target_parameters").rows()):
            places.setdefault(sizes, []).append(number)
        yield {sizes: frequencies[:, at].mean(axis=1) for sizes, at in places.items()}


def _mean(values: list[Floats]) -> Floats | None:
    return np.asarray(np.mean(values, axis=0)) if values else None


def _both_ways(points: pl.DataFrame, forward: float, swapped: float) -> Floats | None:
    """The mean over two different sizes that drafted for each other of what both ways have, weighted."""
    return _mean(
        [
            forward * of[small, large] + swapped * of[large, small]
            for of in _by_sizes(points)
            for small, large in of
            if small < large and (large, small) in of
        ]
    )


def _equal(points: pl.DataFrame) -> Floats | None:
    return _mean([of[sizes] for of in _by_sizes(points) for sizes in of if sizes[0] == sizes[1]])


def _share(points: pl.DataFrame) -> Floats | None:
    """The frequency of models of equal size, mean of both sizes, over that of the smaller drafting for the larger."""
    parts = [
        ((of[small, small] + of[large, large]) / 2, of[small, large])
        for of in _by_sizes(points)
        for small, large in of
        if small < large and (small, small) in of and (large, large) in of
    ]
    if not parts:
        return None
    return np.asarray(np.sum([one for one, _ in parts], axis=0) / np.sum([whole for _, whole in parts], axis=0))


def split(points: pl.DataFrame) -> Iterator[Row]:
    """How the variance of the frequency of a text is split by what it comes from, on each task.

    The sizes of draft and target, which training of a size each is, and the text; the rest is the pair on that text.
    Where a size has one training, size and training are one. Every text of a pair weighs alike.
    """
    for some in untuned(points).partition_by(_SET, maintain_order=True):
        if some["part"].null_count() or some["draft"].n_unique() < 2:
            continue
        part, whole = (np.array(some[name].to_list()) for name in ("part", "whole"))  # [pairs, texts]
        pair, text = np.nonzero(whole)
        factors = {
            "draft's size": some["draft_parameters"].to_numpy()[pair],
            "target's size": some["target_parameters"].to_numpy()[pair],
            "draft's training": some["draft"].to_numpy()[pair].astype(str),
            "target's training": some["target"].to_numpy()[pair].astype(str),
            "text": text,
        }
        found = components(part[pair, text] / whole[pair, text], factors)
        parts = shares(found)
        row: dict[str, object] = {name: some[name][0] for name in reversed(_SET)}
        yield (
            row
            | {name: parts.get(name) for name in factors}
            | {"the rest": parts["the rest"]}
            | {"standard deviation": float(np.sqrt(sum(max(value, 0.0) for value in found.values())))}
        )
