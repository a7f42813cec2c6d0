"""Compiled functions on torch's own threads.

A second pool would fight the first one for the cores: torch's threads wait for their next work spinning. So compiled
code calls the OpenMP runtime that torch has loaded, by its C interface. Where there is none, all runs on one thread.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from llvmlite import binding
from numba import cfunc, types

from fsgen.backends.cpu.memory import inlined

_runtime = ctypes.CDLL(None)
_parallel = getattr(_runtime, "GOMP_parallel", None)

# What compiled code calls: its name there and in the runtime, its type, and what stands for it where all is one thread.
_CALLS: tuple[tuple[str, str, Any, Any], ...] = (
    ("fsgen_barrier", "GOMP_barrier", types.void(), lambda: None),
    ("fsgen_thread", "omp_get_thread_num", types.int32(), lambda: 0),
    ("fsgen_team", "omp_get_num_threads", types.int32(), lambda: 1),
)
_stand_ins = []
for _name, _theirs, _type, _alone in _CALLS:
    _function = getattr(_runtime, _theirs, None)
    if _function is not None and _parallel is not None:
        _address = ctypes.cast(_function, ctypes.c_void_p).value
    else:
        _stand_ins.append(cfunc(_type)(_alone))
        _address = _stand_ins[-1].address
    binding.add_symbol(_name, _address)

# For compiled code: all threads of the team meet; the number of this one; how many there are.
barrier, thread, team = (types.ExternalFunction(name, kind) for name, _, kind, _ in _CALLS)


@inlined
def share(things):
    """Which of so many things are this thread's: from .. to - 1."""
    me, all_of_us = np.int64(thread()), np.int64(team())
    return things * me // all_of_us, things * (me + 1) // all_of_us


class Team:
    """A compiled function, to be called on every thread that torch would use.

    Args:
        function: a `cfunc` of one address.
    """

    def __init__(self, function: Any) -> None:
        self._address = ctypes.c_void_p(function.address)
        self._alone = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function.address)
        self._function = function  # which holds the code

    def __call__(self, arguments: int, alone: bool = False) -> None:
        """Calls it; `alone`: on this thread only."""
        threads = torch.get_num_threads()
        if alone or threads == 1 or _parallel is None:
            self._alone(arguments)
        else:
            _parallel(self._address, ctypes.c_void_p(arguments), threads, 0)
