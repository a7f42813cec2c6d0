"""Compiles functions, once for each machine, and says so."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import cfunc, from_dtype, types
from numba.core import event, sigutils
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.ccallback import CFunc
from numba.core.serialize import dumps
from numpy.typing import NDArray
from torch import Tensor

from fsgen.backends.cpu.memory import OPTIONS


def source() -> int:
    """A digest of this folder's source, which a cached function reads as a variable from outside.

    numba finds a cached function by its own source and the values of such variables; what it calls it does not look at.
    """
    files = sorted(Path(__file__).parent.glob("*.py"))
    return int(hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:15], 16)


def compiled(function: Callable[..., None], *given: Any) -> Any:
    """A C function; from the disk, where it was compiled before.

    Args:
        given: the types of its arguments: 64-bit numbers, or a NumPy record, of which it takes the address.
    """
    signature = types.void(*(types.CPointer(from_dtype(one)) if isinstance(one, np.dtype) else one for one in given))
    try:
        made = _Function(function, sigutils.normalize_signature(signature), {}, OPTIONS)
        made.enable_caching()
        made.compile()
        return made
    except (RuntimeError, OSError) as error:  # no folder can be written, or it is full
        _say_not_kept(getattr(error, "strerror", None) or "no folder can be written")
        return cfunc(signature, **OPTIONS)(function)


class _Function(CFunc):
    def enable_caching(self) -> None:
        self._cache = _Cache(self._pyfunc)  # type: ignore[attr-defined]


class _WithDigest(CompileResultCacheImpl):  # type: ignore[misc]
    """Compiled code with its digest: a processor given damaged code ends the process."""

    def reduce(self, result: Any) -> tuple[bytes, bytes]:
        code = dumps(super().reduce(result))
        return hashlib.sha256(code).digest(), code

    def rebuild(self, context: Any, stored: tuple[bytes, bytes]) -> Any:
        digest, code = stored
        if hashlib.sha256(code).digest() != digest:
            raise ValueError("the digest is another one")
        return super().rebuild(context, pickle.loads(code))


class _Cache(FunctionCache):  # type: ignore[misc]
    """numba's, but what is damaged there counts as not there, and is written anew."""

    _impl_class = _WithDigest

    def load_overload(self, signature: Any, context: Any) -> Any:
        try:
            return super().load_overload(signature, context)
        except Exception:  # whatever damage makes of pickle
            _say_damaged(self.cache_path)
            self.flush()
            return None


@contextmanager
def announced() -> Iterator[None]:
    """Says on stderr, once, if anything is compiled within it."""
    with event.install_listener("numba:run_pass", _Announcement()):
        yield


class _Announcement(event.Listener):  # type: ignore[misc]
    def __init__(self) -> None:
        self._said = False

    def on_start(self, _: Any) -> None:
        if not self._said:
            self._said = True
            _say("compiling for this machine, once; this takes up to a minute")

    def on_end(self, _: Any) -> None:
        pass


@cache  # once, not for each function
def _say_not_kept(reason: str) -> None:
    _say(
        f"compiled code cannot be kept ({reason}), so each process compiles it again; set NUMBA_CACHE_DIR to a folder "
        "that can be written"
    )


@cache
def _say_damaged(folder: str) -> None:
    _say(f"compiled code in {folder} is damaged, and is compiled anew")


def _say(text: str) -> None:
    print(f"fsgen: {text}", file=sys.stderr, flush=True)


def address(numbers: NDArray[Any] | Tensor) -> int:
    """Of the first number."""
    return numbers.data_ptr() if isinstance(numbers, Tensor) else numbers.ctypes.data
