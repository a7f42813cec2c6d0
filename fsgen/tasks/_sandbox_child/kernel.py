"""What the launcher asks of the Linux kernel: its calls and their numbers, with an error where one fails."""

import ctypes
import os
import struct

libc = ctypes.CDLL(None, use_errno=True)

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
NAMESPACES = _CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS
CLONE_THREAD = 0x00010000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP = 1, 4, 22
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38

# Numbers of the system calls by machine: those that glibc has no wrapper for, and those that the filter names.
_UNIFIED = {  # the same on every machine
    "pidfd_send_signal": 424, "io_uring_setup": 425, "clone3": 435, "landlock_create_ruleset": 444,
    "landlock_add_rule": 445, "landlock_restrict_self": 446, "memfd_secret": 447, "fchmodat2": 452,
}  # fmt: skip
_SYSCALLS = {
    "x86_64": {
        "socket": 41, "clone": 56, "fork": 57, "vfork": 58, "kill": 62, "tkill": 200, "tgkill": 234,
        "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "ptrace": 101, "process_vm_readv": 310,
        "process_vm_writev": 311, "chmod": 90, "fchmod": 91, "fchmodat": 268, "chown": 92, "fchown": 93,
        "lchown": 94, "fchownat": 260, "utime": 132, "utimes": 235, "futimesat": 261, "utimensat": 280,
        "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198,
        "fremovexattr": 199, "shmget": 29, "semget": 64, "msgget": 68, "mq_open": 240, "bpf": 321,
        "perf_event_open": 298, "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272, "setns": 308,
        "setpriority": 141, "sched_setaffinity": 203, "sched_setscheduler": 144, "sched_setparam": 142,
        "prlimit64": 302, "pivot_root": 155, "userfaultfd": 323, "memfd_create": 319, "fcntl": 72, "ioctl": 16,
        "prctl": 157,
    },
    "aarch64": {
        "socket": 198, "clone": 220, "kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138,
        "rt_tgsigqueueinfo": 240, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "fchmod": 52,
        "fchmodat": 53, "fchownat": 54, "fchown": 55, "utimensat": 88, "setxattr": 5, "lsetxattr": 6,
        "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16, "shmget": 194, "semget": 190,
        "msgget": 186, "mq_open": 180, "bpf": 280, "perf_event_open": 241, "add_key": 217, "request_key": 218,
        "keyctl": 219, "unshare": 97, "setns": 268, "setpriority": 140, "sched_setaffinity": 122,
        "sched_setscheduler": 119, "sched_setparam": 118, "prlimit64": 261, "pivot_root": 41, "userfaultfd": 282,
        "memfd_create": 279, "fcntl": 25, "ioctl": 29, "prctl": 167,
    },
}  # fmt: skip
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


class Unavailable(Exception):  # noqa: N818
    """The isolation asked for cannot be set up on this machine."""


def check(result: int, what: str) -> int:
    """The result of a call, or `Unavailable` with what the kernel says of it."""
    if result < 0:
        raise Unavailable(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def numbers() -> dict[str, int]:
    """The numbers of the system calls on this machine, by name."""
    machine = os.uname().machine
    if machine not in _SYSCALLS:
        raise Unavailable(f"no system call numbers for the machine {machine!r}")
    return {**_UNIFIED, **_SYSCALLS[machine]}


def syscall(name: str, *arguments: object) -> int:
    """A system call that the C library has no function for."""
    return check(libc.syscall(ctypes.c_long(numbers()[name]), *arguments), name)


def prctl(option: int, value: int, what: str) -> None:
    """Sets a property of this process."""
    check(libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)), what)


def drop_capabilities() -> None:
    """No capability is left, and none comes back by running another program."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")
    for capability in range(64):
        if libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            break  # past the last one, or not ours to drop: capset below empties the sets in use
    header = struct.pack("Ii", 0x20080522, 0)
    check(libc.capset(header, struct.pack("6I", *[0] * 6)), "capset")
