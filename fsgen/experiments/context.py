"""`context`: the frequency by position with more few-shot examples, and with a draft that sees only the last tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Annotated, Literal

import polars as pl
from pydantic import Field

from fsgen.analysis.answers import Answer, Point, Row, Value
from fsgen.analysis.intervals import Estimate, Floats
from fsgen.analysis.rates import Rates
from fsgen.analysis.trainings import Groups
from fsgen.experiments.base import Experiment
from fsgen.experiments.cells import labelled, names, oracle_cells
from fsgen.experiments.config import words
from fsgen.experiments.contexts import misled, short_data, windowed
from fsgen.experiments.lab import Lab, Study
from fsgen.study.cells import Cell
from fsgen.study.config import Keys, StudyConfig

MATTERS = 0.02
"""A change of the frequency that is known to be smaller than this is taken as none."""

Count = Annotated[int, Field(ge=0)]


class Options(Keys):
    """How many few-shot examples, of which kind, and how little the draft sees; see `context.yaml`."""

    shots: Annotated[tuple[Count, ...], Field(min_length=2)]
    worked: Literal["short", "task"] = "short"
    first: Annotated[int, Field(ge=1)] = 8
    windows: tuple[Annotated[int, Field(ge=1)], ...] = ()
    window_shots: tuple[Count, ...] = (0,)
    window_examples: Annotated[int, Field(ge=1)] = 16


def check(lab: Lab, options: Options) -> None:
    """Refuse windows on texts that are not written, other methods, and prompts that do not fit."""
    if odd := sorted(set(options.window_shots) - set(options.shots)):
        shots = ", ".join(map(str, sorted(set(options.shots))))
        raise ValueError(f"window_shots: {odd[0]} is not among the shots {shots}")
    for study in _studies(lab, options).values():
        oracle_cells(lab.plan(study), sampled=True)


def measure(lab: Lab, options: Options) -> tuple[pl.DataFrame, pl.DataFrame | None, pl.DataFrame, int, Groups]:
    """Let every pair write with each number of few-shot examples, and cut the draft's context; see `estimate`."""
    more: list[pl.DataFrame] = []
    less: list[pl.DataFrame] = []
    control: list[pl.DataFrame] = []
    trainings: Groups = ()
    for count, config in _studies(lab, options).items():
        study = lab.study(config)
        trainings = study.trainings
        for cell in study.cells:
            trace = study.traces(cell.key).filter(pl.col("turn") == 1)
            columns = ["example", "position", "draft_token", "target_token", "differs"]
            tokens = trace.select(columns).sort("example", "position").collect()
            about = names(cell) | {"shots": count}
            more.append(labelled(_sums(tokens, options.first, differing=pl.col("differs").sum()), **about))
            if count in options.window_shots:
                cuts = {window: _cut(lab, study, cell, tokens, window, options) for window in options.windows}
                less.extend(labelled(cut, window=window, **about) for window, cut in cuts.items())
            if count == min(options.shots):
                control.append(labelled(_misled(lab, study, cell, tokens, options.first), **about))
    return pl.concat(more), pl.concat(less) if less else None, pl.concat(control), options.first, trainings


def _studies(lab: Lab, options: Options) -> dict[int, StudyConfig]:
    """The study with each number of few-shot examples before each question."""
    found = {}
    for count in sorted(set(options.shots)):
        changed = []
        for task in lab.varied().tasks or ():
            given = task.model_dump(exclude_unset=True)
            if options.worked == "task":
                changed.append(given | {"shots": count})
            else:
                changed.append(given | {"data": str(short_data(lab.folder, task, count)), "shots": 0, "limit": None})
        found[count] = lab.varied(name=f"{lab.name}, {count} few-shot examples", tasks=changed)
    return found


def _sums(tokens: pl.DataFrame, first: int, **sums: pl.Expr) -> pl.DataFrame:
    """Sums of each example in each place (0, 1, 2, 4, 8, ... begin one), the first tokens and the later ones."""
    octave = (2 ** (pl.col("position") + 0.5).log(2).floor()).cast(pl.Int64)
    place = pl.when(pl.col("position") == 0).then(0).otherwise(octave)
    placed = tokens.with_columns(place=place, early=pl.col("position") < first)
    return placed.group_by("example", "place", "early").agg(tokens=pl.len().cast(pl.Int64), **sums)


def _cut(lab: Lab, study: Study, cell: Cell, tokens: pl.DataFrame, window: int, options: Options) -> pl.DataFrame:
    """As `_sums`, of a draft that sees the last tokens alone; `cut` positions, and how many `more` mismatches there."""
    group = lab.members(**cell.members)

    def measured() -> pl.DataFrame:
        assert group.draft is not None
        chosen = dict([*study.tokens(cell.key).items()][: options.window_examples])
        choices = windowed(group.draft, [*chosen.values()], window, group.vocab_size)
        columns = {"example": [*chosen], "position": [range(len(one)) for one in choices], "choice": choices}
        schema = pl.Schema({"example": pl.String(), "position": pl.List(pl.UInt32), "choice": pl.List(pl.Int64)})
        return pl.DataFrame(columns, schema=schema).explode("position", "choice")

    key = {"run": cell.key, "window": window, "examples": options.window_examples}
    seen = tokens.join(lab.table("windows", key, measured), on=["example", "position"])
    was_cut = pl.col("choice").is_not_null()
    short = pl.when(was_cut).then(pl.col("choice") != pl.col("target_token")).otherwise(pl.col("differs"))
    more = short.cast(pl.Int64) - pl.col("differs").cast(pl.Int64)
    return _sums(seen, options.first, differing=short.sum(), cut=was_cut.sum(), more=more.sum())


def _misled(lab: Lab, study: Study, cell: Cell, tokens: pl.DataFrame, first: int) -> pl.DataFrame:
    """As `_sums`, of a draft that reads the prompt of another text, as `misled` mismatches."""
    group = lab.members(**cell.members)

    def measured() -> pl.DataFrame:
        assert group.draft is not None
        texts = study.tokens(cell.key)
        choices = misled(group.draft, [*texts.values()], group.vocab_size)
        columns = {"example": [*texts], "position": [range(len(one)) for one in choices], "choice": choices}
        schema = pl.Schema({"example": pl.String(), "position": pl.List(pl.UInt32), "choice": pl.List(pl.Int64)})
        return pl.DataFrame(columns, schema=schema).explode("position", "choice")

    seen = tokens.join(lab.table("misled", {"run": cell.key}, measured), on=["example", "position"])
    return _sums(
        seen, first, differing=pl.col("differs").sum(), misled=(pl.col("choice") != pl.col("target_token")).sum()
    )


@dataclass(frozen=True, eq=False)
class Found:
    """What was found on one task; each number is a mean over its pairs.

    Attributes:
        more, less, control, trainings: as `estimate` takes them, of this task.
        shots: numbers of few-shot examples, the least first.
        comparisons: intervals are so much wider.
    """

    more: pl.DataFrame
    less: pl.DataFrame | None
    control: pl.DataFrame
    shots: Sequence[int]
    comparisons: int
    trainings: Groups = field(default=())

    @cached_property
    def rates(self) -> Rates:
        return Rates(self.more, ("shots", "early"), "differing", trainings=self.trainings)

    @cached_property
    def excess(self) -> Estimate:
        """How much more often the first tokens differ than the later ones."""
        return self.rates.minus((self.shots[0], True), self.rates.of((self.shots[0], False)), self.comparisons)

    @cached_property
    def drop(self) -> dict[int, Estimate]:
        """What each number of few-shot examples changes of the first tokens."""
        usual = self.rates.of((self.shots[0], True))
        return {n: self.rates.minus((n, True), usual, self.comparisons) for n in self.shots[1:]}

    @cached_property
    def apart(self) -> dict[int, Estimate]:
        """The same, less what it changes of the later ones."""
        return {n: _apart(self.rates, (n, self.shots[0]), self.comparisons) for n in self.shots[1:]}

    @cached_property
    def rose(self) -> dict[str, Estimate]:
        """How many more first tokens differ where the draft sees less."""
        return {} if self.less is None else _rises(self.less, True, self.comparisons)

    @cached_property
    def right_prompt(self) -> tuple[Estimate, Estimate]:
        """The control: what the right prompt changes of the first tokens, and that less what it does to later ones."""
        columns = ("task", "draft", "target", "example", "early", "tokens")
        own, other = (
            self.control.select(*columns, pl.lit(name).alias("prompt"), differing=pl.col(column).cast(pl.Float64))
            for name, column in (("own", "differing"), ("other", "misled"))
        )
        rates = Rates(pl.concat([own, other]), ("prompt", "early"), "differing", trainings=self.trainings)
        fall = rates.minus(("own", True), rates.of(("other", True)), self.comparisons)
        return fall, _apart(rates, ("own", "other"), self.comparisons)

    @property
    def controlled(self) -> bool:
        """Whether the control shows what it has to: the same rule finds an effect of context where there is one."""
        return all(change.above(0.0) is False for change in self.right_prompt)

    @property
    def holds(self) -> bool | None:
        """The rule of `decide`, on this task; open where not even the control shows an effect."""
        known = decide(self.excess, self.drop.values(), self.apart.values(), self.rose.values())
        return known if self.controlled else None


def estimate(
    more: pl.DataFrame, less: pl.DataFrame | None, control: pl.DataFrame, first: int, trainings: Groups = ()
) -> Answer:
    """The answer from what was measured.

    The rule, on each task. Where early collaborations come from poor context, the first tokens differ more often than
    the later ones; some number of few-shot examples makes them differ less often, and by more than the later ones; and
    a draft that sees less differs more often there. They do if all of that is found; they do not if no number of
    few-shot examples lowers the first tokens by `MATTERS` more than the later ones; else the question is open. It stays
    open, too, where the control fails: the prompt itself, given to a draft that read that of another text, must lower
    the first tokens, and by more than the later ones. The answer is that of the tasks where they agree; tasks are not
    averaged. Intervals are widened so that those of all comparisons and tasks hold together.

    Args:
        more: one row for each task, pair, number of `shots`, example, and `place`: whether it is `early`, its `tokens`
            and the `differing` ones among them.
        less: the same for each `window`, with how many positions were `cut`, and how many `more` mismatches these have
            than the same ones with all of the context; None where nothing was cut.
        control: the same with the least shots, and how many were `misled` by the prompt of another text.
        first: how many tokens are early.
        trainings: the models that are trainings of one size.

    Raises:
        ValueError: one number of few-shot examples is no comparison.
    """
    shots = sorted(more["shots"].unique().to_list())
    if len(shots) < 2:
        raise ValueError(f"shots: two numbers of few-shot examples are compared, not {shots}")
    names = more["task"].unique(maintain_order=True).to_list()
    cuts = 0 if less is None else len(less.select("shots", "window").unique())
    comparisons = len(names) * max(len(shots) - 1, cuts)
    tasks = {
        name: Found(
            more.filter(task=name), None if less is None else less.filter(task=name), control.filter(task=name),
            shots, comparisons, trainings,
        )
        for name in names
    }  # fmt: skip
    verdicts = {found.holds for found in tasks.values()}
    cut = {} if less is None else {n: less.filter(shots=n) for n in sorted(less["shots"].unique())}
    return Answer.of(
        words("context"),
        holds=verdicts.pop() if len(verdicts) == 1 else None,
        numbers=dict(_numbers(tasks)),
        charts={"shots": _profile(more, "shots"), **{f"window-{n}": _cut_profile(some) for n, some in cut.items()}},
        tables={
            "tasks": (_task_row(name, found) for name, found in tasks.items()),
            "by-pair": (row for found in tasks.values() for row in _shots_rows(found.rates, shots)),
            "cuts": [] if less is None else _window_rows(less),
        },
        first=first,
        comparisons=comparisons,
        each="; ".join(_in_words(name, found) for name, found in tasks.items()),
    )


def _numbers(tasks: Mapping[str, Found]) -> Iterator[tuple[str, Estimate]]:
    for task, found in tasks.items():
        for n, early in product(found.shots, (True, False)):
            part = "first" if early else "later"
            yield f"{task}: {part} tokens, {n} few-shot examples", found.rates.estimate((n, early))
        yield f"{task}: first less later", found.excess
        for n, gap in found.drop.items():
            yield f"{task}: first tokens, {n} less {found.shots[0]} few-shot examples", gap
            yield f"{task}: the same, less that of the later tokens, {n} less {found.shots[0]}", found.apart[n]
        for name, gap in found.rose.items():
            yield f"{task}: first tokens, the draft sees {name}: rise", gap
        for name, gap in zip(("", ", less that of the later tokens"), found.right_prompt, strict=True):
            yield f"{task}: control, first tokens, the right prompt less another{name}", gap


def _in_words(task: str, found: Found) -> str:
    """What was found on a task, in a part of a sentence."""
    best = min(found.drop, key=lambda n: found.drop[n].value)
    said = f"on {task} the first ones differ {found.excess:+.1%} points more often than the later ones"
    said += f", {best} few-shot examples change them by {found.drop[best]:+.1%} and by {found.apart[best]:+.1%} beside "
    said += "the later ones"
    if found.rose:
        most = max(found.rose, key=lambda name: found.rose[name].value)
        said += f", and a draft that sees {most}, by {found.rose[most]:+.1%}"
    return said + ("" if found.controlled else " (the control fails there, so that nothing is concluded)")


def _task_row(task: str, found: Found) -> Row:
    fall, apart = found.right_prompt
    return {
        "task": task,
        "poor context": {True: "yes", False: "no", None: "open"}[found.holds],
        "first less later": f"{found.excess:+.1%}",
        **{f"{n} few-shot examples": f"{gap:+.1%}" for n, gap in found.drop.items()},
        "control": f"{fall:+.1%}",
        "control, less later": f"{apart:+.1%}",
    }


def decide(
    excess: Estimate, drop: Iterable[Estimate], apart: Iterable[Estimate], rose: Iterable[Estimate]
) -> bool | None:
    """Whether early collaborations come from poor context: yes, no, or open; the rule of `estimate`."""
    both = list(zip(drop, apart, strict=True))
    if all(gap.above(-MATTERS) for _, gap in both):
        return False
    helped = any(fall.above(0.0) is False and gap.above(0.0) is False for fall, gap in both)
    return True if helped and excess.above(0.0) and any(gap.above(0.0) for gap in rose) else None


def _apart(rates: Rates, conditions: tuple[object, object], comparisons: int) -> Estimate:
    """What one condition adds to the first tokens beside another, less what it adds to the later ones."""
    parts = [rates.of((name, early)) for name, early in product(conditions, (True, False))]

    def measured(weights: Floats) -> Floats:
        now, later, before, later_before = (part(weights) for part in parts)
        return (now - before) - (later - later_before)

    return rates.measured(measured, comparisons)


def _rises(less: pl.DataFrame, early: bool, comparisons: int = 1) -> dict[str, Estimate]:
    """How many more mismatches there are where the context was cut, by window and few-shot examples, in one part."""
    cut = less.filter(pl.col("early") == early, pl.col("cut") > 0).sort("shots", "window")
    return {
        _sight(window, shots): Rates(some, "window", "more", "cut").estimate(window, comparisons)
        for (shots, window), some in cut.group_by("shots", "window", maintain_order=True)
    }


def _sight(window: object, shots: object) -> str:
    """What the draft sees, in words."""
    return f"the last {window}, {shots} few-shot examples"


def _profile(frame: pl.DataFrame, series: str, name: str = "{}") -> Iterator[Point]:
    """The frequency by place, a line for each value of a column, a panel for each task; means over the pairs."""
    for (task,), of_task in frame.group_by("task", maintain_order=True):
        for (value,), some in of_task.sort(series).group_by(series, maintain_order=True):
            rates = Rates(some, "place", "differing")
            for place in sorted(some["place"].unique()):
                yield Point.of(place + 1, rates.estimate(place), name.format(value), str(task))


def _cut_profile(less: pl.DataFrame) -> Iterator[Point]:
    """The same with each window, and on the same texts without one."""
    uncut = pl.col("differing").cast(pl.Float64) - pl.col("more").cast(pl.Float64)
    yield from _profile(less, "window")
    yield from _profile(less.filter(window=less["window"].min()).with_columns(differing=uncut), "window", "all")


def _shots_rows(rates: Rates, shots: Sequence[int]) -> Iterator[Row]:
    found = {name: dict(rates.each(name)) for name in product(shots, (True, False))}
    for cell, n in product(rates.cells, shots):
        shares = {"first tokens": str(found[n, True][cell]), "later tokens": str(found[n, False][cell])}
        yield {"task": cell[0], "draft": cell[1], "few-shot examples": n, **shares}


def _window_rows(less: pl.DataFrame) -> Iterator[Row]:
    rises = {early: _rises(less, early) for early in (True, False)}
    shares = less.group_by("shots", "window", "early").agg(pl.col("cut").sum() / pl.col("tokens").sum())
    cut = {(_sight(window, shots), early): share for shots, window, early, share in shares.iter_rows()}
    for name in dict.fromkeys([*rises[True], *rises[False]]):
        row: dict[str, Value] = {"the draft sees": name}
        for early, part in ((True, "first"), (False, "later")):
            row[f"{part}: cut"] = cut.get((name, early))
            row[f"{part}: rise"] = f"{rises[early][name]:+.1%}" if name in rises[early] else None
        yield row


EXPERIMENT = Experiment(Options, measure, estimate, check)
