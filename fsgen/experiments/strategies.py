"""`strategies`: how often a draft is overruled where tokens are drawn in other ways, and where beams are searched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, product
from typing import Annotated, Any, TypeAlias

import numpy as np
import polars as pl
from pydantic import Field

from fsgen.analysis.answers import Answer, Point, Row
from fsgen.analysis.intervals import Estimate, Floats
from fsgen.analysis.labels import short_name
from fsgen.analysis.rates import Cell as Place
from fsgen.analysis.rates import Rates
from fsgen.analysis.trainings import Groups
from fsgen.backends import Members
from fsgen.experiments.base import Experiment
from fsgen.experiments.beams import SCORES, beam_search
from fsgen.experiments.cells import labelled, names, oracle_cells
from fsgen.experiments.config import words
from fsgen.experiments.lab import Lab, Study
from fsgen.experiments.variations import variations
from fsgen.study.cells import Cell
from fsgen.study.config import Keys, SamplingConfig, Samplings
from fsgen.types import SamplingParams

GREEDY = "greedy"
OWN = "own"  # texts of the strategy itself
MATTERS = 0.02
"""Where every strategy is known to be closer to greedy decoding than this, the strategy does not matter."""

_EXACT = 1e-5  # the two numbers of a position come from other calls, and so are rounded otherwise
_KINDS = {
    "another set": ("sets", "steps"),
    "continuations replaced": ("replaced", "steps"),
    "best text lost": ("lost", "tokens"),
}
"""What a draft may do to the target's beams, and the counts whose ratio says how often."""

Tokens: TypeAlias = dict[str, tuple[list[int], list[int]]]


class Options(Keys):
    """Of the grid that is read off, and of the beams; see `strategies.yaml`."""

    texts: Samplings = (SamplingConfig(),)
    grid: Samplings | tuple[()] = ()
    beams: tuple[Annotated[int, Field(ge=2, le=64)], ...] = ()
    beam_examples: Annotated[int, Field(ge=1)] = 24
    beam_tokens: Annotated[int, Field(ge=1)] = 48


def check(lab: Lab, options: Options) -> None:
    """Refuse other methods, a study that does not begin with greedy decoding, and texts that it does not write."""
    written = [*dict.fromkeys(_params(cell.sampling) for cell in oracle_cells(lab.plan(), sampled=True))]
    if not written[0].greedy:
        raise ValueError(f"sampling: greedy must be the first, not {written[0]}: the others are compared to it")
    texts = [str(_params(text)) for text in options.texts]
    if odd := [text for text in texts if text not in map(str, written)]:
        raise ValueError(f"texts: {odd[0]} is not written; choose from {'; '.join(map(str, written))}")


def measure(lab: Lab, options: Options) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, Groups]:
    """Write the texts, read the grid off some of them, and search with beams; see `estimate`."""
    study = lab.study()
    counted = pl.concat(_counted(lab, study, cell) for cell in study.cells)
    groups = groupby(sorted(study.cells, key=_place), key=_place)
    read, beams = zip(*(_looked_on(lab, study, list(group), options) for _, group in groups), strict=True)
    return counted, pl.concat(read), pl.concat(beams), study.trainings


def _params(sampling: SamplingConfig) -> SamplingParams:
    return SamplingParams(**sampling.model_dump())


def _place(cell: Cell) -> tuple[str, str]:
    return cell.task.task.name, cell.members["target"]


def _counted(lab: Lab, study: Study, cell: Cell) -> pl.DataFrame:
    """Of each example of a run: tokens, rejections, and the total variation by the loop and by one pass."""
    strategy = _params(cell.sampling)
    group = lab.members(**cell.members)
    passed = lab.table("passes", {"run": cell.key}, lambda: _pass(group, study.tokens(cell.key), strategy))
    trace = study.traces(cell.key).filter(pl.col("turn") == 1)
    loop = pl.col("differs" if strategy.greedy else "total_variation").cast(pl.Float64)
    apart = (pl.col("variation") - pl.col("passed").cast(pl.Float64)).abs()
    seen = trace.select("example", "position", rejected=pl.col("source") == "recovered", variation=loop).collect()
    sums = (
        seen.join(passed, on=["example", "position"], how="left")
        .group_by("example")
        .agg(
            pl.col("rejected", "variation").sum(),
            tokens=pl.len().cast(pl.Int64),
            apart=apart.max(),
            off=(apart > _EXACT).sum().cast(pl.Int64),
        )
    )
    return labelled(sums.sort("example"), strategy=str(strategy), **names(cell))


def _looked_on(lab: Lab, study: Study, cells: Sequence[Cell], options: Options) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Of one task and target: the grid read off each text, and the beams of each width, for all drafts at once."""
    mine = {cell.members["draft"] for cell in cells}
    drafts = [draft for draft in dict.fromkeys(cell.members["draft"] for cell in study.cells) if draft in mine]
    members = [lab.members(draft=draft, target=cells[0].members["target"]) for draft in drafts]
    digests = [lab.digest(draft) for draft in drafts]
    runs = {str(_params(cell.sampling)): study.alone[cell.key]["target"] for cell in cells}
    grid = [*dict.fromkeys(_params(one) for one in (*(cell.sampling for cell in study.cells), *options.grid))]

    def read(text: str) -> pl.DataFrame:
        key = {"drafts": digests, "text": runs[text], "grid": [*map(str, grid)]}
        table = lab.table("grid", key, lambda: _read(members, study.tokens(runs[text]), grid))
        return labelled(table, text=text)

    def searched(width: int) -> pl.DataFrame:
        key = {"drafts": digests, "prompts": runs[GREEDY], "width": width}
        key |= {"examples": options.beam_examples, "tokens": options.beam_tokens}
        return lab.table("beams", key, lambda: _search(members, study.tokens(runs[GREEDY]), width, options))

    def named(table: pl.DataFrame) -> pl.DataFrame:
        # Numbers stand for drafts in files, so that these are found again whatever a model is called.
        draft = pl.col("draft").replace_strict(dict(enumerate(map(short_name, drafts))), return_dtype=pl.String)
        return labelled(table, **names(cells[0])).with_columns(table.select(draft))

    grids = pl.concat(read(str(_params(text))) for text in options.texts)
    beams = pl.concat(searched(width) for width in (1, *options.beams))
    return named(grids), named(beams)


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
    rows = [
        (number, name, str(strategy), one.shape[1], float(sums))
        for number, texts in enumerate(variations(members, [*tokens.values()], grid))
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
        for number, way in np.ndindex(len(members), len(SCORES)):
            replaced, lost = text.replaced[number, way], text.lost[number, way]
            counts = (len(replaced), int((replaced > 0).sum()), float(replaced.sum()), len(lost), int(lost.sum()))
            rows.append((number, name, width, SCORES[way], *counts))
    names = ["draft", "example", "width", "scores", "steps", "sets", "replaced", "tokens", "lost"]
    return pl.DataFrame(rows, schema=names, orient="row")


def estimate(counted: pl.DataFrame, read: pl.DataFrame, beams: pl.DataFrame, trainings: Groups = ()) -> Answer:
    """The answer from what was measured.

    The rule: the strategy matters where under one of those written by the loop, or among the continuations that beams
    keep, the draft is overruled more or less often than in greedy decoding (one of the intervals, widened so that all
    hold together, leaves out 0); it does not where all of these lie within `MATTERS` of it; else the question is open.

    Args:
        counted: one row for each task, pair, strategy that was written, and example: verified `tokens`, those
            `rejected`, the sum of their `variation`, how far (`apart`) a pass's was from the loop's at most, and at how
            many (`off`) it was not the same to rounding.
        read: one row for each task, pair, strategy, example, and `text` (the strategy that wrote it): its `tokens` and
            the sum of the `variation` that a pass gives.
        beams: one row for each task, pair, `width`, way to add up `scores`, and example: `steps`, the `sets` that
            differ, the sum of the `replaced` shares, `tokens`, and how many of them a draft would have `lost`.
        trainings: the models that are trainings of one size.

    Raises:
        ValueError: there is no greedy run, or none that was sampled.
    """
    written = counted["strategy"].unique(maintain_order=True).to_list()
    drawn = [name for name in written if name != GREEDY]
    if GREEDY not in written or not drawn:
        raise ValueError(f"greedy and one other strategy are compared, but there are only {', '.join(written)}")
    texts = read["text"].unique(maintain_order=True).to_list()
    both = pl.concat([labelled(counted, text=OWN).select(read.columns), read])
    expected = Rates(both, ("text", "strategy"), "variation", trainings=trainings)
    widths = sorted(width for width in beams["width"].unique() if width > 1)
    searched = {
        (score, kind): Rates(beams.filter(scores=score), "width", *columns, trainings=trainings)
        for score in SCORES
        for kind, columns in _KINDS.items()
        if widths
    }
    comparisons = len(drawn) + len(widths)
    less_greedy = {name: expected.minus((OWN, name), expected.of((OWN, GREEDY)), comparisons) for name in drawn}
    for width in widths:
        replaced = searched["shared", "continuations replaced"]
        less_greedy[f"{width} beams"] = replaced.minus(width, replaced.of(1), comparisons)
    gaps = counted.filter(pl.col("strategy").is_in(drawn)).with_columns(more=pl.col("rejected") - pl.col("variation"))
    runs = {name: list(Rates(gaps, "strategy", "more").each(name)) for name in drawn}
    beside = _beside_expected(gaps, [gap for found in runs.values() for _, gap in found])
    errors = {text: _errors(expected, text, others) for text in texts if (others := [n for n in drawn if n != text])}
    rates = {name: expected.estimate((OWN, name)) for name in written}
    numbers = rates | {f"{name}, less greedy": gap for name, gap in less_greedy.items()}
    numbers["counted less expected rejections, all sampled runs"] = beside["together"]
    numbers |= {f"read from the {text} text, mean error": error for text, (error, _) in errors.items()}
    numbers |= {
        f"{width} beams, {kind} ({score} scores)": rate.estimate(width)
        for (score, kind), rate in searched.items()
        for width in widths
    }
    off = (f"{mean:+.1%} from the {text} text (at most {most:+.1%})" for text, (mean, most) in errors.items())
    return Answer.of(
        words("strategies"),
        holds=decide(less_greedy.values()),
        numbers=numbers,
        charts={
            "frequency": (mark for name in written for mark in _marks(name, expected.each((OWN, name)))),
            "counted": (mark for name, found in runs.items() for mark in _marks(name, found)),
            "temperature": _sweeps(read, texts),
            "beams": _by_width(beams, widths),
        },
        tables={
            "grid": _grid_rows(counted, expected, texts, read["strategy"]),
            "beam-scores": _beam_rows(searched, widths),
        },
        greedy=rates[GREEDY],
        ways=_ways(less_greedy),
        searched=bool(widths),
        beams=[rate.estimate(widths[-1]) for rate in searched.values()],
        width=max(widths, default=1),
        read=bool(errors),
        errors=", ".join(off),
        comparisons=comparisons,
        **beside,
    )


def decide(against: Iterable[Estimate]) -> bool | None:
    """Whether some difference from greedy decoding is there: yes, no, or open; the rule of `estimate`."""
    against = list(against)
    if any(gap.above(0.0) is not None for gap in against):
        return True
    return False if all(gap.above(-MATTERS) and gap.above(MATTERS) is False for gap in against) else None


def _beside_expected(gaps: pl.DataFrame, runs: Sequence[Estimate]) -> dict[str, Any]:
    """The rejections that the loop counted, beside those that were to be expected, for the words of the answer."""
    return {
        "rounding": _EXACT,
        "exact": not gaps["off"].sum(),
        "off": gaps["off"].sum(),
        "positions": gaps["tokens"].sum(),
        "apart": gaps["apart"].to_numpy().max(),
        "together": Rates(labelled(gaps, all=True), "all", "more").estimate(True),
        "most": max(runs, key=lambda gap: abs(gap.value)),
    }


def _ways(less_greedy: Mapping[str, Estimate]) -> str:
    """Under which strategies the draft is overruled more often, less often, and neither."""
    parts = []
    for word, way in (("more under", True), ("less under", False), ("no clear difference:", None)):
        if names := [f"{name} {gap:+.1%}" for name, gap in less_greedy.items() if gap.above(0.0) is way]:
            parts.append(f"{word} {', '.join(names)}")
    return "; ".join(parts)


def _errors(rates: Rates, text: str, names: Sequence[str]) -> tuple[Estimate, Estimate]:
    """What is read from a text less what the strategies' own texts have: the mean, and the largest."""
    gaps = [rates.minus((text, name), rates.of((OWN, name))) for name in names]

    def mean(drawn: Floats) -> Floats:
        each = [rates.of((text, name))(drawn) - rates.of((OWN, name))(drawn) for name in names]
        return np.asarray(np.mean(each, axis=0))

    return rates.measured(mean), max(gaps, key=lambda gap: abs(gap.value))


def _marks(x: float | str, found: Iterable[tuple[Place, Estimate]], panel: str = "") -> list[Point]:
    """A mark for each draft, in a panel for each task where no other is named; x as short as an axis needs it."""
    x = x.removeprefix("temperature=1,") if isinstance(x, str) else x
    return [Point.of(x, rate, draft, panel or task) for (task, draft, _), rate in found]


def _sweeps(read: pl.DataFrame, texts: Sequence[str]) -> Iterator[Point]:
    """Temperature alone, as read off each text; nothing where there is one temperature."""
    rates = Rates(labelled(read, task="all"), ("text", "strategy"), "variation")
    names = [name for name in read["strategy"].unique() if "," not in name and name != GREEDY]
    known = sorted((float(name.removeprefix("temperature=")), name) for name in names)
    for text, (temperature, name) in product(texts, known if len(known) > 1 else ()):
        yield from _marks(temperature, rates.each((text, name)), f"read off the {text} text")


def _by_width(beams: pl.DataFrame, widths: Sequence[int]) -> Iterator[Point]:
    """What drafts do to the beams of each width, greedy decoding in front; nothing without beams."""
    shared = labelled(beams.filter(scores="shared"), task="all")
    for kind, columns in _KINDS.items():
        rates = Rates(shared, "width", *columns)
        for width in (1, *widths) if widths else ():
            yield from _marks(width, rates.each(width), kind)


def _grid_rows(counted: pl.DataFrame, expected: Rates, texts: Sequence[str], strategies: pl.Series) -> Iterator[Row]:
    rejected, written = Rates(counted, "strategy", "rejected"), set(counted["strategy"])
    for name in strategies.unique(maintain_order=True):
        there = name in written
        yield {
            "strategy": name,
            "counted": str(rejected.estimate(name)) if there else None,
            "expected": str(expected.estimate((OWN, name))) if there else None,
            **{f"read off {text}": str(expected.estimate((text, name))) for text in texts},
        }


def _beam_rows(searched: Mapping[tuple[str, str], Rates], widths: Sequence[int]) -> Iterator[Row]:
    for score, width in product(SCORES, (1, *widths) if widths else ()):
        rates = {kind: str(searched[score, kind].estimate(width)) for kind in _KINDS}
        yield {"scores": score, "beams": width, **rates}


EXPERIMENT = Experiment(Options, measure, estimate, check)
