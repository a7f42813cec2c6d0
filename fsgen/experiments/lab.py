"""What an experiment works with: studies, models and measured tables of one folder, each made once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from fsgen.analysis.frequency import SummaryRow, read_generations, summarize
from fsgen.analysis.labels import short_name
from fsgen.analysis.traces import prepared, scan_traces
from fsgen.analysis.trainings import of_one_size
from fsgen.backends import Members, Model, load
from fsgen.backends.identity import identity
from fsgen.files import atomically, check_table, read_json, read_table, write_table
from fsgen.methods.learned.file import LearnedModel, read
from fsgen.study.cells import Cell, canonical_hash
from fsgen.study.cluster import Connection
from fsgen.study.config import StudyConfig, validated
from fsgen.study.plan import Plan, make_plan
from fsgen.study.progress import Reporter
from fsgen.study.run import write_inputs
from fsgen.study.runner import Runner
from fsgen.study.store import SCHEMA, Store


class Study:
    """The runs that a lab made of a configuration.

    Attributes:
        plan: all of its cells.
        rows: the summary of the cells of its grid, in their order; baselines are in `alone`.
    """

    def __init__(self, lab: Lab, plan: Plan) -> None:
        self._lab, self.plan = lab, plan
        mine = {row.cell.key: row for row in plan.rows}
        self.rows: list[SummaryRow] = [row for row in summarize(lab.folder) if row.run in mine]

    @property
    def cells(self) -> list[Cell]:
        """Those of the grid."""
        return [row.cell for row in self.plan.rows]

    @cached_property
    def alone(self) -> dict[str, dict[str, str]]:
        """For each run of `rows` the runs of its members alone, by role (`draft`, `target`), where there are some."""
        found = {}
        for row in self.plan.rows:
            both = {"draft": row.draft_alone, "target": row.target_alone}
            found[row.cell.key] = {role: cell.key for role, cell in both.items() if cell is not None}
        return found

    @cached_property
    def trainings(self) -> list[list[str]]:
        """The short names of the models of the pairs that are trainings of one size of one family."""
        used = {name for cell in self.cells for name in cell.members.values()}
        infos = {short_name(name): self.plan.models[name].info for name in used}
        families = {info.family for info in infos.values()}
        groups = [
            of_one_size({name: info.parameters for name, info in infos.items() if info.family == family})
            for family in sorted(families)
        ]
        # A tuned or distilled model is another model, not another training.
        trained = [[name for name in names if infos[name].tuned_from is None] for group in groups for names in group]
        return [names for names in trained if len(names) > 1]

    def traces(self, run: str) -> pl.LazyFrame:
        """The trace of a run, one row a token, prepared as `fsgen.analysis.traces.prepared` says."""
        return prepared(scan_traces(self._lab.folder, run))

    def texts(self, run: str) -> pl.DataFrame:
        """The generations of a run, one row a text."""
        return read_generations(self._lab.folder, run)

    def tokens(self, run: str) -> dict[str, tuple[list[int], list[int]]]:
        """Prompt and completion of each example of a run, as token ids; of a dialogue its first turn."""
        cell = next(cell for cell in self.plan.cells if cell.key == run)
        tokenizer = self.plan.models[cell.members["target"]].tokenizer
        prompts = {example.id: cell.task.prompt(example, tokenizer).ids for example in cell.task.examples}
        first = scan_traces(self._lab.folder, run).filter(pl.col("turn") == 1).select("example", "position", "token")
        written = first.sort("example", "position").group_by("example", maintain_order=True).agg("token").collect()
        return {str(name): (list(prompts[str(name)]), [int(i) for i in ids]) for name, ids in written.iter_rows()}


class Lab:
    """One folder, in which an experiment runs studies and measures what no study's run has.

    Everything is written as it is made, and found again when the experiment is started again.

    Args:
        store: of the folder; locked by the caller.
        name: of the experiment.
        study: of its configuration, None where it has none.
        reporter: hears what happens.
        limit: at most so many examples of each task.
        connection: a cluster that runs the studies, those without `repeats`; None for this process.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        study: StudyConfig | None,
        reporter: Reporter,
        limit: int | None = None,
        connection: Connection | None = None,
    ) -> None:
        self.folder: Path = store.folder
        self.name = name
        self.limit = limit
        self.config = study
        self._store, self._reporter, self._connection = store, reporter, connection
        self._models: dict[str, Model] = {}

    def varied(self, **changes: Any) -> StudyConfig:
        """The study of the configuration with other values of some of its keys, checked. Raises ValueError."""
        if self.config is None:
            raise ValueError(f"the configuration of the experiment {self.name!r} has no study")
        content = self.config.model_dump(exclude_unset=True) | changes
        return validated(StudyConfig, content, f"the study of {self.name}", "understood")

    def plan(self, study: StudyConfig | None = None) -> Plan:
        """Check a study and lay out its cells; `study` is that of the configuration if None. Raises ValueError."""
        return make_plan(study or self.varied(), self.limit)

    def study(self, study: StudyConfig | None = None) -> Study:
        """Run a study, or what of it is not there yet; see `plan`.

        Raises:
            ValueError: it cannot run as it is.
            RuntimeError: runs of it failed; started again, the experiment tries these once more.
        """
        plan = self.plan(study)
        # What compares times is run by this process alone.
        connection = None if plan.config.repeats else self._connection
        if connection is not None:
            connection.check(plan)
        self._list(plan, write_inputs(plan, self._store))
        if connection is None:
            runner = Runner(plan, self._store, self._reporter, self._models)
        else:
            runner = connection.runner(plan, self._store, self._reporter)
        runner.run()
        if runner.failed:
            faults = "\n".join(f"- {run}: {error}" for run, error in runner.failed.items())
            raise RuntimeError(f"{len(runner.failed)} runs of the experiment {self.name!r} failed:\n{faults}")
        return Study(self, plan)

    def _list(self, plan: Plan, rows: list[dict[str, Any]]) -> None:
        """Add the runs to those that the folder lists: experiments that share a folder share their runs."""
        path = self.folder / "study.json"
        before: dict[str, Any] = read_json(path) if path.is_file() else {}
        listed = {row["run"]: row for row in [*before.get("rows", []), *rows]}
        config = plan.config.model_dump(mode="json", exclude_unset=True)
        configs = before.get("config", {}) | {plan.config.name: config}
        name = before.get("name", self.name)
        self._store.write_study({"name": name, "schema": SCHEMA, "config": configs, "rows": list(listed.values())})

    def model(self, name: str) -> Model:
        """A model, loaded once."""
        if name not in self._models:
            how = self.config or StudyConfig.model_construct()
            model = load(target=name, dtype=how.dtype, device=how.device).target
            assert model is not None
            self._models[name] = model
        return self._models[name]

    def members(self, **names: str) -> Members:
        """Models by role, each loaded once, checked to fit together. Raises ValueError, for other tokenizers too."""
        found = Members.of(**{role: self.model(name) for role, name in names.items()})
        if found.difference is not None:
            raise ValueError(
                f"this experiment reads models token by token, so they need one tokenizer: {found.difference}"
            )
        return found

    def digest(self, name: str) -> str:
        """What tells the weights of a model from others, for the `key` of a table."""
        return identity(self.model(name)).digest or name

    def table(self, name: str, key: Mapping[str, Any], make: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        """A measured table: made once, and read from the folder from then on.

        Args:
            name: what it is; a folder under `measured`.
            key: all that changes its content, as plain JSON: names and digests of models, the texts' run, settings.
            make: measures it.
        """

        def write(path: Path) -> None:
            write_table(path, make().to_arrow())

        return read_table(self._made(name, key, ".parquet", check_table, write))

    def router(self, model: LearnedModel, key: Mapping[str, Any]) -> Path:
        """The file of a learned router, written once; `key` as in `table`."""
        return self._made("routers", key, ".npz", read, lambda path: atomically(path, model.write))

    def _made(
        self,
        name: str,
        key: Mapping[str, Any],
        suffix: str,
        check: Callable[[Path], object],
        write: Callable[[Path], object],
    ) -> Path:
        """A file that is written where it is not there yet, or does not pass its `check`."""
        path = self.folder / "measured" / name / f"{canonical_hash(dict(key))[:16]}{suffix}"
        if path.is_file():
            try:
                check(path)
                return path
            except ValueError:
                self.note(f"{str(path)!r} is damaged, and made again")
        self._reporter.working(f"{self.name}: {name}")
        write(path)
        return path

    def note(self, line: str) -> None:
        """A line of progress that stays."""
        self._reporter.note(line)
