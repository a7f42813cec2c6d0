"""Folders of studies that several machines made, as one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from fsgen.analysis.frequency import summarize, write_summary
from fsgen.files import part_files, read_json, read_table
from fsgen.study.config import GRID_KEYS, load_config
from fsgen.study.store import Store

_TABLES = ("generations", "traces")
_TIMES = ("draft_seconds", "system2_seconds", "seconds")


@dataclass(frozen=True)
class Merged:
    """What a merge has made.

    Attributes:
        runs: that are finished now.
        unfinished: runs that no folder has finished; the study goes on with them.
        twice: runs that several folders had, equal in all.
    """

    runs: int
    unfinished: int
    twice: int


def merge(folders: Sequence[Path], out: Path) -> Merged:
    """Make one study of several that have the same settings.

    Args:
        folders: of studies, at least two. Of a run that several of them have, finished and equal, one is taken.
        out: the new folder.

    Raises:
        ValueError: a folder is none of a study, or damaged; the studies have other settings; runs that both have
            differ, all of them named; or `out` has files already.
    """
    if len(folders) < 2:
        raise ValueError("one folder is one already: name two or more")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{str(out)!r} has files already: name a new folder")
    studies = [_study(folder) for folder in folders]
    config = _one_config(folders, [study["config"] for study in studies])
    rows = _one_plan(folders, [study["rows"] for study in studies])
    runs = {run for row in rows for run in (row["run"], row["draft_alone"], row["target_alone"]) if run}
    chosen, twice, conflicts = _choose(folders, sorted(runs))
    if conflicts:
        raise ValueError("the studies cannot be merged:\n" + "\n".join(f"- {conflict}" for conflict in conflicts))
    store = Store(out)
    with store.locked():
        for folder in folders:
            _copy_shared(folder, out)
        _copy_results(folders, out)
        for run, folder in chosen.items():
            _copy_run(folder, out, run)
        name = studies[0]["name"]
        store.write_study({"name": name, "schema": studies[0]["schema"], "config": config, "rows": rows})
        write_summary(out, summarize(out))
    finished = sum(_finished(folder, run) for run, folder in chosen.items())
    return Merged(finished, len(runs) - finished, twice)


def _study(folder: Path) -> dict[str, Any]:
    if not (folder / "study.json").is_file():
        raise ValueError(f"{str(folder)!r} is not the folder of a study: there is no study.json in it")
    Store(folder).check_schema()
    found: dict[str, Any] = read_json(folder / "study.json")
    return found


def _one_config(folders: Sequence[Path], configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings of all; where they differ in tasks, pairs and methods, all of these."""
    first = dict(configs[0])
    if all(config == first for config in configs):
        return first
    whole, *others = (_with_defaults(config) for config in configs)
    if all(other == whole for other in others):
        return first
    free = {*GRID_KEYS, "grids", "name"}
    for folder, other in zip(folders[1:], others, strict=True):
        for key in sorted((whole.keys() | other.keys()) - free):
            if whole.get(key) != other.get(key):
                raise ValueError(
                    f"other settings: {key} is {whole.get(key)!r} in {str(folders[0])!r} and {other.get(key)!r} in "
                    f"{str(folder)!r}"
                )
    grids: list[Any] = []
    for config in configs:
        own = {key: config[key] for key in GRID_KEYS if key in config}
        blocks = [own | dict(grid) for grid in config.get("grids", ())] or [own]
        grids += [block for block in blocks if block not in grids]
    return {key: value for key, value in first.items() if key not in (*GRID_KEYS, "grids")} | {"grids": grids}


def _with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those that were left out; as they are where they are no study's, as those of an experiment."""
    try:
        return load_config(config).model_dump(mode="json")
    except ValueError:
        return dict(config)


def _one_plan(folders: Sequence[Path], plans: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Every row once. Raises ValueError where two folders compare a run to different ones."""
    rows: dict[str, tuple[dict[str, Any], Path]] = {}
    for folder, plan in zip(folders, plans, strict=True):
        for row in plan:
            before = rows.setdefault(row["run"], (row, folder))
            if before[0] != row:
                raise ValueError(
                    f"the run {row['run']} is compared to other runs in {str(before[1])!r} and {str(folder)!r}"
                )
    return [row for row, _ in rows.values()]


def _choose(folders: Sequence[Path], runs: Sequence[str]) -> tuple[dict[str, Path], int, list[str]]:
    """Of each run the folder it is taken from, how many runs are there twice, and what is in conflict."""
    chosen: dict[str, Path] = {}
    twice, conflicts = 0, []
    for run in runs:
        having = [folder for folder in folders if (folder / "runs" / f"{run}.json").is_file()]
        done = [folder for folder in having if _finished(folder, run)]
        twice += len(done) > 1
        for two in done[1:]:
            what = _difference(done[0], two, run)
            conflicts += [f"{run} has other {what} in {str(done[0])!r} than in {str(two)!r}"] if what else []
        if having:
            most = max(having, key=lambda folder: len(part_files(folder, "generations", run)))
            chosen[run] = done[0] if done else most
    return chosen, twice, conflicts


def _finished(folder: Path, run: str) -> bool:
    return bool(read_json(folder / "runs" / f"{run}.json")["status"] == "finished")


def _difference(one: Path, two: Path, run: str) -> str | None:
    """The table in which two folders differ about a run, times aside."""
    for table in _TABLES:
        frames = []
        for folder in (one, two):
            parts = [pl.read_parquet(file, glob=False) for file in part_files(folder, table, run)]
            frame = pl.concat(parts, how="diagonal") if parts else pl.DataFrame()
            frames.append(frame.drop([name for name in _TIMES if name in frame.columns]))
        if not frames[0].equals(frames[1]):
            return table
    return None


def _copy_shared(folder: Path, out: Path) -> None:
    """What runs share: the name of each file is a hash of its content, so those of one name are equal."""
    for name in ("examples", "vocabularies"):
        (out / name).mkdir(parents=True, exist_ok=True)
        for file in sorted((folder / name).glob("*.parquet")):
            read_table(file)  # raises where it is damaged
            if not (out / name / file.name).exists():
                shutil.copyfile(file, out / name / file.name)


def _copy_results(folders: Sequence[Path], out: Path) -> None:
    """What judges said, and results of experiments where the folders that have them agree; others are made again."""
    having: dict[Path, list[Path]] = {}
    for folder in folders:
        for pattern in ("measured/*/*", "answers/*.json"):
            for file in sorted(folder.glob(pattern)):
                having.setdefault(file.relative_to(folder), []).append(file)
    for name, files in having.items():
        contents = [file.read_bytes() for file in files]
        if name.suffix == ".jsonl":
            contents = [_all_words(contents)]
        if all(content == contents[0] for content in contents):
            (out / name.parent).mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(contents[0])


def _all_words(files: Sequence[bytes]) -> bytes:
    """The lines of what one judge said, one for each question that it was asked; those cut off are left out."""
    said: dict[str, bytes] = {}
    for line in b"\n".join(files).split(b"\n"):
        try:
            said.setdefault(json.loads(line)["asked"], line)
        except (ValueError, KeyError, TypeError):
            continue
    return b"".join(line + b"\n" for line in said.values())


def _copy_run(folder: Path, out: Path, run: str) -> None:
    for table in _TABLES:
        for file in part_files(folder, table, run):
            (out / table / f"run={run}").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, out / table / f"run={run}" / file.name)
    for name in ("times", "runs"):  # the record last: what it says is there
        if (file := folder / name / f"{run}.json").is_file():
            (out / name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, out / name / file.name)
