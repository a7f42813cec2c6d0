"""`threshold`: accuracy, calls and times over thresholds, the knee, and what a threshold does on other tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from typing import Annotated, Literal

import numpy as np
import polars as pl
from pydantic import Field

from fsgen.analysis.answers import Answer, Point, Row, below
from fsgen.analysis.intervals import Estimate, Floats, Measure, mean_of
from fsgen.analysis.learning import Positions, positions, threshold
from fsgen.analysis.rates import Sums
from fsgen.analysis.times import over_repetitions, read_times
from fsgen.experiments.base import Experiment
from fsgen.experiments.cells import (
    DRAFT,
    TARGET,
    alone,
    check_tasks,
    halves,
    labelled,
    oracle_cells,
    pair_label,
    routed,
)
from fsgen.experiments.config import words
from fsgen.experiments.lab import Lab, Study
from fsgen.methods.method import parse_router
from fsgen.study.cells import Cell
from fsgen.study.config import Keys
from fsgen.types import shortest

TOLERANCE = 0.02
"""A threshold carries where its misses on other tasks are off by less than this share of the positions, on average."""
RISK, CALLS = "risk", "calls"
CHOOSING, JUDGING = "choosing", "judging"
_RESAMPLES = 1000

_Share = Annotated[float, Field(gt=0, lt=1)]
_Router = Literal["max-prob", "margin", "entropy"]


class Options(Keys):
    """Of the examples that judge, and of the thresholds; see `threshold.yaml`."""

    judged: Annotated[int, Field(ge=2)] = 96
    timed: Annotated[int, Field(ge=1)] = 64
    repeats: Annotated[int, Field(ge=2)] = 3
    on_policy: tuple[str, ...] = ("pocket_math",)
    risk: _Share = 0.02
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


def measure(lab: Lab, options: Options) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, float, float]:
    """Choose thresholds on some examples of each task, and see what they do on others, of this task and the others."""
    study = lab.study()
    wrote = [cell for cell in study.cells if cell.task.task.name in options.on_policy]
    texts = pl.concat(_written(lab, study, cell, options) for cell in wrote)
    times = pl.concat(_times(lab, cell, options) for cell in wrote)
    return _carried(study, options), texts, times, options.risk, options.calls


def _carried(study: Study, options: Options) -> pl.DataFrame:
    """What the threshold of each router and task does on the judging examples of each task; see `estimate`."""
    parts: dict[str, tuple[Positions, Positions]] = {}
    for cell in study.cells:
        known = positions(study.traces(cell.key))
        chosen, judged = (known.of({example.id for example in half}) for half in halves(cell, options.judged))
        parts[cell.task.task.name] = chosen, judged
    tables = []
    kinds = {RISK: {"misses": options.risk}, CALLS: {"calls": options.calls}}
    for (kind, budget), router, (source, (own, _)) in product(kinds.items(), options.thresholds, parts.items()):
        score = own.scores[router]
        value = threshold(score, own.differs, **budget)
        missed = own.differs & (score <= value)
        promised = {"promised_consulted": float((score > value).mean()), "promised_missed": float(missed.mean())}
        about = {"carries": kind, "router": router, "source": source, "threshold": abs(value), **promised}
        for task, (_, other) in parts.items():
            tables.append(labelled(other.counts(other.scores[router] > value), task=task, **about))
    return pl.concat(tables)


def _written(lab: Lab, study: Study, cell: Cell, options: Options) -> pl.DataFrame:
    """The texts of both models alone, and of each router at each threshold; see `estimate`."""
    chosen = [example.id for example in halves(cell, options.judged)[0]]
    tables = [labelled(texts, router=name, threshold=None) for name, texts in alone(study, cell).items()]
    for router, values in options.thresholds.items():
        for value in values:
            texts = routed(lab, cell, cell.task.examples, f"{router}:{shortest(value)}")
            tables.append(labelled(texts, router=router, threshold=value))
    half = pl.when(pl.col("example").is_in(chosen)).then(pl.lit(CHOOSING)).otherwise(pl.lit(JUDGING))
    return labelled(pl.concat(tables, how="vertical_relaxed").with_columns(half=half), label=pair_label(cell))


def _times(lab: Lab, cell: Cell, options: Options) -> pl.DataFrame:
    """How long each router takes at each threshold, and the target alone, in runs that are repeated; see `estimate`."""
    task = cell.task.config.model_dump(exclude_unset=True) | {"limit": min(options.timed, len(cell.task.examples))}
    settings = {f"{name}:{shortest(each)}": (name, each) for name, of in options.thresholds.items() for each in of}
    study = lab.study(
        lab.varied(
            name=f"{lab.name}-times",
            tasks=[task],
            pairs=[cell.members],
            methods=["route"],
            routers=[*settings],
            grids=None,
            repeats=options.repeats,
        )
    )
    target = study.alone[study.cells[0].key]["target"]
    runs = [(target, TARGET, None), *((one.key, *settings[one.router]) for one in study.cells)]
    tables = []
    for run, router, value in runs:
        seconds = read_times(lab.folder, run)
        each = pl.DataFrame({"repetition": range(len(seconds)), "seconds": seconds})
        tables.append(labelled(each, label=pair_label(cell), router=router, threshold=value))
    return pl.concat(tables, how="vertical_relaxed")


def estimate(carried: pl.DataFrame, texts: pl.DataFrame, times: pl.DataFrame, risk: float, calls: float) -> Answer:
    """The answer.

    The rule: a threshold carries the risk that it was chosen for where the mismatches that it misses on other tasks are
    off by less than `TOLERANCE` of the positions, on average over pairs of tasks. How often it calls there is another
    matter: tasks on which more is uncertain take more calls at the same risk. That is shown, and does not decide.

    Args:
        carried: a row for each promise that it `carries` (`RISK` or `CALLS`), `router`, `source` (the task on which
            its `threshold` was chosen), `task` and `example` that judges there, with the positions `consulted`, the
            mismatches `missed`, the `tokens`; and with what the threshold does on the examples that chose it,
            `promised_consulted` and `promised_missed`, both by token.
        texts: a row a text, with `label` (task and pair), `router` (also `DRAFT`, `TARGET`), `threshold`, `half`
            (`CHOOSING` or `JUDGING`), `example`, `score`, `tokens`, `consulted`. The router that is answered for is the
            first one that is neither.
        times: a row for each `label`, `router` (also `TARGET`), `threshold` and `repetition`, with the `seconds` of a
            token.
        risk: the mismatches that the thresholds in `carried` were to miss at most, as a share of the positions.
        calls: what those that carry calls were to consult.
    """
    texts = texts.filter(pl.col("score").is_not_null())
    routers = [name for name in texts["router"].unique(maintain_order=True) if name not in (DRAFT, TARGET)]
    main = routers[0]
    labels = texts["label"].unique(maintain_order=True).to_list()
    curves = [_Curve(texts, times, label, router) for label, router in product(labels, routers)]
    order = [*product(routers, carried["source"].unique(maintain_order=True))]
    examples = carried.sort("example").partition_by("carries", "router", "source", "task", maintain_order=True)
    every = sorted(map(_Carried, examples), key=lambda place: routers.index(place.router))
    places, by_calls = ([place for place in every if place.carries == kind] for kind in (RISK, CALLS))
    mine, knee = [place for place in places if place.router == main], curves[0]
    others = [place for place in mine if place.source != place.task]
    away = _off(others, "missed")
    home = _off([place for place in mine if place.source == place.task], "missed")
    called = _off([one for one in by_calls if one.router == main and one.source != one.task], "consulted")
    rates, missed = (
        [100 * float(place.share(column, place.sums.once)[0]) for place in others] for column in ("consulted", "missed")
    )
    return Answer.of(
        words("threshold"),
        holds=below(away, TOLERANCE),
        numbers={
            **{f"knee of {main}: {name}": number for name, number in knee.numbers.items()},
            f"misses of {main} on other tasks, off by": away,
            f"misses of {main} on its own task, off by": home,
            f"calls of {main} on other tasks where calls were promised, off by": called,
        },
        charts={
            "curve": (point for curve in curves for point in curve.accuracies()),
            "seconds": (point for curve in curves for point in curve.times()),
            "carried": (Point.of(place.task, place.missed, place.source, place.router) for place in places),
            "calls": (Point.of(place.task, place.calls, place.source, place.router) for place in places),
        },
        tables={
            "knees": (curve.row() for curve in curves),
            "carried-misses": (
                place.row() for place in sorted(places, key=lambda place: order.index((place.router, place.source)))
            ),
        },
        main=main,
        promised=100 * risk,
        promised_calls=100 * calls,
        rates=(min(rates), max(rates)),
        missed=(min(missed), max(missed)),
        away=away,
        home=home,
        called=called,
        label=labels[0],
        knee=list(knee.numbers.values()),
        tolerance=100 * TOLERANCE,
    )


class _Curve:
    """Calls, accuracy and time of a router over its thresholds, and its knee.

    The conditions are the draft alone, the thresholds, and the target alone. The examples of one half choose the knee,
    those of the other judge it. Times are compared within a repetition.
    """

    def __init__(self, texts: pl.DataFrame, times: pl.DataFrame, label: str, router: str) -> None:
        mine = texts.filter(pl.col("label") == label, pl.col("router").is_in([DRAFT, router, TARGET]))
        values = mine["threshold"].drop_nulls().unique().sort().to_numpy()
        conditions = [(DRAFT, None), *((router, value) for value in values.tolist()), (TARGET, None)]
        columns = ("consulted", "tokens", "score")
        chosen, judged = (
            Sums.of(mine.filter(half=half), ("router", "threshold"), columns, conditions, resamples=_RESAMPLES)
            for half in (CHOOSING, JUDGING)
        )
        self.judged, self.label, self.router = judged, label, router
        at = 1 + int(_heights(chosen, chosen.once).argmax())
        measures: dict[str, Measure] = {
            "calls": lambda weights: judged.ratio("consulted", "tokens", weights)[:, at],
            "accuracy beside the target's": lambda weights: np.diff(
                judged.ratio("score", "texts", weights, [-1, at]), axis=1
            )[:, 0],
        }
        times = times.filter(label=label).sort("repetition")
        usual = times.filter(router=TARGET)["seconds"].to_numpy()
        each = [times.filter(router=router, threshold=value)["seconds"].to_numpy() for value in values]
        self.slower = [over_repetitions(seconds / usual) for seconds in each]
        self.numbers = {
            "threshold": chosen.estimate(lambda weights: values[_heights(chosen, weights).argmax(1)]),
            **{name: judged.estimate(measure) for name, measure in measures.items()},
            "seconds beside the target's": self.slower[at - 1],
        }
        self.height = judged.estimate(lambda weights: _heights(judged, weights)[:, at - 1])

    def accuracies(self) -> Iterator[Point]:
        """Accuracy by calls, on the judging examples."""
        yield from self._points(self.judged.each("score", "texts"), slice(None))

    def times(self) -> Iterator[Point]:
        """How many times as long a token takes as with the target alone, by calls, at each threshold."""
        yield from self._points(self.slower, slice(1, -1))

    def _points(self, values: Sequence[Estimate], conditions: slice) -> Iterator[Point]:
        calls = self.judged.ratio("consulted", "tokens", self.judged.once, conditions)[0]
        return (Point.of(float(x), y, self.router, self.label) for x, y in zip(calls, values, strict=True))

    def row(self) -> Row:
        names = ("threshold", "calls", "accuracy - target's", "seconds / target's", "above the chord")
        found = map(str, (*self.numbers.values(), self.height))
        return {"pair": self.label, "router": self.router, **dict(zip(names, found, strict=True))}


def _heights(sums: Sums, weights: Floats) -> Floats:
    """How far each threshold is above the straight line from the draft to the target, [resamples, thresholds]."""
    calls, accuracy = sums.ratio("consulted", "tokens", weights), sums.ratio("score", "texts", weights)
    first, last = accuracy[:, :1], accuracy[:, -1:]
    return np.asarray((accuracy - first - (last - first) * calls)[:, 1:-1])


class _Carried:
    """A threshold on the judging examples of a task; `source` is the task on which it was chosen."""

    def __init__(self, examples: pl.DataFrame) -> None:
        self.about = examples.row(0, named=True)
        names = ("carries", "router", "source", "task")
        self.carries, self.router, self.source, self.task = (str(self.about[name]) for name in names)
        self.sums = Sums.of(examples, ("task",), ("consulted", "missed", "tokens"), resamples=_RESAMPLES)
        self.calls = self.sums.estimate(partial(self.share, "consulted"))
        self.missed = self.sums.estimate(partial(self.share, "missed"))

    def share(self, column: str, weights: Floats) -> Floats:
        """The share of the positions that are `consulted`, or `missed`."""
        return self.sums.ratio(column, "tokens", weights)[:, 0]

    def off(self, column: str, weights: Floats) -> Floats:
        """By how much a share is off what was promised."""
        return np.abs(self.share(column, weights) - float(self.about[f"promised_{column}"]))

    def row(self) -> Row:
        return {
            "router": self.router,
            "chosen on": self.source,
            "threshold": self.about["threshold"],
            "calls promised": self.about["promised_consulted"],
            "misses promised": self.about["promised_missed"],
            "used on": self.task,
            "calls": self.calls,
            "misses": self.missed,
        }


def _off(places: Sequence[_Carried], column: str) -> Estimate:
    """By how much a share is off, on average."""
    return mean_of([(partial(place.off, column), len(place.sums)) for place in places], _RESAMPLES)


EXPERIMENT = Experiment(Options, measure, estimate, check)
