"""`strategies`: how often a draft is overruled where tokens are drawn in other ways, and where beams are searched."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Annotated, Any

import numpy as np
import polars as pl
from pydantic import Field

from fsgen.analysis.answers import Answer, Chart, Point, Table
from fsgen.analysis.intervals import Estimate, Floats, resampled
from fsgen.analysis.labels import short_name
from fsgen.analysis.rates import Rates, in_points
from fsgen.backends import Members
from fsgen.experiments.base import Experiment
from fsgen.experiments.beams import SCORES, beam_search
from fsgen.experiments.lab import Lab, Study
from fsgen.experiments.variations import variations
from fsgen.study.cells import Cell
from fsgen.study.config import Keys, SamplingConfig, Samplings
from fsgen.study.plan import Plan
from fsgen.types import SamplingParams

GREEDY = "greedy"
MATTERS = 0.02
"""Where every strategy is known to be closer to greedy decoding than this, the strategy does not matter."""

_EXACT = 1e-5  # the two numbers of a position come from other calls, and so are rounded otherwise
_KINDS = {
    "another set": ("sets", "steps"),
    "continuations replaced": ("replaced", "steps"),
    "best text lost": ("lost", "tokens"),
}
"""What a draft may do to the target's beams, and the counts whose ratio says how often."""

Tokens = dict[str, tuple[list[int], list[int]]]


class Options(Keys):
    """Of the grid that is read off, and of the beams; see `strategies.yaml`."""

    texts: Samplings = (SamplingConfig(),)
    grid: Samplings | tuple[()] = ()
    beams: tuple[Annotated[int, Field(ge=2, le=64)], ...] = ()
    beam_examples: Annotated[int, Field(ge=1)] = 24
    beam_tokens: Annotated[int, Field(ge=1)] = 48


def run(lab: Lab, options: Options) -> Answer:
    """Write the texts, read the grid off some of them, search with beams, and answer.

    Raises:
        ValueError: a study of another method than the oracle or without a greedy run, texts that it does not write.
    """
    texts, grid = _check(lab.plan(), options)
    study = lab.study()
    cells = [row.cell for row in study.plan.rows]
    counted = pl.concat([_counted(lab, study, cell) for cell in cells])
    read, beams = [], []
    for (task, target), group in groupby(sorted(cells, key=_place), key=_place):
        same = list(group)
        drafts = sorted({cell.members["draft"] for cell in same}, key=[cell.members["draft"] for cell in cells].index)
        members = [lab.members(draft=draft, target=target) for draft in drafts]
        digests = [lab.digest(draft) for draft in drafts]
        about = {"task": pl.lit(task), "target": pl.lit(short_name(target))}
        key: dict[str, Any]
        for text in texts:
            source = study.alone[next(cell.key for cell in same if str(cell.params(0)) == text)]["target"]
            key = {"drafts": digests, "text": source, "grid": [*map(str, grid)]}
            table = lab.table("grid", key, lambda m=members, s=source: _read(m, study.tokens(s), grid))  # type: ignore[misc]
            read.append(_named(table, drafts).with_columns(text=pl.lit(text), **about))
        greedy = study.alone[next(cell.key for cell in same if cell.params(0).greedy)]["target"]
        for width in (1, *options.beams):
            key = {"drafts": digests, "prompts": greedy, "width": width}
            key |= {"examples": options.beam_examples, "tokens": options.beam_tokens}

            def searched(m: list[Members] = members, s: str = greedy, w: int = width) -> pl.DataFrame:
                return _search(m, study.tokens(s), w, options)

            beams.append(_named(lab.table("beams", key, searched), drafts).with_columns(**about))
    return conclude(counted, pl.concat(read), pl.concat(beams))


def _check(plan: Plan, options: Options) -> tuple[list[str], list[SamplingParams]]:
    """The strategies of the texts that are read, and all that are read off them."""
    cells = [row.cell for row in plan.rows]
    if odd := [cell.label for cell in cells if cell.method.name != "oracle"]:
        raise ValueError(f"the study of this experiment has the method oracle alone, not {odd[0]}")
    written = [*dict.fromkeys(_params(cell.sampling) for cell in cells)]
    if not written[0].greedy:
        raise ValueError(f"sampling: greedy must be the first, not {written[0]}: the others are compared to it")
    texts = [str(_params(text)) for text in options.texts]
    if odd := [text for text in texts if text not in map(str, written)]:
        raise ValueError(f"texts: {odd[0]} is not written; choose from {'; '.join(map(str, written))}")
    return texts, [*dict.fromkeys([*written, *map(_params, options.grid)])]


def _params(sampling: SamplingConfig) -> SamplingParams:
    return SamplingParams(**sampling.model_dump())


def _place(cell: Cell) -> tuple[str, str]:
    return cell.task.task.name, cell.members["target"]


def _named(table: pl.DataFrame, drafts: list[str]) -> pl.DataFrame:
    """A table with the drafts' names for their numbers: files are found again whatever a model is called."""
    names = dict(enumerate(map(short_name, drafts)))
    return table.with_columns(pl.col("draft").replace_strict(names, return_dtype=pl.String))


# ---- what is measured


def _counted(lab: Lab, study: Study, cell: Cell) -> pl.DataFrame:
    """Of each example of a run: verified tokens, those that fell, and the total variation by the loop and by a pass."""
    strategy = _params(cell.sampling)
    group = lab.members(draft=cell.members["draft"], target=cell.members["target"])
    passed = lab.table("passes", {"run": cell.key}, lambda: _pass(group, study.tokens(cell.key), strategy))
    trace = study.traces(cell.key).filter(pl.col("turn") == 1)
    loop = pl.col("differs").cast(pl.Float64) if strategy.greedy else pl.col("total_variation").cast(pl.Float64)
    apart = (pl.col("variation") - pl.col("passed").cast(pl.Float64)).abs()
    seen = trace.select("example", "position", rejected=pl.col("source") == "recovered", variation=loop).collect()
    return (
        seen.join(passed, on=["example", "position"], how="left")
        .group_by("example")
        .agg(
            tokens=pl.len().cast(pl.Int64),
            rejected=pl.col("rejected").sum(),
            variation=pl.col("variation").sum(),
            apart=apart.max(),
            off=(apart > _EXACT).sum().cast(pl.Int64),
        )
        .sort("example")
        .with_columns(
            task=pl.lit(cell.task.task.name),
            draft=pl.lit(short_name(cell.members["draft"])),
            target=pl.lit(short_name(cell.members["target"])),
            strategy=pl.lit(str(strategy)),
        )
    )


def _pass(members: Members, tokens: Tokens, strategy: SamplingParams) -> pl.DataFrame:
    """What one pass gives at every position of a run's own texts, under its own strategy."""
    (found,) = variations([members], [*tokens.values()], [strategy])
    parts = [
        pl.DataFrame({"example": name, "position": np.arange(one.shape[1], dtype=np.uint32), "passed": one[0]})
        for name, one in zip(tokens, found, strict=True)
    ]
    return pl.concat(parts)


def _read(members: list[Members], tokens: Tokens, grid: list[SamplingParams]) -> pl.DataFrame:
    """Sums of the total variation over each text, for every draft (by number) and strategy."""
    found = variations(members, [*tokens.values()], grid)
    rows = [
        (number, name, str(strategy), one.shape[1], float(sums))
        for number, texts in enumerate(found)
        for name, one in zip(tokens, texts, strict=True)
        for strategy, sums in zip(grid, one.sum(1, dtype=np.float64), strict=True)
    ]
    return pl.DataFrame(rows, schema=["draft", "example", "strategy", "tokens", "variation"], orient="row")


def _search(members: list[Members], tokens: Tokens, width: int, options: Options) -> pl.DataFrame:
    """Of each text that beams found: steps, and at how many of them a draft (by number) would have chosen otherwise."""
    chosen = [*tokens.items()][: options.beam_examples]
    texts = beam_search(members, [prompt for _, (prompt, _) in chosen], width, options.beam_tokens)
    rows = []
    for (name, _), text in zip(chosen, texts, strict=True):
        for number in range(len(members)):
            for way, score in enumerate(SCORES):
                replaced, lost = text.replaced[number, way], text.lost[number, way]
                counts = (len(replaced), int((replaced > 0).sum()), float(replaced.sum()), len(lost), int(lost.sum()))
                rows.append((number, name, width, score, *counts))
    names = ["draft", "example", "width", "scores", "steps", "sets", "replaced", "tokens", "lost"]
    return pl.DataFrame(rows, schema=names, orient="row")


# ---- the answer


def conclude(counted: pl.DataFrame, read: pl.DataFrame, beams: pl.DataFrame) -> Answer:
    """The answer from what was measured.

    The rule: the strategy matters where under one of those written by the loop, or among the continuations that beams
    keep, the draft is overruled more or less often than in greedy decoding (one of the intervals, widened so that all
    hold together, leaves out 0); it does not where all of these lie within `MATTERS` of it; else the question is open.

    Args:
        counted: one row for each task, pair, strategy that was written, and example: verified `tokens`, those
            `rejected`, the sum of their `variation`, and how far (`apart`) a pass's was from the loop's at most.
        read: one row for each task, pair, strategy, example, and `text` (the strategy that wrote it): its `tokens` and
            the sum of the `variation` that a pass gives.
        beams: one row for each task, pair, `width`, way to add up `scores`, and example: `steps`, the `sets` that
            differ, the sum of the `replaced` shares, `tokens`, and how many of them a draft would have `lost`.

    Raises:
        ValueError: there is no greedy run, or none that was sampled.
    """
    written = counted["strategy"].unique(maintain_order=True).to_list()
    drawn = [name for name in written if name != GREEDY]
    if GREEDY not in written or not drawn:
        raise ValueError(f"greedy and one other strategy are compared, but there are only {', '.join(written)}")
    expected = Rates(counted, "strategy", "variation")
    numbers = {name: expected.estimate(name) for name in written}
    shared = beams.filter(pl.col("scores") == SCORES[0])
    widths = sorted(width for width in shared["width"].unique() if width > 1)
    replaced = Rates(shared, "width", "replaced", "steps") if widths else None
    comparisons = len(drawn) + len(widths)
    against = {name: expected.minus(name, expected.of(GREEDY), comparisons) for name in drawn}
    for width in widths:
        assert replaced is not None
        against[f"{width} beams"] = replaced.minus(width, replaced.of(1), comparisons)
    numbers |= {f"{name}, less greedy": gap for name, gap in against.items()}
    loop = _Loop(counted, drawn)
    numbers |= loop.numbers()
    errors = _errors(counted, read, drawn)
    numbers |= {f"read from the {text} text, mean error": error for text, (error, _) in errors.items()}
    numbers |= _beam_numbers(beams, widths)
    holds = decide(against.values())
    return Answer(
        statement=" ".join(
            filter(
                None,
                [
                    _direction(holds, numbers[GREEDY], against),
                    _of_beams(numbers, widths),
                    loop.finding(),
                    _of_one(errors),
                ],
            )
        ),
        holds=holds,
        overturn="Other models or texts for which the intervals of the differences move to the other side of 0; a "
        "longer text, where what was drawn leads further from what the models were trained on; a strategy that is not "
        "in the grid; a counted rate outside of the interval around the expected one.",
        numbers=numbers,
        charts=(_by_strategy(expected, written), loop.chart(), *_sweeps(read), *_by_width(shared, widths)),
        tables=(_grid_table(counted, read), *_beam_tables(beams, widths)),
        remarks=(
            "Where tokens are drawn, the frequency is the mean total variation of the two transformed distributions: "
            "the chance that a drafted token falls. Greedy decoding is the case of one-hot distributions. Rates are "
            "means over the pairs and tasks; differences are of the same examples, and their intervals are widened so "
            f"that all {comparisons} hold together (Bonferroni).",
            "Beams: the draft is shown the target's beams at every step and keeps as many of the best continuations as "
            "the target, ended ones among them. It adds its log-probabilities to the target's scores of the beams "
            "(shared): the search so far is System 2's, as the context is in greedy decoding. With its own scores of "
            "the same beams it ranks the texts so far anew, too. That any of W continuations differs is the likelier, "
            "the larger W is; the share of them that it would have replaced, with shared scores, is what is compared "
            "to greedy decoding, which is one beam.",
        ),
    )


def decide(against: Iterable[Estimate]) -> bool | None:
    """Whether some difference from greedy decoding is there: yes, no, or open; the rule of `conclude`."""
    against = list(against)
    if any(gap.above(0.0) is not None for gap in against):
        return True
    return False if all(gap.above(-MATTERS) and gap.above(MATTERS) is False for gap in against) else None


def _direction(holds: bool | None, greedy: Estimate, against: dict[str, Estimate]) -> str:
    said = {
        True: "The strategy changes how much of the large model a text needs",
        False: "The strategy changes little in how much of the large model a text needs",
        None: "Whether the strategy changes how much of the large model a text needs stays open",
    }[holds]
    more, less, neither = (
        [f"{name} {in_points(gap)}" for name, gap in against.items() if gap.above(0.0) is way]
        for way in (True, False, None)
    )
    parts = [("more under", more), ("less under", less), ("not to be told apart:", neither)]
    listed = "; ".join(f"{word} {', '.join(names)}" for word, names in parts if names)
    return f"{said}: greedy, the draft is overruled at {greedy} of the positions; in points against that, {listed}."


class _Loop:
    """The rejections that the loop counted, beside those that were to be expected."""

    def __init__(self, counted: pl.DataFrame, drawn: list[str]) -> None:
        sampled = counted.filter(pl.col("strategy").is_in(drawn))
        self._drawn = drawn
        self._more = Rates(sampled.with_columns(more=pl.col("rejected") - pl.col("variation")), "strategy", "more")
        self._runs = {name: list(self._more.each(name)) for name in drawn}
        self._sampled = sampled
        together = sampled.with_columns(all=pl.lit(True), more=pl.col("rejected") - pl.col("variation"))
        self._together = Rates(together, "all", "more").estimate(True)

    def numbers(self) -> dict[str, Estimate]:
        return {
            "counted less expected rejections, all sampled runs": self._together,
        }

    def finding(self) -> str:
        gaps = [gap for runs in self._runs.values() for _, gap in runs]
        within = sum(gap.above(0.0) is None for gap in gaps)
        positions, off = self._sampled["tokens"].sum(), self._sampled["off"].sum()
        but = (
            f"but {off} of {positions} positions ({self._sampled['apart'].to_numpy().max():.0e} at most)"
            if off
            else "positions"
        )
        return (
            f"One pass gives the loop's chance of a rejection to {_EXACT:.0e} at all {but}; the rejections that the "
            f"loop counted differ from it by {in_points(self._together)} points, and in {within} of "
            f"{len(gaps)} runs the interval of that difference holds 0."
        )

    def chart(self) -> Chart:
        return Chart(
            name="counted",
            title="Rejections counted by the loop, less those expected",
            finding="Where the two are one quantity, the intervals hold 0, all but about one in twenty.",
            note="Each point is a run: the share of drafted tokens that fell, less their mean total variation. The "
            "temperature is 1 where none is named.",
            x="strategy",
            y="counted less expected",
            kind="point",
            series="draft",
            points=tuple(
                Point.of(_label(name), gap, series=draft, panel=task)
                for name in self._drawn
                for (task, draft, _), gap in self._runs[name]
            ),
        )


def _errors(counted: pl.DataFrame, read: pl.DataFrame, drawn: list[str]) -> dict[str, tuple[Estimate, Estimate]]:
    """For each text what is read from it less what the strategies' own texts have: the mean, and the largest."""
    own = counted.select("task", "draft", "target", "example", "strategy", "tokens", "variation")
    found = {}
    for text in read["text"].unique(maintain_order=True).to_list():
        others = [name for name in drawn if name != text]
        if not others:
            continue
        one = read.filter(pl.col("text") == text).select(own.columns).with_columns(pl.col("strategy") + " read")
        rates = Rates(pl.concat([own, one]), "strategy", "variation")
        gaps = [rates.minus(f"{name} read", rates.of(name)) for name in others]

        def mean(weights: Floats, rates: Rates = rates, others: list[str] = others) -> Floats:
            each = [rates.of(f"{name} read")(weights) - rates.of(name)(weights) for name in others]
            return np.asarray(np.mean(each, axis=0))

        found[text] = resampled(mean, rates.examples), max(gaps, key=lambda gap: abs(gap.value))
    return found


def _of_one(errors: dict[str, tuple[Estimate, Estimate]]) -> str:
    if not errors:
        return ""
    said = [
        f"{in_points(mean)} from the {text} text (at most {in_points(most)})" for text, (mean, most) in errors.items()
    ]
    return f"Read off one text instead of each strategy's own, the others are off by, in points, {', '.join(said)}."


def _beam_numbers(beams: pl.DataFrame, widths: list[int]) -> dict[str, Estimate]:
    """What a draft does to beams, at each width, by either scores."""
    found: dict[str, Estimate] = {}
    for score in SCORES if widths else ():
        some = beams.filter(pl.col("scores") == score)
        for kind, columns in _KINDS.items():
            rates = Rates(some, "width", *columns)
            found |= {f"{width} beams, {kind} ({score} scores)": rates.estimate(width) for width in widths}
    return found


def _of_beams(numbers: dict[str, Estimate], widths: list[int]) -> str:
    if not widths:
        return ""
    shared, own = ([numbers[f"{widths[-1]} beams, {kind} ({score} scores)"] for kind in _KINDS] for score in SCORES)
    return (
        f"Shown {widths[-1]} beams of the target, it would have kept another set at {shared[0]} of the steps, replaced "
        f"{shared[1]} of the continuations and lost the best text at {shared[2]} of its tokens (by its own scores of "
        f"the beams: {own[0]}, {own[1]} and {own[2]})."
    )


# ---- charts and tables


def _label(strategy: str) -> str:
    """A strategy as short as an axis needs it."""
    return strategy.removeprefix("temperature=1,")


def _by_strategy(expected: Rates, written: list[str]) -> Chart:
    return Chart(
        name="frequency",
        title="Frequency by decoding strategy",
        finding="The same drafts and target, each strategy on its own texts.",
        note="Greedy: the share of positions where the choices differ. Others: the mean total variation of the "
        "transformed distributions, which is the chance that a drafted token is rejected. The temperature is 1 where "
        "none is named.",
        x="strategy",
        y="collaboration frequency",
        kind="bar",
        series="draft",
        points=tuple(
            Point.of(_label(name), rate, series=draft, panel=task)
            for name in written
            for (task, draft, _), rate in expected.each(name)
        ),
    )


def _sweeps(read: pl.DataFrame) -> tuple[Chart, ...]:
    """Temperature alone, as read off each text."""
    known = {
        name: float(name.removeprefix("temperature="))
        for name in read["strategy"].unique()
        if "," not in name and name != GREEDY
    }
    if len(known) < 2:
        return ()
    points = []
    for text in read["text"].unique(maintain_order=True).to_list():
        rates = Rates(read.filter(pl.col("text") == text).with_columns(task=pl.lit("all")), "strategy", "variation")
        for name, temperature in sorted(known.items(), key=lambda item: item[1]):
            points += [
                Point.of(temperature, rate, series=draft, panel=f"read off the {text} text")
                for (_, draft, _), rate in rates.each(name)
            ]
    return (
        Chart(
            name="temperature",
            title="Frequency by temperature, read off one text",
            finding="All points of a panel come from one pass over one text for each example.",
            note="The contexts are those of the text, so this is how the two distributions differ there, and not how "
            "often they would on texts that are drawn at the temperature.",
            x="temperature",
            y="collaboration frequency",
            series="draft",
            points=tuple(points),
        ),
    )


def _by_width(shared: pl.DataFrame, widths: list[int]) -> tuple[Chart, ...]:
    if not widths:
        return ()
    points = []
    for kind, columns in _KINDS.items():
        rates = Rates(shared.with_columns(task=pl.lit("all")), "width", *columns)
        points += [
            Point.of(width, rate, series=draft, panel=kind)
            for width in (1, *widths)
            for (_, draft, _), rate in rates.each(width)
        ]
    return (
        Chart(
            name="beams",
            title="What a draft would have done to the target's beams",
            finding="With one beam, which is greedy decoding, the three are one.",
            note="Shares of the steps at which the draft would have kept another set of continuations, of the "
            "continuations that it would have replaced, and of the tokens of the best text that it would have lost.",
            x="beams",
            y="share",
            log_x=True,
            series="draft",
            points=tuple(points),
        ),
    )


def _grid_table(counted: pl.DataFrame, read: pl.DataFrame) -> Table:
    own = Rates(counted, "strategy", "variation")
    rejected = Rates(counted, "strategy", "rejected")
    written = counted["strategy"].unique(maintain_order=True).to_list()
    texts = read["text"].unique(maintain_order=True).to_list()
    rates = {text: Rates(read.filter(pl.col("text") == text), "strategy", "variation") for text in texts}
    return Table(
        name="grid",
        title="All strategies",
        note="Means over the pairs and tasks. Counted: the share of drafted tokens that the loop rejected. Expected: "
        "by the distributions, on the strategy's own texts. Read: the same, by one pass over the target's text of "
        "another strategy.",
        columns=("strategy", "counted", "expected", *(f"read off {text}" for text in texts)),
        rows=tuple(
            (
                name,
                str(rejected.estimate(name)) if name in written else None,
                str(own.estimate(name)) if name in written else None,
                *(str(rates[text].estimate(name)) for text in texts),
            )
            for name in read["strategy"].unique(maintain_order=True).to_list()
        ),
    )


def _beam_tables(beams: pl.DataFrame, widths: list[int]) -> tuple[Table, ...]:
    if not widths:
        return ()
    rows: list[tuple[str | int, ...]] = []
    for score in SCORES:
        rates = {
            kind: Rates(beams.filter(pl.col("scores") == score), "width", *columns) for kind, columns in _KINDS.items()
        }
        rows += [(score, width, *(str(rate.estimate(width)) for rate in rates.values())) for width in (1, *widths)]
    return (
        Table(
            name="beam-scores",
            title="Beams by whose scores they are ranked",
            note="Shared: the draft's log-probabilities of the next token are added to the target's scores of the "
            "beams. Own: to its own scores of the same beams, so that it also ranks the texts written so far.",
            columns=("scores", "beams", *_KINDS),
            rows=tuple(rows),
        ),
    )


EXPERIMENT = Experiment(Options, run)
