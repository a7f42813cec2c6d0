"""What is wrong with the file of a learned router is one line, before any work."""

from __future__ import annotations

import itertools
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsgen.methods.learned.features import names as feature_names
from fsgen.methods.learned.file import FORMAT
from tests.inputs.values import HUGE

HEADER = {"format": FORMAT, "kind": "logistic", "top": 4, "features": list(feature_names(4)), "threshold": 0.5,
          "draft": {"name": "a", "digest": "b"}, "vocabulary": "c", "record": {}}  # fmt: skip
DEEP = "[" * 100_000 + "]" * 100_000


def arrays(size: int = 8) -> dict[str, Any]:
    return {"mean": np.zeros(size), "scale": np.ones(size), "weights": np.zeros(size), "bias": np.zeros(1)}


def write_router(path: Path, header: str | bytes, **changed: Any) -> None:
    text = header.encode("utf-8", "surrogatepass") if isinstance(header, str) else header
    with path.open("wb") as stream:
        np.savez(stream, header=np.frombuffer(text, np.uint8), **arrays() | changed)


def test_the_router_that_the_others_are_made_of_is_one(run: Any, tmp_path: Path) -> None:
    write_router(tmp_path / "good.npz", json.dumps(HEADER))
    assert json.loads(run("router", "show", str(tmp_path / "good.npz")).out)["top"] == 4


def headers() -> Iterator[str]:
    """JSON that is no header of a learned router."""
    yield from ("", "3", "null", "[]", "{", "{}", DEEP, "\ud800", '{"a": ' * 100_000, HUGE * 12)
    values = (
        "null",
        "3.5",
        "-1",
        '"x"',
        "[]",
        "{}",
        "[1]",
        HUGE,
        HUGE * 12,
        "1000000000",
        "1e999",
        "NaN",
        DEEP,
        "true",
    )
    good = {
        "record": ("{}", "[]"),
        "draft": (),
        "vocabulary": tuple(values),
        "threshold": ("3.5", "-1", "1000000000", "true"),
    }
    for key, value in itertools.product(HEADER, values):
        if value not in good.get(key, ()) or value == DEEP:
            yield json.dumps(HEADER | {key: "HERE"}).replace('"HERE"', value)
    yield from (json.dumps({k: v for k, v in HEADER.items() if k != key}) for key in HEADER)


@pytest.mark.parametrize("header", list(headers()), ids=lambda header: ascii(header[-50:]))
def test_a_hostile_header_is_refused(refused: Callable[..., str], header: str, tmp_path: Path) -> None:
    write_router(tmp_path / "router.npz", header)
    assert "no learned router, or is damaged" in refused("router", "show", "router.npz")


@pytest.mark.parametrize(
    "changed",
    [
        {"mean": np.zeros(7)}, {"scale": np.zeros(8)}, {"weights": np.zeros((8, 8))}, {"bias": np.zeros(2)},
        {"mean": np.full(8, np.nan)}, {"mean": np.zeros(8, np.float32)}, {"more": np.zeros(1)},
        {"bias": np.array(["x"])}, {"bias": np.array([None])},
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_refused(refused: Callable[..., str], changed: Any, tmp_path: Path) -> None:
    write_router(tmp_path / "router.npz", json.dumps(HEADER), **changed)
    assert "no learned router, or is damaged" in refused("router", "show", "router.npz")


@pytest.mark.parametrize("shape", ["(10**15,)", "(1000000000000000,)", "(-1,)", "(3037000500, 3037000500)", "(" * 3000,
                                   f"({HUGE},)", "(1.5,)", "x", "(True,)"])  # fmt: skip
def test_shapes_that_are_not_there_are_refused(refused: Callable[..., str], shape: str, tmp_path: Path) -> None:
    described = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    with zipfile.ZipFile(tmp_path / "router.npz", "w") as archive:
        archive.writestr("header.npy", b"\x93NUMPY\x01\x00" + len(described).to_bytes(2, "little") + described)
    assert "no learned router, or is damaged" in refused("router", "show", "router.npz")


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_file_is_refused_or_read(run: Any, tmp_path: Path, seed: int) -> None:
    draw, file = np.random.default_rng(seed), tmp_path / "router.npz"
    write_router(file, json.dumps(HEADER))
    content = bytearray(file.read_bytes())
    content[draw.integers(len(content))] ^= 1 << draw.integers(8)
    file.write_bytes(content if seed % 3 else content[: draw.integers(len(content))])
    answer = run("router", "show", str(file))
    assert (answer.status, answer.err) == (0, "") or (answer.status, answer.err.count("\n")) == (2, 1)
