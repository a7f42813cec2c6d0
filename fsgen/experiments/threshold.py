"""`threshold`: accuracy, calls and seconds over thresholds, the knee, and what a threshold does on other tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import polars as pl
from pydantic import Field

from fsgen.analysis.answers import Answer, Chart, Point, Table, Value
from fsgen.analysis.intervals import Estimate, Floats, draws, grouped, percentiles, resampled
from fsgen.analysis.labels import short_name
from fsgen.analysis.learning import Positions, positions, threshold
from fsgen.experiments.base import Experiment
from fsgen.experiments.lab import Lab, Study
from fsgen.experiments.routed import check, halves, written
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
    """What is tried.

    Attributes:
        judged: how many examples of a task judge, at most half; the others choose.
        on_policy: tasks on which the routers write.
        calls: of the thresholds that are carried, on their own task.
        thresholds: of each router; the first router is answered for.
    """

    judged: Annotated[int, Field(ge=2)] = 96
    on_policy: tuple[str, ...] = ("pocket_math",)
    calls: _Share = 0.2
    thresholds: Annotated[dict[_Router, Annotated[tuple[float, ...], Field(min_length=2)]], Field(min_length=1)]


def run(lab: Lab, options: Options) -> Answer:
    """Choose thresholds on some examples of each task, and see what they do on others, of this task and the others."""
    plan = lab.plan()
    check(plan)
    cells = [row.cell for row in plan.rows]
    pairs = {tuple(sorted(cell.members.items())) for cell in cells}
    if len(pairs) > 1 or len(cells) < 2:
        raise ValueError(f"the study has {len(pairs)} pairs and {len(cells)} runs: one pair is needed, and two tasks")
    if not {cell.task.task.name for cell in cells} & set(options.on_policy):
        raise ValueError(f"on_policy: none of {', '.join(options.on_policy)} is a task of the study")
    for router, values in options.thresholds.items():
        for value in values:
            parse_router(f"{router}:{shortest(value)}")
    study = lab.study()
    wrote = [_written(lab, study, cell, options) for cell in cells if cell.task.task.name in options.on_policy]
    return conclude(_carried(study, cells, options), pl.concat(wrote), options.calls)


# ---- measured


def _carried(study: Study, cells: Sequence[Cell], options: Options) -> pl.DataFrame:
    """What the threshold of each router and task does on the judging examples of each task; see `conclude`."""
    parts: dict[str, tuple[Positions, Positions]] = {}
    for cell in cells:
        known = positions(study.traces(cell.key))
        both = (known.of({example.id for example in half}) for half in halves(cell, options.judged))
        parts[cell.task.task.name] = next(both), next(both)
    tables = []
    for router in options.thresholds:
        for source, (own, _) in parts.items():
            score = own.scores[router]
            value = threshold(score, own.differs, calls=options.calls)
            promised = float((score > value).mean())
            missed = float((own.differs & (score <= value)).mean())
            for task, (_, other) in parts.items():
                asked = other.scores[router] > value
                counts = pl.DataFrame(
                    {
                        "example": np.array(other.names)[other.example],
                        "asked": asked.astype(np.int64),
                        "missed": (other.differs & ~asked).astype(np.int64),
                        "tokens": np.ones(len(other), dtype=np.int64),
                    }
                )
                names = {"router": router, "source": source, "task": task}
                numbers = {"threshold": abs(value), "promised_calls": promised, "promised_missed": missed}
                tables.append(
                    counts.group_by("example")
                    .sum()
                    .with_columns(*(pl.lit(value).alias(name) for name, value in {**names, **numbers}.items()))
                )
    return pl.concat(tables)


def _written(lab: Lab, study: Study, cell: Cell, options: Options) -> pl.DataFrame:
    """The texts of both models alone, and of each router at each threshold; see `conclude`."""
    choosing, _ = halves(cell, options.judged)
    chosen = [example.id for example in choosing]
    columns = ("example", "score", pl.col("tokens", "consulted").cast(pl.Int64), "seconds")
    found: list[tuple[str, float | None, pl.DataFrame]] = []
    for role, name in (("draft", DRAFT), ("target", TARGET)):
        texts = study.texts(study.alone[cell.key][role])
        asked = pl.lit(0) if role == "draft" else pl.col("tokens")
        found.append((name, None, texts.with_columns(consulted=asked)))
    for router, values in options.thresholds.items():
        for value in values:
            texts = written(lab, cell, cell.task.examples, f"{router}:{shortest(value)}")
            found.append((router, value, texts))
    pair = f"{short_name(cell.members['draft'])} → {short_name(cell.members['target'])}"
    return pl.concat(
        [
            texts.select(
                pl.lit(f"{cell.task.task.name}, {pair}").alias("label"),
                pl.lit(router).alias("router"),
                pl.lit(value, pl.Float64).alias("threshold"),
                pl.when(pl.col("example").is_in(chosen))
                .then(pl.lit(CHOOSING))
                .otherwise(pl.lit(JUDGING))
                .alias("half"),
                *columns,
            )
            for router, value, texts in found
        ]
    )


# ---- concluded


def conclude(carried: pl.DataFrame, texts: pl.DataFrame, calls: float) -> Answer:
    """The answer.

    Args:
        carried: a row for each `router`, `source` (the task on which its `threshold` was chosen), `task` and `example`
            that judges there, with the positions `asked`, the mismatches `missed`, the `tokens`; and with what the
            threshold does on the examples that chose it, `promised_calls` and `promised_missed`, both by token.
        texts: a row a text, with `label` (task and pair), `router` (also `DRAFT`, `TARGET`), `threshold`, `half`
            (`CHOOSING` or `JUDGING`), `example`, `score`, `tokens`, `consulted`, `seconds`. The router that is answered
            for is the first one that is neither.
        calls: what the thresholds in `carried` were to ask, as a share of the positions.
    """
    texts = texts.filter(pl.col("score").is_not_null())
    routers = [name for name in texts["router"].unique(maintain_order=True) if name not in (DRAFT, TARGET)]
    main = routers[0]
    knees = {
        (label, router): _knee(texts.filter(pl.col("label") == label), router)
        for label in texts["label"].unique(maintain_order=True)
        for router in routers
    }
    moved = {router: _moved(carried.filter(pl.col("router") == router)) for router in routers}
    mine, (label, knee) = moved[main], next((label, knee) for (label, router), knee in knees.items() if router == main)
    numbers = {
        f"knee of {main}: threshold": knee.threshold,
        f"knee of {main}: calls": knee.calls,
        f"knee of {main}: accuracy beside the target's": knee.accuracy,
        f"knee of {main}: seconds beside the target's": knee.seconds,
        f"calls of {main} on other tasks, off by": mine.away,
        f"calls of {main} on its own task, off by": mine.home,
        f"misses of {main} on other tasks, off by": mine.misses,
    }
    above = mine.away.above(TOLERANCE)
    holds = None if above is None else not above
    verb = {True: "keeps its calls", False: "does not keep its calls", None: "may or may not keep its calls"}[holds]
    lowest, highest = min(mine.rates.values()), max(mine.rates.values())
    missed = [value for (source, task), value in mine.missed.items() if source != task]
    return Answer(
        statement=f"A {main} threshold that was chosen for {100 * calls:g} % of the positions of one task {verb} on "
        f"others: it asks at {100 * lowest:.1f} % to {100 * highest:.1f} % there, off by {_percent(mine.away)} points "
        f"on average, and at home by {_percent(mine.home)}; it misses mismatches at {100 * min(missed):.1f} % to "
        f"{100 * max(missed):.1f} % of the positions, off by {_percent(mine.misses)} points. On {label} the knee of "
        f"{main} is at {_plain(knee.threshold)}: on examples that did not choose it, it asks at {_percent(knee.calls)} "
        f"% of the positions, its accuracy is {_percent(knee.accuracy, '+')} points beside the target's, and a token "
        f"takes {_plain(knee.seconds)} times as long as with the target alone.",
        holds=holds,
        overturn="Tasks that are more alike, or less; a draft that is calibrated alike on all of them; thresholds "
        "chosen on a mixture of tasks; a target that is slower beside its draft, for which calls weigh more.",
        numbers=numbers,
        charts=(_curves(texts, routers), _times(texts, routers), _carrying(moved)),
        tables=(_knee_table(knees), _carry_table(carried, moved)),
        remarks=(
            "The knee is the threshold at which the curve of accuracy against calls is farthest above the straight "
            "line from the draft alone to the target alone. It is chosen on some examples and judged on others; the "
            "interval of the threshold itself draws the choosing examples.",
            f"A threshold carries where its calls on other tasks are off by less than {100 * TOLERANCE:g} % of the "
            "positions, on average over pairs of tasks. What it does on other tasks is read off recorded texts of the "
            "target; intervals draw the judging examples, the threshold staying as it was chosen.",
            "Seconds are of this machine and batch size. What other programs did on it meanwhile is in them, and not "
            "in their intervals: measure on a machine that does nothing else.",
        ),
    )


@dataclass(frozen=True)
class _Knee:
    """The knee of a router.

    Attributes:
        threshold: with the interval over the choosing examples.
        calls, accuracy, seconds: on the judging examples: calls / tokens, the accuracy less the target's, and the
            seconds for a token over those of the target alone.
        height: how far it is above the chord, on the judging examples.
    """

    threshold: Estimate
    calls: Estimate
    accuracy: Estimate
    seconds: Estimate
    height: Estimate


class _Sums:
    """Sums over texts by example and condition, the conditions being the draft alone, thresholds, the target alone."""

    def __init__(self, texts: pl.DataFrame, router: str, half: str) -> None:
        mine = texts.filter(pl.col("half") == half, pl.col("router").is_in([DRAFT, router, TARGET]))
        self.thresholds: list[float] = mine["threshold"].drop_nulls().unique().sort().to_list()
        numbers = {name: i for i, name in enumerate(sorted(mine["example"].unique()))}
        sums = np.zeros((len(numbers), len(self.thresholds) + 2, 5))
        places = {DRAFT: 0, TARGET: len(self.thresholds) + 1}
        for row in mine.iter_rows(named=True):
            place = places[row["router"]] if row["router"] in places else 1 + self.thresholds.index(row["threshold"])
            counts = (row["consulted"], row["tokens"], row["score"], 1.0, row["seconds"])
            sums[numbers[row["example"]], place] += counts
        self.sums = grouped(sums)

    def parts(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """Calls, accuracy and seconds a token, [resamples, conditions] each."""
        total = np.einsum("re,ecs->rcs", weights, self.sums)
        return total[..., 0] / total[..., 1], total[..., 2] / total[..., 3], total[..., 4] / total[..., 1]

    def heights(self, weights: Floats) -> Floats:
        """How far each threshold is above the chord, [resamples, thresholds]."""
        calls, accuracy, _ = self.parts(weights)
        first, last = accuracy[:, :1], accuracy[:, -1:]
        above: Floats = (accuracy - first - (last - first) * calls)[:, 1:-1]
        return above

    def estimate(self, measure: Callable[[Floats], Floats]) -> Estimate:
        return resampled(measure, len(self.sums), resamples=_RESAMPLES)


def _knee(texts: pl.DataFrame, router: str) -> _Knee:
    chosen, judged = (_Sums(texts, router, half) for half in (CHOOSING, JUDGING))
    values = np.array(chosen.thresholds)

    def knee(weights: Floats) -> Floats:
        best: Floats = values[chosen.heights(weights).argmax(1)]
        return best

    at = 1 + int(chosen.heights(np.ones((1, len(chosen.sums)))).argmax())
    return _Knee(
        threshold=chosen.estimate(knee),
        calls=judged.estimate(lambda weights: judged.parts(weights)[0][:, at]),
        accuracy=judged.estimate(lambda weights: (lambda y: y[:, at] - y[:, -1])(judged.parts(weights)[1])),
        seconds=judged.estimate(lambda weights: (lambda s: s[:, at] / s[:, -1])(judged.parts(weights)[2])),
        height=judged.estimate(lambda weights: judged.heights(weights)[:, at - 1]),
    )


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

    @property
    def rates(self) -> dict[tuple[str, str], float]:
        """The calls on other tasks."""
        return {(source, task): each.value for (source, task), each in self.calls.items() if source != task}


def _moved(carried: pl.DataFrame) -> _Moved:
    sums, promised = {}, {}
    for key, rows in carried.sort("example").group_by("source", "task", maintain_order=True):
        source, task = str(key[0]), str(key[1])
        sums[source, task] = grouped(rows.select("asked", "missed", "tokens").cast(pl.Float64).to_numpy())
        promised[source, task] = np.array(rows.select("promised_calls", "promised_missed").row(0))
    most = max(map(len, sums.values()))

    def share(place: tuple[str, str], column: int, weights: Floats) -> Floats:
        total = weights[:, : len(sums[place])] @ sums[place]
        rate: Floats = total[:, column] / total[:, 2]
        return rate

    def off(own: bool, column: int) -> Estimate:
        places = [place for place in sums if (place[0] == place[1]) is own]

        def measure(weights: Floats) -> Floats:
            each = [np.abs(share(place, column, weights) - promised[place][column]) for place in places]
            mean: Floats = np.mean(each, axis=0)
            return mean

        return resampled(measure, most, resamples=_RESAMPLES)

    calls = {}
    for place, counts in sums.items():
        rate = share(place, 0, np.ones((1, most)))[0]
        calls[place] = Estimate(float(rate), *percentiles(share(place, 0, draws(len(counts), _RESAMPLES))))
    missed = {place: float(share(place, 1, np.ones((1, most)))[0]) for place in sums}
    return _Moved(off(False, 0), off(True, 0), off(False, 1), calls, missed)


# ---- shown


def _percent(estimate: Estimate, sign: str = "") -> str:
    ends = ""
    if estimate.low is not None and estimate.high is not None:
        ends = f" [{100 * estimate.low:{sign}.1f}, {100 * estimate.high:{sign}.1f}]"
    return f"{100 * estimate.value:{sign}.1f}{ends}"


def _plain(estimate: Estimate) -> str:
    ends = "" if estimate.low is None or estimate.high is None else f" [{estimate.low:.3g}, {estimate.high:.3g}]"
    return f"{estimate.value:.3g}{ends}"


def _points(texts: pl.DataFrame, routers: Sequence[str], part: int) -> list[Point]:
    """Accuracy (1) or seconds a token beside the target's (2) by calls, on the judging examples."""
    points = []
    for label in texts["label"].unique(maintain_order=True):
        for router in routers:
            judged = _Sums(texts.filter(pl.col("label") == label), router, JUDGING)
            ones = np.ones((1, len(judged.sums)))
            for i, asked in enumerate(judged.parts(ones)[0][0]):

                def measure(weights: Floats, judged: _Sums = judged, i: int = i) -> Floats:
                    found = judged.parts(weights)[part]
                    return found[:, i] if part == 1 else found[:, i] / found[:, -1]

                y = judged.estimate(measure)
                points.append(Point.of(float(asked), y, router, label))
    return points


def _curves(texts: pl.DataFrame, routers: Sequence[str]) -> Chart:
    return Chart(
        name="curve",
        title="Accuracy over thresholds",
        finding="The knee is where the curve is farthest above the straight line between its ends.",
        note="On the judging examples. The ends are the draft alone and the target alone.",
        x="calls / tokens",
        y="accuracy",
        series="router",
        points=tuple(_points(texts, routers, 1)),
    )


def _times(texts: pl.DataFrame, routers: Sequence[str]) -> Chart:
    return Chart(
        name="seconds",
        title="Time over thresholds",
        finding="Above 1 a token takes longer than with the target alone.",
        note="Seconds a token over those of the target alone, on the judging examples.",
        x="calls / tokens",
        y="seconds / those of the target",
        series="router",
        points=tuple(_points(texts, routers, 2)),
    )


def _carrying(moved: dict[str, _Moved]) -> Chart:
    return Chart(
        name="carried",
        title="Calls of a threshold on each task",
        finding="Bars of one height would say that a threshold may be carried anywhere.",
        note="Each threshold was chosen on some examples of one task, and asks here on others.",
        x="task",
        y="calls / tokens",
        kind="bar",
        series="chosen on",
        points=tuple(
            Point.of(task, calls, source, router)
            for router, found in moved.items()
            for (source, task), calls in found.calls.items()
        ),
    )


def _knee_table(knees: dict[tuple[str, str], _Knee]) -> Table:
    names = ("threshold", "calls", "accuracy - target's", "seconds / target's", "above the chord")
    rows: list[tuple[Value, ...]] = []
    for (label, router), knee in knees.items():
        found = (knee.threshold, knee.calls, knee.accuracy, knee.seconds, knee.height)
        rows.append((label, router, *(str(each) for each in found)))
    return Table(
        name="knees",
        title="The knee of each router",
        note="Chosen on half of the examples; all but the threshold is of the others. 95 % intervals in brackets.",
        columns=("pair", "router", *names),
        rows=tuple(rows),
    )


def _carry_table(carried: pl.DataFrame, moved: dict[str, _Moved]) -> Table:
    rows: list[tuple[Value, ...]] = []
    first = carried.group_by("router", "source", maintain_order=True).first()
    for row in first.iter_rows(named=True):
        found = moved[row["router"]]
        for (source, task), calls in found.calls.items():
            if source == row["source"]:
                promised = (row["threshold"], row["promised_calls"], row["promised_missed"])
                there = (calls.value, calls.low, calls.high, found.missed[source, task])
                rows.append((row["router"], source, *promised, task, *there))
    return Table(
        name="carried-misses",
        title="What thresholds promise, and what they do",
        note="Calls and misses are shares of the positions.",
        columns=(
            *("router", "chosen on", "threshold", "calls promised", "misses promised"),
            *("used on", "calls", "95 % from", "to", "misses"),
        ),
        rows=tuple(rows),
    )


EXPERIMENT = Experiment(Options, run)
