"""`need`: how many of the positions where draft and target differ change the scored answer; routers that learn it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from fsgen.analysis.answers import Answer, Point, Row
from fsgen.analysis.consequence import CLASSES, HARMFUL, HELPFUL, LOOP_OR_CUT, NEAR_TIE, TIE, classified
from fsgen.analysis.intervals import Estimate, Floats, mean_of
from fsgen.analysis.learning import learn, part_of, positions, threshold
from fsgen.analysis.rates import Sums
from fsgen.analysis.suspects import FLOOR, above, chance, loop_start
from fsgen.api import generate
from fsgen.experiments.base import Experiment
from fsgen.experiments.budgets import ALWAYS, NEVER, Budgets, learned_file
from fsgen.experiments.cells import check_tasks, check_written, halves, labelled, oracle_cells, pair_label, routed
from fsgen.experiments.config import words
from fsgen.experiments.lab import Lab, Study
from fsgen.study.cells import Cell
from fsgen.study.config import Keys
from fsgen.tasks.base import cut
from fsgen.types import SamplingParams, shortest

MISMATCHES, CONSEQUENCES = "learned from mismatches", "learned from consequences"
_RESAMPLES = 500

_Share = Annotated[float, Field(gt=0, lt=1)]


class Options(Keys):
    """Of the routers; see `need.yaml`."""

    judged: Annotated[int, Field(ge=2)] = 150
    on_policy: tuple[str, ...] = ("pocket_math",)
    budgets: Annotated[tuple[_Share, ...], Field(min_length=1)] = (0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True, eq=False)
class Routers:
    """The texts of the two learned routers on one pair; `left_out` says why there are none."""

    label: str
    texts: pl.DataFrame | None
    left_out: str = ""


def check(lab: Lab, options: Options) -> None:
    """Refuse other methods, sampled texts, too few examples, and traces without the target's second choice."""
    cells = oracle_cells(lab.plan(), least=4)
    check_tasks(cells, options.on_policy)
    check_written(cells)
    if lab.varied().candidates < 2:
        raise ValueError("the study keeps fewer than 2 candidates: near-ties and routers need them (candidates: 10)")


def measure(lab: Lab, options: Options) -> tuple[pl.DataFrame, list[Routers]]:
    """Keep the draft's token at each mismatch, and train routers on what that changed."""
    study = lab.study()
    tables, routers = [], []
    for cell in study.cells:
        kept = lab.table("kept", {"run": cell.key}, partial(_kept, lab, study, cell))
        tables.append(labelled(_by_example(lab, study, cell, kept), label=pair_label(cell)))
        if cell.task.task.name in options.on_policy:
            routers.append(_routers(lab, study, cell, kept, options))
    return pl.concat(tables, how="vertical_relaxed"), routers


def _kept(lab: Lab, study: Study, cell: Cell) -> pl.DataFrame:
    """A row for each mismatch: where it is, what the text scores with the draft's token there, and the target's gap."""
    columns = ("example", "position", "draft_token", "target_top_probs")
    trace = study.traces(cell.key).filter(pl.col("differs"), pl.col("turn") == 1).select(columns)
    found = trace.sort("example", "position").collect()
    written = study.tokens(cell.key)
    members = lab.members(target=cell.members["target"])
    assert lab.config is not None
    begun = [  # prompt, and the text up to the draft's token
        (written[name][0], [*written[name][1][:at], token])
        for name, at, token in found.select("example", "position", "draft_token").iter_rows()
    ]
    left = [cell.task.max_tokens - len(text) for _, text in begun]
    going = [i for i, (_, text) in enumerate(begun) if left[i] > 0 and text[-1] not in members.eos_ids]
    texts = generate(
        members,
        [[*begun[i][0], *begun[i][1]] for i in going],
        "plain",
        sampling=[SamplingParams(left[i], stop=cell.task.stop) for i in going],
        batch_size=lab.config.batch_size,
    )
    for i, text in zip(going, texts, strict=True):
        begun[i][1].extend(text.token_ids)
    examples = {example.id: example for example in cell.task.examples}
    scores = [
        cell.task.task.score(examples[name], _text(cell, members.tokenizer, text)).value
        for name, (_, text) in zip(found["example"], begun, strict=True)
    ]
    first, second = (found["target_top_probs"].list.get(at).cast(pl.Float64) for at in (0, 1))
    return found.select("example", "position").with_columns(
        kept_score=pl.Series(scores, dtype=pl.Float64), gap=(first / second).log()
    )


def _by_example(lab: Lab, study: Study, cell: Cell, kept: pl.DataFrame) -> pl.DataFrame:
    """By example: `tokens`, the mismatches `differing`, how many of each class, the `near-tie`s and `right`."""
    own = study.texts(cell.key).filter(turn=1).select("example", "score", cut=pl.col("stop_reason") == "length")
    tokenizer = lab.model(cell.members["target"]).tokenizer
    starts = [(name, _loop(tokenizer, text)) for name, (_, text) in study.tokens(cell.key).items()]
    loops = pl.DataFrame(starts, schema={"example": pl.String, "start": pl.Int64}, orient="row")
    tokens = study.traces(cell.key).filter(pl.col("differs").is_not_null(), pl.col("turn") == 1)
    sums = tokens.group_by("example").agg(tokens=pl.len()).collect()
    known = kept.join(own, on="example").join(loops, on="example", how="left")
    classes = classified(known.with_columns(loop=(pl.col("position") >= pl.col("start")).fill_null(False)))
    counts = classes.group_by("example").agg(
        pl.len().alias("differing"),
        (pl.col("gap") < NEAR_TIE).sum().alias("near-tie"),
        *((pl.col("class") == name).sum().alias(name) for name in CLASSES),
    )
    found = sums.join(own.filter(pl.col("score").is_not_null()), on="example").join(counts, on="example", how="left")
    level = max(FLOOR, chance(example.reference for example in cell.task.examples))
    return found.with_columns(right=pl.col("score"), level=level).drop("score", "cut").fill_null(0).sort("example")


def _text(cell: Cell, tokenizer: Any, tokens: Sequence[int]) -> str:
    """What tokens say, without the string that ended it, as a text is scored."""
    return cut(tokenizer.decode(list(tokens), skip_special_tokens=True), cell.task.stop)


def _loop(tokenizer: Any, tokens: Sequence[int]) -> int | None:
    """The token from which on a text says the same again; None where it does not."""
    start = loop_start(tokenizer.decode(list(tokens), skip_special_tokens=True))
    if start is None:
        return None
    return next(at for at in range(len(tokens) + 1) if len(tokenizer.decode(list(tokens[:at]))) >= start)


def _routers(lab: Lab, study: Study, cell: Cell, kept: pl.DataFrame, options: Options) -> Routers:
    """Texts by a router trained on mismatches and by one trained on consequences, at each budget of calls."""
    label = pair_label(cell)
    choosing, judging = halves(cell, options.judged)
    known = positions(study.traces(cell.key))
    names = {example.id for example in choosing}
    own = study.texts(cell.key).filter(turn=1).select("example", "score")
    parts = ({name for name in names if part_of(name) == "train"}, {name for name in names if part_of(name) != "train"})
    written = []
    for name, labels in ((MISMATCHES, known.differs), (CONSEQUENCES, _consequential(study, cell, kept, own))):
        learned = replace(known, differs=labels)
        train, calibration = (learned.of(part) for part in parts)
        try:
            scorer = learn(train, "logistic")
        except ValueError as error:
            return Routers(label, None, f"{label}: no router is {name}, since {error}.")
        file = learned_file(lab, cell, name, scorer, calibration)
        score = scorer.score(calibration.x)
        for budget in options.budgets:
            at = threshold(score, calibration.differs, calls=budget)
            written.append((name, budget, routed(lab, cell, judging, f"learned:{file}@{shortest(at)}")))
    written += [(name, budget, routed(lab, cell, judging, name)) for name, budget in ((NEVER, 0.0), (ALWAYS, 1.0))]
    return Routers(label, pl.concat(labelled(texts, router=name, budget=budget) for name, budget, texts in written))


def _consequential(study: Study, cell: Cell, kept: pl.DataFrame, own: pl.DataFrame) -> NDArray[np.bool_]:
    """Whether keeping the draft's token loses the answer, at each position in the order of `positions`."""
    places = study.traces(cell.key).filter(pl.col("differs").is_not_null()).select("example", "turn", "position")
    harmful = kept.join(own, on="example").filter(pl.col("kept_score") < pl.col("score"))
    marks = harmful.select("example", "position", turn=pl.lit(1, pl.UInt8), harmful=pl.lit(True))
    order = ("example", "turn", "position")
    table = places.collect().sort(order).join(marks, on=order, how="left", maintain_order="left")
    return np.asarray(table["harmful"].fill_null(False).to_numpy(), dtype=np.bool_)


def estimate(examples: pl.DataFrame, routers: list[Routers]) -> Answer:
    """The answer.

    Args:
        examples: a row for each `label` (task and pair) and `example`: `tokens`, the mismatches `differing`, those of
            each of `CLASSES`, the `near-tie`s among all of them, the score of the target's own text (`right`), and the
            `level` that this must lie above, or there are no answers to lose.
        routers: what the two learned routers wrote, of each pair on which they did.
    """
    pairs = {
        str(label): Sums.of(some, ("label",), ("tokens", "differing", "near-tie", "right", *CLASSES))
        for (label,), some in examples.group_by("label", maintain_order=True)
    }
    right = {label: sums.each("right", "texts")[0] for label, sums in pairs.items()}
    level = dict(examples.group_by("label").agg(pl.col("level").max()).rows())
    counted = {label: sums for label, sums in pairs.items() if above(right[label], level[label])}
    known = bool(counted)
    counted = counted or pairs

    def share(parts: tuple[str, ...], whole: str, sums: Sums, weights: Floats) -> Floats:
        return np.asarray(np.sum([sums.ratio(part, whole, weights)[:, 0] for part in parts], axis=0))

    def mean(*parts: str, whole: str = "differing") -> Estimate:
        return mean_of([(partial(share, parts, whole, sums), len(sums)) for sums in counted.values()])

    matter, harmful = mean(HARMFUL, HELPFUL), mean(HARMFUL)
    frequency, need = mean("differing", whole="tokens"), mean(HARMFUL, HELPFUL, whole="tokens")
    numbers = {
        "mismatches that change the scored answer": matter,
        "mismatches whose draft token loses the answer": harmful,
        "collaboration frequency": frequency,
        "positions whose mismatch changes the scored answer": need,
        "mismatches at near-ties of the target": mean("near-tie"),
        "neutral mismatches in loops or cut texts": mean(LOOP_OR_CUT),
        "neutral mismatches at near-ties": mean(TIE),
    }
    wrote = [Budgets(one.texts) for one in routers if one.texts is not None]
    gain = None
    if wrote:
        each = [(partial(one.over, CONSEQUENCES, MISMATCHES), len(one.sums)) for one in wrote]
        gain = mean_of(each, _RESAMPLES)
        numbers["accuracy learned from consequences over learned from mismatches, at equal calls"] = gain
    return Answer.of(
        words("need"),
        holds=matter.above(0.5) if known else None,
        numbers=numbers,
        charts={"classes": _points(pairs), "routers": _accuracies(routers)},
        tables={"pairs": _rows(pairs)},
        remarks=[one.left_out for one in routers if one.left_out]
        + [
            f"{label} does not count: the target scores {right[label].value:.3f}, not above the floor or chance."
            for label in pairs
            if not above(right[label], level[label])
        ],
        matter=matter,
        harmful=harmful,
        frequency=frequency,
        need=need,
        ties=numbers["mismatches at near-ties of the target"],
        loops=numbers["neutral mismatches in loops or cut texts"],
        learned=gain.above(0.0) if gain else None,
        gain=f"accuracy {gain:+.1%} points, at equal calls" if gain else "none could be trained here",
    )


def _points(pairs: dict[str, Sums]) -> Iterator[Point]:
    for label, sums in pairs.items():
        for name in CLASSES:
            yield Point.of(label, sums.each(name, "tokens")[0], name)


def _accuracies(routers: list[Routers]) -> Iterator[Point]:
    for one in routers:
        if one.texts is None:
            continue
        found = Budgets(one.texts)
        calls = dict(zip(found.conditions, found.sums.ratio("consulted", "tokens", found.sums.once)[0], strict=True))
        for router in (MISMATCHES, CONSEQUENCES):
            for condition in sorted(calls, key=calls.__getitem__):
                if condition[0] in (router, NEVER, ALWAYS):
                    yield Point.of(float(calls[condition]), found.accuracies[condition], router, one.label)


def _rows(pairs: dict[str, Sums]) -> Iterator[Row]:
    for label, sums in pairs.items():
        yield {
            "pair": label,
            "texts": int(sums.sums["texts"].sum()),
            "target's score": sums.each("right", "texts")[0].value,
            "frequency": sums.each("differing", "tokens")[0],
            **{name: sums.each(name, "differing")[0] for name in CLASSES},
        }


EXPERIMENT = Experiment(Options, measure, estimate, check)
