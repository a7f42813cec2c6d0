"""Claims about collaboration, each with what decides it, on measured pairs and on published values alike.

Pairs of one study share texts and models, so they are never counted as independent: examples are drawn for all pairs
together, and models that are trainings of one size are left out in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import polars as pl
from scipy import stats

from fsgen.analysis.answers import below
from fsgen.analysis.intervals import Estimate, Floats, of_draws
from fsgen.analysis.rates import Rates
from fsgen.analysis.scaling.compare import MIN_PAIRS, resampled_frequencies, smaller_drafts
from fsgen.analysis.scaling.fit import fit
from fsgen.analysis.scaling.judging import judge
from fsgen.analysis.scaling.laws import CONSTANT, LOG_SEPARABLE, RATIO
from fsgen.analysis.scaling.results import sizes_of
from fsgen.analysis.trainings import Groups, of_points, over_trainings, reach, widened

FEW = 0.2
"""A frequency below this is what the claim calls few."""
STRUCTURE = 0.25
"""Silhouettes up to this show no substantial structure (Kaufman & Rousseeuw 1990)."""
_CHOSEN = "less that of the law chosen on other models"
Numbers: TypeAlias = dict[str, Estimate]


@dataclass(frozen=True)
class Claim:
    """A verdict.

    Attributes:
        holds: None where it is open, or was not measured.
        numbers: what it rests on, by name; empty where it was not measured.
        published: the same verdict on the published values; `values` are its numbers. None without such values.
    """

    holds: bool | None
    numbers: Numbers
    published: bool | None = None
    values: Numbers = field(default_factory=dict)


def kind(method: str) -> str:
    """A method without its settings."""
    return method.split(" ")[0].partition(":")[0]


def of_kind(points: pl.DataFrame, *kinds: str) -> pl.DataFrame:
    """The pairs of some methods."""
    return points.filter(pl.Series([kind(method) in kinds for method in points["method"]], dtype=pl.Boolean))


def agreed(verdicts: Sequence[bool | None]) -> bool | None:
    """Yes where all say so, no where one says no, else open."""
    return False if False in verdicts else True if verdicts and all(verdicts) else None


# ---- of pairs, as `fsgen.analysis.scaling.read_points` gives them


def share_below(points: pl.DataFrame, level: float = FEW) -> Estimate:
    """The share of the pairs, tasks and methods whose frequency is below a level."""

    def drawn(some: pl.DataFrame) -> Floats:
        sets = some.partition_by("method", "task", maintain_order=True)
        found = [resampled_frequencies(one) < level for one in sets]
        rows = max((len(one) for one in found), default=0)
        each = [np.broadcast_to(one, (rows, one.shape[1])) for one in found]  # published ones have no examples to draw
        return np.asarray(np.concatenate(each, axis=1).mean(axis=1)) if each else np.full(1, np.nan)

    return _with_trainings(points, drawn)


def slope(points: pl.DataFrame) -> Estimate | None:
    """How much the frequency changes with each e-fold of the draft, the target's size held; the mean over tasks.

    None without a task that has the pairs for it.
    """
    points = smaller_drafts(points)
    if not any(len(some) >= MIN_PAIRS for some in points.partition_by("task")):
        return None

    def drawn(some: pl.DataFrame) -> Floats:
        sets = [one for one in some.partition_by("task", maintain_order=True) if len(one) >= MIN_PAIRS]
        found = [fit(LOG_SEPARABLE, sizes_of(one), resampled_frequencies(one)).weights[:, 1] for one in sets]
        return np.asarray(np.mean(found, axis=0)) if found else np.full(1, np.nan)

    return _with_trainings(points, drawn)


def _with_trainings(points: pl.DataFrame, drawn: Callable[[pl.DataFrame], Floats]) -> Estimate:
    def without(model: str | None) -> float:
        kept = points if model is None else points.filter(pl.col("draft") != model, pl.col("target") != model)
        return float(drawn(kept)[0])

    values = drawn(points)
    found = of_draws(values)
    if len(values) > 1 and found.low is None:  # whichever examples are drawn, it is the same
        found = Estimate(found.value, found.value, found.value)
    return widened(found, reach(without, of_points(points)))


def few(points: pl.DataFrame, published: pl.DataFrame) -> Claim:
    """Under a fifth of the positions need the target, in most instances."""
    numbers, values = (
        {"all": share_below(some)}
        | {f"{task}": share_below(one) for (task,), one in some.group_by("task", maintain_order=True)}
        | {f"{name}": share_below(of_kind(some, name)) for name in dict.fromkeys(map(kind, some["method"]))}
        for some in (points, published)
    )
    return Claim(numbers["all"].above(0.5), numbers, values["all"].value > 0.5, values)


def law(points: pl.DataFrame, published: pl.DataFrame) -> Claim:
    """The frequency follows a power law of the ratio of the sizes: no other law predicts left-out models better.

    Open where the models are too few to choose that other law on some and judge it on others.
    """

    def errors(some: pl.DataFrame) -> Numbers:
        judged = judge(of_kind(some, "oracle"))
        if not {RATIO.name, CONSTANT.name} <= set(judged.laws):
            return {}
        mine = judged.laws[RATIO.name]
        found = {
            "error of the ratio law": over_trainings(mine),
            "less that of a constant": over_trainings(mine - judged.laws[CONSTANT.name]),
        }
        if judged.chosen is not None:
            found[_CHOSEN] = over_trainings(mine - judged.chosen)
        return found

    numbers, values = errors(points), errors(published)
    holds = known = None
    if _CHOSEN in numbers:
        _, constant, chosen = numbers.values()
        holds = False if chosen.above(0.0) or constant.above(0.0) else True if below(constant, 0.0) else None
    if _CHOSEN in values:
        _, constant, chosen = values.values()
        known = constant.value < 0 and chosen.value <= 0
    return Claim(holds, numbers, known, values)


def on_task(points: pl.DataFrame, published: pl.DataFrame, task: str) -> Claim:
    """Under a fifth in most instances of one task."""
    ours, theirs = (some.filter(pl.col("task").str.split(",").list.first() == task) for some in (points, published))
    values = {"all": share_below(theirs)} if len(theirs) else {}
    known = values["all"].value > 0.5 if values else None
    if ours.is_empty():
        return Claim(None, {}, known, values)
    number = share_below(ours)
    return Claim(number.above(0.5), {"all": number}, known, values)


def few_shot(points: pl.DataFrame, shots: Mapping[str, int]) -> Claim:
    """Under a fifth in most instances of the few-shot settings that were published."""
    labels = [f"{task}, {count} shots" for task, count in shots.items()]
    there = points.filter(pl.col("task").is_in(labels))
    numbers = {str(task): share_below(one) for (task,), one in there.group_by("task", maintain_order=True)}
    verdicts = [number.above(0.5) for number in numbers.values()]
    return Claim(agreed(verdicts) if len(numbers) == len(labels) else None, numbers)


# ---- of traces


def early(tenths: pl.DataFrame, trainings: Groups) -> Claim:
    """More of the first tenth of a text needs the target than of the rest, on every task.

    Args:
        tenths: a row for each `task`, `draft`, `target`, `example` and side (`early` or not): `tokens` and `differing`.
    """
    tasks = tenths["task"].unique(maintain_order=True).to_list()
    numbers = {task: excess(tenths.filter(task=task), trainings, len(tasks)) for task in tasks}
    return Claim(agreed([number.above(0.0) for number in numbers.values()]), numbers)


def excess(tenths: pl.DataFrame, trainings: Groups, comparisons: int = 1) -> Estimate:
    """How much higher the frequency is in the first tenth than in the rest, over texts; the mean over pairs."""
    rates = Rates(tenths, "early", "differing", trainings=trainings)
    return rates.minus(True, rates.of(False), comparisons)


def ranked(areas: Mapping[str, Estimate]) -> Claim:
    """The draft's largest probability tells mismatches from matches, on every task; AUROC by task."""
    return Claim(agreed([area.above(0.5) for area in areas.values()]), dict(areas))


def clustered(silhouettes: Sequence[tuple[str, str, float, float]]) -> Claim:
    """Mismatches and matches are clusters of their own in two dimensions.

    Yes where all runs of all tasks have silhouettes above `STRUCTURE`, no where none has; runs are not counted.

    Args:
        silhouettes: task, method of the projection, silhouette and adjusted Rand index, of each run.
    """
    if not silhouettes:
        return Claim(None, {})
    numbers = {}
    for method in dict.fromkeys(one[1] for one in silhouettes):
        for name, at in (("silhouette", 2), ("adjusted Rand index", 3)):
            values = [float(one[at]) for one in silhouettes if one[1] == method]
            numbers[f"{method}, {name} (mean; least to largest)"] = Estimate(
                float(np.mean(values)), min(values), max(values)
            )
    each = [one[2] > STRUCTURE for one in silhouettes]
    return Claim(True if all(each) else None if any(each) else False, numbers)


def entropies(sums: pl.DataFrame, trainings: Groups) -> Claim:
    """The draft is less certain than the target, and more so where they differ.

    Args:
        sums: a row for each `task`, `draft`, `target`, `example` and whether the two `differs`: `tokens`, and the sums
            of `draft` and target's entropies as `draft_nats`, `target_nats`, and at how many the draft's is `higher`.
    """
    nats = sums.with_columns(more=pl.col("draft_nats") - pl.col("target_nats"))
    numbers = {}
    for column, name in (("draft_nats", "the draft's entropy"), ("target_nats", "the target's entropy")):
        rates = Rates(sums, "differs", column, trainings=trainings)
        numbers[f"{name} at matches, nats"], numbers[f"{name} at mismatches, nats"] = map(rates.estimate, (False, True))
    both = Rates(nats, "differs", "more", trainings=trainings)
    higher = Rates(sums, "differs", "higher", trainings=trainings)
    numbers["the draft's less the target's at matches"] = both.estimate(False)
    numbers["the draft's less the target's at mismatches"] = both.estimate(True)
    numbers["positions where the draft's is higher, at matches"] = higher.estimate(False)
    numbers["positions where the draft's is higher, at mismatches"] = higher.estimate(True)
    at_mismatches = numbers["the draft's less the target's at mismatches"]
    further = both.minus(True, both.of(False))
    numbers["the last two differences, one less the other"] = further
    return Claim(agreed([at_mismatches.above(0.0), further.above(0.0)]), numbers)


def distance(one: Floats, other: Floats) -> float:
    """The Kolmogorov-Smirnov distance of two distributions, from 0 to 1."""
    return float(stats.ks_2samp(one, other).statistic) if len(one) and len(other) else float("nan")


def common(points: pl.DataFrame, published: pl.DataFrame, tenths: pl.DataFrame, trainings: Groups) -> Claim:
    """What is found of speculative decoding is found of contrastive decoding and proxy tuning: all have the same signs.

    Compared are, by method, the share under a fifth (above or below a half), how the frequency goes with the draft's
    size, and the first tenth less the rest.
    """
    numbers = dict(_signs(points, tenths, trainings))
    values = dict(_signs(published, None, ()))
    return Claim(_alike(numbers), numbers, _alike(values, certain=False), values)


def _signs(points: pl.DataFrame, tenths: pl.DataFrame | None, trainings: Groups) -> Iterator[tuple[str, Estimate]]:
    for name in dict.fromkeys(map(kind, points["method"])):
        mine = of_kind(points, name)
        share = share_below(mine)
        yield f"{name}: share under a fifth, less a half", Estimate(share.value - 0.5, *_less(share, 0.5))
        if (found := slope(mine)) is not None:
            yield f"{name}: change by e-fold of the draft", found
        some = None if tenths is None else of_kind(tenths, name)
        if some is not None and len(some):
            yield f"{name}: first tenth less the rest", excess(some, trainings)


def _less(one: Estimate, value: float) -> tuple[float | None, float | None]:
    return (None if one.low is None else one.low - value, None if one.high is None else one.high - value)


def _alike(numbers: Numbers, certain: bool = True) -> bool | None:
    """Whether all methods have the oracle's signs; open where one is not certain, or there is one method."""
    by_pattern: dict[str, dict[str, bool | None]] = {}
    for name, number in numbers.items():
        method, _, pattern = name.partition(": ")
        by_pattern.setdefault(pattern, {})[method] = number.above(0.0) if certain else number.value > 0
    verdicts: list[bool | None] = []
    for signs in by_pattern.values():
        usual = signs.pop("oracle", None)
        verdicts += [None if usual is None or sign is None else sign is usual for sign in signs.values()]
    return agreed(verdicts)
