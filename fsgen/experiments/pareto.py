"""`pareto`: accuracy against seconds, target calls, operations and price, for every method and setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from fsgen.analysis.answers import Answer, Chart, Point, Table
from fsgen.analysis.frequency import SummaryRow, read_run
from fsgen.analysis.intervals import Estimate, Floats, draws, grouped, resampled
from fsgen.analysis.labels import method_label, short_name
from fsgen.experiments.base import Experiment
from fsgen.experiments.lab import Lab
from fsgen.study.config import Keys

COSTS = {
    "target_calls": "calls of the target",
    "operations": "operations",
    "price": "price",
    "seconds": "seconds",
}
"""What a text costs, by the column that has it."""

COUNTED = tuple(cost for cost in COSTS if cost != "seconds")
"""What the answer goes by: seconds change with what else the machine does, and no resample of texts shows that."""

ALONE = "alone"
_NEVER = 0.05  # a method that is on a frontier in a smaller share of the resamples is never on it


class Options(Keys):
    """What tokens cost.

    Attributes:
        target_price: of a million tokens run through the target, those of prompts too, in any currency.
        draft_price: of the draft (and the base); None for as much less as it has fewer parameters.
    """

    target_price: Annotated[float, Field(gt=0)] = 1.0
    draft_price: Annotated[float, Field(ge=0)] | None = None


def run(lab: Lab, options: Options) -> Answer:
    """Run the study, and price its texts."""
    cells = [row.cell for row in lab.plan().rows]
    if len({cell.task.digest for cell in cells}) > 1 or len({cell.members["target"] for cell in cells}) > 1:
        raise ValueError("accuracy is comparable for one task and one target only: give each an experiment of its own")
    if not any("draft" in cell.members for cell in cells):
        raise ValueError("no method of the study has a draft: there is nothing to compare with the models alone")
    if any(cell.method.name == "oracle" for cell in cells):
        raise ValueError("the oracle is a measurement, and no way to write that costs what it would cost")
    study = lab.study()
    found: dict[str, pl.DataFrame] = {}
    for row in study.rows:
        for role, run in study.alone[row.run].items():
            [member] = read_run(lab.folder, run)["members"].values()
            uses = {role: _Use(member, "target", _price(role, member, row, options))}
            label = f"{short_name(member['name'])} alone"
            found.setdefault(run, _priced(study.texts(run), uses, label, ALONE))
    for row in study.rows:
        if row.draft is not None:
            members = read_run(lab.folder, row.run)["members"]
            # A base reads what q is made of, as the target does.
            uses = {
                role: _Use(member, "draft" if role == "draft" else "target", _price(role, member, row, options))
                for role, member in members.items()
            }
            found[row.run] = _priced(study.texts(row.run), uses, _label(row, study.rows), _kind(row))
    return conclude(pl.concat(found.values()))


@dataclass(frozen=True)
class _Use:
    """A model at work: its record, whose counts tell what it read, and what a million of these tokens cost."""

    member: Mapping[str, Any]
    counted: str
    price: float


def _price(role: str, member: Mapping[str, Any], row: SummaryRow, options: Options) -> float:
    if role == "target":
        return options.target_price
    if options.draft_price is not None:
        return options.draft_price
    if not (member["parameters"] and row.target_parameters):
        raise ValueError(f"the sizes of {member['name']} and {row.target} are not both known: give a draft_price")
    return options.target_price * float(member["parameters"]) / row.target_parameters


def _kind(row: SummaryRow) -> str:
    """The method without its numbers."""
    name, _, parameters = row.method.partition(":")
    router = "" if row.router in (None, "always") else " " + str(row.router).partition(":")[0]
    return name + router + " + rollback" * ("rollback" in parameters)


def _label(row: SummaryRow, rows: list[SummaryRow]) -> str:
    several = len({other.draft for other in rows if other.base is None and other.draft is not None}) > 1
    return method_label(row) + (f", {short_name(row.draft)}" if several else "")


def _priced(texts: pl.DataFrame, uses: Mapping[str, _Use], label: str, kind: str) -> pl.DataFrame:
    """What each example of a run scored and cost."""
    operations, price = [pl.lit(0.0)], [pl.lit(0.0)]
    for use in uses.values():
        # Of a prompt the counts have only its last token, and a model that is never called reads none of it.
        read = pl.col(f"{use.counted}_tokens") + pl.col("prompt_tokens") - 1
        tokens = pl.when(pl.col(f"{use.counted}_calls") > 0).then(read).otherwise(0)
        operations.append(2.0 * use.member["non_embedding_parameters"] * tokens)
        price.append(use.price / 1e6 * tokens)
    calls = pl.col("target_calls") if "target" in uses else pl.lit(0)
    return (
        texts.filter(pl.col("score").is_not_null())
        .select(
            "example",
            "score",
            "seconds",
            target_calls=calls,
            operations=pl.sum_horizontal(operations),
            price=pl.sum_horizontal(price),
        )
        .group_by("example")
        .agg(pl.col("score").mean(), pl.col(*COSTS).sum().cast(pl.Float64))
        .select(pl.lit(label).alias("setting"), pl.lit(kind).alias("kind"), "example", "score", *COSTS)
    )


@dataclass(frozen=True)
class _Settings:
    """All settings on the same examples, or groups of them.

    Attributes:
        names, kinds: of each setting.
        scores: [examples, settings].
        costs: by the name of the cost, [examples, settings].
        texts: in each group, [examples].
    """

    names: list[str]
    kinds: list[str]
    scores: Floats
    costs: dict[str, Floats]
    texts: Floats

    @property
    def alone(self) -> NDArray[np.bool_]:
        return np.array([kind == ALONE for kind in self.kinds])

    def means(self, drawn: Floats, cost: str) -> tuple[Floats, Floats]:
        """Accuracy and cost of a text, [resamples, settings], of drawn examples [resamples, examples]."""
        return _over(drawn @ self.scores, drawn @ self.texts), _over(drawn @ self.costs[cost], drawn @ self.texts)

    def over_lot(self, drawn: Floats, cost: str) -> Floats:
        """Accuracy over what models alone give at the same cost, each text going to one of them by lot, as `means`."""
        accuracy, spent = self.means(drawn, cost)
        gain: Floats = accuracy - by_lot(accuracy[:, self.alone], spent[:, self.alone], spent)
        return gain

    def best_over_lot(self, cost: str) -> tuple[Estimate, list[str]]:
        """`over_lot` of the setting that is best on one half of the examples, on the other; and which these are."""
        half = np.arange(len(self.texts)) % 2 == 0
        masks = half.astype(float), (~half).astype(float)
        gains = [np.where(self.alone, -np.inf, self.over_lot(mask[None], cost)[0]) for mask in masks]
        best = [int(gain.argmax()) for gain in gains]

        def measured(drawn: Floats) -> Floats:
            judged = [self.over_lot(drawn * masks[1 - side], cost)[:, best[side]] for side in (0, 1)]
            mean: Floats = (judged[0] + judged[1]) / 2
            return mean

        return resampled(measured, len(self.texts)), list(dict.fromkeys(self.names[i] for i in best))


def _over(sums: Floats, texts: Floats) -> Floats:
    mean: Floats = sums / texts[:, None]
    return mean


def by_lot(accuracy: Floats, costs: Floats, at: Floats) -> Floats:
    """The accuracy of writing each text with one of some models, drawn so that the mean cost is as asked.

    Args:
        accuracy, costs: of the models, [sets, models].
        at: costs, [sets, n].

    Returns:
        the best that these costs buy, [sets, n]; below the cheapest model it is 0.
    """
    best: Floats = np.where(costs[:, None] <= at[..., None], accuracy[:, None], 0.0).max(axis=-1)
    for i in range(costs.shape[1]):
        for j in range(costs.shape[1]):
            low, high = costs[:, i, None], costs[:, j, None]
            between = (low < high) & (low <= at) & (at <= high)
            share = np.divide(at - low, high - low, out=np.zeros_like(at), where=between)
            mixed = accuracy[:, i, None] + share * (accuracy[:, j] - accuracy[:, i])[:, None]
            best = np.where(between, np.maximum(best, mixed), best)
    return best


def on_frontier(accuracy: Floats, costs: Floats) -> NDArray[np.bool_]:
    """Which settings no other one beats: none is as good for less, or better for as little. Both [sets, settings]."""
    as_good, as_cheap = accuracy[:, None] >= accuracy[..., None], costs[:, None] <= costs[..., None]
    better = (accuracy[:, None] > accuracy[..., None]) | (costs[:, None] < costs[..., None])
    stands: NDArray[np.bool_] = np.logical_not((as_good & as_cheap & better).any(axis=-1))
    return stands


def conclude(texts: pl.DataFrame) -> Answer:
    """The answer from the texts of all settings.

    Args:
        texts: a row a text and setting, with the `setting` and its `kind` (`ALONE` for models alone), `example`,
            `score`, and the columns of `COSTS`. Examples that one of the settings lacks are left out.

    Raises:
        ValueError: no model alone, no other setting, or fewer than two examples that all have.
    """
    settings = _arranged(texts)
    every = np.ones((1, len(settings.texts)))
    drawn = draws(len(settings.texts))
    gains = {cost: settings.best_over_lot(cost) for cost in COSTS}
    there = {cost: on_frontier(*settings.means(every, cost))[0] for cost in COSTS}
    often = {cost: on_frontier(*settings.means(drawn, cost)) for cost in COSTS}
    numbers = {f"best over lot, by {name}": gains[cost][0] for cost, name in COSTS.items()}
    above = [gains[cost][0].above(0.0) for cost in COUNTED]
    holds = True if all(above) else False if False in above else None
    shares = {
        kind: {cost: float(often[cost][:, [k == kind for k in settings.kinds]].any(axis=1).mean()) for cost in COSTS}
        for kind in dict.fromkeys(settings.kinds)
        if kind != ALONE
    }
    never = [kind for kind, each in shares.items() if max(each[cost] for cost in COUNTED) < _NEVER]
    said = {
        True: "Working together beats a lot between the models alone at every counted cost",
        False: "Working together does not beat a lot between the models alone at every counted cost",
        None: "Working together is not clearly better than a lot between the models alone at every counted cost",
    }[holds]
    by = "; ".join(f"{gain} by {COSTS[cost]} ({' or '.join(names)})" for cost, (gain, names) in gains.items())
    lost = f"Never on a frontier: {', '.join(never)}." if never else "Every method is on a frontier now and then."
    return Answer(
        statement=f"{said}: the best setting, chosen on one half of the texts and judged on the other, has this much "
        f"more accuracy than giving texts to the draft or the target by lot for the same cost: {by}. {lost}",
        holds=holds,
        overturn="Other sizes or another machine, where a call of the target costs another multiple of one of the "
        "draft (seconds most of all); another batch size; a task on which the draft is unsure where it is right; "
        "prices that do not follow the sizes.",
        numbers=numbers,
        charts=(_all(settings), _frontiers(settings, there)),
        tables=(_table(settings, often), _methods(shares)),
        remarks=(
            "Seconds are wall clock of one run of each setting in batches. Their intervals draw the texts, not what "
            "else the machine did; so the answer does not go by them.",
            "A target that is asked once in a text has read its whole prompt: by operations and price, asking seldom "
            "saves little where prompts are longer than answers.",
            "Speculative decoding and the target alone write the same texts, so they have one accuracy and only their "
            "costs differ.",
            "Operations are 2 x the parameters without embeddings and output head x the tokens run through a model, "
            "prompts and what it reads again included; attention to earlier tokens is not counted. The price is of the "
            "same tokens.",
        ),
    )


def _arranged(texts: pl.DataFrame) -> _Settings:
    kinds = dict(texts.select("setting", "kind").unique(maintain_order=True).rows())
    if ALONE not in kinds.values() or set(kinds.values()) == {ALONE}:
        raise ValueError("there must be models alone, and other settings to compare with them")
    common = texts.group_by("example").agg(pl.col("setting").n_unique()).filter(pl.col("setting") == len(kinds))
    texts = texts.join(common.select("example"), on="example")
    if len(common) < 2:
        raise ValueError(f"all settings have {len(common)} examples in common; two are needed at least")

    def table(column: str) -> Floats:
        wide = texts.pivot("setting", index="example", values=column).sort("example")
        return grouped(wide.select(*kinds).to_numpy().astype(np.float64))

    costs = {cost: table(cost) for cost in COSTS}
    return _Settings(list(kinds), list(kinds.values()), table("score"), costs, grouped(np.ones(len(common))))


def _relative(settings: _Settings, cost: str) -> Floats:
    """What a text costs with each setting, as a multiple of the dearest model alone."""
    spent = settings.means(np.ones((1, len(settings.texts))), cost)[1][0]
    most = spent[settings.alone].max()
    multiple: Floats = spent / most if most else spent
    return multiple


def _accuracies(settings: _Settings) -> list[Estimate]:
    def of(number: int) -> Estimate:
        return resampled(lambda drawn: settings.means(drawn, "seconds")[0][:, number], len(settings.texts))

    return [of(number) for number in range(len(settings.names))]


def _all(settings: _Settings) -> Chart:
    points = [
        Point.of(float(cost), score, _without_router(kind), name)
        for column, name in COSTS.items()
        for cost, score, kind in zip(_relative(settings, column), _accuracies(settings), settings.kinds, strict=True)
    ]
    return Chart(
        name="costs",
        title="Accuracy by cost",
        finding="Up and to the left is better.",
        note="A point is a setting. Costs are multiples of what the dearest model alone costs.",
        x="cost of a text / that of the target alone",
        y="accuracy",
        kind="point",
        series="method",
        points=tuple(points),
    )


def _without_router(kind: str) -> str:
    """There are fewer colours than methods with each router."""
    return kind.partition(" ")[0] + " + rollback" * kind.endswith("rollback")


def _frontiers(settings: _Settings, there: Mapping[str, NDArray[np.bool_]]) -> Chart:
    points = []
    for column, name in COSTS.items():
        spent, accuracies = _relative(settings, column), _accuracies(settings)
        for number in sorted(np.flatnonzero(there[column]), key=lambda i: float(spent[i])):
            score = accuracies[number]
            points.append(Point.of(float(spent[number]), score, name))
    return Chart(
        name="frontiers",
        title="The frontiers",
        finding="A line that leaves the left edge steeply says that little of this cost buys most of the accuracy.",
        note="The settings that no other one beats, by each cost; the table names them.",
        x="cost of a text / that of the target alone",
        y="accuracy",
        series="cost",
        points=tuple(points),
    )


def _table(settings: _Settings, often: Mapping[str, NDArray[np.bool_]]) -> Table:
    every = np.ones((1, len(settings.texts)))
    costs = [settings.means(every, cost)[1][0] for cost in COSTS]
    shares = [often[cost].mean(axis=0) for cost in COSTS]
    rows = [
        (name, score.value, score.low, score.high, *(float(x[i]) for x in costs), *(float(x[i]) for x in shares))
        for i, (name, score) in enumerate(zip(settings.names, _accuracies(settings), strict=True))
    ]
    frontiers = (f"frontier by {name}" for name in COSTS.values())
    return Table(
        name="settings",
        title="All settings",
        note="Costs are those of a text. The last columns: in which share of the resamples it is on the frontier.",
        columns=("setting", "accuracy", "95 % from", "to", *COSTS.values(), *frontiers),
        rows=tuple(rows),
    )


def _methods(shares: Mapping[str, Mapping[str, float]]) -> Table:
    return Table(
        name="methods",
        title="How often each method is on the frontier",
        note=f"The share of the resamples in which one of its settings is; never: below {_NEVER:g} but for seconds.",
        columns=("method", *COSTS.values()),
        rows=tuple((kind, *each.values()) for kind, each in shares.items()),
    )


EXPERIMENT = Experiment(Options, run)
