"""A unit of work is a plain value: pickled and run in another process, it gives the same tables."""

from __future__ import annotations

import io
import pickle
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import yaml
from rich.console import Console

from fsgen.study import run_study
from fsgen.study.config import parse_config
from fsgen.study.models import LoadedModels
from fsgen.study.plan import Plan, make_plan
from fsgen.study.records import generation_table, stored_texts, trace_table
from fsgen.study.store import Store
from fsgen.study.units import Unit, make_steps, make_units
from fsgen.study.worker import Scorer, run_unit
from fsgen.types import Example
from tests.study.ladder import small_study, write_study
from tests.study.tables import TIMES

Part = tuple[str, int, int, pa.Table, pa.Table]


def run_pickled(pickled: list[bytes]) -> list[Part]:
    """Run units one after the other, knowing nothing but them: run, examples from and to, traces, generations."""
    scorer, parts = Scorer(), []
    stored: dict[str, list[tuple[pa.Table, pa.Table]]] = defaultdict(list)
    models: dict[tuple[str, str], LoadedModels] = {}
    for content in pickled:
        unit: Unit = pickle.loads(content)
        loaded = models.setdefault((unit.dtype, unit.device), LoadedModels(unit.dtype, unit.device))
        members = loaded.members([cell.members for cell in unit.cells])
        sources = None
        if unit.source is not None:
            traces, texts = (pl.from_arrow(pa.concat_tables(each)) for each in zip(*stored[unit.source], strict=True))
            sources = stored_texts(texts, traces)  # type: ignore[arg-type]
        for cell, written in zip(unit.cells, run_unit(unit, members, scorer, sources), strict=True):
            tables = trace_table(written), generation_table(written)
            stored[cell.key].append(tables)
            parts.append((cell.key, unit.start, unit.stop, *tables))
    return parts


def planned(study: dict[str, Any]) -> Plan:
    return make_plan(parse_config(yaml.safe_dump(study)))


def all_units(plan: Plan) -> list[Unit]:
    nothing: dict[str, set[int]] = {cell.key: set() for cell in plan.cells}
    return [unit for step in make_steps(plan) for unit in make_units(plan, step, nothing)]


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("dialogues") / "dialogues.jsonl"
    rows = '{"question_id": %d, "category": "writing", "turns": ["Tell %d", "More"]}\n'
    path.write_text("".join(rows % (i, i) for i in range(3)), encoding="utf-8")
    return str(path)


def test_units_run_elsewhere_give_the_same_tables(
    ladder: dict[str, str], data: str, dialogues: str, tmp_path: Path
) -> None:
    study = small_study(ladder, data)
    study["tasks"].append({"name": "mt_bench", "max_tokens": 5, "data": dialogues})
    out = tmp_path / "out"
    run_study(write_study(tmp_path / "study.yaml", study), out, console=Console(file=io.StringIO()))
    pickled = [pickle.dumps(unit) for unit in all_units(planned(study))]
    Path(data).rename(tmp_path / "moved")  # the examples travel with the units
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as elsewhere:
            parts = elsewhere.submit(run_pickled, pickled).result()
    finally:
        (tmp_path / "moved").rename(data)
    here = Store(out)
    assert len(parts) == len(list(out.glob("traces/*/*.parquet")))
    for run, start, stop, *tables in parts:
        for name, table in zip(("traces", "generations"), tables, strict=True):
            file = out / name / f"run={run}" / f"part-{start:06d}-{stop:06d}.parquet"
            expected = pl.read_parquet(file, hive_partitioning=False)
            found = pl.from_arrow(table)
            assert isinstance(found, pl.DataFrame)
            assert found.drop(TIMES, strict=False).equals(expected.drop(TIMES, strict=False))
    assert {2} <= set(pl.concat(here.generations(run) for run, *_ in parts)["turn"]), "second turns are among them"


def test_a_unit_is_a_value(ladder: dict[str, str], data: str) -> None:
    plan = planned(small_study(ladder, data))
    for unit in all_units(plan):
        content = pickle.dumps(unit)
        assert pickle.loads(content) == unit
        assert len(content) < 20_000, "it has its own examples alone, and no weights"
        assert [example.id for example in unit.task.examples] == [
            example.id for example in plan.examples(unit.cells[0]) if example in unit.task.examples
        ]


def test_the_units_of_a_run_are_its_examples_in_order(ladder: dict[str, str], data: str) -> None:
    plan = planned(small_study(ladder, data))
    seen: dict[str, list[Example]] = defaultdict(list)
    for unit in all_units(plan):
        assert unit.stop - unit.start == len(unit.task.examples) <= plan.config.batch_size
        for cell in unit.cells:
            seen[cell.key] += unit.task.examples
    assert seen.keys() == {cell.key for cell in plan.cells}
    for cell in plan.cells:
        assert seen[cell.key] == plan.examples(cell)
        assert {example.id for example in seen[cell.key]} == {example.id for example in cell.task.examples}


def test_runs_of_a_step_that_are_at_different_places(ladder: dict[str, str], data: str) -> None:
    plan = planned(small_study(ladder, data))
    step = next(step for step in make_steps(plan) if len(step.cells) == 2)
    one, two = (cell.key for cell in step.cells)
    units = list(make_units(plan, step, {one: {*range(4)}, two: set()}))
    ranges = [([cell.key for cell in unit.cells], unit.start, unit.stop) for unit in units]
    assert ranges == [([two], 0, 4), ([one, two], 4, 8), ([one, two], 8, 10)]
    assert all(unit.source == step.source.key for unit in units if step.source)
    some = make_units(plan, step, {one: {*range(10)} - {5, 6}, two: {*range(10)} - {6, 9}})
    ranges = [([cell.key for cell in unit.cells], unit.start, unit.stop) for unit in some]
    assert ranges == [([one], 5, 6), ([one, two], 6, 7), ([two], 9, 10)], "what lies between is not written again"
    assert list(make_units(plan, step, {one: {*range(10)}, two: {*range(10)}})) == []
