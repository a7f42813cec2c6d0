"""`threshold`: accuracy, calls and seconds over thresholds, the knee, and what a threshold does on other tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Literal

import numpy as np
import polars as pl
from pydantic import Field

from fsgen.analysis.answers import Answer, Point, Row, below, shown, verdict
from fsgen.analysis.intervals import Estimate, Floats
from fsgen.analysis.learning import Positions, positions, threshold
from fsgen.analysis.rates import in_points
from fsgen.experiments.base import Experiment
from fsgen.experiments.cells import check_tasks, halves, oracle_cells, pair_label, routed
from fsgen.experiments.lab import Lab, Study
from fsgen.experiments.sums import Measure, Sums, mean_of
from fsgen.methods.method import parse_router
from fsgen.study.config import Keys
from fsgen.study.plan import Cell
from fsgen.types import shortest

TOLERANCE = 0.05
"""A threshold carries where its calls on other tasks are off by less than this share of the positions, on average."""
DRAFT, TARGET = "draft alone", "target alone"
CHOOSING, JUDGING = "choosing", "judging"
_RESAMPLES = 1000

_Share = Annotated[float, Field(gt=0, lt=1)]
_Router = Literal["max-prob", "margin", "entropy"]


class Options(Keys):
    """What is tried.

    Attributes:
        judged: how many examples of a task judge, at most half; the others choose.
        on_policy: tasks on which the routers write.
        calls: of the thresholds that are carried to other tasks, on their own one.
        thresholds: of each router; the first router is answered for.
    """

    judged: Annotated[int, Field(ge=2)] = 96
    on_policy: tuple[str, ...] = ("pocket_math",)
    calls: _Share = 0.2
    thresholds: Annotated[dict[_Router, Annotated[tuple[float, ...], Field(min_length=2)]], Field(min_length=1)]


def check(lab: Lab, options: Options) -> list[Cell]:
    """Refuse other methods, other than one pair and two tasks, and impossible thresholds; the study's cells."""
    cells = oracle_cells(lab.plan(), least=4)
    pairs = {tuple(sorted(cell.members.items())) for cell in cells}
    if len(pairs) > 1 or len(cells) < 2:
        raise ValueError(f"the study has {len(pairs)} pairs and {len(cells)} runs: one pair is needed, and two tasks")
    check_tasks(cells, options.on_policy)
    for router, values in options.thresholds.items():
        for value in values:
            parse_router(f"{router}:{shortest(value)}")
    return cells


def measure(lab: Lab, options: Options) -> tuple[pl.DataFrame, pl.DataFrame, float]:
    """Choose thresholds on some examples of each task, and see what they do on others, of this task and the others."""
    study = lab.study()
    wrote = [cell for cell in study.cells if cell.task.task.name in options.on_policy]
    texts = pl.concat(_written(lab, study, cell, options) for cell in wrote)
    return _carried(study, options), texts, options.calls


def _carried(study: Study, options: Options) -> pl.DataFrame:
    """What the threshold of each router and task does on the judging examples of each task; see `estimate`."""
    parts: dict[str, tuple[Positions, Positions]] = {}
    for cell in study.cells:
        known = positions(study.traces(cell.key))
        chosen, judged = (known.of({example.id for example in half}) for half in halves(cell, options.judged))
        parts[cell.task.task.name] = chosen, judged
    tables = []
    for router, (source, (own, _)) in product(options.thresholds, parts.items()):
        score = own.scores[router]
        value = threshold(score, own.differs, calls=options.calls)
        promised = float((score > value).mean()), float((own.differs & (score <= value)).mean())
        for task, (_, other) in parts.items():
            consulted = other.scores[router] > value
            counts = pl.DataFrame(
                {
                    "example": np.array(other.names)[other.example],
                    "asked": consulted.astype(np.int64),
                    "missed": (other.differs & ~consulted).astype(np.int64),
                    "tokens": np.ones(len(other), dtype=np.int64),
                }
            )
            names = {"router": router, "source": source, "task": task, "threshold": abs(value)}
            names |= dict(zip(("promised_calls", "promised_missed"), promised, strict=True))
            tables.append(counts.group_by("example").sum().with_columns(pl.lit(v).alias(k) for k, v in names.items()))
    return pl.concat(tables)


def _written(lab: Lab, study: Study, cell: Cell, options: Options) -> pl.DataFrame:
    """The texts of both models alone, and of each router at each threshold; see `estimate`."""
    chosen = [example.id for example in halves(cell, options.judged)[0]]
    draft, target = (study.texts(study.alone[cell.key][role]) for role in ("draft", "target"))
    found = [
        (DRAFT, None, draft.with_columns(consulted=pl.lit(0))),
        (TARGET, None, target.with_columns(consulted="tokens")),
        *(
            (router, value, routed(lab, cell, cell.task.examples, f"{router}:{shortest(value)}"))
            for router, values in options.thresholds.items()
            for value in values
        ),
    ]
    half = pl.when(pl.col("example").is_in(chosen)).then(pl.lit(CHOOSING)).otherwise(pl.lit(JUDGING))
    return pl.concat(
        texts.select(
            *(pl.lit(pair_label(cell)).alias("label"), pl.lit(router).alias("router")),
            *(pl.lit(value, pl.Float64).alias("threshold"), half.alias("half"), "example", "score"),
            *(pl.col("tokens", "consulted").cast(pl.Int64), "seconds"),
        )
        for router, value, texts in found
    )


def estimate(carried: pl.DataFrame, texts: pl.DataFrame, calls: float) -> Answer:
    """The answer.

    Args:
        carried: a row for each `router`, `source` (the task on which its `threshold` was chosen), `task` and `example`
            that judges there, with the positions `asked`, the mismatches `missed`, the `tokens`; and with what the
            threshold does on the examples that chose it, `promised_calls` and `promised_missed`, both by token.
        texts: a row a text, with `label` (task and pair), `router` (also `DRAFT`, `TARGET`), `threshold`, `half`
            (`CHOOSING` or `JUDGING`), `example`, `score`, `tokens`, `consulted`, `seconds`. The router that is answered
            for is the first one that is neither.
        calls: what the thresholds in `carried` were to consult, as a share of the positions.
    """
    texts = texts.filter(pl.col("score").is_not_null())
    routers = [name for name in texts["router"].unique(maintain_order=True) if name not in (DRAFT, TARGET)]
    main = routers[0]
    labels = texts["label"].unique(maintain_order=True).to_list()
    curves = {(label, router): _Curve(texts.filter(label=label), router) for label, router in product(labels, routers)}
    moved = {router: _Moved.of(carried.filter(router=router)) for router in routers}
    mine, knee = moved[main], curves[labels[0], main]
    numbers = {f"knee of {main}: {name}": number for name, number in knee.numbers.items()}
    numbers |= {
        f"calls of {main} on other tasks, off by": mine.away,
        f"calls of {main} on its own task, off by": mine.home,
        f"misses of {main} on other tasks, off by": mine.misses,
    }
    holds = below(mine.away, TOLERANCE)
    verb = verdict(holds, "keeps its calls", "does not keep its calls", "may or may not keep its calls")
    there = [place for place in mine.calls if place[0] != place[1]]
    rates, missed = [mine.calls[place].value for place in there], [mine.missed[place] for place in there]
    place, often, accuracy, seconds = knee.numbers.values()
    return Answer.of(
        statement=f"A {main} threshold that was chosen for {100 * calls:g} % of the positions of one task {verb} on "
        f"others: it consults at {100 * min(rates):.1f} % to {100 * max(rates):.1f} % there, off by "
        f"{shown(mine.away, '.1f', 100)} points on average, and at home by {shown(mine.home, '.1f', 100)}; it misses "
        f"mismatches at {100 * min(missed):.1f} % to {100 * max(missed):.1f} % of the positions, off by "
        f"{shown(mine.misses, '.1f', 100)} points. On {labels[0]} the knee of {main} is at {shown(place, '.3g')}: on "
        f"examples that did not choose it, it consults at {shown(often, '.1f', 100)} % of the positions, its accuracy "
        f"is {in_points(accuracy)} points beside the target's, and a token takes {shown(seconds, '.3g')} times as long "
        "as with the target alone.",
        holds=holds,
        numbers=numbers,
        charts={
            "curve": (point for key, curve in curves.items() for point in curve.points(key, "accuracy")),
            "seconds": (point for key, curve in curves.items() for point in curve.points(key, "seconds")),
            "carried": (
                Point.of(task, calls, source, router)
                for router, found in moved.items()
                for (source, task), calls in found.calls.items()
            ),
        },
        tables={
            "knees": (curve.row(*key) for key, curve in curves.items()),
            "carried-misses": _carried_rows(carried, moved),
        },
    )


class _Curve:
    """Calls, accuracy and seconds of a router over its thresholds, and its knee.

    The conditions are the draft alone, the thresholds, and the target alone. The examples of one half choose the knee,
    those of the other judge it.
    """

    def __init__(self, texts: pl.DataFrame, router: str) -> None:
        mine = texts.filter(pl.col("router").is_in([DRAFT, router, TARGET]))
        self.values = mine["threshold"].drop_nulls().unique().sort().to_numpy()
        conditions = [(DRAFT, None), *((router, value) for value in self.values.tolist()), (TARGET, None)]
        columns = ("consulted", "tokens", "score", "seconds")
        self._chosen, self._judged = (
            Sums.of(mine.filter(half=half), ("router", "threshold"), conditions, *columns)
            for half in (CHOOSING, JUDGING)
        )
        at = 1 + int(_heights(self._chosen, self._chosen.once).argmax())
        self.numbers = {
            "threshold": self._chosen.estimate(self._knee, _RESAMPLES),
            "calls": self._estimate(lambda weights: self._calls(weights)[:, at]),
            "accuracy beside the target's": self._estimate(
                lambda weights: (lambda y: y[:, at] - y[:, -1])(self._judged.ratio("score", "texts", weights))
            ),
            "seconds beside the target's": self._estimate(self._seconds(at)),
        }
        self._height = self._estimate(lambda weights: _heights(self._judged, weights)[:, at - 1])

    def _estimate(self, measure: Measure) -> Estimate:
        return self._judged.estimate(measure, _RESAMPLES)

    def _knee(self, weights: Floats) -> Floats:
        return np.asarray(self.values[_heights(self._chosen, weights).argmax(1)])

    def _calls(self, weights: Floats) -> Floats:
        return self._judged.ratio("consulted", "tokens", weights)

    def _seconds(self, at: int) -> Measure:
        """Seconds a token beside the target's."""

        def measure(weights: Floats) -> Floats:
            seconds = self._judged.ratio("seconds", "tokens", weights)
            return np.asarray(seconds[:, at] / seconds[:, -1])

        return measure

    def _accuracy(self, at: int) -> Measure:
        return lambda weights: self._judged.ratio("score", "texts", weights)[:, at]

    def points(self, key: tuple[str, str], what: Literal["accuracy", "seconds"]) -> Iterator[Point]:
        """Accuracy, or seconds a token beside the target's, by calls, on the judging examples."""
        label, router = key
        for i, calls in enumerate(self._calls(self._judged.once)[0]):
            y = self._estimate(self._accuracy(i) if what == "accuracy" else self._seconds(i))
            yield Point.of(float(calls), y, router, label)

    def row(self, label: str, router: str) -> Row:
        names = ("threshold", "calls", "accuracy - target's", "seconds / target's", "above the chord")
        found = map(str, (*self.numbers.values(), self._height))
        return {"pair": label, "router": router, **dict(zip(names, found, strict=True))}


def _heights(sums: Sums, weights: Floats) -> Floats:
    """How far each threshold is above the straight line from the draft to the target, [resamples, thresholds]."""
    calls, accuracy = sums.ratio("consulted", "tokens", weights), sums.ratio("score", "texts", weights)
    first, last = accuracy[:, :1], accuracy[:, -1:]
    return np.asarray((accuracy - first - (last - first) * calls)[:, 1:-1])


@dataclass(frozen=True)
class _Moved:
    """The thresholds of a router on all tasks.

    Attributes:
        away, home: by how much its calls are off what they were where the threshold was chosen, on average over other
            tasks, and over its own.
        misses: by how much the share of positions at which it misses a mismatch is off, on other tasks.
        calls: with an interval, of each source and task; `missed` likewise, as numbers.
    """

    away: Estimate
    home: Estimate
    misses: Estimate
    calls: dict[tuple[str, str], Estimate]
    missed: dict[tuple[str, str], float]

    @classmethod
    def of(cls, carried: pl.DataFrame) -> _Moved:
        """From a row for each source, task and example."""
        sums: dict[tuple[str, str], Sums] = {}
        promised: dict[tuple[str, str], dict[str, float]] = {}
        for (source, task), rows in carried.sort("example").group_by("source", "task", maintain_order=True):
            place = str(source), str(task)
            sums[place] = Sums.of(rows, ("task",), [(task,)], "asked", "missed", "tokens")
            promised[place] = {"asked": rows["promised_calls"][0], "missed": rows["promised_missed"][0]}

        def share(place: tuple[str, str], column: str) -> Measure:
            return lambda weights: sums[place].ratio(column, "tokens", weights)[:, 0]

        def off(own: bool, column: str) -> Estimate:
            def one(place: tuple[str, str]) -> Measure:
                return lambda weights: np.abs(share(place, column)(weights) - promised[place][column])

            places = [place for place in sums if (place[0] == place[1]) is own]
            return mean_of([(one(place), len(sums[place])) for place in places], _RESAMPLES)

        calls = {place: one.estimate(share(place, "asked"), _RESAMPLES) for place, one in sums.items()}
        missed = {place: float(share(place, "missed")(one.once)[0]) for place, one in sums.items()}
        return cls(off(False, "asked"), off(True, "asked"), off(False, "missed"), calls, missed)


def _carried_rows(carried: pl.DataFrame, moved: Mapping[str, _Moved]) -> Iterator[Row]:
    for row in carried.group_by("router", "source", maintain_order=True).first().iter_rows(named=True):
        found, source = moved[row["router"]], row["source"]
        for place, calls in found.calls.items():
            if place[0] == source:
                yield {"router": row["router"], "chosen on": source, "threshold": row["threshold"]} | {
                    "calls promised": row["promised_calls"],
                    "misses promised": row["promised_missed"],
                    "used on": place[1],
                    "calls": calls,
                    "misses": found.missed[place],
                }


EXPERIMENT = Experiment(Options, measure, estimate, check)
