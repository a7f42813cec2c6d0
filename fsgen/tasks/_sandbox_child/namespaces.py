"""Isolation by namespaces: no network, no processes of others, and a root of its own."""

import ctypes
import os
import re
import select
import signal
from contextlib import suppress
from typing import NoReturn

from fsgen.tasks._sandbox_child.calls import restrict_calls
from fsgen.tasks._sandbox_child.kernel import (
    NAMESPACES,
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    Unavailable,
    check,
    drop_capabilities,
    libc,
    prctl,
    syscall,
)
from fsgen.tasks._sandbox_child.program import DEVICES, Job, run_program, visible_paths

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT = 1, 2, 4, 8, 32
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_MNT_DETACH = 2
_NOBODY = 65534


def _mount(source: str, target: str | bytes, kind: str, flags: int, data: str = "") -> None:
    where = os.fsencode(target)
    result = libc.mount(os.fsencode(source), where, kind.encode() or None, ctypes.c_ulong(flags), data.encode())
    check(result, f"mount {os.fsdecode(where)!r}")


def _enter_namespaces(job: Job) -> bool:
    """Leave the network, the processes and the file system behind; returns whether `nobody` can be used."""
    uid, gid = os.geteuid(), os.getegid()
    ready, go = os.pipe(), os.pipe()
    launcher = os.getpid()
    helper = os.fork()
    if helper == 0:  # stays outside: only from there may more than one's own user be mapped
        status = 1
        try:
            os.close(ready[1])
            os.close(go[0])
            if os.read(ready[0], 1):
                status = _map_users(launcher, uid, gid)
        finally:
            os._exit(status)
    os.close(ready[0])
    failed = libc.unshare(NAMESPACES) < 0
    reason = os.strerror(ctypes.get_errno())
    if not failed:
        os.write(ready[1], b"x")
    os.close(ready[1])
    status = os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1])
    for descriptor in go:
        os.close(descriptor)
    if failed:
        raise Unavailable(f"unshare (user, mount, process, network namespaces): {reason}")
    if status not in (0, 10):
        raise Unavailable("the user map of a new user namespace cannot be written")
    _build_root(job)
    return status == 10


def _map_users(launcher: int, uid: int, gid: int) -> int:
    """Map root and nobody where we are root (status 10), else the caller alone (status 0)."""

    def write(name: str, text: str) -> None:
        with open(f"/proc/{launcher}/{name}", "w") as file:
            file.write(text)

    if uid == 0:
        try:
            write("uid_map", f"0 {uid} 1\n{_NOBODY} {_NOBODY} 1\n")
            write("gid_map", f"0 {gid} 1\n{_NOBODY} {_NOBODY} 1\n")
            return 10
        except OSError:
            pass  # a container with few users: go on with the one we have
    try:
        write("setgroups", "deny")
        write("uid_map", f"{uid} {uid} 1\n")
        write("gid_map", f"{gid} {gid} 1\n")
        return 0
    except OSError:
        return 1


def _build_root(job: Job) -> None:
    """A new root that holds the standard library, read-only, and at its old place the folder, now in memory."""
    root, inner = job.folder, job.folder + job.folder
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    paths, hidden = visible_paths(job.libraries)
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
    os.makedirs(inner)
    room = f"size={job.files_mb}m,nr_inodes={job.files_mb << 8},mode=777"  # an empty file takes memory too
    _mount("tmpfs", inner, "tmpfs", _MS_NOSUID | _MS_NODEV, room)
    for path in [*paths, *(device for device in DEVICES if os.path.exists(device))]:
        target = root + path
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "w"):
                pass
        _mount(path, target, "", _MS_BIND | _MS_REC)
    for path in hidden:
        _mount("tmpfs", root + path, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=4k,mode=755")
    try:
        with open("/proc/sys/user/max_user_namespaces", "w") as file:
            file.write("0")  # no namespaces inside this one
    except OSError:
        pass  # where this cannot be said, a nested namespace still has nothing to reach
    process = os.open("/proc/self", os.O_PATH)  # of use after the old root is gone
    os.chdir(root)
    syscall("pivot_root", b".", b".")
    check(libc.umount2(b".", _MNT_DETACH), "umount of the old root")
    _make_read_only(process, {os.fsencode(path) for path in (job.folder, *DEVICES)})
    os.close(process)
    os.chdir(job.folder)


def _make_read_only(process: int, but: set[bytes]) -> None:
    """All mounts but these, those that came along with a bound folder included; refuses where one stays writable."""
    with open(os.open("mountinfo", os.O_RDONLY, dir_fd=process), "rb") as file:
        fields = [line.split(b" ")[4] for line in file]
    points = {re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), field) for field in fields}
    if b"/" not in points:
        raise Unavailable("the list of mounts, /proc/self/mountinfo, is not that of the new root")
    for point in points - but:
        held = os.statvfs(point).f_flag & (_MS_NOSUID | _MS_NODEV | _MS_NOEXEC | 1024 | 2048 | 4096)
        keep = held & (_MS_NOSUID | _MS_NODEV | _MS_NOEXEC | 1024 | 2048)  # atime flags: same values as MS_*
        keep |= (1 << 21) if held & 4096 else 0  # ST_RELATIME is 4096, MS_RELATIME 1 << 21
        _mount("none", point, "", _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | keep)
        if not os.statvfs(point).f_flag & os.ST_RDONLY:
            raise Unavailable(f"the mount at {os.fsdecode(point)!r} stays writable")


def run_in_namespaces(job: Job) -> int:
    """Starts the first process of the namespaces, waits for its end and gives its exit status."""
    nobody = _enter_namespaces(job)
    lifeline = os.pipe()
    init = os.fork()
    if init == 0:
        os.close(lifeline[1])
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, "pdeathsig")
        if select.select([lifeline[0]], [], [], 0)[0]:
            os._exit(0)  # the launcher died before its death could be a signal
        os.close(lifeline[0])
        _be_init(job, nobody)
    os.close(lifeline[0])
    # Asked to end, kill init and wait for it: it is dead only when everything inside is.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(init, signal.SIGKILL))
    return os.waitstatus_to_exitcode(os.waitpid(init, 0)[1]) & 0xFF


def _be_init(job: Job, nobody: bool) -> NoReturn:
    """The first process of the namespaces: starts the program, and ends with its exit status."""
    program = os.fork()
    if program == 0:
        if nobody:
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        drop_capabilities()
        with suppress(Unavailable):  # a second wall, which not every machine has
            restrict_calls(alone=False)
        # The kernel counts init and the launcher too where they run as the same user.
        run_program(job, job.folder, processes=job.processes + (0 if nobody else 2))
    prctl(PR_SET_DUMPABLE, 0, "dumpable")  # the program cannot look into us
    drop_capabilities()
    while True:
        process, status = os.wait()
        if process == program:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
