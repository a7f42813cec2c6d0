"""Compiles functions, once a machine, and says so."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numba import cfunc, from_dtype, types
from numba.core import event
from numpy.typing import NDArray
from torch import Tensor

from fsgen.backends.cpu.memory import OPTIONS


def source() -> int:
    """What distinguishes one state of this folder's source from another.

    A function that is kept reads it, and other plain values, as its variables from outside: they tell numba which of
    the kept ones it is. What it calls numba does not look at.
    """
    files = sorted(Path(__file__).parent.glob("*.py"))
    return int(hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:15], 16)


def compiled(function: Callable[..., None], *given: Any) -> Any:
    """A C function, from the disk where it was compiled before.

    Args:
        given: its arguments: 64-bit numbers, or a NumPy record type, of which it takes an address.
    """
    signature = types.void(*(types.CPointer(from_dtype(one)) if isinstance(one, np.dtype) else one for one in given))
    try:
        return cfunc(signature, cache=True, **OPTIONS)(function)
    except (RuntimeError, OSError) as error:  # no folder can be written, or it is full
        _say(f"compiled code cannot be kept, and is compiled by each process ({str(error).splitlines()[0]})")
        return cfunc(signature, **OPTIONS)(function)


@contextmanager
def announced() -> Iterator[None]:
    """Where anything is compiled within it, it says so on stderr."""
    with event.install_listener("numba:run_pass", _Announcement()):
        yield


class _Announcement(event.Listener):  # type: ignore[misc]
    def __init__(self) -> None:
        self._made = False

    def on_start(self, _: Any) -> None:
        if not self._made:
            self._made = True
            _say("compiling for this machine, once; this takes up to a minute")

    def on_end(self, _: Any) -> None:
        pass


def _say(text: str) -> None:
    print(f"fsgen: {text}", file=sys.stderr, flush=True)


def address(numbers: NDArray[Any] | Tensor) -> int:
    """Where the first one lies."""
    return numbers.data_ptr() if isinstance(numbers, Tensor) else numbers.ctypes.data
