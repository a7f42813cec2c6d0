"""`pareto`: accuracy against seconds, target calls, operations and price, for every method and setting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from fsgen.analysis.answers import Answer, Point, Row
from fsgen.analysis.frequency import SummaryRow, read_run
from fsgen.analysis.frontier import on_frontier, random_mix
from fsgen.analysis.intervals import Estimate, Floats, draws
from fsgen.analysis.labels import method_label, short_name
from fsgen.analysis.rates import Sums
from fsgen.analysis.times import over_repetitions, read_times
from fsgen.experiments.base import Experiment
from fsgen.experiments.cells import labelled
from fsgen.experiments.config import words
from fsgen.experiments.lab import Lab
from fsgen.study.config import Keys

COUNTED = {"target_calls": "calls of the target", "operations": "operations", "price": "price"}
"""What a text costs, by the column that has it; the answer goes by these."""

SECONDS = "seconds"
"""A cost of runs that were repeated. No text has one of its own, so intervals are over the repetitions."""

ALONE = "alone"
_NEVER = 0.05  # a method that is on a frontier in a smaller share of the resamples is never on it


class Options(Keys):
    """What a million tokens cost, by the model that they run through; see `pareto.yaml`."""

    target_price: Annotated[float, Field(gt=0)] = 1.0
    draft_price: Annotated[float, Field(ge=0)] | None = None


def check(lab: Lab, options: Options) -> None:
    """Refuse several tasks or targets, a study of models alone, and the oracle."""
    cells = [row.cell for row in lab.plan().rows]
    if len({cell.task.digest for cell in cells}) > 1 or len({cell.members["target"] for cell in cells}) > 1:
        raise ValueError("accuracy is comparable for one task and one target only: give each an experiment of its own")
    if not any("draft" in cell.members for cell in cells):
        raise ValueError("no method of the study has a draft: there is nothing to compare with the models alone")
    if any(cell.method.name == "oracle" for cell in cells):
        raise ValueError("the oracle is a measurement, and no way to write that costs what it would cost")


def measure(lab: Lab, options: Options) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Run the study, price its texts and time its runs; see `estimate`."""
    study = lab.study()
    found: dict[str, pl.DataFrame] = {}
    for row in study.rows:
        for role, run in study.alone[row.run].items():
            [member] = read_run(lab.folder, run)["members"].values()
            texts = _priced(study.texts(run), {role: member}, row, options, ALONE)
            found.setdefault(run, labelled(texts, setting=f"{short_name(member['name'])} alone"))
    several = len({row.draft for row in study.rows if row.base is None and row.draft is not None}) > 1
    for row in study.rows:
        if row.draft is not None:
            texts = _priced(study.texts(row.run), read_run(lab.folder, row.run)["members"], row, options, _kind(row))
            found[row.run] = labelled(texts, setting=method_label(row) + f", {short_name(row.draft)}" * several)
    times = (_times(texts, read_times(lab.folder, run)) for run, texts in found.items())
    return pl.concat(found.values()), pl.concat(times)


def _times(texts: pl.DataFrame, seconds: Floats) -> pl.DataFrame:
    """What a text of a setting took in each repetition, from the seconds of a token."""
    tokens = float(texts["tokens"].sum()) / len(texts)
    each = {"repetition": range(len(seconds)), SECONDS: seconds * tokens}
    return labelled(pl.DataFrame(each, {"repetition": pl.Int64, SECONDS: pl.Float64}), setting=texts["setting"][0])


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


def _priced(
    texts: pl.DataFrame, members: Mapping[str, Mapping[str, Any]], row: SummaryRow, options: Options, kind: str
) -> pl.DataFrame:
    """What each example of a run scored and cost, from the records of its members by role."""
    operations, price = [pl.lit(0.0)], [pl.lit(0.0)]
    for role, member in members.items():
        # A model alone, and the base, read what q is made of, as the target does.
        counted = "draft" if role == "draft" and kind != ALONE else "target"
        # Of a prompt the counts have only its last token, and a model that is never called reads none of it.
        read = pl.col(f"{counted}_tokens") + pl.col("prompt_tokens") - 1
        tokens = pl.when(pl.col(f"{counted}_calls") > 0).then(read).otherwise(0)
        operations.append(2.0 * member["non_embedding_parameters"] * tokens)
        price.append(_price(role, member, row, options) / 1e6 * tokens)
    costs = texts.filter(pl.col("score").is_not_null()).with_columns(
        target_calls=pl.col("target_calls") if "target" in members else pl.lit(0),
        operations=pl.sum_horizontal(operations),
        price=pl.sum_horizontal(price),
    )
    sums = pl.col("tokens", *COUNTED).sum().cast(pl.Float64)
    means = costs.group_by("example").agg(pl.col("score").mean(), sums)
    return labelled(means, kind=kind)


class Settings:
    """All settings on the same examples, or groups of them: accuracy and costs of a text.

    Attributes:
        seconds: of a text, [repetitions, settings]; of those repetitions alone that all settings have.
        costs: the names of what is known, by column.
    """

    def __init__(self, texts: pl.DataFrame, times: pl.DataFrame) -> None:
        by = ("setting", "kind")
        names = texts.select(by).unique(maintain_order=True).rows()
        self.names, self.kinds = ([str(row[i]) for row in names] for i in (0, 1))
        self.alone = np.array([kind == ALONE for kind in self.kinds])
        if self.alone.all() or not self.alone.any():
            raise ValueError("there must be models alone, and other settings to compare with them")
        common = texts.group_by("example").agg(pl.col("setting").n_unique()).filter(pl.col("setting") == len(names))
        if len(common) < 2:
            raise ValueError(f"all settings have {len(common)} examples in common; two are needed at least")
        shared = texts.join(common.select("example"), on="example", maintain_order="left")
        self.sums = Sums.of(shared, by, ("score", *COUNTED), names)
        self.accuracies = self.sums.each("score", "texts")
        each = [times.filter(setting=name).sort("repetition")[SECONDS].to_numpy() for name in self.names]
        common_times = min(map(len, each))
        self.seconds: Floats = np.stack([one[:common_times] for one in each], axis=1)
        self.costs = COUNTED | ({SECONDS: SECONDS} if common_times else {})

    def means(self, drawn: Floats, cost: str) -> tuple[Floats, Floats]:
        """Accuracy and cost of a text, [resamples, settings], of drawn examples [resamples, examples].

        Seconds are not those of the drawn examples: each repetition is a row for itself, beside all or some of them.
        """
        accuracy = self.sums.ratio("score", "texts", drawn)
        if cost == SECONDS:
            return np.repeat(accuracy[:1], len(self.seconds), axis=0), self.seconds
        return accuracy, self.sums.ratio(cost, "texts", drawn)

    def over_mix(self, drawn: Floats, cost: str) -> Floats:
        """Accuracy over that of models alone, mixed at random at the same cost (`random_mix`), as `means`."""
        accuracy, spent = self.means(drawn, cost)
        return np.asarray(accuracy - random_mix(accuracy[:, self.alone], spent[:, self.alone], spent))

    def on_frontier(self, cost: str) -> NDArray[np.bool_]:
        """Which settings are on the frontier, in each resample of the examples or in each repetition."""
        return on_frontier(*self.means(draws(len(self.sums)) if cost != SECONDS else self.sums.once, cost))

    def best_over_mix(self, cost: str) -> tuple[Estimate, list[str]]:
        """`over_mix` of the setting that is best on one half of the examples, on the other; and which these are."""
        half = np.arange(len(self.sums)) % 2 == 0
        masks = half.astype(float), (~half).astype(float)
        best = [int(np.where(self.alone, -np.inf, self.over_mix(mask[None], cost).mean(0)).argmax()) for mask in masks]

        def measured(drawn: Floats) -> Floats:
            judged = [self.over_mix(drawn * masks[1 - side], cost)[:, best[side]] for side in (0, 1)]
            return np.asarray((judged[0] + judged[1]) / 2)

        gain = (
            over_repetitions(measured(self.sums.once), positive=False)
            if cost == SECONDS
            else self.sums.estimate(measured)
        )
        return gain, list(dict.fromkeys(self.names[i] for i in best))

    def cost(self, cost: str) -> Floats:
        """What a text costs with each setting; of seconds the mean over the repetitions."""
        return np.asarray(self.means(self.sums.once, cost)[1].mean(0))

    def relative(self, cost: str) -> Floats:
        """What a text costs with each setting, as a multiple of the dearest model alone."""
        spent = self.cost(cost)
        most = spent[self.alone].max()
        return np.asarray(spent / most) if most else spent


def estimate(texts: pl.DataFrame, times: pl.DataFrame) -> Answer:
    """The answer from the texts of all settings.

    Args:
        texts: a row a text and setting, with the `setting` and its `kind` (`ALONE` for models alone), `example`,
            `score`, and the columns of `COUNTED`. Examples that one of the settings lacks are left out.
        times: a row a `setting` and `repetition`, with the `seconds` of a text; empty where none was repeated.

    Raises:
        ValueError: no model alone, no other setting, or fewer than two examples that all have.
    """
    settings = Settings(texts, times)
    costs = settings.costs
    gains = {cost: settings.best_over_mix(cost) for cost in costs}
    often = {cost: settings.on_frontier(cost) for cost in costs}
    above = [gains[cost][0].above(0.0) for cost in COUNTED]
    shares = {
        kind: {cost: float(often[cost][:, [k == kind for k in settings.kinds]].any(axis=1).mean()) for cost in costs}
        for kind in dict.fromkeys(settings.kinds)
        if kind != ALONE
    }
    never = [kind for kind, each in shares.items() if max(each[cost] for cost in COUNTED) < _NEVER]
    by = (f"{gain} by {costs[cost]} ({' or '.join(names)})" for cost, (gain, names) in gains.items())
    return Answer.of(
        words("pareto"),
        holds=True if all(above) else False if False in above else None,
        numbers={f"best over a random mix, by {name}": gains[cost][0] for cost, name in costs.items()},
        charts={"costs": _all_points(settings), "frontiers": _frontier_points(settings)},
        tables={
            "settings": _rows(settings, often),
            "methods": ({"method": kind, **{costs[c]: each[c] for c in costs}} for kind, each in shares.items()),
        },
        by="; ".join(by),
        never=", ".join(never),
        some=bool(never),
        below=_NEVER,
    )


def _all_points(settings: Settings) -> Iterator[Point]:
    for cost, name in settings.costs.items():
        for spent, score, kind in zip(settings.relative(cost), settings.accuracies, settings.kinds, strict=True):
            method = kind.partition(" ")[0] + " + rollback" * kind.endswith("rollback")  # fewer colours than routers
            yield Point.of(float(spent), score, method, name)


def _frontier_points(settings: Settings) -> Iterator[Point]:
    for cost, name in settings.costs.items():
        accuracy = settings.means(settings.sums.once, cost)[0][:1]
        spent, there = settings.relative(cost), on_frontier(accuracy, settings.cost(cost)[None])[0]
        for number in np.argsort(spent, kind="stable"):
            if there[number]:
                yield Point.of(float(spent[number]), settings.accuracies[number], name)


def _rows(settings: Settings, often: Mapping[str, NDArray[np.bool_]]) -> Iterator[Row]:
    costs = {name: settings.cost(cost) for cost, name in settings.costs.items()}
    costs |= {f"frontier by {name}": often[cost].mean(axis=0) for cost, name in settings.costs.items()}
    for i, (name, score) in enumerate(zip(settings.names, settings.accuracies, strict=True)):
        yield {"setting": name, "accuracy": score, **{column: float(values[i]) for column, values in costs.items()}}


EXPERIMENT = Experiment(Options, measure, estimate, check)
