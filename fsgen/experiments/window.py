"""`window`: one budget of consultations, spent in a part of the text, at random, or where the draft is uncertain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor

from fsgen.analysis.answers import Answer, Point, Row
from fsgen.analysis.intervals import Estimate, ratio
from fsgen.experiments.base import Experiment
from fsgen.experiments.cells import DRAFT, TARGET, alone, check_written, labelled, oracle_cells, write
from fsgen.experiments.config import words
from fsgen.experiments.lab import Lab, Study
from fsgen.methods.routers import MaxProb, Router
from fsgen.study.cells import Cell
from fsgen.study.config import Keys

FIRST, MIDDLE, LAST = "first part", "middle part", "last part"
RANDOM, UNCERTAIN = "at random", "where uncertain"
_NAMES = {0.0: FIRST, 0.5: MIDDLE, 1.0: LAST}
_SPENDING = (DRAFT, FIRST, MIDDLE, LAST, RANDOM, UNCERTAIN)
_PAIR = ("task", "draft", "target")
_TEXT = (*_PAIR, "budget", "example")

_Share = Annotated[float, Field(gt=0, lt=1)]
_Place = Annotated[float, Field(ge=0, le=1)]


class Options(Keys):
    """How much is spent, and where; see `window.yaml`."""

    budgets: Annotated[tuple[_Share, ...], Field(min_length=1)] = (0.1, 0.25, 0.5)
    places: tuple[_Place, ...] = (0.0, 0.5, 1.0)
    choosing: Annotated[int, Field(ge=1)] = 100

    @field_validator("places")
    @classmethod
    def _both_ends(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not {0.0, 1.0} <= set(value):
            raise ValueError("must have 0 and 1, the beginning and the end of the text, which are compared")
        return value


@dataclass(frozen=True, eq=False)
class Planned(Router):
    """Consult where a table says so: a row for each text, whose seed is its number.

    Args:
        flags: [texts, positions]; beyond the last position nothing is consulted.
    """

    flags: NDArray[np.bool_]

    name = "planned"

    def consult(self, logits: Tensor, positions: NDArray[np.int64], seeds: NDArray[np.uint64]) -> list[bool]:
        inside = positions < self.flags.shape[1]
        at = np.where(inside, positions, 0)
        answers: list[bool] = (self.flags[seeds.astype(np.int64), at] & inside).tolist()
        return answers


def windows(lengths: NDArray[np.int64], share: float, place: float) -> NDArray[np.bool_]:
    """Flags [texts, longest] of a window of a share of each text, at a place of what it leaves over."""
    spent = budgets(lengths, share)
    starts = np.rint(place * (lengths - spent)).astype(np.int64)
    at = np.arange(lengths.max())
    return np.asarray((at >= starts[:, None]) & (at < (starts + spent)[:, None]))


def scattered(lengths: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Flags [texts, longest] of as many positions of each text, drawn without replacement."""
    rng = np.random.default_rng(seed)
    numbers = np.where(np.arange(lengths.max()) < lengths[:, None], rng.random((len(lengths), lengths.max())), np.inf)
    return np.asarray(numbers.argsort(axis=1).argsort(axis=1) < budgets(lengths, share)[:, None])


def budgets(lengths: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """The consultations of each text: a share of its length, one at least."""
    return np.asarray(np.maximum(1, np.rint(share * lengths)), dtype=np.int64)


def check(lab: Lab, options: Options) -> None:
    """Refuse other methods, sampled texts, too few examples, and tasks that are scored by likelihoods."""
    check_written(oracle_cells(lab.plan(), least=3))


def measure(lab: Lab, options: Options) -> tuple[pl.DataFrame]:
    """Let the models write alone, plan the consultations of each text by that, and write with them."""
    study = lab.study()
    tables = [table for cell in study.cells for table in _pair(lab, study, cell, options)]
    return (pl.concat(tables, how="vertical_relaxed"),)


def _pair(lab: Lab, study: Study, cell: Cell, options: Options) -> Iterator[pl.DataFrame]:
    """All that is measured with one pair on one task: a row a text and setting."""
    examples = cell.task.examples
    judged = examples[: len(examples) - min(options.choosing, len(examples) // 3)]
    order = pl.DataFrame({"example": [example.id for example in judged]})

    def named(texts: pl.DataFrame, where: str, budget: float = 0.0, place: float | None = None) -> pl.DataFrame:
        return labelled(texts, task=cell.task.task.name, **cell.members, where=where, budget=budget, place=place)

    own, target = (order.join(texts, on="example", maintain_order="left") for texts in alone(study, cell).values())
    yield named(own, DRAFT)
    yield named(target, TARGET)
    lengths = own["tokens"].to_numpy().astype(np.int64)
    # The draft's own probabilities, on the texts of the examples that are not judged; alone, it is the target.
    others = (
        study.traces(study.alone[cell.key]["draft"])
        .join(order.lazy(), on="example", how="anti")
        .select("target_prob")
        .collect()
    )
    for share in options.budgets:
        threshold = float(np.quantile(others["target_prob"].to_numpy().astype(np.float64), share))
        routers: list[tuple[str, float | None, Router]] = [
            (_NAMES.get(place, f"at {place:g}"), place, Planned(windows(lengths, share, place)))
            for place in options.places
        ]
        routers.append((RANDOM, None, Planned(scattered(lengths, share, seed=0))))
        routers.append((UNCERTAIN, None, MaxProb(threshold)))
        for where, place, router in routers:
            setting = str(router) if isinstance(router, MaxProb) else {"where": where, "place": place, "share": share}
            key = {"run": cell.key, "judged": len(judged), "setting": setting}
            seeds = [cell.params(number) for number in range(len(judged))]
            found = lab.table("window", key, partial(write, lab, cell, judged, router, seeds))
            yield named(found, where, share, place)
        lab.note(f"{cell.label}: budget {share:g}, max-prob:{threshold:.4g}")


def estimate(texts: pl.DataFrame) -> Answer:
    """The answer from the texts of all settings.

    Args:
        texts: a row a text and setting, with `task`, `draft`, `target`, `where` it was consulted, the `budget` and the
            `place` of the window (null for what is no window), `example`, `tokens`, `consulted`, `score`; among them
            those of `DRAFT` and `TARGET`, with budget 0.
    """
    models = (pl.col(role).str.strip_chars_end("/").str.split("/").list.last() for role in ("draft", "target"))
    task = pl.col("task") + ", " if texts["task"].n_unique() > 1 else pl.lit("")
    texts = texts.filter(pl.col("score").is_not_null()).with_columns(pair=task + pl.format("{} → {}", *models))
    budget = texts.filter(pl.col("budget") > 0)
    first, last, random, uncertain = (budget.filter(where=where) for where in (FIRST, LAST, RANDOM, UNCERTAIN))
    parts = budget.filter(pl.col("place").is_not_null())
    best = _best(parts)
    places = (
        f"{pair}: "
        + ", ".join(
            f"{place:g} with budget {share:g}" for share, place in sorted({*some.select("budget", "place").rows()})
        )
        for (pair,), some in best.group_by("pair", maintain_order=True)
    )
    early, beyond = _difference(first, last), _difference(uncertain, best)
    spent = {"parts": _rate(parts), "at random": _rate(random), "where uncertain": _rate(uncertain)}
    return Answer.of(
        words("window"),
        holds=early.above(0.0),
        numbers={
            "first part over last": early,
            "where uncertain over best part": beyond,
            "where uncertain over at random": _difference(uncertain, random),
            "best part over at random": _difference(best, random),
            **{f"consultations per token, {name}": rate for name, rate in spent.items()},
        },
        charts={
            "spending": _points(texts.filter(pl.col("where").is_in(_SPENDING))),
            "placing": _points(parts, by_place=True),
        },
        tables={"settings": _rows(texts)},
        early=early,
        beyond=beyond,
        more=beyond.above(0.0),
        parts=spent["parts"],
        uncertain=spent["where uncertain"],
        best="; ".join(places),
    )


def _difference(texts: pl.DataFrame, others: pl.DataFrame) -> Estimate:
    """The accuracy of some texts less that of others of the same pairs, budgets and examples."""
    both = texts.select(*_TEXT, "score").join(others.select(*_TEXT, other="score"), on=_TEXT)
    return _accuracy(both.with_columns(score=pl.col("score") - pl.col("other")))


def _accuracy(texts: pl.DataFrame) -> Estimate:
    return _rate(texts.with_columns(one=1), "score", "one")


def _rate(texts: pl.DataFrame, part: str = "consulted", whole: str = "tokens") -> Estimate:
    sums = texts.group_by("task", "example").agg(pl.col(part, whole).sum().cast(pl.Float64)).sort("task", "example")
    found = ratio(sums[part].to_numpy(), sums[whole].to_numpy())
    if found is None:
        raise ValueError("there are no scored texts to compare")
    return found


def _best(parts: pl.DataFrame) -> pl.DataFrame:
    """The texts of the window that is best with each pair and budget; of equals, the earliest."""
    setting = (*_PAIR, "budget")
    means = parts.group_by(*setting, "place").agg(pl.col("score").mean())
    chosen = means.sort("score", "place", descending=[True, False]).unique(setting, keep="first", maintain_order=True)
    return parts.join(chosen.drop("score"), on=(*setting, "place"))


def _points(texts: pl.DataFrame, by_place: bool = False) -> Iterator[Point]:
    """The accuracy of each setting: by its consultations, or by the place of the window."""
    keys = ("pair", "where", "budget", "place")
    for (pair, where, budget, place), settings in texts.group_by(keys, maintain_order=True):
        x, series = (place, f"{budget:g}") if by_place else (_rate(settings).value, where)
        yield Point.of(x, _accuracy(settings), str(series), str(pair))


def _rows(texts: pl.DataFrame) -> Iterator[Row]:
    base = dict(texts.filter(where=DRAFT).group_by("pair").agg(pl.col("score").mean()).rows())
    for (pair, where, budget), settings in texts.group_by("pair", "where", "budget", maintain_order=True):
        score, spent = _accuracy(settings), float(settings["consulted"].sum()) / len(settings)
        yield {
            "pair": pair,
            "budget": budget or None,
            "where": where,
            "texts": len(settings),
            "per token": _rate(settings).value,
            "per text": spent,
            "accuracy": score,
            "gain": (score.value - base[pair]) / spent if pair in base and spent else None,
        }


EXPERIMENT = Experiment(Options, measure, estimate, check)
