"""A law that is chosen on some models and judged on others, so that being the best of several gains it nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from fsgen.analysis.intervals import Floats
from fsgen.analysis.scaling.compare import MIN_PAIRS, held_out_of, left_out, resampled_frequencies, smaller_drafts
from fsgen.analysis.scaling.laws import CONSTANT, LAWS, Law
from fsgen.analysis.scaling.results import sizes_of
from fsgen.analysis.trainings import untuned

_ROLES = ("draft", "target")
_SIZES = ("family", "method", "task", "draft_parameters", "target_parameters")


@dataclass(frozen=True)
class Judged:
    """Errors for models that are left out of the fit, as means over methods and tasks.

    Attributes:
        laws: of each law that the pairs determine, [ladders, 1 + resamples] (`ladders`).
        chosen: of the law that has the least error on other models than the judged ones, likewise; None where there are
            too few models to choose and to judge: that takes five sizes, or several trainings of each.
        choices: which laws these are, one a ladder; with one ladder, one a model that is left out.
    """

    laws: dict[str, Floats]
    chosen: Floats | None
    choices: tuple[str, ...]


def ladders(points: pl.DataFrame) -> list[pl.DataFrame]:
    """The pairs of each ladder that has one training of every size: the first of each, the second of each, and so on.

    There are as many as every size has trainings; tuned and distilled models are none.

    Args:
        points: as `read_points` gives them; models of one size are its trainings, in the order of their names.
    """
    points = untuned(points)
    sides = [points.select(pl.col(role).alias("name"), pl.col(f"{role}_parameters").alias("size")) for role in _ROLES]
    models = pl.concat(sides).unique().with_columns(number=pl.col("name").rank("ordinal").over("size") - 1)
    number = dict(models.select("name", "number").rows())
    of = [points[role].replace_strict(number, return_dtype=pl.Int64) for role in _ROLES]
    count = int(models.group_by("size").len()["len"].to_numpy().min()) if len(models) else 0
    return [points.filter((of[0] == i) & (of[1] == i)) for i in range(count)]


def by_size(points: pl.DataFrame) -> pl.DataFrame:
    """One row for each two sizes: their trainings together, named after the first of each size; no tuned models."""
    rows = []
    for _, same in untuned(points).sort("target", "draft").group_by(_SIZES, maintain_order=True):
        row = same.row(0, named=True) | {"collaboration_frequency": same["collaboration_frequency"].mean()}
        if not same["part"].null_count():
            row |= {column: np.sum(same[column].to_list(), axis=0).tolist() for column in ("part", "whole")}
        rows.append(row)
    return pl.DataFrame(rows, schema=points.schema)


def judge(points: pl.DataFrame) -> Judged:
    """Choose the law on some models, and judge it on others.

    With several ladders of one training each, a ladder is judged by the law that errs least on the others. With one,
    each model in turn is judged by the law that errs least among the other models.

    Args:
        points: as `read_points` gives them.
    """
    each = [_sets(ladder) for ladder in ladders(smaller_drafts(points))]
    each = [sets for sets in each if sets]
    if not each:
        return Judged({}, None, ())
    errors = {name: [_error(sets, law) for sets in each] for name, law in LAWS.items()}
    known = {name: np.stack(found) for name, found in errors.items() if all(len(one) for one in found)}
    rivals = [name for name in known if name != CONSTANT.name]
    if not rivals:
        return Judged(known, None, ())
    chosen, choices = _on_other_ladders(known, rivals) if len(each) > 1 else _on_other_models(each[0], rivals)
    return Judged(known, chosen, choices)


def _sets(ladder: pl.DataFrame) -> list[tuple[pl.DataFrame, Floats]]:
    """The pairs of each method and task, and their frequencies with resamples."""
    parts = ladder.partition_by("method", "task", maintain_order=True)
    return [(pairs, resampled_frequencies(pairs)) for pairs in parts if len(pairs) >= MIN_PAIRS]


def _error(sets: Sequence[tuple[pl.DataFrame, Floats]], law: Law) -> Floats:
    found = [held_out_of(pairs, law, frequencies) for pairs, frequencies in sets]
    return np.mean(found, axis=0) if all(len(one) for one in found) else np.empty(0)


def _on_other_ladders(known: dict[str, Floats], rivals: Sequence[str]) -> tuple[Floats, tuple[str, ...]]:
    errors = np.stack([known[name] for name in rivals])  # [laws, ladders, 1 + resamples]
    others = errors.sum(axis=1, keepdims=True) - errors
    best = others.argmin(axis=0)
    return np.take_along_axis(errors, best[None], 0)[0], tuple(rivals[number] for number in best[:, 0])


def _on_other_models(
    sets: Sequence[tuple[pl.DataFrame, Floats]], rivals: Sequence[str]
) -> tuple[Floats | None, tuple[str, ...]]:
    models = sorted({name for pairs, _ in sets for role in _ROLES for name in pairs[role].to_list()})
    squares: list[list[Floats]] = [[] for _ in sets]
    choices = []
    for model in models:
        held = [((pairs["draft"] == model) | (pairs["target"] == model)).to_numpy() for pairs, _ in sets]
        rest = [(pairs.filter(~mine), of[:, ~mine]) for (pairs, of), mine in zip(sets, held, strict=True)]
        inner = {name: _error(rest, LAWS[name]) for name in rivals}
        inner = {name: error for name, error in inner.items() if len(error)}
        if not inner:
            return None, ()
        best = np.stack([*inner.values()]).argmin(axis=0)  # [1 + resamples]
        choices.append([*inner][best[0]])
        for place, ((pairs, of), mine) in enumerate(zip(sets, held, strict=True)):
            if not mine.any():
                continue
            found = [left_out(LAWS[name], sizes_of(pairs), of, mine) for name in inner]
            errors = np.stack([np.full((len(of), mine.sum()), np.nan) if one is None else one for one in found])
            squares[place].append(np.take_along_axis(errors, best[None, :, None], 0)[0] ** 2)
    means = [np.sqrt(np.concatenate(one, axis=1).mean(axis=1)) for one in squares]
    return np.mean(means, axis=0)[None], tuple(choices)
