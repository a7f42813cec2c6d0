"""Trains a router on the traces of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import fsgen
from fsgen.analysis.frequency import SummaryRow, read_run, read_study, summarize
from fsgen.analysis.intervals import Estimate
from fsgen.analysis.labels import short_name
from fsgen.analysis.learning.evaluate import Evaluation, check_budget, evaluate, threshold
from fsgen.analysis.learning.fit import KINDS, learn
from fsgen.analysis.learning.positions import PARTS, part_of, positions
from fsgen.analysis.study import consulted_everywhere, find
from fsgen.analysis.traces import scan_traces
from fsgen.files import atomically
from fsgen.methods.learned.features import names
from fsgen.methods.learned.file import LearnedModel

CALLS = 0.2


@dataclass(frozen=True)
class Training:
    """The result of a training.

    Attributes:
        model: the router.
        calls: positions of the held-out examples at which it consults System 2 / all of them.
        frequency: the share of these positions where the two differ.
        evaluations: of it and of others at equal calls, the learned one first.
        counts: examples, positions and mismatches of each part.
    """

    model: LearnedModel
    calls: Estimate
    frequency: float
    evaluations: tuple[Evaluation, ...]
    counts: Mapping[str, Mapping[str, int]]

    def write(self, path: Path) -> None:
        """Write the router, whole or not at all. Raises WriteError."""
        atomically(path, self.model.write)


def train(
    folder: str | Path,
    kind: str = "logistic",
    runs: Sequence[str] | None = None,
    calls: float | None = None,
    misses: float | None = None,
    seed: int = 0,
    draft: str | None = None,
    target: str | None = None,
) -> Training:
    """Train a router on the traces of a study. Nothing is written, and no model runs.

    Args:
        folder: of the study.
        kind: as in `learn`.
        runs: these alone: keys, or beginnings of keys; all that consulted System 2 everywhere if None.
        calls, misses: the budget, as in `threshold`; a fifth of the positions if neither is given.
        seed: the random seed of the training.
        draft, target: only runs of these models, named as in the study's summary, or by the end of it.

    Raises:
        ValueError: an unknown kind, two budgets or an impossible one, a folder without such runs, runs of several
            drafts or several System 2, too few positions, traces without candidates.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}: choose one of {', '.join(KINDS)}")
    if calls is None and misses is None:
        calls = CALLS
    check_budget(calls, misses)
    folder = Path(folder)
    rows = _rows(folder, runs, {"draft": draft, "target": target})
    records = [read_run(folder, row.run) for row in rows]
    drafting = records[0]["members"]["draft"]
    if drafting["digest"] in (None, "None"):
        raise ValueError(
            f"the study does not know which weights {drafting['name']} has, so that no router can be for them"
        )
    known = positions([scan_traces(folder, row.run) for row in rows])
    parts = {part: known.of({name for name in known.names if part_of(name) == part}) for part in PARTS}
    if empty := [part for part, some in parts.items() if not len(some)]:
        raise ValueError(f"{len(known.names)} examples leave none for {', '.join(empty)}: run more of them")
    scorer, chosen = learn(parts["train"], kind, seed), parts["calibration"]
    model = LearnedModel(
        scorer=scorer,
        top=known.top,
        threshold=threshold(scorer.score(chosen.x), chosen.differs, calls, misses),
        draft={"name": drafting["name"], "digest": drafting["digest"]},
        vocabulary={row["run"]: row["vocabulary"] for row in read_study(folder)["rows"]}[rows[0].run],
    )
    consulted, evaluations = evaluate(model, parts["test"])
    counts = {
        part: {"examples": len(some.names), "positions": len(some), "mismatches": int(some.differs.sum())}
        for part, some in parts.items()
    }
    record = _record(rows, records[0], known.top) | {
        "kind": kind,
        "budget": {"calls": calls} if calls is not None else {"misses": misses},
        "seed": seed,
        "counts": counts,
        "held out": _held_out(consulted, evaluations),
    }
    return Training(
        model=replace(model, record=record),
        calls=consulted,
        frequency=float(parts["test"].differs.mean()),
        evaluations=evaluations,
        counts=counts,
    )


def _record(rows: Sequence[SummaryRow], record: dict[str, Any], top: int) -> dict[str, Any]:
    """On what a router was trained, and with which versions."""
    return {
        "runs": [row.run for row in rows],
        "tasks": sorted({row.task for row in rows}),
        "target": {key: record["members"]["target"][key] for key in ("name", "digest")},
        "fusion": record["method"]["fusion"],
        "features": names(top),
        "versions": {
            "fsgen": fsgen.__version__,
            **{name: metadata.version(name) for name in ("numpy", "scikit-learn")},
        },
    }


def _held_out(consulted: Estimate, evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    found = {one.router: asdict(one) for one in evaluations}
    for one in found.values():
        del one["router"]
    return {"calls": asdict(consulted), **found}


def _rows(folder: Path, runs: Sequence[str] | None, models: Mapping[str, str | None]) -> list[SummaryRow]:
    """The runs to train on: all consulted System 2 everywhere, and have one draft and one System 2."""
    every = summarize(folder)
    rows = [row for row in every if consulted_everywhere(row)]
    if runs is not None:
        chosen = [find(every, run) for run in runs]
        if odd := [row.run for row in chosen if row not in rows]:
            raise ValueError(f"these runs did not consult System 2 everywhere: {', '.join(odd)}")
        rows = [row for row in rows if row in chosen]
    if not rows:
        raise ValueError(
            f"{str(folder)!r} has no finished run that consulted System 2 everywhere, such as those of `oracle`"
        )
    for role, name in models.items():
        there = sorted({str(getattr(row, role)) for row in rows})
        rows = [row for row in rows if name in (None, getattr(row, role), short_name(str(getattr(row, role))))]
        if not rows:
            raise ValueError(f"no run that can be learned from has the {role} {name!r}; there are {', '.join(there)}")
    systems: dict[str, list[SummaryRow]] = {}
    for row in rows:
        record = read_run(folder, row.run)
        members = {role: member["digest"] for role, member in record["members"].items()}
        systems.setdefault(repr((members, record["method"]["fusion"])), []).append(row)
    if len(systems) > 1:
        raise ValueError(
            f"a router is for one draft and one System 2, and these runs have {len(systems)}; choose one of them:\n- "
            + "\n- ".join(_chosen_by(some, list(systems.values())) for some in systems.values())
        )
    return rows


def _chosen_by(some: Sequence[SummaryRow], systems: Sequence[Sequence[SummaryRow]]) -> str:
    """The options that choose these runs: their models where these tell them apart, else a run of each task."""
    row = some[0]
    draft, target = short_name(str(row.draft)), short_name(row.target)
    if sum((short_name(str(one[0].draft)), short_name(one[0].target)) == (draft, target) for one in systems) == 1:
        return f"--draft {draft} --target {target}"
    runs = {(each.task, each.shots): each.run for each in some}.values()
    return " ".join(f"--run {run}" for run in runs) + f" ({draft} -> {target}, {row.method})"
