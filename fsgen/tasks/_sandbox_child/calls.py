"""The system call filter: which calls of the kernel a judged program may make."""

import ctypes
import errno
import os
import struct
from collections.abc import Iterable

from fsgen.tasks._sandbox_child.kernel import (
    AUDIT_ARCH,
    CLONE_THREAD,
    NAMESPACES,
    PR_SET_PDEATHSIG,
    PR_SET_SECCOMP,
    check,
    libc,
    numbers,
)


class Filter:
    """A system call filter in the kernel's packet-filter language: rules in order, the first that fits decides."""

    _LOAD, _EQUAL, _AT_LEAST, _HAS_BITS, _GIVE = 0x20, 0x15, 0x35, 0x45, 0x06
    _ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
    _NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in what the filter sees of a call

    def __init__(self) -> None:
        """Let in the calls of this machine only."""
        self._numbers = numbers()
        self._code: list[tuple[int, int, int, int]] = []
        self._add(self._LOAD, self._MACHINE)
        self._add(self._EQUAL, AUDIT_ARCH[os.uname().machine], 1, 0)
        self._add(self._GIVE, self._KILL)
        self._add(self._LOAD, self._NUMBER)
        self._add(self._AT_LEAST, 0x40000000, 0, 1)  # the x32 calls of an x86-64 kernel
        self._add(self._GIVE, self._REFUSE | errno.EPERM)

    def _add(self, code: int, value: int, skip_if: int = 0, skip_else: int = 0) -> None:
        self._code.append((code, skip_if, skip_else, value))

    def refuse(self, names: Iterable[str], error: int) -> None:
        """Calls that fail with this error."""
        for name in names:
            if name in self._numbers:
                self._add(self._EQUAL, self._numbers[name], 0, 1)
                self._add(self._GIVE, self._REFUSE | error)

    def flags(self, name: str, bits: int, *, needed: bool, error: int) -> None:
        """A call that fails unless (where not `needed`: if) its first argument has one of these bits."""
        yes, no = (self._ALLOW, self._REFUSE | error) if needed else (self._REFUSE | error, self._ALLOW)
        self._add(self._EQUAL, self._numbers[name], 0, 4)
        self._add(self._LOAD, self._FIRST_ARGUMENT)
        self._add(self._HAS_BITS, bits, 0, 1)
        self._add(self._GIVE, yes)
        self._add(self._GIVE, no)

    def by_value(self, name: str, argument: int, values: tuple[int, ...], *, allowed: bool) -> None:
        """A call that is allowed, or refused, with these values of one argument, and with others the reverse."""
        these, others = self._ALLOW, self._REFUSE | errno.EPERM
        if not allowed:
            these, others = others, these
        self._add(self._EQUAL, self._numbers[name], 0, 2 * len(values) + 2)
        self._add(self._LOAD, self._FIRST_ARGUMENT + 8 * argument)
        for value in values:
            self._add(self._EQUAL, value, 0, 1)
            self._add(self._GIVE, these)
        self._add(self._GIVE, others)

    def install(self) -> None:
        """Allow all else; from here on the filter holds."""
        self._add(self._GIVE, self._ALLOW)
        code = b"".join(struct.pack("HBBI", *step) for step in self._code)
        buffer = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("HxxxxxxP", len(self._code), ctypes.addressof(buffer))
        result = libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(2), program, ctypes.c_ulong(0), ctypes.c_ulong(0))
        check(result, "seccomp filter")


_HANDLED = frozenset(
    {"socket", "clone", "clone3", "fork", "vfork", "kill", "tgkill", "prlimit64", "fcntl", "ioctl", "prctl"}
)
_NEVER = (  # what no judged program needs and what namespaces do not hold back by themselves
    "io_uring_setup", "ptrace", "process_vm_readv", "process_vm_writev", "bpf", "perf_event_open", "add_key",
    "request_key", "keyctl", "unshare", "setns", "userfaultfd", "pivot_root",
    "memfd_create", "memfd_secret", "shmget", "semget", "msgget", "mq_open",  # memory that no limit counts
)  # fmt: skip


def restrict_calls(*, alone: bool) -> None:
    """No sockets of any family and no tools of attack.

    `alone`: no namespaces are there, so also no children, no signals to others, no change of owners and modes.
    """
    rules = Filter()
    rules.refuse(["socket"], errno.ENETUNREACH)
    # The arguments of clone3 cannot be read here; without it the C library falls back to clone.
    rules.refuse(["clone3"], errno.ENOSYS)
    # A descriptor that sends signals, to any process of the same user where no namespace is in between.
    rules.by_value("fcntl", 1, (8, 10, 15), allowed=False)  # F_SETOWN, F_SETSIG, F_SETOWN_EX
    rules.by_value("ioctl", 1, (0x8901, 0x8902), allowed=False)  # FIOSETOWN, SIOCSPGRP
    rules.by_value("prctl", 0, (PR_SET_PDEATHSIG,), allowed=False)  # the end with the caller cannot be called off
    if alone:
        rules.refuse(["fork", "vfork"], errno.EAGAIN)
        rules.flags("clone", CLONE_THREAD, needed=True, error=errno.EAGAIN)
        own = os.getpid()
        rules.by_value("kill", 0, (own,), allowed=True)
        rules.by_value("tgkill", 0, (own,), allowed=True)
        rules.by_value("prlimit64", 0, (0, own), allowed=True)
        rules.refuse([name for name in numbers() if name not in _HANDLED], errno.EPERM)
    else:
        rules.flags("clone", NAMESPACES, needed=False, error=errno.EPERM)
        rules.refuse(_NEVER, errno.EPERM)
    rules.install()
