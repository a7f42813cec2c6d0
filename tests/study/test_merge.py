"""Studies made on several machines become one folder, or it is said what is in conflict."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from fsgen.cli import main
from fsgen.files import write_json, write_table
from fsgen.study import run_study
from fsgen.study.merge import merge
from tests.study.tables import tables


def quiet() -> Console:
    return Console(file=io.StringIO())


def study(ladder: dict[str, str], data: str, drafts: list[str]) -> dict[str, Any]:
    tasks = [{"name": "pocket_math", "limit": 6, "max_tokens": 4, "data": data}]
    pairs = [{"draft": ladder[draft], "target": ladder["large"]} for draft in drafts]
    return {"name": "parts", "batch_size": 4, "tasks": tasks, "pairs": pairs, "methods": ["oracle"]}


@pytest.fixture(scope="module")
def machines(ladder: dict[str, str], data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The studies of two machines with a draft each, and one of both drafts."""
    folder = tmp_path_factory.mktemp("machines")
    for name, drafts in (("one", ["small"]), ("two", ["middle"]), ("both", ["small", "middle"])):
        assert not run_study(study(ladder, data, drafts), folder / name, console=quiet()).failed
    return folder / "one", folder / "two", folder / "both"


def without_config(found: dict[str, Any]) -> dict[str, Any]:
    found["study.json"].pop("config")
    return found


def test_the_parts_are_the_whole(machines: tuple[Path, Path, Path], tmp_path: Path) -> None:
    one, two, both = machines
    found = merge([one, two], tmp_path / "all")
    assert (found.runs, found.unfinished, found.twice) == (5, 0, 1)  # the target alone is in both
    whole = without_config(tables(both))
    whole.pop("report.html", None)
    assert without_config(tables(tmp_path / "all")) == whole


def test_a_merged_study_goes_on(
    machines: tuple[Path, Path, Path], ladder: dict[str, str], data: str, tmp_path: Path
) -> None:
    one, two, _ = machines
    merge([one, two], tmp_path / "all")
    result = run_study(study(ladder, data, ["small", "middle"]), tmp_path / "all", console=quiet())
    assert (result.ran, result.skipped) == (0, 5)
    config = json.loads((tmp_path / "all" / "study.json").read_text())["config"]
    assert run_study(config, tmp_path / "all", console=quiet()).skipped == 5


def test_an_unfinished_run_gives_way_to_a_finished_one(machines: tuple[Path, Path, Path], tmp_path: Path) -> None:
    one, _, both = machines
    cut = tmp_path / "cut"
    shutil.copytree(both, cut)
    for file in (cut / "runs").glob("*oracle*.json"):
        record = json.loads(file.read_text())
        record.pop("checksum", None)
        part = sorted((cut / "traces" / f"run={record['run']}").iterdir())[-1]
        (cut / "generations" / f"run={record['run']}" / part.name).unlink()
        part.unlink()
        record["files"] = {name: value for name, value in record["files"].items() if part.name not in name}
        write_json(file, record | {"status": "running", "finished": None})
    found = merge([cut, one], tmp_path / "all")
    assert (found.runs, found.unfinished) == (4, 1)


def test_conflicts_are_named(machines: tuple[Path, Path, Path], tmp_path: Path) -> None:
    one, two, both = machines
    other = tmp_path / "other"
    shutil.copytree(one, other)
    (run,) = (file.stem for file in (other / "runs").glob("*oracle*.json"))
    file = sorted((other / "generations" / f"run={run}").iterdir())[0]
    frame = pl.read_parquet(file).with_columns(text=pl.lit("another"))
    checksum = write_table(file, frame.to_arrow())
    record = json.loads((other / "runs" / f"{run}.json").read_text())
    record.pop("checksum", None)
    record["files"][f"generations/{file.name}"] = checksum
    write_json(other / "runs" / f"{run}.json", record)
    with pytest.raises(ValueError, match=rf"{run} has other generations in '.*both' than in '.*other'"):
        merge([both, other], tmp_path / "all")
    assert not (tmp_path / "all").exists()
    file.write_bytes(file.read_bytes()[:-9] + b"x" * 9)
    with pytest.raises(ValueError, match="is damaged"):
        merge([other, two], tmp_path / "all")


def test_defaults_that_are_written_out_are_no_other_settings(machines: tuple[Path, Path, Path], tmp_path: Path) -> None:
    one, _, _ = machines
    other = tmp_path / "other"
    shutil.copytree(one, other)
    content = json.loads((one / "study.json").read_text())
    content.pop("checksum", None)
    assert "candidates" not in content["config"]
    write_json(other / "study.json", content | {"config": content["config"] | {"candidates": 10, "seed": 0}})
    assert merge([one, other], tmp_path / "all").twice == 3
    assert json.loads((tmp_path / "all" / "study.json").read_text())["config"] == content["config"]


def test_what_judges_said_and_experiments_measured_goes_along(
    machines: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    one, two = (tmp_path / name for name in ("one", "two"))
    for source, folder in zip(machines, (one, two), strict=False):
        shutil.copytree(source, folder)
        for name in ("measured/judged", "measured/window", "answers"):
            (folder / name).mkdir(parents=True)
    said = [json.dumps({"judge": "j", "asked": key, "words": key}) for key in "abc"]
    (one / "measured/judged/j.jsonl").write_text(f"{said[0]}\n{said[1]}\n" + said[2][:9])
    (two / "measured/judged/j.jsonl").write_text(f"{said[1]}\n{said[2]}\n")
    for folder, names in ((one, "same differs left"), (two, "same differs right")):
        for name in names.split():
            content = folder.name if name == "differs" else name
            (folder / f"measured/window/{name}.parquet").write_text(content)
            (folder / f"answers/{name}.json").write_text(content)
    merge([one, two], tmp_path / "all")
    assert (tmp_path / "all/measured/judged/j.jsonl").read_text().splitlines() == said
    for kind in ("measured/window/*.parquet", "answers/*.json"):
        found = {file.stem: file.read_text() for file in (tmp_path / "all").glob(kind)}
        assert found == {"same": "same", "left": "left", "right": "right"}


def test_what_cannot_be_merged(
    machines: tuple[Path, Path, Path], ladder: dict[str, str], data: str, tmp_path: Path
) -> None:
    one, two, _ = machines
    run_study(study(ladder, data, ["small"]) | {"candidates": 2}, tmp_path / "more", limit=2, console=quiet())
    for folders, out, reason in (
        ([one], "new", "name two or more"),
        ([one, tmp_path], "new", "is not the folder of a study"),
        ([one, two], "more", "has files already"),
        ([one, tmp_path / "more"], "new", "other settings: candidates is"),
    ):
        with pytest.raises(ValueError, match=reason):
            merge(folders, tmp_path / out)


def test_the_command(machines: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, _ = machines
    with pytest.raises(SystemExit) as end:
        main(["merge", str(one), str(two), "--out", str(tmp_path / "all")])
    assert end.value.code == 0
    assert "5 runs are finished, 0 are not; 1 were there more than once" in capsys.readouterr().out
    assert (tmp_path / "all" / "report.html").is_file()
