"""Compiles a function once a machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import cfunc, types

from fsgen.compiled.memory import OPTIONS
from fsgen.compiled.threads import Team

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
