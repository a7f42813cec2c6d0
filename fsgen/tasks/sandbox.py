"""Run a generated program where it can do no harm (Linux).

A program runs in a separate process, in an empty temporary folder, with a scrubbed environment. It reaches no
network, sees no files but the standard library (read-only) and its folder, and is held to limits on time, memory,
processes, files and output. Whatever it started is dead when `run` returns.

Two ways of isolation are tried, in this order, once per process:

- `namespaces`: user, mount, process, network and IPC namespaces with a root of their own. The death of the
  namespace's first process kills everything inside. As root, the program becomes the user `nobody`. On x86-64 and
  aarch64 a system call filter adds a second wall.
- `landlock`: where namespaces are not allowed (many containers). Landlock (Linux 6.2 and later) restricts files;
  a system call filter (x86-64, aarch64) forbids sockets, signals to others and child processes altogether, so the
  limit on processes is one (threads are bounded by the memory limit alone).

Where neither can be had, `run` refuses with `SandboxUnavailable`. With the environment variable
`FSGEN_UNSAFE_SANDBOX=1` it then runs with resource limits only: network, files and detached children are **not**
held back.

The memory limit holds for each process, so a program can use `processes` times as much, plus its files, which live in
memory under `namespaces`.

Tests are not judged by the process that runs the program, which can forge whatever that process says: it makes the
calls and gives their values as plain data, and they are compared elsewhere (`fsgen.tasks.assertions`). So a program
passes only with the right values. It sees the calls, all of them, but never what is expected of them.
"""

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from fsgen.tasks import assertions
from fsgen.tasks.assertions import Assertion

Limit = Literal["time", "memory", "processes", "output", "network", "files"]
Isolation = Literal["namespaces", "landlock", "none"]

_CHILD = Path(__file__).parent / "_sandbox_child" / "__main__.py"
_UNAVAILABLE = 125  # the child's exit status where the isolation cannot be had
_START_SECONDS = 60.0  # for the interpreter to start, on a machine however busy
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


def run(
    program: str,
    tests: Sequence[str] = (),
    *,
    setup: str = "",
    seconds: float = 10.0,
    memory_mb: int = 512,
    processes: int = 8,
    output_bytes: int = 1 << 16,
    files_mb: int = 16,
) -> SandboxResult:
    """Run one Python program in isolation; may be called from several threads.

    Args:
        program: Python source.
        tests: Assert statements that call the program.
        setup: Python source that runs after the program and before the tests.
        seconds: Wall-clock limit.
        memory_mb: Limit on the address space of each process, in MiB.
        processes: Limit on processes and threads at one time, the program itself included.
        output_bytes: Limit on what it prints.
        files_mb: Limit on the files it writes, in MiB (each file; under `namespaces` all together).

    Raises:
        ValueError: A limit is not positive, or a test cannot be taken apart, see `assertions.split`.
        SandboxUnavailable: No isolation can be had on this machine.
    """
    limits = {
        "seconds": seconds, "memory_mb": memory_mb, "processes": processes,
        "output_bytes": output_bytes, "files_mb": files_mb,
    }  # fmt: skip
    for name, value in limits.items():
        if not value > 0:
            raise ValueError(f"sandbox limit {name} must be positive, not {value!r}")
    asserted = [assertions.split(test, setup) for test in tests]
    calls = [call for assertion in asserted for call in assertion.calls]
    result = _start(f"{program}\n{setup}" if setup else program, calls, isolation(), **limits)
    if not result.passed:
        return result
    error, statements = _compare(asserted, result.values)
    if statements and not error:  # more than comparing with literals: a second sandbox, with none of the program in it
        second = _start("\n".join([assertions.imports(setup), *statements]), (), isolation(), **limits)
        return replace(result, passed=second.passed, limit=second.limit, error=second.error)
    return replace(result, passed=not error, error=error)


def _compare(asserted: Sequence[Assertion], values: Sequence[object]) -> tuple[str, list[str]]:
    """What is wrong with the first assertion that does not hold, and statements of those that need more to tell."""
    statements = []
    rest = iter(values)
    for assertion in asserted:
        own = [next(rest) for _ in assertion.calls]
        holds = assertion.holds(own)
        if holds is None:
            statements.append(assertion.statement(own))
        elif not holds:
            return _line(f"AssertionError ({assertion.text[:300]}, not {own[0]!r})"), []
    return "", statements


def _line(text: str) -> str:
    """Text of a program as one line that can be stored."""
    return " ".join(text.encode("utf-8", "replace").decode().split())[:600]


_MODES: tuple[Isolation, ...] = ("namespaces", "landlock")
_known: dict[str, str] = {}
_known_lock = threading.Lock()


def isolation() -> Isolation:
    """The way of isolation that works here, found out by trying, once per process.

    Raises:
        SandboxUnavailable: None works, and `FSGEN_UNSAFE_SANDBOX` is not `1`.
    """
    with _known_lock:
        if "mode" not in _known:
            _probe()
    for mode in _MODES:
        if _known["mode"] == mode:
            return mode
    if os.environ.get("FSGEN_UNSAFE_SANDBOX") == "1" and os.name == "posix":
        return "none"
    raise SandboxUnavailable(
        f"generated programs cannot be isolated on this machine: {_known['reason']}. Run in an environment that allows "
        "user namespaces or Landlock, or set FSGEN_UNSAFE_SANDBOX=1 to run them with resource limits only, at your "
        "own risk."
    )


def _probe() -> None:
    """Try each way with an empty program and keep the first that works, or why none does."""
    if not sys.platform.startswith("linux"):
        _known.update(mode="none", reason=f"it needs Linux, this is {sys.platform}")
        return
    missing = []
    for mode in _MODES:
        try:
            result = _start("pass", (), mode, _START_SECONDS, 512, 8, 1 << 16, 16)
        except SandboxUnavailable as error:
            missing.append(f"{mode}: {error}")
            continue
        if result.passed:
            _known.update(mode=mode, reason="")
            return
        missing.append(f"{mode}: an empty program failed there ({result.error})")
    _known.update(mode="none", reason="; ".join(missing))


def _start(
    program: str,
    calls: Sequence[str],
    mode: Isolation,
    seconds: float,
    memory_mb: float,
    processes: float,
    output_bytes: float,
    files_mb: float,
) -> SandboxResult:
    folder = os.path.realpath(tempfile.mkdtemp(prefix="fsgen-sandbox-"))
    report, report_end = os.pipe()
    try:
        # -S and a scrubbed environment instead of -I, which would ignore the fixed hash seed.
        process = subprocess.Popen(
            [sys.executable, "-s", "-S", "-B", "-X", "utf8", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
            cwd="/",
            pass_fds=(report_end,),
            start_new_session=True,
        )
        job = {
            "mode": mode, "parent": os.getpid(), "report": report_end, "program": program, "calls": [*calls],
            "folder": os.fsencode(folder).decode("utf-8", "surrogateescape"),  # as the child encodes it
            "seconds": seconds, "memory_mb": int(memory_mb), "processes": int(processes),
            "files_mb": int(files_mb),
        }  # fmt: skip
        os.close(report_end)
        report_end = -1
        watch = _Watch(process, mode, report, len(calls), seconds, int(output_bytes))
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
        shutil.rmtree(folder, ignore_errors=True)


class _Watch:
    """Reads what a program says while it runs, and ends it at the first limit that it meets."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        mode: Isolation,
        report: int,
        calls: int,
        seconds: float,
        output_bytes: int,
    ) -> None:
        self._mode = mode
        self._process, self._report, self._calls = process, report, calls
        self._seconds, self._output_bytes = seconds, output_bytes
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
            while selector.get_map():
                left = self._began + (self._seconds if self._started else _START_SECONDS) - time.monotonic()
                if left <= 0:
                    self._limit = "time"
                    break
                events = selector.select(min(left, 0.05))
                for key, _ in events:
                    data = os.read(key.fd, 1 << 16)
                    if not data:
                        selector.unregister(key.fileobj)
                    self._take(key.data, data)
                if self._limit or (not events and self._process.poll() is not None):
                    break  # without isolation, left-over children may hold the pipes open for ever
            if self._limit is None:
                # A program may close all its pipes and run on.
                try:
                    self._process.wait(max(0.1, self._began + self._seconds - time.monotonic()))
                except subprocess.TimeoutExpired:
                    self._limit = "time"
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
            raise SandboxUnavailable(_line(str(reason)))
        values: tuple[object, ...] | None = None
        limit, error = self._limit, ""
        if limit == "time":
            error = f"time limit ({self._seconds:g} s)"
        elif limit == "output":
            error = f"output limit ({self._output_bytes} bytes)"
        elif len(lines) < 3:  # nothing after the line that says that it started
            limit, error = _explain(code)
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
    line, end = lines
    if end:
        raise ValueError("a line without an end")
    record = json.loads(line)
    if record["passed"] is True:
        values = assertions.read(record["values"])
        if not isinstance(values, list) or len(values) != calls:
            raise ValueError("not a value for each call")
        return tuple(values), None, ""
    if record["passed"] is not False or not isinstance(record["error"], str):
        raise TypeError("neither passed nor failed")
    limit: Limit | None = next((name for name in get_args(Limit) if name == record["limit"]), None)
    error = _line(record["error"]) or "an error without a name"
    return None, limit, f"{limit} limit: {error}" if limit else error


def _explain(code: int) -> tuple[Limit | None, str]:
    """What an end without a verdict means: a signal that the launcher passed on as 128 + its number, or an exit."""
    number = -code if code < 0 else code - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return None, f"the program ended before its tests had finished (exit status {code})"
    if name == "SIGXCPU":
        return "time", "time limit: SIGXCPU"
    if name == "SIGXFSZ":
        return "files", "files limit: SIGXFSZ"
    return None, f"the program was ended by {name}"
