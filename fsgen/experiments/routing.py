"""`routing`: where routers consult beside where the two models differ, and what they write at each budget of calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from fsgen.analysis.answers import Answer, Point, Row, effect
from fsgen.analysis.intervals import Estimate, Floats, mean_of
from fsgen.analysis.learning import Positions, learn, part_of, positions, threshold
from fsgen.analysis.ranking import RESAMPLES, Ranking
from fsgen.experiments.base import Experiment
from fsgen.experiments.budgets import ALWAYS, NEVER, Budgets, learned_file
from fsgen.experiments.cells import check_tasks, halves, labelled, oracle_cells, pair_label, routed
from fsgen.experiments.config import words
from fsgen.experiments.lab import Lab, Study
from fsgen.methods.learned.scorers import Scorer
from fsgen.study.cells import Cell
from fsgen.study.config import Keys
from fsgen.types import shortest

MAX_PROB, RANDOM, POSITION = "max-prob", "random", "position"
PERFECT = "perfect"
"""Of perfect imitation: it consults wherever the two differ, and so writes what the target writes."""
MARGIN = 0.01
"""An advantage in accuracy below this, with its whole interval, counts as none."""
_CALLS = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0)

_Share = Annotated[float, Field(gt=0, lt=1)]


class Options(Keys):
    """Of the examples that judge, and of the routers; see `routing.yaml`."""

    judged: Annotated[int, Field(ge=2)] = 160
    on_policy: tuple[str, ...] = ("pocket_math",)
    budgets: Annotated[tuple[_Share, ...], Field(min_length=1)] = (0.02, 0.05, 0.1, 0.2, 0.5)
    kinds: tuple[Literal["svm", "logistic", "trees"], ...] = ("svm", "logistic", "trees")


@dataclass(frozen=True, eq=False)
class Measured:
    """What is known of a pair on a task.

    Attributes:
        label: of them.
        differs, example: whether the two differ at each position of the judging examples, and which it is of, [n].
        scores: what each router goes by there, high where it consults, [n] each.
        chosen: on the choosing examples, the router other than max-prob that ranks positions best.
        texts: what was written on the judging examples, None where nothing was: a row a text, with `router` (also
            `never`, `always`, and `perfect`: the target's text, consulted at the mismatches alone), `budget`,
            `example`, `score`, `tokens`, `consulted`.
        left_out: why a router is not there, a sentence each.
    """

    label: str
    differs: NDArray[np.bool_]
    example: NDArray[np.int64]
    scores: Mapping[str, Floats]
    chosen: str
    texts: pl.DataFrame | None
    left_out: tuple[str, ...] = ()

    @cached_property
    def rankings(self) -> dict[str, Ranking]:
        """How the scores rank the positions."""
        return {name: Ranking.of(score, self.differs, self.example) for name, score in self.scores.items()}

    @cached_property
    def ranked(self) -> dict[str, dict[str, Estimate]]:
        """Of each router there: AUROC, gain, and gain less that of max-prob."""
        usual = self.rankings[MAX_PROB]
        return {
            name: {"AUROC": each.auroc(), "gain": each.estimate(each.gain), "over max-prob": each.gain_over(usual)}
            for name, each in self.rankings.items()
        }


def check(lab: Lab, options: Options) -> None:
    """Refuse other methods, sampled texts, too few examples, and a study without a task on which routers write."""
    check_tasks(oracle_cells(lab.plan(), least=4), options.on_policy)


def measure(lab: Lab, options: Options) -> tuple[list[Measured]]:
    """Consult everywhere, train and choose on some examples, and judge routers on the others."""
    study = lab.study()
    return ([_pair(lab, study, cell, options) for cell in study.cells],)


def _pair(lab: Lab, study: Study, cell: Cell, options: Options) -> Measured:
    choosing, judging = halves(cell, options.judged)
    known = positions(study.traces(cell.key))
    names = {example.id for example in choosing}
    train = known.of({name for name in names if part_of(name) == "train"})
    calibration = known.of({name for name in names if part_of(name) != "train"})
    judged = known.of({example.id for example in judging})
    learned: dict[str, Scorer] = {}
    left_out = []
    for kind in options.kinds:
        try:
            learned[kind] = learn(train, kind)
        except ValueError as error:
            left_out.append(f"{cell.label}: {kind} is left out, since {error}.")
    found = _scores(calibration, learned)
    rankings = {name: Ranking.of(score, calibration.differs, calibration.example) for name, score in found.items()}
    gains = {name: float(each.gain(np.ones((1, each.groups)))[0]) for name, each in rankings.items()}
    texts = None
    if cell.task.task.name in options.on_policy:
        written = [
            (name, budget, routed(lab, cell, judging, router))
            for name, budget, router in _routers(lab, cell, found, calibration, learned, options.budgets)
        ]
        perfect = judged.counts(judged.differs).join(study.texts(cell.key).select("example", "score"), on="example")
        columns = ("example", "score", "tokens", "consulted")
        texts = pl.concat(
            labelled(some.select(*columns), router=name, budget=budget)
            for name, budget, some in [*written, (PERFECT, 0.0, perfect)]
        )
    return Measured(
        label=pair_label(cell),
        differs=judged.differs,
        example=judged.example,
        scores=_scores(judged, learned),
        chosen=max((name for name in gains if name not in (MAX_PROB, RANDOM)), key=gains.__getitem__),
        texts=texts,
        left_out=tuple(left_out),
    )


def _scores(known: Positions, learned: Mapping[str, Scorer]) -> dict[str, Floats]:
    """What each router goes by at some positions: high where it consults."""
    drawn = np.random.default_rng(0).random(len(known))
    plain = {**known.scores, POSITION: -known.x[:, 3], RANDOM: drawn}
    return plain | {kind: scorer.score(known.x) for kind, scorer in learned.items()}


def _routers(
    lab: Lab, cell: Cell, scores: Mapping[str, Floats], chosen_on: Positions, learned: Mapping[str, Scorer],
    budgets: Sequence[float],
) -> Iterator[tuple[str, float, str]]:  # fmt: skip
    """Name, budget and string of every router, with thresholds that meet the budgets on some examples."""
    yield NEVER, 0.0, NEVER
    yield ALWAYS, 1.0, ALWAYS
    files = {kind: learned_file(lab, cell, kind, scorer, chosen_on) for kind, scorer in learned.items()}
    for name, score in scores.items():
        for budget in budgets:
            value = threshold(score, chosen_on.differs, calls=budget)
            match name:
                case "random":
                    yield name, budget, f"{name}:{shortest(budget)}"
                case "position":
                    if (stop := math.ceil(2.0**-value - 1)) > 0:
                        yield name, budget, f"{name}:0-{stop}"
                case "max-prob" | "margin":
                    yield name, budget, f"{name}:{shortest(min(1.0, max(0.0, -value)))}"
                case "entropy":
                    yield name, budget, f"{name}:{shortest(max(0.0, value))}"
                case _:
                    yield name, budget, f"learned:{files[name]}@{shortest(value)}"


def estimate(measured: Sequence[Measured]) -> Answer:
    """The answer from what was measured of each pair and task; one of them at least has texts."""
    wrote = [_Texts(one) for one in measured if one.texts is not None]

    def mean(measure: Callable[[_Texts, Floats], Floats]) -> Estimate:
        each = [(partial(measure, one), len(one.sums)) for one in wrote]  # pairs of one task have the same examples
        return mean_of(each, RESAMPLES)

    accuracy = mean(lambda one, drawn: one.over_max_prob(one.rival, drawn))
    lost = {
        MAX_PROB: mean(lambda one, drawn: one.below_perfect(MAX_PROB, drawn)),
        "best other": mean(lambda one, drawn: one.below_perfect(one.rival, drawn)),
    }
    calls, needed = mean(_Texts.perfect_calls), mean(_Texts.needed)
    numbers = {"accuracy over max-prob at equal calls": accuracy}
    numbers |= {f"accuracy beside a perfect router at its calls, {name}": less for name, less in lost.items()}
    numbers["calls of a perfect router"] = calls
    numbers["calls of max-prob for the target's accuracy less a point"] = needed
    places = []
    for one in measured:
        gain, over = one.ranked[MAX_PROB]["gain"], one.ranked[one.chosen]["over max-prob"]
        numbers[f"gain of max-prob, {one.label}"] = gain
        numbers[f"gain of {one.chosen} over max-prob, {one.label}"] = over
        places.append(f"{one.label}: max-prob {gain}, {one.chosen} {over:+.3f} beside it")
    alone = (f"{100 * one.accuracies[NEVER, 0.0].value:.1f} % ({one.measured.label})" for one in wrote)
    return Answer.of(
        words("routing"),
        holds=effect(accuracy, MARGIN),
        numbers=numbers,
        charts={"accuracy": _accuracies(wrote), "found": _found(measured)},
        tables={"ranking": _ranking_rows(measured), "written": _written_rows(wrote)},
        remarks=(reason for one in measured for reason in one.left_out),
        margin=100 * MARGIN,
        rivals=", ".join(dict.fromkeys(one.rival for one in wrote)),
        accuracy=accuracy,
        places="; ".join(places),
        calls=calls,
        needed=needed,
        best=max(lost.values(), key=lambda estimate: estimate.value),
        alone=", ".join(alone),
        often=", ".join(f"{100 * one.differs.mean():.1f} % ({one.label})" for one in measured),
    )


class _Texts(Budgets):
    """The texts of one pair, where the rival of max-prob is the router that was chosen."""

    def __init__(self, measured: Measured) -> None:
        assert measured.texts is not None
        super().__init__(measured.texts)
        self.measured, self.rival = measured, measured.chosen

    def over_max_prob(self, router: str, weights: Floats) -> Floats:
        """Its accuracy less that of max-prob at the calls of max-prob, as a mean over the budgets."""
        return self.over(router, MAX_PROB, weights)

    def below_perfect(self, router: str, weights: Floats) -> Floats:
        """Its accuracy where it consults as often as a perfect router, less that router's."""
        calls, accuracy = self.rates(weights, PERFECT)
        return np.asarray((self.at(router, calls, weights) - accuracy)[:, 0])

    def needed(self, weights: Floats) -> Floats:
        """The least calls with which max-prob is within `MARGIN` of the target's accuracy, straight between budgets.

        A curve that is measured goes up and down by chance, and so crosses a level too early: it is made to rise first,
        half way between what it has reached so far and what it will not fall below any more.
        """
        grid = np.linspace(0, 1, 1001)
        curve = self.at(MAX_PROB, np.tile(grid, (len(weights), 1)), weights)
        lasting = np.minimum.accumulate(curve[:, ::-1], axis=1)[:, ::-1]
        reached = (np.maximum.accumulate(curve, axis=1) + lasting) / 2
        return np.asarray(grid[(reached >= self.rates(weights, ALWAYS)[1] - MARGIN).argmax(1)])

    def perfect_calls(self, weights: Floats) -> Floats:
        """How often a perfect router consults."""
        return self.rates(weights, PERFECT)[0][:, 0]


def _accuracies(wrote: Sequence[_Texts]) -> Iterator[Point]:
    for one in wrote:
        calls = dict(zip(one.conditions, one.sums.ratio("consulted", "tokens", one.sums.once)[0], strict=True))
        for router in one.measured.scores:
            for condition in sorted(calls, key=calls.__getitem__):
                if condition[0] in (router, ALWAYS) and calls[condition] > 0:
                    mark = float(calls[condition]), one.accuracies[condition]
                    yield Point.of(*mark, router, one.measured.label)


def _found(measured: Sequence[Measured]) -> Iterator[Point]:
    for one in measured:
        for name, ranking in one.rankings.items():
            for calls in _CALLS:
                missed = float(ranking.missed(np.array([calls]), np.ones((1, ranking.groups)))[0])
                yield Point(calls, 1 - missed / float(one.differs.mean()), series=name, panel=one.label)


def _ranking_rows(measured: Sequence[Measured]) -> Iterator[Row]:
    for one in measured:
        for name, found in sorted(one.ranked.items(), key=lambda item: -item[1]["gain"].value):
            yield {"pair": one.label, "router": name, **found, "AUROC": found["AUROC"].value}


def _written_rows(wrote: Sequence[_Texts]) -> list[Row]:
    rows: list[Row] = []
    for one in wrote:
        for router in (name for name in one.routers if name not in (NEVER, ALWAYS, PERFECT)):
            over, less = (
                one.sums.estimate(partial(measure, router)) for measure in (one.over_max_prob, one.below_perfect)
            )
            over = Estimate(0.0) if router == MAX_PROB else over
            rows.append({"pair": one.measured.label, "router": router, "over max-prob": over, "over perfect": less})
    return sorted(rows, key=lambda row: (row["pair"], -row["over max-prob"].value))


EXPERIMENT = Experiment(Options, measure, estimate, check)
