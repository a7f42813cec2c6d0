"""Compiles a function once a machine, and calls one over many positions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import cfunc, types
from numpy.typing import NDArray

from fsgen.backends.cpu.memory import OPTIONS
from fsgen.backends.cpu.threads import Team

FEW = 8  # positions that one thread has done before two have met
_SIGNATURE = types.void(types.CPointer(types.int64))


def source(*folders: Path) -> int:
    """What tells one state of the source from another: of these folders, and of what all compiled code shares.

    A function that is to be kept reads it, and other plain values, as its variables from outside: they tell numba
    which of the kept ones it is. What it calls numba does not look at.
    """
    files = sorted(file for folder in (Path(__file__).parent, *folders) for file in folder.glob("*.py"))
    return int(hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:15], 16)


def compiled(function: Callable[[Any], None]) -> Team:
    """A function of one address, from the disk where it was compiled before."""
    try:
        return Team(cfunc(_SIGNATURE, cache=True, **OPTIONS)(function))
    except RuntimeError:  # no folder can be written
        return Team(cfunc(_SIGNATURE, **OPTIONS)(function))


def call(function: Team, size: int, told: dict[int, int | NDArray[Any]]) -> None:
    """Calls a function over positions, on several threads where there are more than a few.

    Args:
        size: of what it reads; entry 0 is how many positions there are.
        told: the entries: numbers, and arrays, of which it is told the addresses.
    """
    arguments = np.zeros(size, np.int64)
    for field, value in told.items():
        arguments[field] = value if isinstance(value, int) else value.ctypes.data
    function(arguments.ctypes.data, alone=int(arguments[0]) < FEW)
