"""All analyses of a study, in one object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from fsgen.analysis.frequency import SummaryRow, read_examples, read_generations, read_run, read_study, summarize
from fsgen.analysis.histograms import histograms
from fsgen.analysis.labels import method_label, short_name, task_label
from fsgen.analysis.pairs import default_pair, names, oracles
from fsgen.analysis.position import PositionResult, position
from fsgen.analysis.projections import ProjectionResult, project
from fsgen.analysis.published import PublishedResult, published
from fsgen.analysis.routers import CALLS, MISSES, RoutersResult, check_budgets, routers
from fsgen.analysis.scaling import Scaling, compare_laws, read_points
from fsgen.analysis.short import ShortAnswer, in_short
from fsgen.analysis.signs import Sign, routed, signs
from fsgen.analysis.suspects import Suspect, comparable, suspects
from fsgen.analysis.times import slowdown
from fsgen.analysis.traces import prepared, scan_traces
from fsgen.analysis.uncertainty import UncertaintyResult, uncertainty
from fsgen.methods.learned.file import located


@dataclass(frozen=True)
class RunAnalysis:
    """What the traces of one run say.

    Attributes:
        run: its key; `label` is it in words.
        position, uncertainty, routers: of a run that consulted System 2 everywhere; None for others, and for texts by
            one model alone.
        projection: of one run a task, that of the pair that stands for it (`default_pair`).
        published: counted as arXiv 2406.12295 did.
        signs: of failure; of runs by the decode loop that draft several tokens, or have a router.
    """

    run: str
    label: str
    position: PositionResult | None
    uncertainty: UncertaintyResult | None
    routers: RoutersResult | None
    projection: ProjectionResult | None
    published: PublishedResult | None
    signs: tuple[Sign, ...]


@dataclass(frozen=True)
class StudyAnalysis:
    """What the traces of a study say.

    Attributes:
        name: of the study.
        summary: every metric of every run, with intervals.
        runs: the analyses, in the order of the summary.
        findings: what holds over many runs, in sentences.
        short: the five answers that the report begins with, and a study on the terminal ends with.
        suspects: what is suspect of each task.
        laws: compared on each method and task that has enough pairs.
    """

    name: str
    summary: tuple[SummaryRow, ...] = ()
    runs: tuple[RunAnalysis, ...] = ()
    findings: tuple[str, ...] = ()
    short: tuple[ShortAnswer, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    laws: tuple[Scaling, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """What `fsgen analyze --json` prints of it."""
        return asdict(replace(self, laws=())) | {"laws": [one.as_dict() for one in self.laws]}


def analyze(
    folder: str | Path,
    *,
    runs: Sequence[str] | None = None,
    calls: Sequence[float] = CALLS,
    misses: Sequence[float] = MISSES,
    projections: bool = True,
) -> StudyAnalysis:
    """Analyse the traces of a study. Nothing is written, and no model runs.

    Args:
        folder: of the study.
        runs: only these: keys, or beginnings of keys that fit one run alone.
        calls, misses: the budgets for which thresholds of routers are chosen, shares of the positions.
        projections: make projections, too; t-SNE takes some seconds each.

    Raises:
        ValueError: the folder is not that of a study, none of its runs is finished, a run is not in it, or a budget is
            not between 0 and 1.
    """
    check_budgets(calls, misses)
    study = _Study(Path(folder))
    if not study.rows:
        raise ValueError(f"{str(folder)!r} has no finished run to analyse")
    rows = study.rows if runs is None else [find(study.rows, run) for run in runs]
    projected = _projected(rows) if projections else set()
    suspicious = tuple(suspects(rows, study.texts, study.references))
    study.levels = {one.task: one.level for one in suspicious}
    found = tuple(_analyze(study, row, calls, misses, row.run in projected) for row in rows)
    laws = _laws(study.folder, rows)
    short = in_short(rows, study.texts, study.alone, suspicious, laws)
    return StudyAnalysis(study.name, tuple(rows), found, _findings(found), short, suspicious, laws)


def _laws(folder: Path, rows: Sequence[SummaryRow]) -> tuple[Scaling, ...]:
    try:
        return tuple(compare_laws(read_points(folder, runs=[row.run for row in rows]).frame))
    except ValueError:  # no run measures every position, or no method and task has four pairs
        return ()


def find(rows: Sequence[SummaryRow], run: str) -> SummaryRow:
    """The run of a key, or of the beginning of one. Raises ValueError where that fits no run, or several."""
    found = [row for row in rows if row.run == run] or [row for row in rows if row.run.startswith(run)]
    if len(found) != 1:
        why = f"fits {len(found)} runs" if found else "is no run of this study"
        names = ", ".join(row.run for row in found or rows)
        raise ValueError(f"{run!r} {why}: {names}")
    return found[0]


class _Study:
    """What the analyses of a study read, each thing once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        plan = read_study(folder)
        self.name = str(plan["name"])
        self.rows = summarize(folder)
        self.alone = {row["run"]: row["target_alone"] for row in plan["rows"]}
        self.records = {row.run: read_run(folder, row.run) for row in self.rows}
        self.levels: dict[str, float] = {}  # what a score must lie above to be compared, by task
        self._everywhere: dict[str, str] = {}
        for row in self.rows:
            if consulted_everywhere(row):
                self._everywhere.setdefault(_system(self.records[row.run]), row.run)
        self.texts = cache(lambda run: read_generations(folder, run))
        self.traces = cache(lambda run: prepared(scan_traces(folder, run)))

    def everywhere(self, row: SummaryRow) -> str | None:
        """The run with the same task, members, fusion and sampling that consulted System 2 everywhere, or itself."""
        return row.run if consulted_everywhere(row) else self._everywhere.get(_system(self.records[row.run]))

    def references(self, run: str) -> pl.DataFrame | None:
        """The right answers of a run's task, where the study keeps them."""
        examples = read_examples(self.folder, self.records[run])
        return None if examples is None else examples.select("example", "reference")


def consulted_everywhere(row: SummaryRow) -> bool:
    """Whether System 2 was consulted at every position of a run."""
    return row.draft is not None and row.router == "always"


def _system(record: dict[str, Any]) -> str:
    """What two runs have in common that differ only in router and draft length."""
    members = {role: member["name"] for role, member in record["members"].items()}
    return repr((record["task"], members, record["method"]["fusion"], record["sampling"]))


def _projected(rows: Sequence[SummaryRow]) -> set[str]:
    """Of each task the run of the pair that stands for it."""
    chosen = [row for row in rows if consulted_everywhere(row) and row.collaboration_frequency is not None]
    found = {}
    for task in dict.fromkeys(map(task_label, chosen)):
        of_task = [row for row in chosen if task_label(row) == task]
        of_task = oracles(of_task) or of_task
        pair = default_pair(of_task, rows)
        found[task] = next(row.run for row in of_task if names(row) == pair)
    return set(found.values())


def _analyze(
    study: _Study, row: SummaryRow, calls: Sequence[float], misses: Sequence[float], projected: bool
) -> RunAnalysis:
    traces, whole = study.traces(row.run), consulted_everywhere(row)
    counted = histograms(traces) if whole else {}
    return RunAnalysis(
        run=row.run,
        label=_label(row),
        position=position(traces, sampled=row.sampling != "greedy") if whole else None,
        uncertainty=uncertainty(traces, counted) if whole else None,
        routers=routers(traces, counted, calls, misses) if whole else None,
        projection=project(traces) if projected else None,
        published=_published(study, row) if row.draft is not None else None,
        signs=_signs(study, row),
    )


def _published(study: _Study, row: SummaryRow) -> PublishedResult:
    everywhere = study.everywhere(row)
    return published(
        study.texts(row.run),
        study.traces(row.run),
        method=row.method,
        task=row.task,
        everywhere=study.texts(everywhere) if everywhere else None,
        references=study.references(row.run),
    )


def _signs(study: _Study, row: SummaryRow) -> tuple[Sign, ...]:
    record, alone, everywhere = study.records[row.run], study.alone[row.run], study.everywhere(row)
    trusting = bool(record["method"]["trusting"]) and row.router not in (None, "always")
    if row.draft is None or row.engine != "loop" or not (trusting or row.draft_tokens > 1):
        return ()
    router = row.router if trusting else None
    again = routed(study.traces(everywhere), _router(record)) if router and everywhere else None
    time = slowdown(study.folder, row.run, alone) if alone else None
    return signs(
        study.texts(row.run),
        study.texts(alone) if alone and comparable(row, study.levels) else None,
        router,
        again,
        time,
    )


def _router(record: dict[str, Any]) -> str:
    """The router as it was given; a learned one with its file, where that holds the same router still."""
    identity: str = record["method"]["router"]
    if identity.startswith("learned:"):
        try:
            model, threshold = located(record["router"].removeprefix("learned:"))
        except ValueError:
            return identity
        return str(record["router"]) if model.identity(threshold) == identity else identity
    return identity


def _label(row: SummaryRow) -> str:
    return f"{task_label(row)}, {short_name(row.draft)} -> {short_name(row.target)}, {method_label(row)}"


def _findings(runs: Sequence[RunAnalysis]) -> tuple[str, ...]:
    said = []
    modelled = [run.position for run in runs if run.position is not None and run.position.matters is not None]
    if modelled:
        matter = sum(bool(one.matters) for one in modelled)
        said.append(
            f"Position still matters once the draft's uncertainty is known in {matter} of {len(modelled)} runs."
        )
    best = Counter(run.uncertainty.best.name for run in runs if run.uncertainty and run.uncertainty.measures)
    if best:
        ranking = ", ".join(f"{name} in {count}" for name, count in best.most_common())
        said.append(f"The measure of uncertainty that predicts mismatches best is {ranking} of {best.total()} runs.")
    for sign in ("too few", "too many", "too late"):
        known = [one for run in runs for one in run.signs if one.sign == sign and one.found is not None]
        if known:
            count = sum(bool(one.found) for one in known)
            said.append(f"Consultations are {sign} in {count} of the {len(known)} runs whose traces can tell.")
    return tuple(said)
