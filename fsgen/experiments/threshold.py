"""`threshold`: accuracy, calls and seconds over thresholds, the knee, and what a threshold does on other tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
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
from fsgen.study.cells import Cell
from fsgen.study.config import Keys
from fsgen.types import shortest

TOLERANCE = 0.05
"""A threshold carries where its calls on other tasks are off by less than this share of the positions, on average."""
DRAFT, TARGET = "draft alone", "target alone"
CHOOSING, JUDGING = "choosing", "judging"
_RESAMPLES = 1000

_Share = Annotated[float, Field(gt=0, lt=1)]
_Router = Literal["max-prob", "margin", "entropy"]


class Options(Keys):
    """Of the examples that judge, and of the thresholds; see `threshold.yaml`."""

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
        missed = own.differs & (score <= value)
        promised = {"promised_calls": float((score > value).mean()), "promised_missed": float(missed.mean())}
        for task, (_, other) in parts.items():
            consulted = other.scores[router] > value
            counts = pl.DataFrame(
                {
                    "example": np.array(other.names)[other.example],
                    "consulted": consulted.astype(np.int64),
                    "missed": (other.differs & ~consulted).astype(np.int64),
                    "tokens": np.ones(len(other), dtype=np.int64),
                }
            )
            about = {"router": router, "source": source, "task": task, "threshold": abs(value), **promised}
            tables.append(counts.group_by("example").sum().with_columns(pl.lit(v).alias(k) for k, v in about.items()))
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
            that judges there, with the positions `consulted`, the mismatches `missed`, the `tokens`; and with what the
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
    curves = [_Curve(texts.filter(label=label), label, router) for label, router in product(labels, routers)]
    moved = {router: _Moved.of(carried.filter(router=router)) for router in routers}
    mine, knee = moved[main], curves[0]
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
            "curve": (point for curve in curves for point in curve.points()),
            "seconds": (point for curve in curves for point in curve.points(seconds=True)),
            "carried": (
                Point.of(task, calls, source, router)
                for router, found in moved.items()
                for (source, task), calls in found.calls.items()
            ),
        },
        tables={"knees": (curve.row() for curve in curves), "carried-misses": _carried_rows(carried, moved)},
        tolerance=100 * TOLERANCE,
    )


class _Curve:
    """Calls, accuracy and seconds of a router over its thresholds, and its knee.

    The conditions are the draft alone, the thresholds, and the target alone. The examples of one half choose the knee,
    those of the other judge it.
    """

    def __init__(self, texts: pl.DataFrame, label: str, router: str) -> None:
        mine = texts.filter(pl.col("router").is_in([DRAFT, router, TARGET]))
        values = mine["threshold"].drop_nulls().unique().sort().to_numpy()
        conditions = [(DRAFT, None), *((router, value) for value in values.tolist()), (TARGET, None)]
        columns = ("consulted", "tokens", "score", "seconds")
        chosen, judged = (
            Sums.of(mine.filter(half=half), ("router", "threshold"), conditions, *columns)
            for half in (CHOOSING, JUDGING)
        )
        self.judged, self.label, self.router = judged, label, router
        at = 1 + int(_heights(chosen, chosen.once).argmax())

        def judge(measure: Measure) -> Estimate:
            return judged.estimate(measure, _RESAMPLES)

        self.numbers = {
            "threshold": chosen.estimate(lambda weights: values[_heights(chosen, weights).argmax(1)], _RESAMPLES),
            "calls": judge(lambda weights: judged.ratio("consulted", "tokens", weights)[:, at]),
            "accuracy beside the target's": judge(partial(self._beside, at)),
            "seconds beside the target's": judge(partial(self._seconds, at)),
        }
        self.height = judge(lambda weights: _heights(judged, weights)[:, at - 1])

    def _beside(self, at: int, weights: Floats) -> Floats:
        """The accuracy less the target's."""
        accuracy = self.judged.ratio("score", "texts", weights)
        return np.asarray(accuracy[:, at] - accuracy[:, -1])

    def _seconds(self, at: int, weights: Floats) -> Floats:
        """Seconds a token over the target's."""
        seconds = self.judged.ratio("seconds", "tokens", weights)
        return np.asarray(seconds[:, at] / seconds[:, -1])

    def points(self, seconds: bool = False) -> Iterator[Point]:
        """Accuracy, or seconds a token over the target's, by calls, on the judging examples."""
        every = self.judged.each("score", "texts", _RESAMPLES)
        for at, calls in enumerate(self.judged.ratio("consulted", "tokens", self.judged.once)[0]):
            y = self.judged.estimate(partial(self._seconds, at), _RESAMPLES) if seconds else every[at]
            yield Point.of(float(calls), y, self.router, self.label)

    def row(self) -> Row:
        names = ("threshold", "calls", "accuracy - target's", "seconds / target's", "above the chord")
        found = map(str, (*self.numbers.values(), self.height))
        return {"pair": self.label, "router": self.router, **dict(zip(names, found, strict=True))}


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
            sums[place] = Sums.of(rows, ("task",), [(task,)], "consulted", "missed", "tokens")
            promised[place] = {"consulted": rows["promised_calls"][0], "missed": rows["promised_missed"][0]}

        def share(place: tuple[str, str], column: str) -> Measure:
            return lambda weights: sums[place].ratio(column, "tokens", weights)[:, 0]

        def off(own: bool, column: str) -> Estimate:
            def one(place: tuple[str, str]) -> Measure:
                return lambda weights: np.abs(share(place, column)(weights) - promised[place][column])

            places = [place for place in sums if (place[0] == place[1]) is own]
            return mean_of([(one(place), len(sums[place])) for place in places], _RESAMPLES)

        calls = {place: one.estimate(share(place, "consulted"), _RESAMPLES) for place, one in sums.items()}
        missed = {place: float(share(place, "missed")(one.once)[0]) for place, one in sums.items()}
        return cls(off(False, "consulted"), off(True, "consulted"), off(False, "missed"), calls, missed)


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
