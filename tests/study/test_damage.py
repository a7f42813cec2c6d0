"""A damaged store is named in one line by those who read it, and mended by the study that wrote it."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from fsgen import files, report
from fsgen.analysis.frequency import summarize
from fsgen.analysis.study import analyze
from fsgen.files import DamagedError, WriteError, clean, read_json, write_json
from fsgen.study import models, run_study, runner
from fsgen.study.store import EXAMPLE_SCHEMA, Store, columns
from fsgen.tasks import Score, get
from tests.study.ladder import small_study, write_study
from tests.study.tables import tables

ODD = "br[a]*?{x} é"  # a folder whose name is a pattern


@pytest.fixture(scope="module")
def finished(
    ladder: dict[str, str], data: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, dict[str, Any]]:
    """A configuration, the folder of its study with a report, and the tables."""
    folder = tmp_path_factory.mktemp("finished")
    study = small_study(ladder, data)
    study["grids"] = study["grids"][:1]
    study["grids"][0]["pairs"] = [{"draft": ladder["small"], "target": ladder["large"]}]
    config, out = write_study(folder / "study.yaml", study), folder / ODD
    studied(config, out)
    return config, out, tables(out)


Finished = tuple[Path, Path, dict[str, Any]]


def studied(config: Path, out: Path) -> Any:
    return run_study(config, out, console=Console(file=io.StringIO()))


def middle_bit(content: bytes) -> bytes:
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: 2 * len(content) // 3],
    "garbage": lambda content: bytes(range(256)) * (1 + len(content) // 256),
    "one bit": middle_bit,
    "deep": lambda content: b"[" * 100_000,
    "another shape": lambda content: b"7",
}
FILES = ("traces/*/part-000004*", "generations/*/part-000004*", "examples/*", "vocabularies/*", "study.json", "runs/*")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("pattern", FILES)
def test_a_damaged_file_is_named(pattern: str, damage: str, finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / ODD
    shutil.copytree(finished[1], out)
    path = sorted(out.glob(pattern))[0]  # of the run that the report is about
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(DamagedError) as raised:
        report.write(out)
    assert repr(str(path)) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "start the study again" in str(raised.value)
    if not pattern.startswith(("examples", "vocabularies")):
        with pytest.raises(DamagedError):
            analyze(out, projections=False)


@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage", "deep", "another shape"])
def test_a_damaged_summary_is_named(damage: str, finished: Finished, tmp_path: Path) -> None:
    out = shutil.copytree(finished[1], tmp_path / "out")
    path = out / "summary.json"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(DamagedError, match="summary"):
        report.write(out)


@pytest.mark.parametrize("damage", [*DAMAGES, "removed"])
@pytest.mark.parametrize("pattern", [*FILES, "summary.json"])
def test_a_study_mends_its_folder(pattern: str, damage: str, finished: Finished, tmp_path: Path) -> None:
    config, before, expected = finished
    out = tmp_path / ODD
    shutil.copytree(before, out)
    path = sorted(out.glob(pattern))[-1]
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    result = studied(config, out)
    assert result.ran == (1 if "part-" in path.name or pattern == "runs/*" else 0), "no more than what is damaged"
    assert tables(out) == expected


def test_a_part_that_is_gone_is_missed_by_readers(finished: Finished, tmp_path: Path) -> None:
    out = shutil.copytree(finished[1], tmp_path / "out")
    for path in sorted(out.glob("generations/*/part-000004*")):
        path.unlink()
    with pytest.raises(DamagedError, match=r"generations.*part-000004.*is not there"):
        summarize(out)


def test_a_damaged_part_of_a_former_study_is_mended(finished: Finished, tmp_path: Path) -> None:
    """Records of a former version have no checksums: their files are read instead."""
    config, before, expected = finished
    out = shutil.copytree(before, tmp_path / "out")
    for file in (out / "runs").iterdir():
        content = read_json(file)
        del content["files"]
        file.write_text(json.dumps(content), encoding="utf-8")
    assert studied(config, out).ran == 0
    path = sorted(out.glob("traces/*/part-000004*"))[0]
    path.write_bytes(middle_bit(path.read_bytes()))
    with pytest.raises(DamagedError, match="part-000004"):
        analyze(out, projections=False)
    assert studied(config, out).ran == 1
    assert tables(out) == expected


# ---- texts that UTF-8 cannot hold


def test_halves_of_characters_become_the_replacement_character(tmp_path: Path) -> None:
    assert clean("a\ud800b\udfff") == "a\ufffdb\ufffd"
    assert clean("é🂡") == "é🂡"
    write_json(tmp_path / "a.json", {"x": ["\ud83d"], "y": 1.5})
    assert read_json(tmp_path / "a.json") == {"x": ["\ufffd"], "y": 1.5}
    table = columns([{"example": "a", "prompt": "\udc80", "reference": None}], EXAMPLE_SCHEMA)
    assert table.to_pylist() == [{"example": "a", "prompt": "\ufffd", "reference": None}]


def test_an_answer_with_half_a_character_fails_no_run(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(get("pocket_math")), "score", lambda *_: Score(0.0, "4\ud83d", "note \udcff"))
    result = studied(finished[0], tmp_path / "out")
    assert not result.failed
    found = Store(tmp_path / "out").generations(result.rows[0].run)
    assert set(found["answer"]) == {"4\ufffd"}
    assert report.write(tmp_path / "out").is_file()


def test_a_question_with_half_a_character_is_asked(ladder: dict[str, str], data: str, tmp_path: Path) -> None:
    lines = Path(data).read_text(encoding="utf-8").splitlines(keepends=True)
    (odd := tmp_path / "odd.jsonl").write_text("".join(line.replace("What", "\\ud800") for line in lines))
    study = small_study(ladder, str(odd))
    study["grids"] = study["grids"][:1]
    result = studied(write_study(tmp_path / "study.yaml", study), tmp_path / "out")
    assert (result.failed, result.failed_texts) == ({}, 0)
    (prompts,) = (tmp_path / "out" / "examples").iterdir()
    assert pl.read_parquet(prompts)["prompt"].str.contains("\ufffd is").all()


# ---- the disk and the clock


@pytest.mark.parametrize("moment", range(0, 20, 3))
def test_a_full_disk_is_one_line(
    moment: int, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the n-th file on nothing can be written; when there is room again, the study ends as it should."""
    config, _, expected = finished
    count = 0
    fsync = os.fsync

    def full(handle: int) -> None:
        nonlocal count
        count += 1
        if count > 2 * moment:  # a file and its folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"cannot be written: No space left on device; what is finished is kept"):
        studied(config, tmp_path / "out")
    monkeypatch.undo()
    assert not list(tmp_path.rglob(".*.part"))
    studied(config, tmp_path / "out")
    assert tables(tmp_path / "out") == expected


def test_no_room_for_any_byte(finished: Finished, tmp_path: Path) -> None:
    """The same with a device that is always full."""
    table = columns([{"example": "a", "prompt": "b", "reference": None}], EXAMPLE_SCHEMA)
    (tmp_path / ".a.parquet.part").symlink_to("/dev/full")
    with pytest.raises(WriteError, match="No space left"):
        files.write_table(tmp_path / "a.parquet", table)
    (tmp_path / ".a.json.part").symlink_to("/dev/full")
    with pytest.raises(WriteError, match="No space left"):
        write_json(tmp_path / "a.json", {"a": 1})
    assert not list(tmp_path.iterdir())


def test_a_clock_that_is_set_back(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _, expected = finished
    hours = iter(range(23, -1, -1))
    monkeypatch.setattr(runner, "_now", lambda: f"2026-01-01T{next(hours):02d}:00:00+00:00")
    studied(config, tmp_path / "out")
    assert tables(tmp_path / "out") == expected
    for file in (tmp_path / "out" / "runs").iterdir():
        record = read_json(file)
        assert record["started"] <= record["finished"]
    for file in (tmp_path / "out").rglob("*"):
        os.utime(file, (4e9, 4e9))  # files of the future
    monkeypatch.setattr(models, "load", None)
    assert studied(config, tmp_path / "out").ran == 0


def test_a_folder_whose_name_is_a_pattern(finished: Finished) -> None:
    out = finished[1]
    assert [row.method for row in summarize(out)] == ["oracle"]
    assert analyze(out, projections=False).runs[0].position is not None
    assert isinstance(Store(out).traces(summarize(out)[0].run), pl.DataFrame)
    assert report.write(out).is_file()
