"""`context`: the frequency by position with more few-shot examples, and with a draft that sees only the last tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
from pydantic import Field

from fsgen import tasks
from fsgen.analysis.answers import Answer, Point, Row, Value
from fsgen.analysis.intervals import Estimate, Floats
from fsgen.analysis.rates import Rates
from fsgen.backends import Model
from fsgen.backends.reader import Reader
from fsgen.experiments.base import Experiment
from fsgen.experiments.cells import labelled, names, oracle_cells
from fsgen.experiments.config import words
from fsgen.experiments.lab import Lab, Study
from fsgen.files import write_text
from fsgen.study.cells import Cell, canonical_hash
from fsgen.study.config import Keys, StudyConfig, TaskConfig
from fsgen.tasks import source
from fsgen.tasks.gsm8k import GSM8K

MATTERS = 0.02
"""A change of the frequency that is known to be smaller than this is taken as none."""
_ROWS = 64  # contexts that a draft reads at a time

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


def measure(lab: Lab, options: Options) -> tuple[pl.DataFrame, pl.DataFrame | None, int]:
    """Let every pair write with each number of few-shot examples, and cut the draft's context; see `estimate`."""
    more: list[pl.DataFrame] = []
    less: list[pl.DataFrame] = []
    for count, config in _studies(lab, options).items():
        study = lab.study(config)
        for cell in study.cells:
            trace = study.traces(cell.key).filter(pl.col("turn") == 1)
            columns = ["example", "position", "draft_token", "target_token", "differs"]
            tokens = trace.select(columns).sort("example", "position").collect()
            about = names(cell) | {"shots": count}
            more.append(labelled(_sums(tokens, options.first, differing=pl.col("differs").sum()), **about))
            if count in options.window_shots:
                cuts = {window: _cut(lab, study, cell, tokens, window, options) for window in options.windows}
                less.extend(labelled(cut, window=window, **about) for window, cut in cuts.items())
    return pl.concat(more), pl.concat(less) if less else None, options.first


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


def short_data(folder: Path, config: TaskConfig, count: int) -> Path:
    """A data file of a task's questions, each behind the same solved questions in the form of the task's own prompt.

    Those are the shortest of the data that are not asked, so that eight of them fit a small context.

    Args:
        folder: of the experiment.
        config: the task, with a limit: what it does not ask is there to be shown.
        count: solved questions before each.

    Raises:
        ValueError: not a task of questions and written solutions, or too few questions.
    """
    task = tasks.get(config.name)
    if not isinstance(task, GSM8K) or config.limit is None or config.chat:
        raise ValueError(f"worked: short is for limited plain tasks of questions and solutions, not {config.name}")
    rows = source.rows(config.data, task.bundled, task.fields)
    ordered = [rows[int(example.id.rpartition("/")[2])] for example in task.load(data=config.data, seed=config.order)]
    questions, rest = ordered[: config.limit], ordered[config.limit :]
    if len(questions) < config.limit or len(rest) < count:
        raise ValueError(f"{config.name} has {len(rows)} questions: {config.limit} and {count} worked ones are needed")
    shown = sorted(rest, key=lambda row: len(row["question"]) + len(row["answer"]))[:count]
    before = "".join(f"{row['question']}\nAnswer: {row['answer']}\n\nQuestion: " for row in shown)
    lines = [json.dumps({"question": before + row["question"], "answer": row["answer"]}) for row in questions]
    text = "".join(f"{line}\n" for line in lines)
    path = folder / "measured" / "questions" / f"{config.name}-{count}-{canonical_hash(text)[:16]}.jsonl"
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)
    return path


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


def windowed(
    model: Model, texts: Sequence[tuple[Sequence[int], Sequence[int]]], window: int, vocab: int
) -> list[list[int | None]]:
    """What a model would write at each position of some completions if it saw only the last tokens before it.

    Every position is a sequence of its own. A mask of such a width would not do: what a token of the window has in its
    state comes from further back. Special tokens that the tokenizer puts before a text stay there.

    Args:
        model: a draft.
        texts: prompt and completion of each, as token ids.
        window: tokens that it sees.
        vocab: token ids that it shares with the target.

    Returns:
        for each text and position the greedy token, None where nothing was cut.
    """
    head = list(model.tokenizer.encode(""))
    found: list[list[int | None]] = [[None] * len(completion) for _, completion in texts]
    places: list[tuple[int, int]] = []
    sequences: list[list[int]] = []
    for number, (prompt, completion) in enumerate(texts):
        ids = [*prompt, *completion]
        kept = head if ids[: len(head)] == head and len(head) < window else []
        for position in range(len(completion)):
            end = len(prompt) + position
            if end > window:
                places.append((number, position))
                sequences.append([*kept, *ids[end - window + len(kept) : end]])
    reader = Reader(model, sequences, [1] * len(sequences), vocab)
    for start in range(0, len(places), _ROWS):
        batch = [*range(len(places))][start : start + _ROWS]
        for i, choice in zip(batch, reader.read(batch)[0].argmax(-1).tolist(), strict=True):
            number, position = places[i]
            found[number][position] = choice
    return found


def estimate(more: pl.DataFrame, less: pl.DataFrame | None, first: int) -> Answer:
    """The answer from what was measured.

    The rule. Where early collaborations come from poor context, the first tokens differ more often than the later ones;
    some number of few-shot examples makes them differ less often, and by more than the later ones; and a draft that
    sees less differs more often there. They do if all of that is found; they do not if no number of few-shot examples
    lowers the first tokens by `MATTERS` more than the later ones; else the question is open. Intervals of several
    numbers of examples, or of several windows, are widened so that they hold together.

    Args:
        more: one row for each task, pair, number of `shots`, example, and `place`: whether it is `early`, its `tokens`
            and the `differing` ones among them.
        less: the same for each `window`, with how many positions were `cut`, and how many `more` mismatches these have
            than the same ones with all of the context; None where nothing was cut.
        first: how many tokens are early.

    Raises:
        ValueError: one number of few-shot examples is no comparison.
    """
    shots = sorted(more["shots"].unique().to_list())
    if len(shots) < 2:
        raise ValueError(f"shots: two numbers of few-shot examples are compared, not {shots}")
    rates = Rates(more, ("shots", "early"), "differing")
    base, others = shots[0], shots[1:]
    excess = rates.minus((base, True), rates.of((base, False)))
    drop = {n: rates.minus((n, True), rates.of((base, True)), len(others)) for n in others}
    apart = {n: _apart(rates, n, base, len(others)) for n in others}
    rose = {} if less is None else _rises(less, True, len(less.select("shots", "window").unique()))
    numbers = {f"first tokens, {n} few-shot examples": rates.estimate((n, True)) for n in shots}
    numbers |= {f"later tokens, {n} few-shot examples": rates.estimate((n, False)) for n in shots}
    numbers[f"first less later, {base} few-shot examples"] = excess
    numbers |= {f"first tokens, {n} less {base} few-shot examples": gap for n, gap in drop.items()}
    numbers |= {f"the same, less that of the later tokens, {n} less {base}": gap for n, gap in apart.items()}
    numbers |= {f"first tokens, the draft sees {name}: rise": gap for name, gap in rose.items()}
    cut = {} if less is None else {n: less.filter(shots=n) for n in sorted(less["shots"].unique())}
    each = (f"{n}: {drop[n]:+.1%}, and less that of the later ones {apart[n]:+.1%}" for n in drop)
    largest = max(rose, key=lambda name: rose[name].value, default="")
    return Answer.of(
        words("context"),
        holds=decide(excess, drop.values(), apart.values(), rose.values()),
        numbers=numbers,
        charts={"shots": _profile(more, "shots"), **{f"window-{n}": _cut_profile(some) for n, some in cut.items()}},
        tables={"by-pair": _shots_rows(rates, shots), "cuts": [] if less is None else _window_rows(less)},
        first=first,
        excess=excess,
        each="; ".join(each),
        cut=bool(rose),
        cuts=len(rose),
        harmed=sum(gap.above(0.0) is True for gap in rose.values()),
        largest=largest,
        most=rose.get(largest),
    )


def decide(
    excess: Estimate, drop: Iterable[Estimate], apart: Iterable[Estimate], rose: Iterable[Estimate]
) -> bool | None:
    """Whether early collaborations come from poor context: yes, no, or open; the rule of `estimate`."""
    both = list(zip(drop, apart, strict=True))
    if all(gap.above(-MATTERS) for _, gap in both):
        return False
    helped = any(fall.above(0.0) is False and gap.above(0.0) is False for fall, gap in both)
    return True if helped and excess.above(0.0) and any(gap.above(0.0) for gap in rose) else None


def _apart(rates: Rates, count: int, base: int, comparisons: int) -> Estimate:
    """What so many few-shot examples add to the first tokens, less what they add to the later ones."""
    parts = [rates.of((n, early)) for n, early in product((count, base), (True, False))]

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
