"""`architectures`: whether a draft and a target of one family agree more often than those of two.

Frequencies are compared by their logarithms. Each pair's is explained by its draft and by its target, whatever these
are (size, training, loss, difficulty of its texts), and by whether both are of one family. Only the last is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import polars as pl
from pydantic import Field
from scipy import stats

from fsgen.analysis.answers import Answer, Chart, Point, Table
from fsgen.analysis.frequency import total_counts
from fsgen.analysis.intervals import Estimate, Floats, draws, grouped, percentiles
from fsgen.analysis.labels import short_name, task_label
from fsgen.experiments.base import Experiment
from fsgen.experiments.lab import Lab, Study
from fsgen.study.config import Keys
from fsgen.study.plan import Plan

_LENGTH = 5  # tokens drafted in a round where rewinding is counted


class Options(Keys):
    """What may be asked.

    Attributes:
        families: of models whose family is not what their files say.
        rewound: so many examples of the last task are written speculatively, to count what rewinding costs; 0 for none.
    """

    families: dict[str, str] = Field(default_factory=dict)
    rewound: Annotated[int, Field(ge=0)] = 16


@dataclass(frozen=True)
class Pair:
    """A draft and a target."""

    draft: str
    target: str


@dataclass(frozen=True, eq=False)
class Design:
    """What is asked of the logarithms of the pairs' frequencies, as sums over pairs.

    Attributes:
        rest: takes out what drafts and targets explain, [pairs, pairs].
        same: whether a pair is of one family, [pairs].
        own: the same for each family, [pairs, families]; `names` are theirs.
    """

    rest: Floats
    same: Floats
    own: Floats
    names: tuple[str, ...]

    @classmethod
    def of(cls, pairs: Sequence[Pair], families: Mapping[str, str]) -> Design:
        """The design of some pairs. Raises ValueError where they cannot tell one family from two."""
        sides = [[pair.draft for pair in pairs], [pair.target for pair in pairs]]
        columns = [[name == one for name in side] for side in sides for one in dict.fromkeys(side)]
        explained = np.array(columns, dtype=np.float64).T
        rest = np.eye(len(pairs)) - explained @ np.linalg.pinv(explained)
        names = tuple(dict.fromkeys(families[name] for side in sides for name in side))
        own = np.array([[families[p.draft] == families[p.target] == one for one in names] for p in pairs], np.float64)
        design = cls(rest, own.sum(1), own, names)
        if np.linalg.norm(rest @ design.same) < 1e-6:
            raise ValueError(
                "these pairs cannot tell one family from two: let drafts of two families or more each be paired with "
                "targets of two families or more"
            )
        return design

    def effect(self, logs: Floats) -> Floats:
        """What one family adds to the logarithm, by least squares, [...], from [..., pairs]."""
        rest = self.rest @ self.same
        found: Floats = logs @ rest / (rest @ self.same)
        return found

    def over_pairs(self, logs: Floats) -> tuple[float, float] | None:
        """The 95 % interval of the effect by what the pairs still differ in, [pairs]; None where too few are left."""
        effect, rest = self.effect(logs), self.rest @ self.same
        left = self.rest @ logs - effect * rest
        free = round(float(np.trace(self.rest))) - 1
        if free < 1:
            return None
        width = stats.t.ppf(0.975, free) * np.sqrt(left @ left / free / (rest @ rest))
        return float(effect - width), float(effect + width)

    def by_family(self, logs: Floats) -> Floats | None:
        """What being of each family adds, [..., families], from [..., pairs]; None where that cannot be told apart."""
        rest = self.rest @ self.own
        if np.linalg.matrix_rank(rest, tol=1e-6) < len(self.names):
            return None
        found: Floats = logs @ np.linalg.pinv(rest).T
        return found


# ---- measuring


def run(lab: Lab, options: Options) -> Answer:
    """Measure all pairs of the study, each model's own loss, and what rewinding costs."""
    plan = lab.plan()
    if others := sorted({row.cell.method.name for row in plan.rows} - {"oracle"}):
        raise ValueError(f"methods: {', '.join(others)}: the frequencies of the method oracle are compared, alone")
    pairs = list(dict.fromkeys(Pair(row.cell.members["draft"], row.cell.members["target"]) for row in plan.rows))
    families = _families(plan, options, pairs)
    Design.of(pairs, families)
    study = lab.study()
    counts = pl.concat(
        study.texts(row.run)
        .group_by("example")
        .agg(pl.col("differing", "known").sum())
        .select(task=pl.lit(task_label(row)), draft=pl.lit(row.draft), target=pl.lit(row.target), example="example",
                differing=pl.col("differing").cast(pl.Int64), known=pl.col("known").cast(pl.Int64))
        for row in study.rows
    )  # fmt: skip
    names = [name for name in plan.models if any(name in (pair.draft, pair.target) for pair in pairs)]
    losses = {name: _loss(lab, plan, name) for name in names}
    return conclude(counts, families, losses, _alone(study, names), _rewinding(lab, options, pairs, families))


def _families(plan: Plan, options: Options, pairs: Sequence[Pair]) -> dict[str, str]:
    unknown = sorted(set(options.families) - set(plan.models))
    if unknown:
        raise ValueError(
            f"options: families names {', '.join(unknown)}, of which the study has no pair: choose of "
            f"{', '.join(plan.models)}"
        )
    named = {name: options.families.get(name, model.info.family) for name, model in plan.models.items()}
    return {name: named[name] for pair in pairs for name in (pair.draft, pair.target)}


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


def _alone(study: Study, names: Sequence[str]) -> pl.DataFrame:
    """What each model costs where it writes alone, over all tasks."""
    runs: dict[str, set[str]] = {name: set() for name in names}
    for row in study.plan.rows:
        for role, cell in (("draft", row.draft_alone), ("target", row.target_alone)):
            if cell is not None:
                runs[row.cell.members[role]].add(cell.key)
    totals = {
        name: total_counts(pl.concat([study.texts(run) for run in sorted(found)]))
        for name, found in runs.items()
        if found
    }
    return pl.DataFrame(
        {
            "model": list(totals),
            "parameters": [study.plan.models[name].info.parameters for name in totals],
            "written": [one.tokens for one in totals.values()],
            "read": [one.target_tokens / one.tokens if one.tokens else None for one in totals.values()],
            "milliseconds": [1e3 * one.seconds / one.tokens if one.tokens else None for one in totals.values()],
        },
        schema_overrides={"read": pl.Float64, "milliseconds": pl.Float64},
    )


def _rewinding(lab: Lab, options: Options, pairs: Sequence[Pair], families: Mapping[str, str]) -> pl.DataFrame:
    """What drafts and targets read where they write speculatively, and whether the texts are the target's."""
    if not options.rewound:
        return pl.DataFrame()
    first: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        first.setdefault((families[pair.draft], families[pair.target]), pair)
    task = lab.varied().blocks()[-1].tasks[-1]
    limit = min(options.rewound, task.limit or options.rewound)
    study = lab.study(
        lab.varied(
            name=f"{lab.name}-rewinding",
            tasks=[task.model_dump(exclude_unset=True) | {"limit": limit}],
            pairs=[{"draft": pair.draft, "target": pair.target} for pair in first.values()],
            methods=[{"name": "speculative", "draft_tokens": _LENGTH}],
            grids=None,
        )
    )
    rows = []
    for row in study.rows:
        texts, alone = study.texts(row.run), study.texts(study.alone[row.run]["target"])
        same = texts.join(alone, on=["example", "turn"], suffix="_alone").filter(
            pl.col("text").eq_missing(pl.col("text_alone"))
        )
        counts = total_counts(texts)
        rows.append(
            {
                "draft": row.draft,
                "target": row.target,
                "texts": len(texts),
                "same": len(same),
                "a_call": row.mean_accepted_length,
                "target_read": row.target_tokens_per_token,
                "draft_read": counts.draft_tokens / counts.tokens,
            }
        )
    return pl.DataFrame(rows)


# ---- answering


def conclude(
    counts: pl.DataFrame,
    families: Mapping[str, str],
    losses: Mapping[str, float],
    alone: pl.DataFrame,
    rewinding: pl.DataFrame,
) -> Answer:
    """The answer from counts of positions.

    Args:
        counts: `task`, `draft`, `target`, `example`, `differing`, `known`, one row an example of a pair.
        families: of each model.
        losses: of each model on its own, nats a token.
        alone, rewinding: costs, as `run` measures them; may be empty.

    Raises:
        ValueError: a pair lacks a task, or the pairs cannot tell one family from two.
    """
    pairs = [Pair(*row) for row in counts.select("draft", "target").unique().sort("target", "draft").iter_rows()]
    pairs.sort(key=lambda pair: (families[pair.target], pair.target, families[pair.draft], -losses[pair.draft]))
    design = Design.of(pairs, families)
    frequencies = _frequencies(counts, pairs)  # the first is what was measured, the others are resamples
    logs = np.log(frequencies).mean(1)  # [1 + resamples, pairs]
    ratio = _estimate(np.exp(design.effect(logs)))
    ends = design.over_pairs(logs[0])
    spread = Estimate(ratio.value, *(np.exp(ends).tolist() if ends else ()))
    numbers = {"one family over two": ratio, "the same over pairs": spread}
    own = design.by_family(logs)
    if own is not None:
        numbers |= {f"{family} with {family}": _estimate(np.exp(own[:, i])) for i, family in enumerate(design.names)}
    above = {ratio.above(1.0), spread.above(1.0)}
    more = above.pop() if len(above) == 1 else None
    holds = None if more is None else not more
    verb = {
        True: "agrees more often than",
        False: "agrees less often than",
        None: "may or may not agree more often than",
    }
    over = "" if ends is None else f", [{spread.low:.3f}, {spread.high:.3f}] by the spread of the pairs"
    beside = "; ".join(f"{name} {number}" for name, number in list(numbers.items())[2:])
    return Answer(
        statement=f"A pair of one family {verb[holds]} a pair of two with the same draft and the same target: its "
        f"collaboration frequency is {ratio} times as high over examples{over}."
        + (f" By family: {beside}." if beside else ""),
        holds=holds,
        overturn="Other seeds, of which each model has one here; other sizes, or families that differ more; a corpus "
        "from which the architectures learn different things; texts at which a pair departs from what its draft and "
        "its target show elsewhere for other reasons than its family.",
        numbers=numbers,
        charts=(_by_loss(frequencies, pairs, families, losses), _by_families(design, logs, pairs, families)),
        tables=(
            _by_task(design, frequencies, list(counts["task"].unique(maintain_order=True))),
            *_tables(design, frequencies, logs, pairs, families, losses, alone, rewinding),
        ),
        remarks=(
            "Every draft is paired with targets of several families, and every target with drafts of several. So "
            "neither the loss or the size of a draft nor how hard a target's texts are can make the difference.",
            "The interval over examples does not contain what other trainings would give. That over pairs contains "
            "whatever sets one pair apart from another, and is the one to believe about other models.",
            "Families differ in more than their architecture where their recipes do.",
        ),
    )


def _frequencies(counts: pl.DataFrame, pairs: Sequence[Pair]) -> Floats:
    """Frequencies of what was measured and of resamples of the examples, [1 + resamples, tasks, pairs].

    The examples of a task are drawn once for all pairs. Half a mismatch is added, so that all have a logarithm.
    """
    found = []
    for seed, (_, task) in enumerate(counts.group_by("task", maintain_order=True)):
        examples = task["example"].unique().sort()
        sums = np.full((2, len(examples), len(pairs)), np.nan)
        places = {example: i for i, example in enumerate(examples)}
        columns = {pair: i for i, pair in enumerate(pairs)}
        rows = task.select("example", "draft", "target", "differing", "known")
        for example, draft, target, differing, known in rows.iter_rows():
            sums[:, places[example], columns[Pair(draft, target)]] = differing, known
        missing = [pair for pair, i in columns.items() if np.isnan(sums[..., i]).all()]
        if missing:
            raise ValueError(f"{missing[0].draft} with {missing[0].target} lacks a task that other pairs have")
        differing, known = (grouped(np.nan_to_num(one)) for one in sums)
        drawn = np.concatenate([np.ones((1, len(known))), draws(len(known), seed=seed)])
        found.append((drawn @ differing + 0.5) / (drawn @ known + 1.0))
    return np.stack(found, 1)


def _estimate(drawn: Floats) -> Estimate:
    return Estimate(float(drawn[0]), *percentiles(drawn[1:]))


def _by_loss(
    frequencies: Floats, pairs: Sequence[Pair], families: Mapping[str, str], losses: Mapping[str, float]
) -> Chart:
    estimates = [_estimate(drawn) for drawn in frequencies.mean(1).T]
    return Chart(
        name="losses",
        title="Frequency by the draft's own loss",
        finding="If the family mattered more than the draft's loss, a panel would have its lowest line in the colour "
        "of its target's family.",
        note="A point is a pair: the mean of its frequencies over the tasks. A panel has one target, a line the drafts "
        "of one family.",
        x="loss of the draft on the prompts, nats a token",
        y="collaboration frequency",
        series="family of the draft",
        points=tuple(
            Point(
                x=losses[pair.draft],
                y=estimate.value,
                low=estimate.low,
                high=estimate.high,
                series=families[pair.draft],
                panel=f"{short_name(pair.target)} ({families[pair.target]})",
            )
            for pair, estimate in zip(pairs, estimates, strict=True)
        ),
    )


def _by_families(design: Design, logs: Floats, pairs: Sequence[Pair], families: Mapping[str, str]) -> Chart:
    left = logs @ design.rest
    points = []
    for target in design.names:
        for draft in design.names:
            chosen = [i for i, p in enumerate(pairs) if (families[p.draft], families[p.target]) == (draft, target)]
            if chosen:
                one = _estimate(np.exp(left[:, chosen].mean(1)))
                points.append(Point.of(draft, one, panel=f"target: {target}"))
    return Chart(
        name="families",
        title="What is left of the frequency beside draft and target",
        finding="1 is what draft and target show with others; below it, the two agree more often than that.",
        note="Means over the pairs of two families. The frequencies are divided by what least squares gives to each "
        "draft and to each target.",
        x="family of the draft",
        y="frequency / expected",
        kind="bar",
        points=tuple(points),
    )


def _by_task(design: Design, frequencies: Floats, tasks: Sequence[str]) -> Table:
    found = np.exp(design.effect(np.log(frequencies)))  # [1 + resamples, tasks]
    return Table(
        name="tasks",
        title="The tasks",
        note="The answer's factor on each task alone, with intervals over its examples.",
        columns=("task", "one family over two"),
        rows=tuple((task, str(_estimate(drawn))) for task, drawn in zip(tasks, found.T, strict=True)),
    )


def _tables(
    design: Design, frequencies: Floats, logs: Floats, pairs: Sequence[Pair], families: Mapping[str, str],
    losses: Mapping[str, float], alone: pl.DataFrame, rewinding: pl.DataFrame,
) -> list[Table]:  # fmt: skip
    left = np.exp(design.rest @ logs[0])
    means = [_estimate(drawn) for drawn in frequencies.mean(1).T]
    tables = [
        Table(
            name="pairs",
            title="The pairs",
            note="The frequency is the mean over the tasks; what was expected is told by draft and target alone.",
            columns=("target", "draft", "one family", "loss of the draft", "frequency", "frequency / expected"),
            rows=tuple(
                (
                    short_name(pair.target),
                    short_name(pair.draft),
                    "yes" if families[pair.draft] == families[pair.target] else "no",
                    losses[pair.draft],
                    str(means[i]),
                    float(left[i]),
                )
                for i, pair in enumerate(pairs)
            ),
        )
    ]
    if len(alone):
        tables.append(
            Table(
                name="alone",
                title="What each model costs alone",
                note="Tokens run through the model for each one that it writes, and its time a token in these batches, "
                "which other work on the machine changes.",
                columns=("model", "family", "parameters", "loss", "tokens run / token", "ms a token"),
                rows=tuple(
                    (
                        short_name(row["model"]),
                        families[row["model"]],
                        row["parameters"],
                        losses[row["model"]],
                        row["read"],
                        row["milliseconds"],
                    )
                    for row in sorted(
                        alone.iter_rows(named=True), key=lambda row: (families[row["model"]], row["parameters"])
                    )
                ),
            )
        )
    if len(rewinding):
        tables.append(
            Table(
                name="rewinding",
                title="What rewinding costs",
                note=f"Speculative decoding, {_LENGTH} tokens drafted in a round. A recurrent model keeps states "
                "instead of positions, and reads again what lies between a state and the token that it goes back to.",
                columns=(
                    "draft", "target", "texts", "as the target alone", "tokens a target call",
                    "run through the target / token", "run through the draft / token",
                ),
                rows=tuple(
                    (
                        short_name(row["draft"]), short_name(row["target"]), row["texts"], row["same"],
                        row["a_call"], row["target_read"], row["draft_read"],
                    )
                    for row in rewinding.iter_rows(named=True)
                ),
            )
        )  # fmt: skip
    return tables


EXPERIMENT = Experiment(Options, run)
