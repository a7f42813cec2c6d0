# ruff: noqa: PTH100, PTH103, PTH110, PTH112, PTH118, PTH120, PTH123
"""The launcher of the sandbox: a script that isolates itself, then runs one program.

Started by `fsgen.tasks.sandbox`, never imported by it. It needs the standard library only, reads its orders (one
JSON object) from standard input, and reports on the file descriptor that the orders name.

Three processes take part where namespaces are to be had:

    launcher    outside the process namespace; its death kills the next one
    init        process 1 of the namespace; when it ends, the kernel kills everything inside
    program     the judged code, without privileges and under resource limits

With Landlock, or without isolation, the launcher itself becomes the program.
"""

import sys

del sys.path[0]  # the folder of this script; the program shall import the standard library only

import ctypes  # noqa: E402
import errno  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import select  # noqa: E402
import signal  # noqa: E402
import struct  # noqa: E402
from collections.abc import Iterable  # noqa: E402
from contextlib import suppress  # noqa: E402
from typing import NoReturn  # noqa: E402

UNAVAILABLE = 125  # exit status: the isolation asked for cannot be had here

_libc = ctypes.CDLL(None, use_errno=True)

# ---------------------------------------------------------------- kernel calls

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
_NAMESPACES = _CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS
_CLONE_THREAD = 0x00010000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT = 1, 2, 4, 8, 32
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP = 1, 4, 22
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_NOBODY = 65534

# Numbers of the system calls by machine: those that glibc has no wrapper for, and those that the filter names.
_UNIFIED = {  # the same on every machine
    "pidfd_send_signal": 424, "io_uring_setup": 425, "clone3": 435, "landlock_create_ruleset": 444,
    "landlock_add_rule": 445, "landlock_restrict_self": 446, "fchmodat2": 452,
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
        "prlimit64": 302, "pivot_root": 155, "userfaultfd": 323,
    },
    "aarch64": {
        "socket": 198, "clone": 220, "kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138,
        "rt_tgsigqueueinfo": 240, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "fchmod": 52,
        "fchmodat": 53, "fchownat": 54, "fchown": 55, "utimensat": 88, "setxattr": 5, "lsetxattr": 6,
        "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16, "shmget": 194, "semget": 190,
        "msgget": 186, "mq_open": 180, "bpf": 280, "perf_event_open": 241, "add_key": 217, "request_key": 218,
        "keyctl": 219, "unshare": 97, "setns": 268, "setpriority": 140, "sched_setaffinity": 122,
        "sched_setscheduler": 119, "sched_setparam": 118, "prlimit64": 261, "pivot_root": 41, "userfaultfd": 282,
    },
}  # fmt: skip
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


class Orders:
    """What the caller asks for."""

    def __init__(self, text: bytes) -> None:
        """Read the JSON object that `fsgen.tasks.sandbox` wrote."""
        values = json.loads(text)
        self.mode: str = values["mode"]
        self.parent: int = values["parent"]
        self.folder: str = values["folder"]
        self.report: int = values["report"]
        self.token: str = values["token"]
        self.program: str = values["program"]
        self.seconds: float = values["seconds"]
        self.memory_mb: int = values["memory_mb"]
        self.files_mb: int = values["files_mb"]
        self.processes: int = values["processes"]


class Unavailable(Exception):  # noqa: N818
    """The isolation asked for cannot be set up on this machine."""


def _check(result: int, what: str) -> int:
    if result < 0:
        raise Unavailable(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _numbers() -> dict[str, int]:
    machine = os.uname().machine
    if machine not in _SYSCALLS:
        raise Unavailable(f"no system call numbers for the machine {machine!r}")
    return {**_UNIFIED, **_SYSCALLS[machine]}


def _syscall(name: str, *arguments: object) -> int:
    return _check(_libc.syscall(ctypes.c_long(_numbers()[name]), *arguments), name)


def _prctl(option: int, value: int, what: str) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)), what)


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    result = _libc.mount(source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), data.encode())
    _check(result, f"mount {target}")


def _drop_capabilities() -> None:
    """No capability is left, and none comes back by running another program."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            break  # past the last one, or not ours to drop: capset below empties the sets in use
    header = struct.pack("Ii", 0x20080522, 0)
    _check(_libc.capset(header, struct.pack("6I", *[0] * 6)), "capset")


# ---------------------------------------------------------------- what may be seen


def _visible_paths() -> list[str]:
    """What the interpreter needs to import the standard library: shown read-only, and nothing else."""
    wanted = [path for path in sys.path if path and os.path.isdir(path)]
    wanted += [os.path.join(sys.base_prefix, name) for name in ("lib", "lib64")]
    wanted += ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/nix/store", "/etc/ld.so.cache"]
    kept: list[str] = []
    for path in sorted({os.path.abspath(path) for path in wanted}, key=len):
        inside = any(path.startswith(other + "/") for other in kept)
        if path != "/" and os.path.exists(path) and not inside:
            kept.append(path)
    return kept


_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")

# ---------------------------------------------------------------- isolation by namespaces


def _enter_namespaces(orders: Orders) -> bool:
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
    failed = _libc.unshare(_NAMESPACES) < 0
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
    _build_root(orders.folder, orders.files_mb)
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


def _build_root(folder: str, files_mb: int) -> None:
    """A new root that holds the standard library, read-only, and at its old place the folder, now in memory."""
    root, inner = folder, folder + folder
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    paths = _visible_paths()
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
    os.makedirs(inner)
    _mount("tmpfs", inner, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={files_mb}m,mode=777")
    for path in [*paths, *(device for device in _DEVICES if os.path.exists(device))]:
        target = root + path
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "w"):
                pass
        _mount(path, target, "", _MS_BIND | _MS_REC)
    # Every mount below the root becomes read-only, those that came along with a bound folder included.
    with open("/proc/self/mountinfo") as file:
        points = [line.split()[4].encode().decode("unicode_escape") for line in file]
    writable = {inner, *(root + device for device in _DEVICES)}
    for point in points:
        if (point == root or point.startswith(root + "/")) and point not in writable:
            held = os.statvfs(point).f_flag & (_MS_NOSUID | _MS_NODEV | _MS_NOEXEC | 1024 | 2048 | 4096)
            keep = held & (_MS_NOSUID | _MS_NODEV | _MS_NOEXEC | 1024 | 2048)  # atime flags: same values as MS_*
            keep |= (1 << 21) if held & 4096 else 0  # ST_RELATIME is 4096, MS_RELATIME 1 << 21
            _mount("none", point, "", _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | keep)
    try:
        with open("/proc/sys/user/max_user_namespaces", "w") as file:
            file.write("0")  # no namespaces inside this one
    except OSError:
        pass  # where this cannot be said, a nested namespace still has nothing to reach
    os.chdir(root)
    _syscall("pivot_root", b".", b".")
    _check(_libc.umount2(b".", _MNT_DETACH), "umount of the old root")
    os.chdir(folder)


def _run_in_namespaces(orders: Orders) -> int:
    nobody = _enter_namespaces(orders)
    lifeline = os.pipe()
    init = os.fork()
    if init == 0:
        os.close(lifeline[1])
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, "pdeathsig")
        if select.select([lifeline[0]], [], [], 0)[0]:
            os._exit(0)  # the launcher died before its death could be a signal
        os.close(lifeline[0])
        _be_init(orders, nobody)
    os.close(lifeline[0])
    # Asked to end, kill init and wait for it: it is dead only when everything inside is.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(init, signal.SIGKILL))
    return os.waitstatus_to_exitcode(os.waitpid(init, 0)[1]) & 0xFF


def _be_init(orders: Orders, nobody: bool) -> NoReturn:
    program = os.fork()
    if program == 0:
        if nobody:
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        _drop_capabilities()
        with suppress(Unavailable):  # a second wall, which not every machine has
            _restrict_calls(alone=False)
        # The kernel counts init and the launcher too where they run as the same user.
        _run_program(orders, orders.folder, processes=orders.processes + (0 if nobody else 2))
    _prctl(_PR_SET_DUMPABLE, 0, "dumpable")  # the program cannot look into us
    _drop_capabilities()
    while True:
        process, status = os.wait()
        if process == program:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


# ---------------------------------------------------------------- isolation by Landlock and a system call filter

_READ_FILE, _READ_DIR, _EXECUTE, _WRITE_FILE = 1 << 2, 1 << 3, 1 << 0, 1 << 1
_LANDLOCK_ALL = (1 << 15) - 1  # every file access of version 3
_FIRST_WITH_TRUNCATE, _FIRST_WITH_SCOPES = 3, 6


def _restrict_files(folder: str) -> None:
    """Landlock: read the standard library, write the folder, nothing else."""
    try:
        version = _syscall("landlock_create_ruleset", None, ctypes.c_size_t(0), ctypes.c_uint(1))
    except Unavailable as error:
        raise Unavailable(f"Landlock ({error})") from None
    if version < _FIRST_WITH_TRUNCATE:
        raise Unavailable(f"Landlock version {_FIRST_WITH_TRUNCATE} (this kernel has {version})")
    # Files, network (left to the call filter), and, where the kernel knows them, scopes: abstract sockets and signals.
    handled = struct.pack("QQQ", _LANDLOCK_ALL, 0, 3 if version >= _FIRST_WITH_SCOPES else 0)
    size = 24 if version >= _FIRST_WITH_SCOPES else 8
    ruleset = _syscall("landlock_create_ruleset", handled, ctypes.c_size_t(size), ctypes.c_uint(0))
    read = [(path, _READ_FILE | _READ_DIR | _EXECUTE) for path in _visible_paths()]
    devices = [(path, _READ_FILE | _WRITE_FILE) for path in _DEVICES if os.path.exists(path)]
    for path, access in [*read, *devices, (folder, _LANDLOCK_ALL)]:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if not os.path.isdir(path):
            access &= _READ_FILE | _EXECUTE | _WRITE_FILE
        rule = struct.pack("=Qi", access, descriptor)
        _syscall("landlock_add_rule", ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint(0))
        os.close(descriptor)
    _syscall("landlock_restrict_self", ctypes.c_int(ruleset), ctypes.c_uint(0))
    os.close(ruleset)


class _Filter:
    """A system call filter in the kernel's packet-filter language: rules in order, the first that fits decides."""

    _LOAD, _EQUAL, _AT_LEAST, _HAS_BITS, _GIVE = 0x20, 0x15, 0x35, 0x45, 0x06
    _ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
    _NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in what the filter sees of a call

    def __init__(self) -> None:
        """Let in the calls of this machine only."""
        self._numbers = _numbers()
        self._code: list[tuple[int, int, int, int]] = []
        self._add(self._LOAD, self._MACHINE)
        self._add(self._EQUAL, _AUDIT_ARCH[os.uname().machine], 1, 0)
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

    def only_for(self, name: str, values: tuple[int, ...]) -> None:
        """A call that fails unless its first argument is one of these."""
        self._add(self._EQUAL, self._numbers[name], 0, 2 * len(values) + 2)
        self._add(self._LOAD, self._FIRST_ARGUMENT)
        for value in values:
            self._add(self._EQUAL, value, 0, 1)
            self._add(self._GIVE, self._ALLOW)
        self._add(self._GIVE, self._REFUSE | errno.EPERM)

    def install(self) -> None:
        """Allow all else; from here on the filter holds."""
        self._add(self._GIVE, self._ALLOW)
        code = b"".join(struct.pack("HBBI", *step) for step in self._code)
        buffer = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("HxxxxxxP", len(self._code), ctypes.addressof(buffer))
        result = _libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(2), program, ctypes.c_ulong(0), ctypes.c_ulong(0))
        _check(result, "seccomp filter")


_HANDLED = frozenset({"socket", "clone", "clone3", "fork", "vfork", "kill", "tgkill", "prlimit64"})
_NEVER = (  # what no judged program needs and what namespaces do not hold back by themselves
    "io_uring_setup", "ptrace", "process_vm_readv", "process_vm_writev", "bpf", "perf_event_open", "add_key",
    "request_key", "keyctl", "unshare", "setns", "userfaultfd", "pivot_root",
)  # fmt: skip


def _restrict_calls(*, alone: bool) -> None:
    """No sockets of any family and no tools of attack.

    `alone`: no namespaces are there, so also no children, no signals to others, no change of owners and modes.
    """
    rules = _Filter()
    rules.refuse(["socket"], errno.ENETUNREACH)
    # The arguments of clone3 cannot be read here; without it the C library falls back to clone.
    rules.refuse(["clone3"], errno.ENOSYS)
    if alone:
        rules.refuse(["fork", "vfork"], errno.EAGAIN)
        rules.flags("clone", _CLONE_THREAD, needed=True, error=errno.EAGAIN)
        own = os.getpid()
        rules.only_for("kill", (own,))
        rules.only_for("tgkill", (own,))
        rules.only_for("prlimit64", (0, own))
        rules.refuse([name for name in _numbers() if name not in _HANDLED], errno.EPERM)
    else:
        rules.flags("clone", _NAMESPACES, needed=False, error=errno.EPERM)
        rules.refuse(_NEVER, errno.EPERM)
    rules.install()


def _run_with_landlock(orders: Orders) -> NoReturn:
    os.chdir(orders.folder)
    _drop_capabilities()
    _restrict_files(orders.folder)
    _restrict_calls(alone=True)
    _run_program(orders, orders.folder, processes=None)


# ---------------------------------------------------------------- the program itself


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _which_limit(error: BaseException | None, folder: str) -> str | None:
    """The limit behind an exception that ended the program, as far as the exception tells."""
    seen: list[BaseException] = []
    while isinstance(error, BaseException) and error not in seen:
        seen.append(error)
        if isinstance(error, MemoryError):
            return "memory"
        if isinstance(error, RuntimeError) and "start new thread" in str(error):
            return "processes"
        if isinstance(error, OSError):
            number, name = error.errno, error.filename
            if number == errno.ENOMEM:
                return "memory"
            if isinstance(error, BlockingIOError) and name is None:
                return "processes"
            if number in (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.EAFNOSUPPORT):
                return "network"
            if type(error).__name__ == "gaierror":
                return "network"
            if number in (errno.EROFS, errno.EFBIG, errno.ENOSPC, errno.EDQUOT):
                return "files"
            outside = isinstance(name, str) and not os.path.realpath(name).startswith(folder)
            if outside and number in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.EXDEV):
                return "files"
        reason = getattr(error, "reason", None)
        error = reason if isinstance(reason, OSError) else (error.__cause__ or error.__context__)
    return None


def _describe(error: BaseException, source: str) -> str:
    """One line: what was raised, where in the program, and the line itself."""
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == "<program>":
            line = step.tb_lineno
        step = step.tb_next
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    text = type(error).__name__ + (f": {message}" if message else "")
    if isinstance(line, int):
        lines = source.split("\n")
        code = lines[line - 1].strip() if 0 < line <= len(lines) else ""
        text += f" (line {line}: {code[:200]})"
    return text[:600]


def _execute(source: str) -> BaseException | None:
    """Run the program; its frames see this one, which holds nothing of ours."""
    import builtins

    try:
        code = compile(source, "<program>", "exec", dont_inherit=True)
        exec(code, {"__name__": "__main__", "__builtins__": builtins})
    except BaseException as error:  # whatever ends the program is its result
        return error
    return None


def _run_program(orders: Orders, folder: str, processes: int | None) -> NoReturn:
    """Set the limits, run the program, report."""
    import builtins

    report, token, source = orders.report, orders.token, orders.program
    own = os.getpid()

    def tell(**what: object) -> None:
        os.write(report, json.dumps(what).encode() + b"\n")

    def finish(error: str | None, limit: str | None, token: str = token) -> NoReturn:
        if os.getpid() != own:
            os._exit(0)  # a child of the program that ran on to the end: not its verdict to give
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # the program may have closed or replaced it
                stream.flush()
        tell(token=token, error=error, limit=limit)
        os._exit(0)

    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # what `site`, left out, would give
    os.environ.update(HOME=folder, TMPDIR=folder, PWD=folder)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, 256)
    _limit(resource.RLIMIT_FSIZE, orders.files_mb << 20)
    _limit(resource.RLIMIT_CPU, int(orders.seconds) + 2)
    if processes is not None:
        _limit(resource.RLIMIT_NPROC, processes)
    tell(started=True)
    _limit(resource.RLIMIT_AS, orders.memory_mb << 20)
    del orders, token
    error = _execute(source)
    if error is None:
        finish(None, None)
    if isinstance(error, SystemExit):
        finish(f"the program ended itself before its tests had finished (exit {error.code!r})", None)
    limit = _which_limit(error, folder)
    if limit == "memory":  # what the failed frames hold is needed to tell of it
        finish(type(error.with_traceback(None)).__name__, limit)
    finish(_describe(error, source), limit)


def main() -> int:
    """Read the orders, isolate as they say, run the program."""
    orders = Orders(sys.stdin.buffer.read())
    try:
        if sys.platform == "linux":
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, "pdeathsig")
        if os.getppid() != orders.parent:
            return 0  # whoever asked is gone already
        if orders.mode == "namespaces":
            return _run_in_namespaces(orders)
        if orders.mode == "landlock":
            return _run_with_landlock(orders)
        os.chdir(orders.folder)
        _run_program(orders, orders.folder, processes=None)
    except (Unavailable, OSError) as error:
        os.write(orders.report, json.dumps({"unavailable": str(error)}).encode() + b"\n")
        return UNAVAILABLE


if __name__ == "__main__":
    os._exit(main())
