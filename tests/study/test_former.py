"""Studies that an earlier version stored are read and gone on with; those of another format are refused by name.

`former/` has two tiny random models, questions, and in `out/` what version 0.1.0 stored of a study of them. `keys.json`
has the keys that it gave the runs of `keys.yaml`.
"""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from fsgen.study import models, run_study
from fsgen.study.config import load_config
from fsgen.study.plan import make_plan
from fsgen.study.store import SCHEMA, Store
from tests.study.tables import tables

FORMER = Path("tests") / "study" / "former"  # names of models are part of the keys, so it is relative
ROOT = Path(__file__).parents[2]


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(ROOT)
    return Path(shutil.copytree(FORMER / "out", tmp_path / "out"))


def studied(out: Path, **options: Any) -> Any:
    return run_study(FORMER / "study.yaml", out, console=Console(file=io.StringIO()), **options)


def fail(**_: Any) -> None:
    raise AssertionError("a model was loaded")


def test_keys_are_the_same(out: Path) -> None:
    plan = make_plan(load_config(FORMER / "keys.yaml"))
    assert [cell.key for cell in plan.cells] == json.loads((FORMER / "keys.json").read_text(encoding="utf-8"))


def test_finished_runs_are_not_run_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tables(out)
    monkeypatch.setattr(models, "load", fail)
    result = studied(out)
    assert (result.ran, result.skipped) == (0, 3)
    assert tables(out) == before


def test_a_run_that_was_interrupted_is_completed(out: Path) -> None:
    expected = tables(out)
    (run,) = (file.stem for file in (out / "runs").glob("*-oracle-*.json"))
    for table in ("traces", "generations"):
        (out / table / f"run={run}" / "part-000004-000006.parquet").unlink()
    store = Store(out)
    record = store.record(run)
    assert record is not None
    store.write_record(run, record | {"status": "running", "finished": None})
    result = studied(out)
    assert (result.ran, result.skipped) == (1, 2)
    found = tables(out)
    assert found.keys() == expected.keys()
    for name, content in expected.items():
        if name.endswith(".parquet"):
            # Floats depend on the processor; what was written, and how it was counted, does not.
            floats = [column for column, value in content[0].items() if isinstance(value, float)]
            lists = [column for column in content[0] if column.endswith("_probs")]
            one, two = (pl.DataFrame(rows).drop(floats + lists) for rows in (content, found[name]))
            assert one.equals(two), name
    completed = json.loads((out / "runs" / f"{run}.json").read_text(encoding="utf-8"))
    changed = {"versions", "hardware", "finished", "files", "checksum"}
    assert {k: v for k, v in completed.items() if k not in changed} == {
        k: v for k, v in record.items() if k not in changed
    }
    assert list(completed) == [*record, "files", "checksum"]


def test_tables_of_another_version_are_refused(out: Path) -> None:
    path = out / "study.json"
    study = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(study | {"schema": SCHEMA + 1}), encoding="utf-8")
    before = tables(out)
    with pytest.raises(
        ValueError, match=rf"out' has tables of version {SCHEMA + 1}.*choose another folder, or run with"
    ):
        studied(out)
    assert tables(out) == before
    assert studied(out, fresh=True).ran == 3
