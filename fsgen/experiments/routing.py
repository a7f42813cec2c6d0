"""`routing`: where routers ask, against where the two models differ; and what they write at each budget of calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from fsgen.analysis.answers import Answer, Chart, Point, Table
from fsgen.analysis.intervals import Estimate, Floats, grouped, resampled
from fsgen.analysis.labels import short_name
from fsgen.analysis.learning import Positions, learn, part_of, positions, threshold
from fsgen.analysis.ranking import RESAMPLES, Ranking
from fsgen.backends.identity import identity
from fsgen.experiments.base import Experiment
from fsgen.experiments.lab import Lab, Study
from fsgen.experiments.routed import check, halves, written
from fsgen.methods.learned.file import LearnedModel
from fsgen.methods.learned.scorers import Scorer
from fsgen.study.cells import Cell
from fsgen.study.config import Keys
from fsgen.types import shortest

MAX_PROB, RANDOM, POSITION = "max-prob", "random", "position"
NEVER, ALWAYS, PERFECT = "never", "always", "perfect"
MARGIN = 0.01
"""An advantage in accuracy below this, with its whole interval, counts as none."""
_CALLS = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0)

_Share = Annotated[float, Field(gt=0, lt=1)]


class Options(Keys):
    """What is compared.

    Attributes:
        judged: how many examples of a task judge, at most half; the others train, and choose.
        on_policy: tasks on which the routers write too.
        budgets: consultations, as shares of the positions.
        kinds: of learned routers.
    """

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
        scores: what each router goes by there, high where it asks, [n] each.
        chosen: on the choosing examples, the router other than max-prob that ranks positions best.
        texts: what was written on the judging examples, None where nothing was: a row a text, with `router` (also
            `never`, `always`, and `perfect`: the target's text, asked for at the mismatches alone), `budget`,
            `example`, `score`, `tokens`, `consulted`, `seconds`.
        left_out: why a router is not there, a sentence each.
    """

    label: str
    differs: NDArray[np.bool_]
    example: NDArray[np.int64]
    scores: Mapping[str, Floats]
    chosen: str
    texts: pl.DataFrame | None
    left_out: tuple[str, ...] = ()


def run(lab: Lab, options: Options) -> Answer:
    """Ask everywhere, train and choose on some examples, and judge routers on the others."""
    plan = lab.plan()
    check(plan)
    tasks = {row.cell.task.task.name for row in plan.rows}
    if not tasks & set(options.on_policy):
        raise ValueError(
            f"on_policy: none of {', '.join(options.on_policy)} is a task of the study ({', '.join(tasks)})"
        )
    study = lab.study()
    return conclude([_pair(lab, study, row.cell, options) for row in study.plan.rows])


# ---- measured


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
    label = f"{cell.task.task.name}, {short_name(cell.members['draft'])} → {short_name(cell.members['target'])}"
    texts = None
    if cell.task.task.name in options.on_policy:
        routers = list(_routers(lab, cell, found, calibration, learned, options.budgets))
        each = [(name, budget, written(lab, cell, judging, router)) for name, budget, router in routers]
        target = study.texts(cell.key).select("example", "score")
        asked = pl.DataFrame({"example": np.array(judged.names)[judged.example], "differs": judged.differs})
        mismatches = asked.group_by("example").agg(tokens=pl.len().cast(pl.Int64), consulted=pl.col("differs").sum())
        perfect = mismatches.join(target, on="example").with_columns(
            pl.col("consulted").cast(pl.Int64), seconds=pl.lit(None, pl.Float64)
        )
        each.append((PERFECT, 0.0, perfect))
        columns = ("example", "score", "tokens", "consulted", "seconds")
        texts = pl.concat(
            [
                some.select(pl.lit(name).alias("router"), pl.lit(budget).alias("budget"), *columns)
                for name, budget, some in each
            ]
        )
    return Measured(
        label=label,
        differs=judged.differs,
        example=judged.example,
        scores=_scores(judged, learned),
        chosen=max((name for name in gains if name not in (MAX_PROB, RANDOM)), key=gains.__getitem__),
        texts=texts,
        left_out=tuple(left_out),
    )


def _scores(known: Positions, learned: Mapping[str, Scorer]) -> dict[str, Floats]:
    """What each router goes by at some positions: high where it asks."""
    drawn = np.random.default_rng(0).random(len(known))
    plain = {**known.scores, POSITION: -known.x[:, 3], RANDOM: drawn}
    return plain | {kind: scorer.score(known.x) for kind, scorer in learned.items()}


def _routers(
    lab: Lab,
    cell: Cell,
    scores: Mapping[str, Floats],
    chosen_on: Positions,
    learned: Mapping[str, Scorer],
    budgets: Sequence[float],
) -> Iterator[tuple[str, float, str]]:
    """Name, budget and string of every router, with thresholds that meet the budgets on some examples."""
    yield NEVER, 0.0, NEVER
    yield ALWAYS, 1.0, ALWAYS
    draft = identity(lab.model(cell.members["draft"]))
    assert draft.digest is not None, "a study knows its models"
    assert draft.vocabulary is not None, "a study knows its models"
    files = {}
    for kind, scorer in learned.items():
        record = {"experiment": lab.name, "runs": [cell.key], "kind": kind, "examples": list(chosen_on.names)}
        known = {"name": draft.name, "digest": draft.digest}
        model = LearnedModel(scorer, chosen_on.top, 0.0, known, draft.vocabulary, record)
        key = {"digest": model.digest, "draft": draft.digest}
        files[kind] = lab.file("routers", key, ".npz", model.write)
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


# ---- concluded


def conclude(measured: Sequence[Measured]) -> Answer:
    """The answer from what was measured of each pair and task; one of them at least has texts."""
    wrote = [_Texts(one) for one in measured if one.texts is not None]
    rivals = [one.measured.chosen for one in wrote]
    accuracy = _mean([one.over_max_prob(rival) for one, rival in zip(wrote, rivals, strict=True)], wrote)
    numbers = {"accuracy over max-prob at equal calls": accuracy}
    lost = {}
    for name, routers in ((MAX_PROB, [MAX_PROB] * len(wrote)), ("best other", rivals)):
        lost[name] = _mean([one.below_perfect(router) for one, router in zip(wrote, routers, strict=True)], wrote)
        numbers[f"accuracy beside a perfect router at its calls, {name}"] = lost[name]
    needed = _mean([one.needed(MAX_PROB) for one in wrote], wrote)
    numbers["calls of a perfect router"] = calls = _mean([one.perfect_calls() for one in wrote], wrote)
    numbers["calls of max-prob for the target's accuracy less a point"] = needed
    ranked = [_ranked(one) for one in measured]
    for one, found in zip(measured, ranked, strict=True):
        numbers[f"gain of max-prob, {one.label}"] = found[MAX_PROB].gain
        numbers[f"gain of {one.chosen} over max-prob, {one.label}"] = found[one.chosen].over
    ahead = accuracy.above(0.0)
    holds = True if ahead else False if accuracy.above(MARGIN) is False else None
    verb = {
        True: "writes better answers than max-prob at equal calls",
        False: f"does not write better answers than max-prob at equal calls by as much as {100 * MARGIN:g} point",
        None: "may or may not write better answers than max-prob at equal calls",
    }[holds]
    places = "; ".join(
        f"{one.label}: max-prob {found[MAX_PROB].gain}, {one.chosen} {_signed(found[one.chosen].over, 1)} beside it"
        for one, found in zip(measured, ranked, strict=True)
    )
    best = max(lost.values(), key=lambda estimate: estimate.value)
    return Answer(
        statement=f"The other router that ranks best on the examples that choose ({', '.join(dict.fromkeys(rivals))}) "
        f"{verb}: {_signed(accuracy, 100)} points of accuracy, as a mean over the budgets. Of the way from chance to "
        f"a perfect router, in the mismatches found on recorded texts: {places}. A perfect router asks at "
        f"{_percent(calls)} % of the positions and writes what the target writes; with as many calls the better of the "
        f"two is {_signed(best, 100)} points of accuracy beside it, and max-prob comes within one point of it with "
        f"{_percent(needed)} %.",
        holds=holds,
        overturn="A router that reads more than the draft's distribution, such as its hidden states; more examples to "
        "train on; texts that are sampled; a draft whose probabilities are badly calibrated, so that other candidates "
        "or the position tell more than the largest probability.",
        numbers=numbers,
        charts=(_accuracies(wrote), _found(measured)),
        tables=(_ranking_table(measured, ranked), _texts_table(wrote)),
        remarks=(
            "Routers are trained, thresholds and the best other router are chosen on examples that do not judge. "
            "Budgets are met there; on the judging examples calls may differ, so curves are compared at equal calls, "
            "straight between their points. Intervals draw the judging examples, the same for all routers.",
            *(reason for one in measured for reason in one.left_out),
        ),
    )


class _Texts:
    """The accuracy and calls of each router and budget on one pair, from how often each example is drawn."""

    def __init__(self, measured: Measured) -> None:
        assert measured.texts is not None
        self.measured = measured
        texts = measured.texts.filter(pl.col("score").is_not_null())
        numbers = {name: i for i, name in enumerate(sorted(texts["example"].unique()))}
        self.conditions = sorted({(name, budget) for name, budget in texts.select("router", "budget").rows()})
        self.routers = list(dict.fromkeys(name for name, _ in self.conditions))
        place = {condition: i for i, condition in enumerate(self.conditions)}
        sums = np.zeros((len(numbers), len(self.conditions), 4))
        for row in texts.iter_rows(named=True):
            where = numbers[row["example"]], place[row["router"], row["budget"]]
            sums[where] += (row["consulted"], row["tokens"], row["score"], 1.0)
        self.sums = grouped(sums)

    def rates(self, router: str, weights: Floats) -> tuple[Floats, Floats]:
        """Calls and accuracy of a router at its budgets, never and always included, [resamples, budgets] each."""
        ends = (NEVER, ALWAYS) if router not in (PERFECT, NEVER, ALWAYS) else ()
        chosen = [i for i, (name, _) in enumerate(self.conditions) if name == router or name in ends]
        parts = np.einsum("re,ecs->rcs", weights, self.sums[:, chosen])
        return parts[..., 0] / parts[..., 1], parts[..., 2] / parts[..., 3]

    def accuracy(self, router: str, place: int) -> Callable[[Floats], Floats]:
        """Its accuracy at one of its budgets."""
        return lambda weights: self.rates(router, weights)[1][:, place]

    def at(self, router: str, calls: Floats, weights: Floats) -> Floats:
        """Its accuracy where it makes so many calls, [resamples, n], straight between its budgets."""
        x, y = self.rates(router, weights)
        order = np.argsort(x, axis=1)
        x, y = np.take_along_axis(x, order, 1), np.take_along_axis(y, order, 1)
        return np.stack([np.interp(asked, xs, ys) for asked, xs, ys in zip(calls, x, y, strict=True)])

    def over_max_prob(self, router: str) -> Callable[[Floats], Floats]:
        """Its accuracy less that of max-prob at the calls of max-prob, as a mean over the budgets."""

        def measure(weights: Floats) -> Floats:
            calls, accuracy = self.rates(MAX_PROB, weights)
            names = [name for name, _ in self.conditions if name in (MAX_PROB, NEVER, ALWAYS)]
            inside = [i for i, name in enumerate(names) if name == MAX_PROB]
            gain: Floats = (self.at(router, calls[:, inside], weights) - accuracy[:, inside]).mean(1)
            return gain

        return measure

    def below_perfect(self, router: str) -> Callable[[Floats], Floats]:
        """Its accuracy where it asks as often as a perfect router, less that router's."""

        def measure(weights: Floats) -> Floats:
            calls, accuracy = self.rates(PERFECT, weights)
            less: Floats = (self.at(router, calls, weights) - accuracy)[:, 0]
            return less

        return measure

    def needed(self, router: str) -> Callable[[Floats], Floats]:
        """The least calls with which its accuracy is within `MARGIN` of the target's, straight between its budgets."""
        grid = np.linspace(0, 1, 1001)

        def measure(weights: Floats) -> Floats:
            reached = self.at(router, np.tile(grid, (len(weights), 1)), weights)
            _, target = self.rates(ALWAYS, weights)
            calls: Floats = grid[(reached >= target - MARGIN).argmax(1)]
            return calls

        return measure

    def perfect_calls(self) -> Callable[[Floats], Floats]:
        """How often a perfect router asks."""
        return lambda weights: self.rates(PERFECT, weights)[0][:, 0]

    def estimate(self, measure: Callable[[Floats], Floats]) -> Estimate:
        return resampled(measure, len(self.sums), resamples=RESAMPLES)


def _mean(measures: Sequence[Callable[[Floats], Floats]], wrote: Sequence[_Texts]) -> Estimate:
    """The mean of a measure over pairs. Pairs of one task have the same examples; those of others are drawn alike."""
    most = max(len(one.sums) for one in wrote)

    def measure(weights: Floats) -> Floats:
        each = [some(weights[:, : len(one.sums)]) for some, one in zip(measures, wrote, strict=True)]
        mean: Floats = np.mean(each, axis=0)
        return mean

    return resampled(measure, most, resamples=RESAMPLES)


@dataclass(frozen=True)
class _Ranked:
    """A router on the recorded texts: AUROC, gain, and gain less that of max-prob."""

    auroc: Estimate
    gain: Estimate
    over: Estimate


def _ranked(one: Measured) -> dict[str, _Ranked]:
    rankings = {name: Ranking.of(score, one.differs, one.example) for name, score in one.scores.items()}
    best = rankings[MAX_PROB]

    def ranked(each: Ranking) -> _Ranked:
        def over(drawn: Floats) -> Floats:
            return each.gain(drawn) - best.gain(drawn)

        gain, more = (resampled(measure, each.groups, resamples=RESAMPLES) for measure in (each.gain, over))
        return _Ranked(each.auroc(), gain, more)

    return {name: ranked(each) for name, each in rankings.items()}


# ---- shown


def _signed(estimate: Estimate, scale: float) -> str:
    digits = 1 if scale > 1 else 3
    ends = ""
    if estimate.low is not None and estimate.high is not None:
        ends = f" [{scale * estimate.low:+.{digits}f}, {scale * estimate.high:+.{digits}f}]"
    return f"{scale * estimate.value:+.{digits}f}{ends}"


def _percent(estimate: Estimate) -> str:
    ends = ""
    if estimate.low is not None and estimate.high is not None:
        ends = f" [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
    return f"{100 * estimate.value:.1f}{ends}"


def _accuracies(wrote: Sequence[_Texts]) -> Chart:
    points = []
    for one in wrote:
        for router in one.measured.scores:
            calls, _ = one.rates(router, np.ones((1, len(one.sums))))
            points += [
                Point(float(calls[0, i]), *_ends(one.estimate(one.accuracy(router, i))), router, one.measured.label)
                for i in calls[0].argsort()
                if calls[0, i] > 0
            ]
    alone = ", ".join(
        f"{100 * one.estimate(one.accuracy(NEVER, 0)).value:.1f} % ({one.measured.label})" for one in wrote
    )
    return Chart(
        name="accuracy",
        title="Accuracy at each budget of calls",
        finding="At equal calls the higher line is the better router; all meet where everything is asked.",
        note=f"Each point is a run on examples that chose nothing. The draft alone has an accuracy of {alone}. A "
        "perfect router writes what always asking does, with as many calls as there are places where the two differ.",
        x="calls / tokens",
        y="accuracy",
        log_x=True,
        series="router",
        points=tuple(points),
    )


def _found(measured: Sequence[Measured]) -> Chart:
    points = []
    for one in measured:
        frequency = float(one.differs.mean())
        for name, score in one.scores.items():
            ranking = Ranking.of(score, one.differs, one.example)
            for calls in _CALLS:
                missed = float(ranking.missed(np.array([calls]), np.ones((1, ranking.groups)))[0])
                points.append(Point(calls, 1 - missed / frequency, series=name, panel=one.label))
    return Chart(
        name="found",
        title="Mismatches found on recorded texts",
        finding="The share of the places where the two differ at which a router asks, by how often it asks at all.",
        note="On the judging examples, in the texts of the target. The two differ at "
        + ", ".join(f"{100 * one.differs.mean():.1f} % ({one.label})" for one in measured)
        + ": so often would a perfect router ask to find all.",
        x="calls / tokens",
        y="share of the mismatches found",
        log_x=True,
        series="router",
        points=tuple(points),
    )


def _ranking_table(measured: Sequence[Measured], ranked: Sequence[Mapping[str, _Ranked]]) -> Table:
    return Table(
        name="ranking",
        title="How well routers find the mismatches",
        note="gain: the area between the curve of misses and that of chance, over that between perfect and chance.",
        columns=("pair", "router", "AUROC", "gain", "95 % from", "to", "over max-prob", "95 % from ", "to "),
        rows=tuple(
            (
                one.label,
                name,
                r.auroc.value,
                r.gain.value,
                r.gain.low,
                r.gain.high,
                r.over.value,
                r.over.low,
                r.over.high,
            )
            for one, found in zip(measured, ranked, strict=True)
            for name, r in sorted(found.items(), key=lambda item: -item[1].gain.value)
        ),
    )


def _texts_table(wrote: Sequence[_Texts]) -> Table:
    rows: list[tuple[str | float | None, ...]] = []
    for one in wrote:
        for router in one.routers:
            if router in (NEVER, ALWAYS, PERFECT, MAX_PROB):
                continue
            gain = one.estimate(one.over_max_prob(router))
            less = one.estimate(one.below_perfect(router))
            rows.append((one.measured.label, router, gain.value, gain.low, gain.high, less.value, less.low, less.high))
        rows.append((one.measured.label, MAX_PROB, 0.0, None, None, *_ends(one.estimate(one.below_perfect(MAX_PROB)))))
    return Table(
        name="written",
        title="Accuracy at equal calls",
        note="Beside max-prob at its calls, as a mean over the budgets; and beside a perfect router at its calls.",
        columns=("pair", "router", "over max-prob", "95 % from", "to", "over perfect", "95 % from ", "to "),
        rows=tuple(sorted(rows, key=lambda row: (str(row[0]), -float(row[2] or 0)))),
    )


def _ends(estimate: Estimate) -> tuple[float, float | None, float | None]:
    return estimate.value, estimate.low, estimate.high


EXPERIMENT = Experiment(Options, run)
