"""`architectures`: whether a draft and a target of one family agree more often than those of two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
from pydantic import Field

from fsgen.analysis.answers import Answer, Point, Row, below
from fsgen.analysis.design import Design, Pair
from fsgen.analysis.frequency import total_counts
from fsgen.analysis.intervals import Estimate, Floats, draws, of_draws
from fsgen.analysis.labels import millions, short_name, task_label
from fsgen.analysis.rates import Sums
from fsgen.analysis.times import over_repetitions, read_times
from fsgen.analysis.trainings import of_one_size
from fsgen.experiments.base import Experiment
from fsgen.experiments.cells import labelled, oracle_cells
from fsgen.experiments.config import words
from fsgen.experiments.lab import Lab, Study
from fsgen.models.bundled import recipe
from fsgen.study.config import Keys
from fsgen.study.plan import Plan

_LENGTH = 5  # tokens drafted in a round where rewinding is counted


class Options(Keys):
    """Of the families, and of what rewinding costs (0 examples for nothing); see `architectures.yaml`."""

    families: dict[str, str] = Field(default_factory=dict)
    rewound: Annotated[int, Field(ge=0)] = 16


def check(lab: Lab, options: Options) -> None:
    """Refuse other methods, unknown models, and pairs that cannot tell one family from two."""
    plan = lab.plan()
    oracle_cells(plan, sampled=True)
    if unknown := sorted(set(options.families) - set(plan.models)):
        raise ValueError(
            f"options: families names {', '.join(unknown)}, of which the study has no pair: choose of "
            f"{', '.join(plan.models)}"
        )
    Design.of(_pairs(plan), _families(plan, options))


def measure(
    lab: Lab, options: Options
) -> tuple[
    pl.DataFrame, dict[str, str], dict[str, float], list[Row], list[Row], dict[str, int], dict[str, tuple[int, int]]
]:
    """All pairs of the study, each model's own loss, what rewinding costs, and the recipes; see `estimate`."""
    study = lab.study()
    counts = []
    for row in study.rows:
        sums = study.texts(row.run).group_by("example").agg(pl.col("differing", "known").sum().cast(pl.Int64))
        counts.append(labelled(sums, task=task_label(row), draft=row.draft, target=row.target))
    families = _families(study.plan, options)
    losses = {name: _loss(lab, study.plan, name) for name in families}
    rewinding = _rewinding(lab, options, _pairs(study.plan), families) if options.rewound else ()
    infos = {name: study.plan.models[name].info for name in families}
    parameters = {name: info.parameters for name, info in infos.items() if info.tuned_from is None}
    recipes = {name: found for name, info in infos.items() if (found := recipe(info)) is not None}
    alone = list(_alone(lab.folder, study, families, losses))
    return pl.concat(counts), families, losses, alone, list(rewinding), parameters, recipes


def _pairs(plan: Plan) -> list[Pair]:
    return list(dict.fromkeys(Pair(row.cell.members["draft"], row.cell.members["target"]) for row in plan.rows))


def _families(plan: Plan, options: Options) -> dict[str, str]:
    """The family of each model of the pairs."""
    paired = {name for pair in _pairs(plan) for name in pair}
    return {name: options.families.get(name, m.info.family) for name, m in plan.models.items() if name in paired}


def _loss(lab: Lab, plan: Plan, name: str) -> float:
    """The model's own cross-entropy on the prompts of all tasks, in nats a token."""
    tasks = list({id(row.cell.task): row.cell.task for row in plan.rows}.values())
    key = {"model": name, "digest": lab.digest(name), "texts": [task.digest for task in tasks]}

    def make() -> pl.DataFrame:
        model = lab.model(name)
        session, total, count = model.session(1), 0.0, 0
        for task in tasks:
            for example in task.examples:
                ids = list(task.prompt(example, model.tokenizer).ids)
                if len(ids) < 2:
                    continue
                session.begin(0, len(ids), len(ids))
                scores = session.score([ids[:-1]], len(ids) - 1)[0].log_softmax(-1)
                total -= float(scores[range(len(ids) - 1), ids[1:]].sum())
                count += len(ids) - 1
        return pl.DataFrame({"loss": [total / count]})

    return float(lab.table("losses", key, make)["loss"][0])


def _time(folder: Path, runs: Sequence[str]) -> Row:
    """The mean over tasks of a token's time, where the runs were repeated."""
    times = [read_times(folder, run) for run in runs]
    both = min(map(len, times))
    return {"ms a token": over_repetitions(1e3 * np.mean([one[:both] for one in times], axis=0))} if both else {}


def _alone(folder: Path, study: Study, families: Mapping[str, str], losses: Mapping[str, float]) -> Iterator[Row]:
    """What each model costs where it writes alone, over all tasks."""
    runs: dict[str, set[str]] = {name: set() for name in families}
    for cell in study.cells:
        for role, run in study.alone[cell.key].items():
            runs[cell.members[role]].add(run)
    parameters = {name: study.plan.models[name].info.parameters for name in families}
    for name in sorted(runs, key=lambda name: (families[name], parameters[name])):
        if found := sorted(runs[name]):
            one = total_counts(pl.concat(study.texts(run) for run in found))
            yield {
                "model": short_name(name),
                "family": families[name],
                "parameters": parameters[name],
                "loss": losses[name],
                "tokens run / token": one.target_tokens / one.tokens if one.tokens else None,
                **_time(folder, found),
            }


def _rewinding(lab: Lab, options: Options, pairs: Sequence[Pair], families: Mapping[str, str]) -> Iterator[Row]:
    """What drafts and targets read where they write speculatively, and whether the texts are the target's."""
    first: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        first.setdefault((families[pair.draft], families[pair.target]), pair)
    task = lab.varied().blocks()[-1].tasks[-1]
    limit = min(options.rewound, task.limit or options.rewound)
    study = lab.study(
        lab.varied(
            name=f"{lab.name}-rewinding",
            tasks=[task.model_dump(exclude_unset=True) | {"limit": limit}],
            pairs=[pair._asdict() for pair in first.values()],
            methods=[{"name": "speculative", "draft_tokens": _LENGTH}],
            grids=None,
            repeats=0,
        )
    )
    for row in study.rows:
        texts, alone = study.texts(row.run), study.texts(study.alone[row.run]["target"])
        both = texts.join(alone, on=["example", "turn"], suffix="_alone")
        same, counts = both["text"].eq_missing(both["text_alone"]).sum(), total_counts(texts)
        yield {
            "draft": short_name(row.draft),
            "target": short_name(row.target),
            "texts": len(texts),
            "as the target alone": same,
            "tokens a target call": row.mean_accepted_length,
            "run through the target / token": row.target_tokens_per_token,
            "run through the draft / token": counts.draft_tokens / counts.tokens,
        }


def estimate(
    counts: pl.DataFrame,
    families: Mapping[str, str],
    losses: Mapping[str, float],
    alone: Sequence[Row],
    rewinding: Sequence[Row],
    parameters: Mapping[str, int],
    recipes: Mapping[str, tuple[int, int]] | None = None,
) -> Answer:
    """The answer from counts of positions.

    Args:
        counts: `task`, `draft`, `target`, `example`, `differing`, `known`, one row an example of a pair.
        families: of each model.
        losses: of each model on its own, nats a token.
        alone, rewinding: costs, as their tables show them; may be empty.
        parameters: of each model that is not tuned or distilled from another. With one training of each size and family
            the question stays open, whatever the intervals: what a family does and what a training does are then one.
        recipes: version of the recipe and tokens of its second stage, of the models of which they are known. Where
            families differ in them, the question stays open, too.

    Raises:
        ValueError: a pair lacks a task, or the pairs cannot tell one family from two.
    """
    pairs = [Pair(*row) for row in counts.select("draft", "target").unique().sort("target", "draft").iter_rows()]
    pairs.sort(key=lambda pair: (families[pair.target], pair.target, families[pair.draft], -losses[pair.draft]))
    design = Design.of(pairs, families)
    frequencies = _frequencies(counts, pairs)  # the first is what was measured, the others are resamples
    means = [of_draws(drawn) for drawn in frequencies.mean(1).T]
    logs = np.log(frequencies).mean(1)  # [1 + resamples, pairs]
    ratio = of_draws(np.exp(design.effect(logs)))
    ends = design.over_models(logs[0])
    spread = Estimate(ratio.value, *(np.exp(ends).tolist() if ends else ()))
    own = design.by_family(logs)
    each = [] if own is None else [of_draws(drawn) for drawn in np.exp(own).T]
    by_family = {f"{family} with {family}": number for family, number in zip(design.names, each, strict=False)}
    less, trained = below(ratio, 1.0), several_trainings(families, parameters)
    by_recipe = _recipes(families, recipes or {})
    alike = len(set(by_recipe.values())) < 2
    tasks = zip(counts["task"].unique(maintain_order=True), np.exp(design.effect(np.log(frequencies))).T, strict=True)
    return Answer.of(
        words("architectures"),
        holds=less if trained and alike and less == below(spread, 1.0) else None,
        numbers={"one family over two": ratio, "the same over models": spread, **by_family},
        charts={"losses": _by_loss(means, pairs, families, losses), "families": _by_families(design, logs)},
        tables={
            "tasks": ({"task": task, "one family over two": str(of_draws(drawn))} for task, drawn in tasks),
            "pairs": _pair_rows(means, np.exp(design.rest @ logs[0]), pairs, families, losses),
            "alone": alone,
            "rewinding": rewinding,
        },
        ratio=ratio,
        spread=spread,
        over=ends is not None,
        trained=trained,
        alike=alike,
        recipes="; ".join(f"{family}: {told}" for family, told in by_recipe.items()),
        each=bool(by_family),
        beside="; ".join(f"{name} {number}" for name, number in by_family.items()),
        length=_LENGTH,
    )


def several_trainings(families: Mapping[str, str], parameters: Mapping[str, int]) -> bool:
    """Whether every family has a size of which there are several trainings."""
    return all(
        of_one_size({name: size for name, size in parameters.items() if families[name] == family})
        for family in set(families.values())
    )


def _recipes(families: Mapping[str, str], recipes: Mapping[str, tuple[int, int]]) -> dict[str, str]:
    """In words the recipes of each family, of which one is known."""
    found: dict[str, set[tuple[int, int]]] = {}
    for name, one in recipes.items():
        found.setdefault(families[name], set()).add(one)
    return {
        family: " and ".join(
            f"version {version}, " + (f"a second stage of {millions(tokens)} tokens" if tokens else "one stage")
            for version, tokens in sorted(mine)
        )
        for family, mine in found.items()
    }


def _frequencies(counts: pl.DataFrame, pairs: Sequence[Pair]) -> Floats:
    """Frequencies of what was measured and of resamples of the examples, [1 + resamples, tasks, pairs].

    The examples of a task are drawn once for all pairs. Half a mismatch is added, so that all have a logarithm.
    """
    found = []
    for seed, (_, task) in enumerate(counts.group_by("task", maintain_order=True)):
        sums = Sums.of(task, ("draft", "target"), ("differing", "known"), pairs)
        for pair, texts in zip(pairs, sums.sums["texts"].sum(0), strict=True):
            if not texts:
                raise ValueError(f"{pair.draft} with {pair.target} lacks a task that other pairs have")
        drawn = np.concatenate([sums.once, draws(len(sums), seed=seed)])
        found.append((drawn @ sums.sums["differing"] + 0.5) / (drawn @ sums.sums["known"] + 1.0))
    return np.stack(found, 1)


def _by_loss(
    means: Sequence[Estimate], pairs: Sequence[Pair], families: Mapping[str, str], losses: Mapping[str, float]
) -> Iterator[Point]:
    for pair, mean in zip(pairs, means, strict=True):
        panel = f"{short_name(pair.target)} ({families[pair.target]})"
        yield Point.of(losses[pair.draft], mean, families[pair.draft], panel)


def _by_families(design: Design, logs: Floats) -> Iterator[Point]:
    """What is left of the frequency beside draft and target, as a mean over the pairs of two families."""
    left = logs @ design.rest
    for target, draft in product(design.names, repeat=2):
        if chosen := [i for i, kind in enumerate(design.kinds) if kind == (draft, target)]:
            yield Point.of(draft, of_draws(np.exp(left[:, chosen].mean(1))), panel=f"target: {target}")


def _pair_rows(
    means: Sequence[Estimate], left: Floats, pairs: Sequence[Pair], families: Mapping[str, str],
    losses: Mapping[str, float],
) -> Iterator[Row]:  # fmt: skip
    for pair, mean, rest in zip(pairs, means, left, strict=True):
        yield {
            "target": short_name(pair.target),
            "draft": short_name(pair.draft),
            "one family": "yes" if families[pair.draft] == families[pair.target] else "no",
            "loss of the draft": losses[pair.draft],
            "frequency": str(mean),
            "frequency / expected": float(rest),
        }


EXPERIMENT = Experiment(Options, measure, estimate, check)
