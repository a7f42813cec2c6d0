"""What the first use says on stderr, and that it says it once."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import types
from numba.core import config

from fsgen.backends.cpu import compilation
from fsgen.backends.cpu.compilation import announced, compiled
from fsgen.backends.cpu.memory import FLOAT32, at, pointer

COMPILING = "fsgen: compiling for this machine, once; this takes up to a minute\n"


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where compiled code is kept; empty."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    compilation._say_not_kept.cache_clear()
    compilation._say_damaged.cache_clear()
    return tmp_path / "cache"


def check_compiles() -> None:
    """Compiles two small functions, as a process does that has compiled nothing yet."""

    def double(numbers: Any) -> None:
        at(pointer(numbers, FLOAT32), 0)[0] *= np.float32(2)

    def halve(numbers: Any) -> None:
        at(pointer(numbers, FLOAT32), 0)[0] /= np.float32(2)

    number = np.array([3], np.float32)
    with announced():
        made = [compiled(function, types.int64) for function in (double, halve)]
    made[0].ctypes(number.ctypes.data)
    assert number[0] == 6
    made[1].ctypes(number.ctypes.data)
    assert number[0] == 3


def test_compiling_is_said_once_and_not_again_where_it_was_kept(
    cache_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_compiles()
    assert capsys.readouterr() == ("", COMPILING)
    assert len(list(cache_folder.rglob("*.nbc"))) == 2
    check_compiles()
    assert capsys.readouterr() == ("", "")


def test_a_folder_that_cannot_be_written_is_said_once_and_changes_no_result(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    check_compiles()
    said = capsys.readouterr().err
    assert said.count(COMPILING) == 1
    assert said.count("compiled code cannot be kept (no folder can be written), so each process") == 1
    assert "NUMBA_CACHE_DIR" in said


def test_a_full_disk_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    check_compiles()
    said = capsys.readouterr().err
    assert said.count("compiled code cannot be kept (No space left on device)") == 1


@pytest.mark.parametrize("files", ["*.nbi", "*.nbc", "*.nb?"])
@pytest.mark.parametrize("damage", ["empty", "cut", "zeros", "garbage", "bit", "text"])
def test_damaged_code_is_compiled_anew(
    cache_folder: Path, capsys: pytest.CaptureFixture[str], files: str, damage: str
) -> None:
    check_compiles()
    damaged = list(cache_folder.rglob(files))
    for file in damaged:
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[-len(content) // 3] ^= 16  # within the code, or the digests of the index
        kinds = {"empty": b"", "cut": content[: len(content) // 2], "zeros": bytes(len(content))}
        kinds |= {"garbage": np.random.default_rng(0).bytes(len(content)), "bit": bytes(flipped), "text": b"x = 1\n"}
        file.write_bytes(kinds[damage])
    capsys.readouterr()
    check_compiles()
    said = capsys.readouterr().err
    assert said.count(COMPILING) == 1
    assert said.count("is damaged, and is compiled anew") == (
        damage != "bit" or files == "*.nbc"
    )  # another key is not found
    check_compiles()
    assert capsys.readouterr() == ("", ""), "and is kept again"
