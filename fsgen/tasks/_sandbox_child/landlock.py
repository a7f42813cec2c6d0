"""Isolation where namespaces are not allowed: Landlock restricts files, a system call filter all else."""

import ctypes
import os
import struct
from typing import NoReturn

from fsgen.tasks._sandbox_child.calls import restrict_calls
from fsgen.tasks._sandbox_child.kernel import Unavailable, drop_capabilities, syscall
from fsgen.tasks._sandbox_child.program import DEVICES, Job, run_program, visible_paths

_READ_FILE, _READ_DIR, _WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
_LANDLOCK_ALL = (1 << 15) - 1  # every file access of version 3
_FIRST_WITH_TRUNCATE, _FIRST_WITH_SCOPES = 3, 6


def _restrict_files(job: Job) -> None:
    """Landlock: read the standard library, write the folder, nothing else."""
    try:
        version = syscall("landlock_create_ruleset", None, ctypes.c_size_t(0), ctypes.c_uint(1))
    except Unavailable as error:
        raise Unavailable(f"Landlock ({error})") from None
    if version < _FIRST_WITH_TRUNCATE:
        raise Unavailable(f"Landlock version {_FIRST_WITH_TRUNCATE} (this kernel has {version})")
    # Files, network (left to the call filter), and, where the kernel knows them, scopes: abstract sockets and signals.
    handled = struct.pack("QQQ", _LANDLOCK_ALL, 0, 3 if version >= _FIRST_WITH_SCOPES else 0)
    size = 24 if version >= _FIRST_WITH_SCOPES else 8
    ruleset = syscall("landlock_create_ruleset", handled, ctypes.c_size_t(size), ctypes.c_uint(0))
    shown, hidden = visible_paths(job.libraries)
    parents = {os.path.dirname(path) for path in hidden}  # whose names alone are shown, and all else in them by itself
    inside = [os.path.join(path, name) for path in parents for name in os.listdir(path)]
    names = [(path, _READ_DIR) for path in parents]
    whole = [path for path in [*shown, *inside] if path not in parents and path not in hidden and os.path.exists(path)]
    read = [(path, _READ_FILE | _READ_DIR) for path in whole]
    devices = [(path, _READ_FILE | _WRITE_FILE) for path in DEVICES if os.path.exists(path)]
    for path, access in [*names, *read, *devices, (job.folder, _LANDLOCK_ALL)]:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if not os.path.isdir(path):
            access &= _READ_FILE | _WRITE_FILE
        rule = struct.pack("=Qi", access, descriptor)
        syscall("landlock_add_rule", ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint(0))
        os.close(descriptor)
    syscall("landlock_restrict_self", ctypes.c_int(ruleset), ctypes.c_uint(0))
    os.close(ruleset)


def run_with_landlock(job: Job) -> NoReturn:
    """Becomes the program, which can start no other."""
    os.chdir(job.folder)
    drop_capabilities()
    _restrict_files(job)
    restrict_calls(alone=True)
    run_program(job, job.folder, processes=None)
