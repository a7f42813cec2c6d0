"""`uncertainty`: what sets a mismatch off, in a language whose uncertainty was set, and where a draft's was changed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product
from typing import Annotated, Any

import numpy as np
import polars as pl
import torch
from pydantic import Field

from fsgen.analysis.answers import Answer, effect
from fsgen.analysis.causes import contrast, rate
from fsgen.analysis.labels import short_name
from fsgen.analysis.trainings import Groups, of_one_size
from fsgen.backends import Members, Model
from fsgen.backends.reader import Reader
from fsgen.experiments import draft_changes
from fsgen.experiments import made_language as made
from fsgen.experiments.base import Experiment
from fsgen.experiments.cells import labelled
from fsgen.experiments.config import words
from fsgen.experiments.lab import Lab
from fsgen.experiments.made_effects import (
    COMMON,
    HIGH,
    LOW,
    NARROW,
    RARE,
    WIDE,
    by_training,
    causes,
    charts,
    slots_of,
    tables,
    training_rows,
    with_trainings,
)
from fsgen.probs import summarize, total_variation
from fsgen.study.config import Keys

MATTERS = 0.05
"""A change of the share of mismatches whose interval lies below this, and not above 0, is taken as none."""
TEXT_STATEMENTS = 16  # of the made language's texts: every pair once, in 256 of them
TEXT_SEED = 9
_SEED = 5  # of what is drawn in the interventions
_BATCH = 32
Share = Annotated[float, Field(gt=0.0, le=1.0)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]


class Options(Keys):
    """Of the made language's models, and of the interventions on the study's draft; see `uncertainty.yaml`."""

    drafts: Names
    targets: Names
    temperatures: tuple[Annotated[float, Field(gt=0.0)], ...] = ()
    evened: tuple[Share, ...] = ()
    shaken: Annotated[float, Field(gt=1.0)] = 4.0
    blurred: Annotated[tuple[Share, ...], Field(min_length=1)] = (1.0,)
    consulted: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.3


def check(lab: Lab, options: Options) -> None:
    """Refuse a study of another shape than one oracle run, and models that do not speak the made language."""
    rows = lab.plan().rows
    if len(rows) != 1 or rows[0].cell.method.name != "oracle":
        names = ", ".join(row.cell.label for row in rows)
        raise ValueError(f"the study of this experiment is one oracle run, not {len(rows)} runs: {names}")
    if odd := {group.vocab_size for groups in _speakers(lab, options) for group in groups} - {made.VOCAB_SIZE}:
        raise ValueError(f"the made language has {made.VOCAB_SIZE} tokens, but a model of it has {odd.pop()}")


def measure(lab: Lab, options: Options) -> tuple[pl.DataFrame, pl.DataFrame, float, str, Groups]:
    """What pairs of models say in the made language, and what becomes of a draft that is changed; see `estimate`."""
    spoken = [
        labelled(
            _made_table(lab, group), twins=same, **{role: short_name(name) for role, name in group.names().items()}
        )
        for groups, same in zip(_speakers(lab, options), (False, True), strict=True)
        for group in groups
    ]
    study = lab.study()
    (cell,) = study.cells
    pair = [cell.members[role] for role in ("draft", "target")]
    key = {
        "models": [lab.digest(name) for name in pair],
        "texts": cell.key,
        "options": options.model_dump(mode="json", exclude={"drafts", "targets", "consulted"}),
        "limit": lab.limit,
    }
    group, texts = lab.members(**cell.members), list(study.tokens(cell.key).values())
    changed = lab.table("interventions", key, lambda: intervene(group, texts, options))
    named = f"{' and '.join(map(short_name, pair))} on {cell.task.task.name}"
    sizes = {name: lab.model(name).info.parameters for name in (*options.drafts, *options.targets)}
    trainings = of_one_size({short_name(name): size for name, size in sizes.items()})
    return pl.concat(spoken), changed, options.consulted, named, trainings


def _speakers(lab: Lab, options: Options) -> tuple[list[Members], list[Members]]:
    """Every draft with every target, and the targets with one another."""
    sizes = [lab.members(draft=draft, target=target) for draft, target in product(options.drafts, options.targets)]
    return sizes, [lab.members(draft=one, target=two) for one, two in combinations(options.targets, 2)]


def _made_table(lab: Lab, group: Members) -> pl.DataFrame:
    digests = [lab.digest(name) for name in group.names().values()]
    key = {"models": digests, "language": made.LANGUAGE_SEED, "texts": [TEXT_STATEMENTS, TEXT_SEED]}
    return lab.table("made-language", key, lambda: read_made(group))


def read_made(group: Members, limit: int | None = None) -> pl.DataFrame:
    """What draft and target say at every position of the test texts, with what is true there; one row a position."""
    language = made.Language()
    texts = language.test_texts(TEXT_STATEMENTS, TEXT_SEED)
    rows = [[int(token) for token in row] for row in texts.ids[:limit]]
    lengths = [len(row) - 1 for row in rows]
    p, q = (read(model, [row[:-1] for row in rows], lengths, made.VOCAB_SIZE) for model in (group.draft, group.target))
    pairs = texts.pairs[:limit].ravel()
    truths = [language.truth(kind, pairs) for kind in made.KINDS]
    bits, gap = (np.stack(sides, -1).ravel() for sides in zip(*truths, strict=True))
    return pl.DataFrame(
        {
            "cluster": np.repeat(np.arange(len(rows)), lengths[0]),
            "kind": np.tile(made.KINDS, len(pairs)),
            "bits": bits,
            "gap": gap,
            "exposure": np.repeat(language.exposure[pairs], made.STATEMENT),
            "first": np.repeat(language.candidates[pairs, 0], made.STATEMENT),  # the most likely outcome
            **_said(p, q),
        }
    )


def read(model: Model | None, sequences: list[list[int]], last: list[int], vocab: int) -> torch.Tensor:
    """Logits [n, vocab] at the last positions of some texts, one text after the other."""
    reader = Reader(model, sequences, last, vocab)
    places = range(len(sequences))
    parts = [reader.read(list(places[start : start + _BATCH]))[0] for start in places[::_BATCH]]
    return torch.cat(parts).float().cpu()


def _said(p: torch.Tensor, q: torch.Tensor) -> dict[str, Any]:
    """What is kept of logits [n, vocab] of draft and target; entropies in bits."""
    draft, target = summarize(p), summarize(q)
    return {
        "draft_token": draft.token.numpy(),
        "target_token": target.token.numpy(),
        "differs": (draft.token != target.token).numpy(),
        "draft_prob": draft.prob.numpy().astype(float),
        "draft_margin": draft.margin.numpy().astype(float),
        "draft_bits": draft.entropy.numpy().astype(float) / np.log(2),
        "variation": total_variation(p.softmax(-1), q.softmax(-1)).numpy().astype(float),
    }


def intervene(group: Members, texts: list[tuple[list[int], list[int]]], options: Options) -> pl.DataFrame:
    """What becomes of the draft's choices at every position of the texts under each change, one row a position."""
    prompts, completions = [prompt for prompt, _ in texts], [completion for _, completion in texts]
    lengths = [len(completion) for completion in completions]
    cluster = np.repeat(np.arange(len(texts)), lengths)

    def logits(model: Model | None, read_prompts: list[list[int]]) -> torch.Tensor:
        rows = [[*prompt, *completion[:-1]] for prompt, completion in zip(read_prompts, completions, strict=True)]
        return read(model, rows, lengths, group.vocab_size)

    q, p = logits(group.target, prompts), logits(group.draft, prompts)

    def changes() -> Iterator[tuple[str, float, torch.Tensor]]:
        yield "none", 0.0, p
        for temperature in options.temperatures:
            yield "temperature", temperature, draft_changes.tempered(p, temperature)
        for share in options.evened:
            yield "evened", share, draft_changes.evened(p, share)
        yield "shaken", options.shaken, draft_changes.shaken(p, options.shaken, _SEED)
        yield "swapped", 1.0, draft_changes.swapped(p)
        for share in options.blurred:
            yield "blurred", share, logits(group.draft, draft_changes.blurred(prompts, share, _SEED))

    return pl.concat(
        pl.DataFrame({"cluster": cluster, "change": [change] * len(cluster), "level": level, **_said(changed, q)})
        for change, level, changed in changes()
    )


def estimate(
    spoken: pl.DataFrame, changed: pl.DataFrame, consulted: float, pair: str, trainings: Groups = ()
) -> Answer:
    """The answer from what was measured.

    The rule: uncertainty causes mismatches where setting it higher, at an equal gap and an equal share of the training,
    makes more of them (the interval lies above 0); it does not where that makes, if anything, less than five points
    more (the interval lies below `MATTERS`), however well it goes with them; else the question is open.

    Args:
        spoken: of the made language, one row a position and pair of models: `read_made`, with `twins` (of one size),
            `draft` and `target`.
        changed: of the interventions, one row a position and change: `intervene`.
        consulted: the share of positions that the router by entropy flags where nothing is changed.
        pair: the models and texts of the interventions, in words.
        trainings: the models of the made language that are trainings of one size: intervals contain what others would
            change.

    Raises:
        ValueError: slots without the contrasts that the rule needs, or changes of different positions.
    """
    sizes, twins = (slots_of(spoken.filter(pl.col("twins") == same)) for same in (False, True))
    each = by_training(sizes)
    set_apart, changes = with_trainings(causes(sizes), each, trainings), draft_changes.Changes(changed, consulted)
    _, entropy, gap, training, own, area = set_apart.values()
    seeds = "; ".join(f"{one} with {two} {[*found.values()][1]:+.1%}" for (one, two), found in each.items())
    if (between := contrast(twins, "bits", LOW, HIGH, ["gap", "exposure"])) is not None:
        set_apart["mismatches of two models of one size"] = rate(twins)
        set_apart["the same change of entropy, between these"] = between
    return Answer.of(
        words("uncertainty"),
        holds=effect(entropy, MATTERS),
        numbers=set_apart | changes.numbers,
        charts=charts(sizes, twins) | changes.charts(),
        tables=tables(spoken, sizes) | {"trainings": training_rows(each)} | {"changes": changes.rows()},
        entropy=entropy,
        gap=gap,
        training=training,
        own=own,
        area=area,
        seeds=seeds,
        related=bool(area.above(0.5)),
        bits_set=(LOW, HIGH),
        gap_set=(WIDE, NARROW),
        times=COMMON / RARE,
        pair=pair,
        **changes.values,
    )


EXPERIMENT = Experiment(Options, measure, estimate, check)
