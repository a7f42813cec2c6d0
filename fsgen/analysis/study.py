"""Everything that the traces of a study say, in one object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from fsgen.analysis.frequency import SummaryRow, read_generations, read_run, read_study, summarize
from fsgen.analysis.histograms import histograms
from fsgen.analysis.labels import method_label, short_name, task_label
from fsgen.analysis.position import PositionResult, position
from fsgen.analysis.projections import ProjectionResult, project
from fsgen.analysis.published import PublishedResult, published
from fsgen.analysis.routers import CALLS, MISSES, RoutersResult, check_budgets, routers
from fsgen.analysis.signs import Sign, routed, signs
from fsgen.analysis.traces import prepared, scan_traces
from fsgen.analysis.uncertainty import UncertaintyResult, uncertainty
from fsgen.methods.learned.file import located


@dataclass(frozen=True)
class RunAnalysis:
    """What the traces of one run say.

    Attributes:
        run: its key; `label` is it in words.
        position, uncertainty, routers: of a run that asked System 2 everywhere; None for others, and for texts by one
            model alone.
        projection: of one run a task, the one whose frequency is the median.
        published: counted as the seed study did.
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
    """

    name: str
    summary: tuple[SummaryRow, ...]
    runs: tuple[RunAnalysis, ...]
    findings: tuple[str, ...]


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
        projections: make pictures, too; t-SNE takes some seconds each.

    Raises:
        ValueError: the folder is not that of a study, none of its runs is finished, a run is not in it, or a budget is
            no share.
    """
    check_budgets(calls, misses)
    study = _Study(Path(folder))
    if not study.rows:
        raise ValueError(f"{str(folder)!r} has no finished run to analyse")
    rows = study.rows if runs is None else [find(study.rows, run) for run in runs]
    pictured = _pictured(rows) if projections else set()
    found = tuple(_analyze(study, row, calls, misses, row.run in pictured) for row in rows)
    return StudyAnalysis(study.name, tuple(rows), found, _findings(found))


def find(rows: Sequence[SummaryRow], run: str) -> SummaryRow:
    """The run of a key, or of the beginning of one. Raises ValueError where it fits no run, or several."""
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
        self._everywhere: dict[str, str] = {}
        for row in self.rows:
            if asked_everywhere(row):
                self._everywhere.setdefault(_system(self.records[row.run]), row.run)
        self.texts = cache(lambda run: read_generations(folder, run))
        self.traces = cache(lambda run: prepared(scan_traces(folder, run)))

    def everywhere(self, row: SummaryRow) -> str | None:
        """The run of the same task, members, fusion and sampling that asked System 2 everywhere; itself if it did."""
        return row.run if asked_everywhere(row) else self._everywhere.get(_system(self.records[row.run]))

    def references(self, run: str) -> pl.DataFrame | None:
        """The right answers of a run's task, where the study keeps them."""
        digest = str(self.records[run]["identity"]["task"].get("examples", ""))[:16]
        path = self.folder / "examples" / f"{digest}.parquet"
        return pl.read_parquet(path, columns=["example", "reference"]) if path.is_file() else None


def asked_everywhere(row: SummaryRow) -> bool:
    """Whether System 2 was asked at every position of a run."""
    return row.draft is not None and row.router == "always"


def _system(record: dict[str, Any]) -> str:
    """What two runs share that differ in router and draft length alone."""
    members = {role: member["name"] for role, member in record["members"].items()}
    return repr((record["task"], members, record["method"]["fusion"], record["sampling"]))


def _pictured(rows: Iterable[SummaryRow]) -> set[str]:
    """Of each task the run with the median frequency."""
    tasks: dict[str, list[tuple[float, str]]] = {}
    for row in rows:
        if asked_everywhere(row) and row.collaboration_frequency is not None:
            tasks.setdefault(task_label(row), []).append((row.collaboration_frequency, row.run))
    return {sorted(found)[len(found) // 2][1] for found in tasks.values()}


def _analyze(
    study: _Study, row: SummaryRow, calls: Sequence[float], misses: Sequence[float], pictured: bool
) -> RunAnalysis:
    record, traces, texts = study.records[row.run], study.traces(row.run), study.texts(row.run)
    everywhere = study.everywhere(row)
    trusting = bool(record["method"]["trusting"]) and row.router not in (None, "always")
    where = unsure = asking = None
    found: tuple[Sign, ...] = ()
    if asked_everywhere(row):
        counted = histograms(traces)
        where = position(traces, sampled=row.sampling != "greedy")
        unsure = uncertainty(traces, counted)
        asking = routers(traces, counted, calls, misses)
    if row.draft is not None and row.engine == "loop" and (trusting or row.draft_tokens > 1):
        alone = study.alone[row.run]
        router = row.router if trusting else None
        again = routed(study.traces(everywhere), _written(record)) if router and everywhere else None
        found = signs(texts, study.texts(alone) if alone else None, router, again)
    return RunAnalysis(
        run=row.run,
        label=_label(row),
        position=where,
        uncertainty=unsure,
        routers=asking,
        projection=project(traces) if pictured else None,
        published=published(
            texts,
            traces,
            method=row.method,
            task=row.task,
            everywhere=study.texts(everywhere) if everywhere else None,
            references=study.references(row.run),
        )
        if row.draft is not None
        else None,
        signs=found,
    )


def _written(record: dict[str, Any]) -> str:
    """The router as it was given, with its file; that of a learned one only where it is the same as then."""
    asked: str = record["method"]["router"]
    if asked.startswith("learned:"):
        try:
            model, threshold = located(record["router"].removeprefix("learned:"))
        except ValueError:
            return asked
        return str(record["router"]) if model.identity(threshold) == asked else asked
    return asked


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
    best: dict[str, int] = {}
    for run in runs:
        if run.uncertainty is not None and run.uncertainty.measures:
            name = max(run.uncertainty.measures, key=lambda measure: measure.auroc.value).name
            best[name] = best.get(name, 0) + 1
    if best:
        ranking = ", ".join(f"{name} in {count}" for name, count in sorted(best.items(), key=lambda item: -item[1]))
        said.append(f"The measure of uncertainty that tells mismatches best is {ranking} of {sum(best.values())} runs.")
    for sign in ("too few", "too many", "too late"):
        looked = [one for run in runs for one in run.signs if one.sign == sign and one.found is not None]
        if looked:
            count = sum(bool(one.found) for one in looked)
            said.append(f"Consultations are {sign} in {count} of the {len(looked)} runs that can tell.")
    return tuple(said)
