"""`window`: one budget of consultations, spent in a part of the text, at random, or where the draft is unsure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor

from fsgen.analysis.answers import Answer, Chart, Point, Table
from fsgen.analysis.intervals import Estimate, ratio
from fsgen.analysis.labels import short_name
from fsgen.api import generate
from fsgen.experiments.base import Experiment
from fsgen.experiments.lab import Lab, Study
from fsgen.methods.method import PRESETS
from fsgen.methods.routers import MaxProb, Router
from fsgen.study.cells import Cell
from fsgen.study.config import Keys
from fsgen.study.plan import Plan
from fsgen.types import Example

FIRST, MIDDLE, LAST = "first part", "middle part", "last part"
RANDOM, UNSURE = "at random", "where unsure"
DRAFT, TARGET = "draft alone", "target alone"
_NAMES = {0.0: FIRST, 0.5: MIDDLE, 1.0: LAST}

_Share = Annotated[float, Field(gt=0, lt=1)]
_Place = Annotated[float, Field(ge=0, le=1)]


class Options(Keys):
    """How much is spent, and where.

    Attributes:
        budgets: consultations, as shares of the tokens that the draft alone writes for the same example.
        places: of the window in what it leaves over, 0 for the beginning; first and last are compared.
        choosing: how many examples choose thresholds, and are not judged; at most a third.
    """

    budgets: Annotated[tuple[_Share, ...], Field(min_length=1)] = (0.1, 0.25, 0.5)
    places: tuple[_Place, ...] = (0.0, 0.5, 1.0)
    choosing: Annotated[int, Field(ge=1)] = 100

    @field_validator("places")
    @classmethod
    def _both_ends(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not {0.0, 1.0} <= set(value):
            raise ValueError("must have 0 and 1, the beginning and the end of the text, which are compared")
        return value


@dataclass(frozen=True)
class Planned(Router):
    """Consult where a table says so: a row for each text, whose seed is its number.

    Args:
        flags: [texts, positions]; behind the last position nothing is asked.
    """

    flags: NDArray[np.bool_]

    name = "planned"

    def consult(self, logits: Tensor, positions: NDArray[np.int64], seeds: NDArray[np.uint64]) -> list[bool]:
        inside = positions < self.flags.shape[1]
        at = np.where(inside, positions, 0)
        answers: list[bool] = (self.flags[seeds.astype(np.int64), at] & inside).tolist()
        return answers


def windows(lengths: NDArray[np.int64], share: float, place: float) -> NDArray[np.bool_]:
    """Flags [texts, longest] of a window of a share of each text, which stands at a place of what it leaves over."""
    spent = budgets(lengths, share)
    starts = np.rint(place * (lengths - spent)).astype(np.int64)
    at = np.arange(lengths.max())
    flags: NDArray[np.bool_] = (at >= starts[:, None]) & (at < (starts + spent)[:, None])
    return flags


def scattered(lengths: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Flags [texts, longest] of as many positions of each text, drawn without replacement."""
    rng = np.random.default_rng(seed)
    numbers = np.where(np.arange(lengths.max()) < lengths[:, None], rng.random((len(lengths), lengths.max())), np.inf)
    flags: NDArray[np.bool_] = numbers.argsort(axis=1).argsort(axis=1) < budgets(lengths, share)[:, None]
    return flags


def budgets(lengths: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """The consultations of each text: a share of its length, one at least."""
    spent: NDArray[np.int64] = np.maximum(1, np.rint(share * lengths)).astype(np.int64)
    return spent


def run(lab: Lab, options: Options) -> Answer:
    """Let the models write alone, plan the consultations of each text by that, and write with them."""
    _check(lab.plan())
    study = lab.study()
    measured = [table for row in study.plan.rows for table in _pair(lab, study, row.cell, options)]
    return conclude(pl.concat(measured))


def _check(plan: Plan) -> None:
    for row in plan.rows:
        cell = row.cell
        if cell.method.name != "oracle" or cell.sampling.temperature > 0:
            raise ValueError(f"{cell.label}: this experiment has the method oracle, and greedy texts")
        if len(cell.task.examples) < 3:
            raise ValueError(f"{cell.label}: {len(cell.task.examples)} examples are too few to choose on and to judge")


def _pair(lab: Lab, study: Study, cell: Cell, options: Options) -> Iterator[pl.DataFrame]:
    """All that is measured with one pair on one task: a row a text and setting."""
    examples = cell.task.examples
    judged = len(examples) - min(options.choosing, len(examples) // 3)
    alone = study.alone[cell.key]
    names = {"task": cell.task.task.name, "draft": cell.members["draft"], "target": cell.members["target"]}
    order = [example.id for example in examples[:judged]]
    texts = {role: _ordered(study.texts(run), order) for role, run in alone.items()}
    for role, where in (("draft", DRAFT), ("target", TARGET)):
        found = texts[role].select("example", "tokens", "score")
        consulted = pl.lit(0, pl.UInt32) if role == "draft" else pl.col("tokens")
        yield _named(found.with_columns(consulted=consulted), names, where, 0.0, None)
    lengths = texts["draft"]["tokens"].to_numpy().astype(np.int64)
    # The draft's own probabilities, on the texts of the examples that are not judged; alone, it is the target.
    others = study.traces(alone["draft"]).filter(~pl.col("example").is_in(order)).select("target_prob").collect()
    for share in options.budgets:
        asked: list[tuple[str, float | None, Router]] = [
            (_NAMES.get(place, f"at {place:g}"), place, Planned(windows(lengths, share, place)))
            for place in options.places
        ]
        asked.append((RANDOM, None, Planned(scattered(lengths, share, seed=0))))
        threshold = float(np.quantile(others["target_prob"].to_numpy().astype(np.float64), share))
        asked.append((UNSURE, None, MaxProb(threshold)))
        for where, place, router in asked:
            setting = str(router) if isinstance(router, MaxProb) else {"where": where, "place": place, "share": share}
            key = {"run": cell.key, "judged": judged, "setting": setting}
            found = lab.table("window", key, lambda router=router: _written(lab, cell, examples[:judged], router))  # type: ignore[misc]
            yield _named(found, names, where, share, place)
        lab.note(f"{cell.label}: budget {share:g}, max-prob:{threshold:.4g}")


def _ordered(texts: pl.DataFrame, order: list[str]) -> pl.DataFrame:
    """The texts of these examples, in this order."""
    return pl.DataFrame({"example": order}).join(texts, on="example", maintain_order="left")


def _named(texts: pl.DataFrame, names: dict[str, str], where: str, share: float, place: float | None) -> pl.DataFrame:
    return texts.select(
        *(pl.lit(value).alias(name) for name, value in names.items()),
        pl.lit(where).alias("where"),
        pl.lit(share).alias("budget"),
        pl.lit(place, pl.Float64).alias("place"),
        "example",
        pl.col("tokens", "consulted").cast(pl.Int64),
        "score",
    )


def _written(lab: Lab, cell: Cell, examples: tuple[Example, ...], router: Router) -> pl.DataFrame:
    """Texts written with a router: their length, consultations and score."""
    members = lab.members(**cell.members)
    assert lab.config is not None
    generations = generate(
        members,
        [cell.task.prompt(example, members.tokenizer).ids for example in examples],
        replace(PRESETS["route"], router=router),
        sampling=[cell.params(number) for number in range(len(examples))],
        batch_size=lab.config.batch_size,
    )
    return pl.DataFrame(
        {
            "example": [example.id for example in examples],
            "tokens": [one.stats.tokens for one in generations],
            "consulted": [one.stats.consulted for one in generations],
            "score": [
                cell.task.task.score(example, one.text).value
                for example, one in zip(examples, generations, strict=True)
            ],
        },
        schema_overrides={"tokens": pl.UInt32, "consulted": pl.UInt32, "score": pl.Float64},
    )


def conclude(texts: pl.DataFrame) -> Answer:
    """The answer from the texts of all settings.

    Args:
        texts: a row a text and setting, with `task`, `draft`, `target`, `where` it was asked, the `budget` and the
            `place` of the window (null for what is no window), `example`, `tokens`, `consulted`, `score`; among them
            those of `DRAFT` and `TARGET`, with budget 0.
    """
    texts = texts.filter(pl.col("score").is_not_null())
    budget = texts.filter(pl.col("budget") > 0)
    parts = budget.filter(pl.col("place").is_not_null())
    best = _best(parts)
    numbers = {
        "first part over last": _lead(budget, FIRST, LAST),
        "where unsure over best part": _difference(budget.filter(pl.col("where") == UNSURE), best),
        "where unsure over at random": _lead(budget, UNSURE, RANDOM),
        "best part over at random": _difference(best, budget.filter(pl.col("where") == RANDOM)),
        "consultations per token, parts": _rate(parts),
        "consultations per token, at random": _rate(budget.filter(pl.col("where") == RANDOM)),
        "consultations per token, where unsure": _rate(budget.filter(pl.col("where") == UNSURE)),
    }
    early, unsure = numbers["first part over last"], numbers["where unsure over best part"]
    holds = early.above(0.0)
    said = {
        True: "Early help is worth more than late help",
        False: "Late help is worth more than early help",
        None: "Whether early or late help is worth more stays open",
    }[holds]
    beyond = {
        True: "Spent where the draft is unsure it is worth more than in the best part",
        False: "Spent where the draft is unsure it is worth less than in the best part",
        None: "Spent where the draft is unsure it is not clearly worth more or less than in the best part",
    }[unsure.above(0.0)]
    return Answer(
        statement=f"{said}: with the same budget, the accuracy with help in the first part less that with help in the "
        f"last is {early}. "
        f"{beyond} (difference {unsure}), with {numbers['consultations per token, where unsure'].value:.3f} "
        f"consultations per token against {numbers['consultations per token, parts'].value:.3f}. "
        f"The best place of the window (0 begins the text, 1 ends it): {_named_best(best)}.",
        holds=holds,
        overturn="Texts whose hard tokens stand elsewhere, as these problems have their calculations at fixed places; "
        "a draft that is sure where it errs; longer texts, in which an early error has more to spoil.",
        numbers=numbers,
        charts=(_spending(texts), _placing(parts)),
        tables=(_table(texts),),
        remarks=(
            "Differences are means over pairs and budgets, paired by example; their intervals draw the examples. The "
            "best part of each pair and budget is chosen on the texts that it is judged by, which favours it.",
            "A window is as long as the budget says, in tokens of the text that the draft alone writes for the same "
            "example. The thresholds meet the budget on the draft's own texts of other examples, so that what they "
            "spend may differ; it is shown.",
        ),
    )


_TEXT = ("task", "draft", "target", "budget", "example")
_SETTING = ("task", "draft", "target", "budget")


def _difference(texts: pl.DataFrame, others: pl.DataFrame) -> Estimate:
    """The accuracy of some texts less that of others of the same pairs, budgets and examples."""
    both = texts.select(*_TEXT, "score").join(others.select(*_TEXT, other="score"), on=_TEXT)
    return _mean(both.with_columns(score=pl.col("score") - pl.col("other")))


def _lead(texts: pl.DataFrame, where: str, other: str) -> Estimate:
    return _difference(texts.filter(pl.col("where") == where), texts.filter(pl.col("where") == other))


def _mean(texts: pl.DataFrame) -> Estimate:
    """The mean of `score`, drawing examples."""
    return _ratio(texts.with_columns(one=1), "score", "one")


def _rate(texts: pl.DataFrame) -> Estimate:
    return _ratio(texts, "consulted", "tokens")


def _ratio(texts: pl.DataFrame, part: str, whole: str) -> Estimate:
    sums = texts.group_by("task", "example").agg(pl.col(part, whole).sum().cast(pl.Float64)).sort("task", "example")
    found = ratio(sums[part].to_numpy(), sums[whole].to_numpy())
    if found is None:
        raise ValueError("there are no scored texts to compare")
    return found


def _best(parts: pl.DataFrame) -> pl.DataFrame:
    """The texts of the window that is best with each pair and budget; of equals, the earliest."""
    means = parts.group_by(*_SETTING, "place").agg(pl.col("score").mean())
    chosen = means.sort("score", "place", descending=[True, False]).unique(_SETTING, keep="first", maintain_order=True)
    return parts.join(chosen.drop("score"), on=(*_SETTING, "place"))


def _pair_label(row: dict[str, str], texts: pl.DataFrame) -> str:
    pair = f"{short_name(row['draft'])} → {short_name(row['target'])}"
    return f"{row['task']}, {pair}" if texts["task"].n_unique() > 1 else pair


def _named_best(best: pl.DataFrame) -> str:
    said = []
    for names, settings in best.group_by("task", "draft", "target", maintain_order=True):
        each = settings.sort("budget").unique("budget", maintain_order=True)
        places = ", ".join(f"{place:g} with budget {share:g}" for place, share in each.select("place", "budget").rows())
        said.append(f"{_pair_label(dict(zip(('task', 'draft', 'target'), names, strict=True)), best)}: {places}")
    return "; ".join(said)


def _settings(texts: pl.DataFrame) -> Iterator[tuple[dict[str, str], str, float, float | None, pl.DataFrame]]:
    keys = ("task", "draft", "target", "where", "budget", "place")
    for found, settings in texts.group_by(keys, maintain_order=True):
        row = dict(zip(keys, found, strict=True))
        yield row, row["where"], row["budget"], row["place"], settings


def _spending(texts: pl.DataFrame) -> Chart:
    points = []
    for row, where, _, _, settings in _settings(texts):
        if where in (DRAFT, FIRST, MIDDLE, LAST, RANDOM, UNSURE):
            score = _mean(settings)
            points.append(Point.of(_rate(settings).value, score, where, _pair_label(row, texts)))
    return Chart(
        name="spending",
        title="Accuracy by what was spent, and where",
        finding="At equal consultations, the higher line is the better place for them.",
        note="Consultations are those really made.",
        x="consultations / tokens",
        y="accuracy",
        series="asked",
        points=tuple(points),
    )


def _placing(parts: pl.DataFrame) -> Chart:
    points = []
    for row, _, share, place, settings in _settings(parts):
        assert place is not None
        score = _mean(settings)
        points.append(Point.of(place, score, f"{share:g}", _pair_label(row, parts)))
    return Chart(
        name="placing",
        title="Accuracy by the place of the window",
        finding="A line that falls says that early help is worth more, one that rises that late help is.",
        note="0: the window begins the text; 1: it ends it.",
        x="place of the window",
        y="accuracy",
        series="budget",
        points=tuple(points),
    )


def _table(texts: pl.DataFrame) -> Table:
    rows = []
    for row, where, share, _, settings in _settings(texts):
        mine = texts.filter(*(pl.col(name) == row[name] for name in ("task", "draft", "target")))
        base = mine.filter(pl.col("where") == DRAFT)["score"].mean()
        score, spent = _mean(settings), float(settings["consulted"].sum()) / len(settings)
        gain = (score.value - float(str(base))) / spent if base is not None and spent else None
        rows.append(
            (
                _pair_label(row, texts),
                share or None,
                where,
                len(settings),
                _rate(settings).value,
                spent,
                score.value,
                score.low,
                score.high,
                gain,
            )
        )
    columns = ("pair", "budget", "asked", "texts", "per token", "per text", "accuracy", "95 % from", "to", "gain")
    return Table(
        name="settings",
        title="All settings",
        note="Consultations per token and per text; gain: accuracy over the draft alone, for each of them in a text.",
        columns=columns,
        rows=tuple(rows),
    )


EXPERIMENT = Experiment(Options, run)
