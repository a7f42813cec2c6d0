"""`context`: the frequency by position with more worked examples, and with a draft that sees only the last tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
import torch
from pydantic import Field

from fsgen import tasks
from fsgen.analysis.answers import Answer, Chart, Point, Table
from fsgen.analysis.intervals import Estimate, Floats, resampled
from fsgen.analysis.labels import short_name
from fsgen.analysis.rates import Rates, in_points
from fsgen.backends import Model
from fsgen.experiments.base import Experiment
from fsgen.experiments.lab import Lab, Study
from fsgen.study.cells import Cell, canonical_hash
from fsgen.study.config import Keys, StudyConfig, TaskConfig
from fsgen.study.store import atomically
from fsgen.tasks import source
from fsgen.tasks.gsm8k import GSM8K

MATTERS = 0.02
"""A change of the frequency that is known to be smaller than this is taken as none."""
_ROWS = 64  # contexts that a draft reads at a time

Count = Annotated[int, Field(ge=0)]


class Options(Keys):
    """How many worked examples, of which kind, and how little the draft sees; see `context.yaml`."""

    shots: Annotated[tuple[Count, ...], Field(min_length=2)]
    worked: Literal["short", "task"] = "short"
    first: Annotated[int, Field(ge=1)] = 8
    windows: tuple[Annotated[int, Field(ge=1)], ...] = ()
    window_shots: tuple[Count, ...] = (0,)
    window_examples: Annotated[int, Field(ge=1)] = 16


def run(lab: Lab, options: Options) -> Answer:
    """Let every pair write with each number of worked examples, cut the draft's context, and answer.

    Raises:
        ValueError: a study of another method than the oracle, shots that are not asked for, prompts that do not fit.
    """
    shots = sorted(set(options.shots))
    if odd := sorted(set(options.window_shots) - set(shots)):
        raise ValueError(f"window_shots: {odd[0]} is not among the shots {', '.join(map(str, shots))}")
    config = lab.varied()
    if odd_methods := [method.name for method in config.methods or () if method.name != "oracle"]:
        raise ValueError(f"the study of this experiment has the method oracle alone, not {odd_methods[0]}")
    studies = {count: _with_shots(lab, config, count, options.worked) for count in shots}
    for asked in studies.values():
        lab.plan(asked)
    more, less = [], []
    for count, asked in studies.items():
        study = lab.study(asked)
        for row in study.plan.rows:
            trace = study.traces(row.cell.key).filter(pl.col("turn") == 1)
            columns = ["example", "position", "draft_token", "target_token", "differs"]
            tokens = trace.select(columns).sort("example", "position").collect()
            about = _about(row.cell, count)
            more.append(_sums(tokens, options.first).with_columns(**about))
            if count in options.window_shots:
                less += [
                    _cut(lab, study, row.cell, tokens, window, options).with_columns(window=pl.lit(window), **about)
                    for window in options.windows
                ]
    return conclude(pl.concat(more), pl.concat(less) if less else None, options.first)


# ---- worked examples


def _with_shots(lab: Lab, config: StudyConfig, count: int, worked: str) -> StudyConfig:
    """The study with so many worked examples before each question."""
    assert config.tasks is not None
    changed = []
    for task in config.tasks:
        given = task.model_dump(exclude_unset=True)
        if worked == "task":
            changed.append(given | {"shots": count})
        else:
            changed.append(given | {"data": str(short_data(lab.folder, task, count)), "shots": 0, "limit": None})
    return lab.varied(name=f"{lab.name}, {count} worked examples", tasks=changed)


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
    asked, rest = ordered[: config.limit], ordered[config.limit :]
    if len(asked) < config.limit or len(rest) < count:
        raise ValueError(f"{config.name} has {len(rows)} questions: {config.limit} and {count} worked ones are needed")
    shown = sorted(rest, key=lambda row: len(row["question"]) + len(row["answer"]))[:count]
    before = "".join(f"{row['question']}\nAnswer: {row['answer']}\n\nQuestion: " for row in shown)
    lines = [json.dumps({"question": before + row["question"], "answer": row["answer"]}) for row in asked]
    text = "".join(f"{line}\n" for line in lines)
    path = folder / "measured" / "questions" / f"{config.name}-{count}-{canonical_hash(text)[:16]}.jsonl"
    if not path.is_file():
        atomically(path, lambda file: file.write_text(text, encoding="utf-8"))
    return path


# ---- what is measured


def _about(cell: Cell, shots: int) -> dict[str, pl.Expr]:
    names = {role: pl.lit(short_name(cell.members[role])) for role in ("draft", "target")}
    return names | {"task": pl.lit(cell.task.task.name), "shots": pl.lit(shots)}


def _place() -> pl.Expr:
    """Where a position stands: 0, 1, 2, 4, 8, ... is the first of its place."""
    return (
        pl.when(pl.col("position") == 0)
        .then(0)
        .otherwise(2 ** (pl.col("position") + 0.5).log(2).floor())
        .cast(pl.Int64)
    )


def _sums(tokens: pl.DataFrame, first: int) -> pl.DataFrame:
    """Tokens and mismatches of each example in each place, the first tokens and the later ones."""
    placed = tokens.with_columns(place=_place(), early=pl.col("position") < first)
    return placed.group_by("example", "place", "early").agg(
        tokens=pl.len().cast(pl.Int64), differing=pl.col("differs").sum()
    )


def _cut(lab: Lab, study: Study, cell: Cell, tokens: pl.DataFrame, window: int, options: Options) -> pl.DataFrame:
    """As `_sums`, of a draft that sees the last tokens alone; `cut` positions, and how many `more` mismatches there."""
    group = lab.members(draft=cell.members["draft"], target=cell.members["target"])
    assert group.draft is not None
    draft = group.draft

    def measured() -> pl.DataFrame:
        chosen = dict([*study.tokens(cell.key).items()][: options.window_examples])
        choices = windowed(draft, [*chosen.values()], window, group.vocab_size)
        rows = [
            (name, position, choice)
            for name, found in zip(chosen, choices, strict=True)
            for position, choice in enumerate(found)
        ]
        schema = {"example": pl.String, "position": pl.UInt32, "choice": pl.Int64}
        return pl.DataFrame(rows, schema=schema, orient="row")

    key = {"run": cell.key, "window": window, "examples": options.window_examples}
    seen = tokens.join(lab.table("windows", key, measured), on=["example", "position"])
    was_cut = pl.col("choice").is_not_null()
    short = pl.when(was_cut).then(pl.col("choice") != pl.col("target_token")).otherwise(pl.col("differs"))
    placed = seen.with_columns(place=_place(), early=pl.col("position") < options.first, short=short)
    return placed.group_by("example", "place", "early").agg(
        tokens=pl.len().cast(pl.Int64),
        differing=pl.col("short").sum(),
        cut=was_cut.sum(),
        more=(pl.col("short").cast(pl.Int64) - pl.col("differs").cast(pl.Int64)).sum(),
    )


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
    wanted: list[tuple[int, int, list[int]]] = []
    for number, (prompt, completion) in enumerate(texts):
        ids = [*prompt, *completion]
        kept = head if ids[: len(head)] == head and len(head) < window else []
        for position in range(len(completion)):
            end = len(prompt) + position
            if end > window:
                wanted.append((number, position, [*kept, *ids[end - window + len(kept) : end]]))
    session = model.session(min(_ROWS, max(1, len(wanted))))
    with torch.inference_mode():
        for start in range(0, len(wanted), _ROWS):
            some = wanted[start : start + _ROWS]
            idle = len(session.usage) - len(some)
            logits = session.score([*(ids for _, _, ids in some), *[None] * idle], 1)[: len(some), -1, :vocab]
            for (number, position, _), choice in zip(some, logits.argmax(-1).tolist(), strict=True):
                found[number][position] = choice
    return found


# ---- the answer


def conclude(more: pl.DataFrame, less: pl.DataFrame | None, first: int) -> Answer:
    """The answer from what was measured.

    The rule. Where early collaborations come from poor context, the first tokens differ more often than the later ones;
    some number of worked examples makes them fall, and by more than the later ones; and a draft that sees less differs
    more often there. They do if all of that is found; they do not if no number of worked examples lowers the first
    tokens by `MATTERS` more than the later ones; else the question is open. Intervals of several numbers of examples,
    or of several windows, are widened so that they hold together.

    Args:
        more: one row for each task, pair, number of `shots`, example, and `place`: whether it is `early`, its `tokens`
            and the `differing` ones among them.
        less: the same for each `window`, with how many positions were `cut`, and how many `more` mismatches these have
            than the same ones with all of the context; None where nothing was cut.
        first: how many tokens are early.

    Raises:
        ValueError: one number of worked examples is no comparison.
    """
    shots = sorted(more["shots"].unique().to_list())
    if len(shots) < 2:
        raise ValueError(f"shots: two numbers of worked examples are compared, not {shots}")
    by_shots = Rates(_labelled(more, "shots"), "condition", "differing")
    base, others = shots[0], shots[1:]
    excess = by_shots.minus(f"{base} first", by_shots.of(f"{base} later"))
    fell = {n: by_shots.minus(f"{n} first", by_shots.of(f"{base} first"), len(others)) for n in others}
    apart = {n: _apart(by_shots, n, base, len(others)) for n in others}
    cuts = 0 if less is None else len(less.select("shots", "window").unique())
    rose = {} if less is None else _rises(less, "first", cuts)
    numbers = {f"first tokens, {n} worked examples": by_shots.estimate(f"{n} first") for n in shots}
    numbers |= {f"later tokens, {n} worked examples": by_shots.estimate(f"{n} later") for n in shots}
    numbers[f"first less later, {base} worked examples"] = excess
    numbers |= {f"first tokens, {n} less {base} worked examples": gap for n, gap in fell.items()}
    numbers |= {f"the same, less that of the later tokens, {n} less {base}": gap for n, gap in apart.items()}
    numbers |= {f"first tokens, the draft sees {name}: rise": gap for name, gap in rose.items()}
    holds = decide(excess, fell.values(), apart.values(), rose.values())
    return Answer(
        statement=_statement(holds, first, excess, fell, apart, rose),
        holds=holds,
        overturn="A number of worked examples that lowers the first tokens and leaves the later ones, or one that no "
        "longer does; models that were trained on long contexts and learn from worked examples; texts whose first "
        "tokens follow from the question alone.",
        numbers=numbers,
        charts=(_more_chart(more), *_less_chart(less)),
        tables=(_shots_table(by_shots, shots), *_window_table(less)),
        remarks=(
            "Rates are means over the pairs and tasks. With other worked examples the target writes other texts; "
            "where the draft's context is cut, both stand before the same text.",
            "The bundled models were trained on rows of 512 and 1,024 tokens in which solved questions follow one "
            "another by chance, and not to learn from worked examples. GSM8K's usual eight take 1,760 tokens and would "
            "not fit: the shortest solved questions of the data that are not asked stand in for them.",
        ),
    )


def decide(
    excess: Estimate, fell: Iterable[Estimate], apart: Iterable[Estimate], rose: Iterable[Estimate]
) -> bool | None:
    """Whether early collaborations come from poor context: yes, no, or open; the rule of `conclude`."""
    both = list(zip(fell, apart, strict=True))
    if all(gap.above(-MATTERS) for _, gap in both):
        return False
    helped = any(fall.above(0.0) is False and gap.above(0.0) is False for fall, gap in both)
    return True if helped and excess.above(0.0) and any(gap.above(0.0) for gap in rose) else None


def _labelled(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    part = pl.when("early").then(pl.lit(" first")).otherwise(pl.lit(" later"))
    return frame.with_columns(condition=pl.col(column).cast(pl.String) + part)


def _apart(rates: Rates, count: int, base: int, comparisons: int) -> Estimate:
    """What so many worked examples add to the first tokens, less what they add to the later ones."""
    parts = [rates.of(f"{n} {part}") for n, part in product((count, base), ("first", "later"))]

    def measured(weights: Floats) -> Floats:
        now, later, before, later_before = (part(weights) for part in parts)
        return (now - before) - (later - later_before)

    return resampled(measured, rates.examples, comparisons)


def _rises(less: pl.DataFrame, part: str, comparisons: int = 1) -> dict[str, Estimate]:
    """How many more mismatches there are where the context was cut, by window and worked examples, in one part."""
    cut = _labelled(less, "window").filter(pl.col("condition").str.ends_with(part) & (pl.col("cut") > 0))
    found = {}
    for (shots, window), some in cut.sort("shots", "window").group_by("shots", "window", maintain_order=True):
        rates = Rates(some, "window", "more", "cut")
        found[f"the last {window}, {shots} worked examples"] = rates.estimate(window, comparisons)
    return found


def _statement(
    holds: bool | None,
    first: int,
    excess: Estimate,
    fell: dict[int, Estimate],
    apart: dict[int, Estimate],
    rose: dict[str, Estimate],
) -> str:
    verdict = {
        True: "Early collaborations come, in part, from poor context",
        False: "Early collaborations do not come from a want of worked examples",
        None: "Whether early collaborations come from poor context stays open",
    }[holds]
    more = "; ".join(f"{n}: {in_points(fell[n])}, and less that of the later ones {in_points(apart[n])}" for n in fell)
    said = [
        f"{verdict}: the first {first} tokens differ {in_points(excess)} points more often than the later ones. "
        f"Worked examples change the first ones by, in points, {more}."
    ]
    if rose:
        largest = max(rose, key=lambda name: rose[name].value)
        harmed = [name for name, gap in rose.items() if gap.above(0.0)]
        said.append(
            f"A draft that sees less differs more often there under {len(harmed)} of {len(rose)} cuts, at most where "
            f"it sees {largest}: {in_points(rose[largest])} points."
        )
    return " ".join(said)


# ---- charts and tables


def _profile(frame: pl.DataFrame, series: str, name: str) -> list[Point]:
    """The frequency by place, a line for each value of a column, a panel for each task; means over the pairs."""
    points = []
    for (task,), of_task in frame.group_by("task", maintain_order=True):
        for (value,), some in of_task.sort(series).group_by(series, maintain_order=True):
            rates = Rates(some, "place", "differing")
            for place in sorted(some["place"].unique().to_list()):
                rate = rates.estimate(place)
                points.append(Point.of(place + 1, rate, name.format(value), str(task)))
    return points


def _more_chart(more: pl.DataFrame) -> Chart:
    return Chart(
        name="shots",
        title="Frequency by position and worked examples",
        finding="If poor context made the early collaborations, the lines would lie apart at the left and meet at "
        "the right.",
        note="Positions from 1; each mark stands for those up to the next one. Means over the pairs.",
        x="position in the completion",
        y="collaboration frequency",
        log_x=True,
        series="worked examples",
        points=tuple(_profile(more, "shots", "{}")),
    )


def _less_chart(less: pl.DataFrame | None) -> tuple[Chart, ...]:
    if less is None:
        return ()
    charts = []
    for (shots,), some in less.sort("shots").group_by("shots", maintain_order=True):
        uncut = pl.col("differing").cast(pl.Float64) - pl.col("more").cast(pl.Float64)
        whole = some.filter(pl.col("window") == pl.col("window").min()).with_columns(differing=uncut)
        charts.append(
            Chart(
                name=f"window-{shots}",
                title=f"Frequency by position and what the draft sees, {shots} worked examples",
                finding="The texts are the same: what changes is what the draft sees of what stands before.",
                note="Where less than the window stands before a position, the draft sees all of it.",
                x="position in the completion",
                y="collaboration frequency",
                log_x=True,
                series="tokens that the draft sees",
                points=(*_profile(some, "window", "{}"), *_profile(whole, "window", "all")),
            )
        )
    return tuple(charts)


def _shots_table(rates: Rates, shots: list[int]) -> Table:
    rows: list[tuple[str | int, ...]] = []
    parts = [dict(rates.each(f"{count} {part}")) for count in shots for part in ("first", "later")]
    for cell in rates.cells:
        for i, count in enumerate(shots):
            rows.append((*cell[:2], count, *(str(part[cell]) for part in parts[2 * i : 2 * i + 2])))
    return Table(
        name="by-pair",
        title="First and later tokens by pair",
        note="Each pair on its own, with all of the context.",
        columns=("task", "draft", "worked examples", "first tokens", "later tokens"),
        rows=tuple(rows),
    )


def _window_table(less: pl.DataFrame | None) -> tuple[Table, ...]:
    if less is None:
        return ()
    first, later = (_rises(less, part) for part in ("first", "later"))
    shares = less.group_by("shots", "window", "early").agg(share=pl.col("cut").sum() / pl.col("tokens").sum())
    cut = {
        (f"the last {row['window']}, {row['shots']} worked examples", row["early"]): row["share"]
        for row in shares.iter_rows(named=True)
    }
    return (
        Table(
            name="cuts",
            title="What a cut context does, first and later tokens",
            note="In points: mismatches of the draft that sees less, less those of the draft that sees all, at the "
            "positions before which something was cut.",
            columns=("the draft sees", "first: cut", "first: rise", "later: cut", "later: rise"),
            rows=tuple(
                (
                    name,
                    cut.get((name, True)),
                    in_points(first[name]) if name in first else None,
                    cut.get((name, False)),
                    in_points(later[name]) if name in later else None,
                )
                for name in dict.fromkeys([*first, *later])
            ),
        ),
    )


EXPERIMENT = Experiment(Options, run)
