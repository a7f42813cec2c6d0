"""One process of the sandbox: started with its job, watched, ended at the first limit that it meets, and read."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from fsgen.tasks import _sandbox_folder, _sandbox_memory, assertions

Limit = Literal["time", "memory", "processes", "output", "network", "files"]
Isolation = Literal["namespaces", "landlock", "none"]

_CHILD = Path(__file__).parent / "_sandbox_child"
# -S and a scrubbed environment instead of -I, which would ignore the fixed hash seed.
_PYTHON = [sys.executable, "-s", "-S", "-B", "-X", "utf8"]
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
_UNAVAILABLE = 125  # the child's exit status where the isolation cannot be had
WALL = 6
"""Times the limit on processor time is the limit on wall-clock time: for programs that wait, not for busy machines."""
START_SECONDS = 60.0  # for the interpreter to start, on a machine however busy
_REPORT_BYTES = 1 << 18


class SandboxUnavailable(RuntimeError):  # noqa: N818  # a state of the machine
    """This machine offers no way to isolate a program; the message says what is missing."""


@dataclass(frozen=True)
class SandboxResult:
    """What became of one program.

    Attributes:
        passed: The program ran to its end without an exception, within all limits, and all tests hold. Without tests
            this is only what the program's own process says.
        limit: The limit that stopped it, None where none did.
        error: One line that says what went wrong, empty where it passed.
        stdout: What it printed (standard output, then standard error), cut at the limit.
        seconds: Wall-clock time of the program itself, without the start of the interpreter.
        values: What the calls in the tests returned, as plain data.
    """

    passed: bool
    limit: Limit | None
    error: str
    stdout: str
    seconds: float
    values: tuple[object, ...] = ()


def start(
    program: str,
    calls: Sequence[str],
    mode: Isolation,
    seconds: float,
    memory_mb: float,
    processes: float,
    output_bytes: float,
    files_mb: float,
) -> SandboxResult:
    """Run a program, then make the calls; the limits are those of `fsgen.tasks.sandbox.run`.

    Raises:
        SandboxUnavailable: This way of isolation cannot be had.
    """
    with _sandbox_folder.folder() as folder:
        report, report_end = os.pipe()
        try:
            job = {
                "mode": mode, "parent": os.getpid(), "report": report_end, "program": program, "calls": [*calls],
                "folder": os.fsencode(folder).decode("utf-8", "surrogateescape"),  # as the child encodes it
                "libraries": libraries(), "seconds": seconds, "memory_mb": int(memory_mb),
                "processes": int(processes), "files_mb": int(files_mb),
            }  # fmt: skip
            process = subprocess.Popen(
                [*_PYTHON, str(_CHILD / "__main__.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_ENVIRONMENT,
                cwd="/",
                pass_fds=(report_end,),
                start_new_session=True,
            )
            os.close(report_end)
            report_end = -1
            sizes = int(memory_mb), int(output_bytes), int(files_mb)
            watch = _Watch(process, mode, folder, report, len(calls), seconds, *sizes)
            try:
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(json.dumps(job).encode())
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
                watch.wait()
            finally:
                watch.kill()
            return watch.result()
        finally:
            os.close(report)
            if report_end >= 0:
                os.close(report_end)


@cache
def libraries() -> list[str]:
    """The shared libraries that a program may load: those of the interpreter and of the standard library."""
    found = subprocess.run(
        [*_PYTHON, str(_CHILD / "libraries.py")], env=_ENVIRONMENT, cwd="/", capture_output=True, check=False
    )
    if found.returncode:
        raise SandboxUnavailable(f"the shared libraries of {sys.executable} cannot be listed")
    return found.stdout.decode("utf-8", "surrogateescape").split("\n")


class _Watch:
    """Reads what a program says while it runs, and ends it at the first limit that it meets."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        mode: Isolation,
        folder: Path,
        report: int,
        calls: int,
        seconds: float,
        memory_mb: int,
        output_bytes: int,
        files_mb: int,
    ) -> None:
        self._mode, self._folder, self._files_mb = mode, folder, files_mb
        self._process, self._report, self._calls = process, report, calls
        self._seconds, self._memory_mb, self._output_bytes = seconds, memory_mb, output_bytes
        self._limit: Limit | None = None
        self._streams: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray(), "report": bytearray()}
        self._began = time.monotonic()
        self._started = False
        self._ended = self._began

    def wait(self) -> None:
        """Return when the program has ended or met a limit."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ, "stdout")
            selector.register(self._process.stderr, selectors.EVENT_READ, "stderr")
            selector.register(self._report, selectors.EVENT_READ, "report")
            while selector.get_map() or self._process.poll() is None:  # a program may close all its pipes and run on
                left = self._began + (WALL * self._seconds if self._started else START_SECONDS) - time.monotonic()
                if left <= 0:
                    self._limit = "time"
                    break
                ended = self._process.poll() is not None  # asked first: what it wrote before it ended is read
                events = selector.select(min(left, 0.05)) if selector.get_map() else []
                for key, _ in events:
                    data = os.read(key.fd, 1 << 16)
                    if not data:
                        selector.unregister(key.fileobj)
                    self._take(key.data, data)
                if not selector.get_map():
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self._process.wait(min(left, 0.05))
                # A process alone is held by its own limit; files in memory have theirs.
                if self._mode == "namespaces" and _sandbox_memory.is_over(self._process.pid, self._memory_mb << 20):
                    self._limit = "memory"
                if self._mode != "namespaces" and _sandbox_folder.is_over(self._folder, self._files_mb << 20):
                    self._limit = "files"
                if self._limit or (not events and ended):
                    break  # without isolation, left-over children may hold the pipes open for ever
        self._ended = time.monotonic()

    def _take(self, stream: str, data: bytes) -> None:
        self._streams[stream] += data
        if stream == "report":
            if not self._started and b'"started"' in self._streams["report"]:
                self._started, self._began = True, time.monotonic()
            over = len(self._streams["report"]) > _REPORT_BYTES
        else:
            over = len(self._streams["stdout"]) + len(self._streams["stderr"]) > self._output_bytes
        if over:
            self._limit = "output"

    def kill(self) -> None:
        """End the launcher, and with it everything inside."""
        if self._mode == "namespaces" and self._process.poll() is None:
            # The launcher then kills what is inside and leaves when all of it is dead.
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10.0)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def result(self) -> SandboxResult:
        """What became of the program, once it is dead."""
        code = self._process.returncode
        lines = bytes(self._streams["report"]).split(b"\n")
        if code == _UNAVAILABLE and not self._started:
            reason = json.loads(lines[0])["unavailable"] if lines[0] else "no reason"
            raise SandboxUnavailable(line(str(reason)))
        values: tuple[object, ...] | None = None
        limit, error = self._limit, ""
        if limit == "time":
            error = f"time limit ({WALL * self._seconds:g} s of wall-clock time)"
        elif len(self._streams["report"]) > _REPORT_BYTES:
            error = f"output limit ({_REPORT_BYTES} bytes for what the calls return)"
        elif limit == "output":
            error = f"output limit ({self._output_bytes} bytes)"
        elif limit == "memory":
            error = f"memory limit ({self._memory_mb} MiB for all processes)"
        elif limit == "files":
            error = f"files limit ({self._files_mb} MiB)"
        elif len(lines) < 3:  # nothing after the line that says that it started
            limit, error = _explain(code, self._seconds)
        else:
            try:
                values, limit, error = _read_outcome(lines[1:], self._calls)
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                error = "the program's process gave no proper report"
        output = bytes(self._streams["stdout"] + self._streams["stderr"])[: self._output_bytes]
        return SandboxResult(
            passed=values is not None,
            limit=limit,
            error=error,
            stdout=output.decode("utf-8", "replace"),
            seconds=self._ended - self._began,
            values=values or (),
        )


def _read_outcome(lines: list[bytes], calls: int) -> tuple[tuple[object, ...] | None, Limit | None, str]:
    """The values of the calls, None where the program failed, then the limit and the error; raises where malformed."""
    outcome, end = lines
    if end:
        raise ValueError("a line without an end")
    record = json.loads(outcome)
    if record["passed"] is True:
        values = assertions.read(record["values"])
        if not isinstance(values, list) or len(values) != calls:
            raise ValueError("not a value for each call")
        return tuple(values), None, ""
    if record["passed"] is not False or not isinstance(record["error"], str):
        raise TypeError("neither passed nor failed")
    limit: Limit | None = next((name for name in get_args(Limit) if name == record["limit"]), None)
    error = line(record["error"]) or "an error without a name"
    return None, limit, f"{limit} limit: {error}" if limit else error


def _explain(code: int, seconds: float) -> tuple[Limit | None, str]:
    """What an end without a verdict means: a signal that the launcher passed on as 128 + its number, or an exit."""
    number = -code if code < 0 else code - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return None, f"the program ended before its tests had finished (exit status {code})"
    if name == "SIGXCPU":
        return "time", f"time limit ({seconds:g} s of processor time)"
    if name == "SIGXFSZ":
        return "files", "files limit: SIGXFSZ"
    return None, f"the program was ended by {name}"


def line(text: str) -> str:
    """Text of a program as one line that can be stored."""
    return " ".join(text.encode("utf-8", "replace").decode().split())[:600]
