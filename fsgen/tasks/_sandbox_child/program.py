"""The judged program: what it may read, its limits, and how its end is reported."""

import builtins
import errno
import json
import math
import os
import resource
import sys
from contextlib import suppress
from typing import NoReturn

DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")  # may be read and written


class Job:
    """What is to be run, how it is isolated, and its limits."""

    def __init__(self, text: bytes) -> None:
        """Read the JSON object that `fsgen.tasks.sandbox` wrote."""
        values = json.loads(text)
        self.mode: str = values["mode"]
        self.parent: int = values["parent"]
        self.folder: str = values["folder"]
        self.libraries: list[str] = values["libraries"]
        self.report: int = values["report"]
        self.program: str = values["program"]
        self.calls: list[str] = values["calls"]
        self.seconds: float = values["seconds"]
        self.memory_mb: int = values["memory_mb"]
        self.files_mb: int = values["files_mb"]
        self.processes: int = values["processes"]


def visible_paths(libraries: list[str]) -> tuple[list[str], list[str]]:
    """What is shown read-only, the standard library and its shared libraries, and folders in it that are not."""
    folders = [path for path in sys.path if os.path.isdir(path)]
    shown: list[str] = []
    for path in sorted({*folders, *libraries, "/usr/share/zoneinfo", "/etc/ld.so.cache"}, key=len):
        if os.path.exists(path) and not any(path.startswith(other + "/") for other in shown):
            shown.append(path)
    packages = [os.path.join(path, name) for path in folders for name in ("site-packages", "dist-packages")]
    return shown, [path for path in packages if os.path.isdir(path)]


def _limit(kind: int, value: int, more: int = 0) -> None:
    hard = resource.getrlimit(kind)[1]
    last = value + more if hard == resource.RLIM_INFINITY else min(value + more, hard)
    resource.setrlimit(kind, (min(value, last), last))


def _which_limit(error: BaseException | None, folder: str) -> str | None:
    """The limit behind an exception that ended the program, as far as it or what caused it tells."""
    seen: list[BaseException] = []
    while isinstance(error, BaseException) and error not in seen:
        seen.append(error)
        if isinstance(error, MemoryError):
            return "memory"
        if isinstance(error, RuntimeError) and "start new thread" in str(error):
            return "processes"
        if isinstance(error, OSError) and (limit := _limit_of(error, folder)):
            return limit
        reason = getattr(error, "reason", None)
        error = reason if isinstance(reason, OSError) else (error.__cause__ or error.__context__)
    return None


def _limit_of(error: OSError, folder: str) -> str | None:
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
    return "files" if outside and number in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.EXDEV) else None


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


def _plain(value: object) -> object:
    """A value as JSON, see `fsgen.tasks.assertions`."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[_plain(key), _plain(item)] for key, item in value.items()]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": list(value)}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [_plain(item) for item in value]}
    raise TypeError(f"{type(value).__name__!r} is no plain data")


def _execute(source: str, calls: list[str], folder: str) -> str:
    """Run the program and make the calls: the report of what they returned, or of what ended the program."""
    try:
        names = {"__name__": "__main__", "__builtins__": builtins}
        exec(compile(source, "<program>", "exec", dont_inherit=True), names)
        return json.dumps({"passed": True, "values": [_plain(eval(call, names)) for call in calls]})
    except SystemExit as error:
        limit, text = None, f"the program ended itself before its tests had finished (exit {error.code!r})"
    except BaseException as error:  # whatever ends the program is its result
        limit = _which_limit(error, folder)
        # What the failed frames hold is needed to tell of a lack of memory.
        text = type(error.with_traceback(None)).__name__ if limit == "memory" else _describe(error, source)
    return json.dumps({"passed": False, "error": text, "limit": limit})


def _tell(report: int, text: str) -> None:
    data = text.encode() + b"\n"
    while data:
        data = data[os.write(report, data) :]


def run_program(job: Job, folder: str, processes: int | None) -> NoReturn:
    """Set the limits, run the program, report; the program can forge all that is said from here on."""
    own = os.getpid()
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # what `site`, left out, would give
    os.environ.update(HOME=folder, TMPDIR=folder, PWD=folder)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, 64)
    _limit(resource.RLIMIT_FSIZE, job.files_mb << 20)
    # Its own time starts now; and a second more for a program that does not listen to the first signal.
    limit = math.ceil(sum(os.times()[:2]) + job.seconds)
    _limit(resource.RLIMIT_CPU, limit, 1)
    if processes is not None:
        _limit(resource.RLIMIT_NPROC, processes)
    _tell(job.report, '{"started": true}')
    _limit(resource.RLIMIT_AS, job.memory_mb << 20)
    outcome = _execute(job.program, job.calls, folder)
    if os.getpid() != own:
        os._exit(0)  # a child of the program that ran on to the end: not its result to tell
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # the program may have closed or replaced it
            stream.flush()
    _tell(job.report, outcome)
    os._exit(0)
