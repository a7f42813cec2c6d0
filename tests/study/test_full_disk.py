"""A disk that is full at any write: one line says so, nothing is half written, and a new start ends as it should.

Writes are counted in an undisturbed run: folders made, files begun, content written, synced, renamed. Then each of them
in turn is the first that fails, half of its content being written. By default some of them are tried, all with
`FSGEN_WRITES=all`.
"""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from fsgen.cli import main
from fsgen.experiments.lab import Lab
from fsgen.files import DamagedError, WriteError, read_table
from fsgen.methods.learned.file import read as read_router
from fsgen.report.chart import Axis, Chart, Figure, Layer
from fsgen.report.figure import export
from fsgen.study import run_study
from fsgen.study.progress import Reporter
from fsgen.study.store import Store
from fsgen.tasks import get
from tests.study.ladder import questions, save_model, small_study, write_study
from tests.study.tables import tables

ALL = os.environ.get("FSGEN_WRITES") == "all"


class Disk:
    """Counts writes below a folder; from the n-th on, there is no room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, room: float = float("inf")) -> None:
        self.writes, self._folder, self._room = 0, str(folder), room
        opened, low = io.open, os.open

        def guarded(done: Callable[..., Any]) -> Callable[..., Any]:
            def write(*arguments: Any, **options: Any) -> Any:
                self.take(arguments[0])
                return done(*arguments, **options)

            return write

        def open_high(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if not set(mode) & set("wax+") or not self.has(file):
                return opened(file, mode, *arguments, **options)
            self.take(file)
            assert mode == "wb", f"a file that is opened with {mode!r} is not watched"
            return _File(self, file)

        def open_low(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
            if flags & os.O_CREAT:
                self.take(path)
            return low(path, flags, *arguments, **options)

        for name in ("fsync", "mkdir", "replace"):
            monkeypatch.setattr(os, name, guarded(getattr(os, name)))
        monkeypatch.setattr(os, "open", open_low)
        monkeypatch.setattr(io, "open", open_high)

    def has(self, what: Any) -> bool:
        """Whether a path, or what a descriptor is of, is below the folder."""
        path = Path(f"/proc/self/fd/{what}").readlink() if isinstance(what, int) else os.fspath(what)
        return str(path).startswith(self._folder)

    def take(self, what: Any) -> None:
        """A write: fails where there is no room."""
        if what is not None and not self.has(what):
            return
        self.writes += 1
        if self.writes > self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), what if isinstance(what, (str, Path)) else None)


class _File(io.FileIO):
    def __init__(self, disk: Disk, path: Any) -> None:
        super().__init__(path, "wb")
        self._disk = disk

    def write(self, content: Any, /) -> int:
        try:
            self._disk.take(None)
        except OSError:
            super().write(memoryview(content)[: len(content) // 2])
            raise
        return super().write(content)


def at_every_write(
    work: Callable[[Path], object], outcome: Callable[[Path], object], folder: Path, step: int = 1
) -> int:
    """Let each write fail, or each `step`-th, and then do the work again; returns how many writes there are."""
    with pytest.MonkeyPatch.context() as patched:
        disk = Disk(patched, folder)
        work(folder / "undisturbed")
    expected, every = outcome(folder / "undisturbed"), disk.writes
    for room in range(0, every, 1 if ALL else step):
        place = folder / f"room-{room}"
        with pytest.MonkeyPatch.context() as patched:
            Disk(patched, folder, room)
            with pytest.raises((WriteError, OSError, SystemExit)) as raised:
                work(place)
        if isinstance(raised.value, SystemExit):
            assert raised.value.code == 2
        else:
            assert "No space left on device" in str(raised.value)
            assert "\n" not in str(raised.value)
        assert not [file for file in place.rglob("*.part") if file.is_file()], "nothing is left half written"
        work(place)
        assert outcome(place) == expected, f"when write {room} of {every} had failed"
    return every


@pytest.fixture(scope="module")
def config(ladder: dict[str, str], data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One pair, a replay and a loop, two examples, each run timed once more."""
    pair = {"draft": ladder["small"], "target": ladder["large"]}
    study = small_study(ladder, data, grids=[{"pairs": [pair], "methods": ["oracle", "speculative"]}], repeats=1)
    study["tasks"][0] |= {"limit": 2, "max_tokens": 2}
    return write_study(tmp_path_factory.mktemp("study") / "study.yaml", study)


def stored(folder: Path) -> dict[str, Any]:
    found = tables(folder)
    for name in [name for name in found if name.startswith("times/")]:
        found[name] = {"tokens": found[name]["tokens"]}
    return found


def test_a_study(config: Path, tmp_path: Path) -> None:
    def work(folder: Path) -> None:
        run_study(config, folder, console=Console(file=io.StringIO()))

    assert at_every_write(work, stored, tmp_path, step=29) > 60


def test_the_command_says_it_in_one_line(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for room in (0, 1, 5, 40):
        with pytest.MonkeyPatch.context() as patched:
            Disk(patched, tmp_path, room)
            with pytest.raises(SystemExit) as end:
                main(["study", str(config), "--out", str(tmp_path / f"{room}")])
        assert end.value.code == 2
        errors = capsys.readouterr().err
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1
        assert str(tmp_path / f"{room}") in errors
        assert "No space left on device" in errors


def test_a_report(config: Path, tmp_path: Path) -> None:
    run_study(config, tmp_path / "study", console=Console(file=io.StringIO()))

    def work(folder: Path) -> None:
        with pytest.raises(SystemExit) as end:
            main(["report", str(tmp_path / "study"), "--out", str(folder / "report.html")])
        if end.value.code:
            raise end.value

    assert at_every_write(work, lambda folder: (folder / "report.html").read_bytes(), tmp_path, step=3) >= 5


def test_figures(tmp_path: Path) -> None:
    axis = Axis("x", "x")
    chart = Chart(x=axis, y=Axis("y", "y"), layers=(Layer("point", [{"x": 1.0, "y": 2.0}]),), series=(), facets=())
    figure = Figure(name="one", title="One", finding="", note="", data=None, chart=chart)  # type: ignore[arg-type]

    def outcome(folder: Path) -> list[str]:
        return sorted(file.name for file in folder.iterdir())

    assert at_every_write(lambda folder: export([figure], folder), outcome, tmp_path, step=4) >= 15


def test_a_router(tmp_path: Path) -> None:
    noises = {"small": 0.1, "large": 0.0}  # they agree half of the time
    models = {name: str(save_model(tmp_path / name, noise)) for name, noise in noises.items()}
    study = {
        "tasks": [{"name": "pocket_math", "limit": 12, "max_tokens": 24, "data": questions(tmp_path)}],
        "pairs": [{"draft": models["small"], "target": models["large"]}],
        "methods": ["oracle"],
    }
    config = write_study(tmp_path / "study.yaml", study)
    run_study(config, tmp_path / "study", console=Console(file=io.StringIO()))

    def work(folder: Path) -> None:
        words = ["router", "train", str(tmp_path / "study"), "--kind", "logistic", "--calls", "0.5"]
        with pytest.raises(SystemExit) as end:
            main([*words, "--out", str(folder / "router.npz")])
        if end.value.code:
            if (folder / "router.npz").exists():
                read_router(folder / "router.npz")  # it is whole, and only its folder could not be synced
            raise end.value

    assert at_every_write(work, lambda folder: (folder / "router.npz").read_bytes(), tmp_path, step=6) >= 5


# ---- what experiments measure


def lab(folder: Path) -> Lab:
    return Lab(Store(folder), "made", None, Reporter(Console(file=io.StringIO())))


TABLE = pl.DataFrame(
    {"a": [0.1 * i for i in range(3000)], "b": [f"x{i}" for i in range(3000)], "c": [None, 1] * 1500},
)


def test_a_measured_table(tmp_path: Path) -> None:
    def outcome(folder: Path) -> object:
        (file,) = (folder / "measured" / "made").iterdir()
        return pl.read_parquet(file).to_dicts()

    def work(folder: Path) -> None:
        assert lab(folder).table("made", {"key": 1}, lambda: TABLE).equals(TABLE)

    assert at_every_write(work, outcome, tmp_path) >= 6


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: 2 * len(content) // 3],
    "garbage": lambda content: bytes(range(256)) * (1 + len(content) // 256),
    **{f"bit {part} of 9": lambda content, part=part: flipped(content, part) for part in range(1, 9)},  # type: ignore[misc]
}


def flipped(content: bytes, part: int) -> bytes:
    place = len(content) * part // 9
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_measured_table_is_made_again(damage: str, tmp_path: Path) -> None:
    made = []

    def make() -> pl.DataFrame:
        made.append(1)
        return TABLE

    lab(tmp_path).table("made", {"key": 1}, make)
    (file,) = (tmp_path / "measured" / "made").iterdir()
    whole = file.read_bytes()
    file.write_bytes(DAMAGES[damage](whole))
    assert lab(tmp_path).table("made", {"key": 1}, make).equals(TABLE)
    assert len(made) == 2, "it was noticed"
    assert lab(tmp_path).table("made", {"key": 1}, make).equals(TABLE)
    assert len(made) == 2
    assert file.read_bytes() == whole


# ---- scores


def test_a_text_that_no_program_can_be_run_for(
    ladder: dict[str, str], data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No room for the folder of a generated program is no failure of the text: the run is made again."""
    rows = [{"text": f"Write f{i}", "task_id": i, "code": "", "test_list": [f"assert f({i}) == 1"]} for i in range(700)]
    programs = tmp_path / "mbpp.jsonl"
    programs.write_text("".join(json.dumps(row | {"test_setup_code": ""}) + "\n" for row in rows))
    pair = {"draft": ladder["small"], "target": ladder["large"]}
    study = small_study(ladder, data, grids=[{"pairs": [pair], "methods": ["oracle"]}])
    study["tasks"] = [{"name": "mbpp", "limit": 2, "max_tokens": 4, "data": str(programs), "shots": 0}]
    config = write_study(tmp_path / "study.yaml", study)
    monkeypatch.setattr(type(get("mbpp")), "extract", lambda *_: "def f(x): return 1")

    def work(folder: Path) -> Any:
        return run_study(config, folder, console=Console(file=io.StringIO()))

    work(tmp_path / "undisturbed")
    expected = tables(tmp_path / "undisturbed")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TMPDIR", "/dev/full")
        patched.setattr("tempfile.tempdir", "/dev/full")
        result = work(tmp_path / "out")
    assert len(result.failed) == 3
    assert all("/dev/full" in error and "\n" not in error for error in result.failed.values())
    assert not work(tmp_path / "out").failed
    assert tables(tmp_path / "out") == expected


def test_damage_is_an_error_for_readers_of_a_folder(tmp_path: Path) -> None:
    lab(tmp_path).table("made", {"key": 1}, lambda: TABLE)
    (file,) = (tmp_path / "measured" / "made").iterdir()
    file.write_bytes(b"")
    with pytest.raises(DamagedError, match="measured"):
        read_table(file)
