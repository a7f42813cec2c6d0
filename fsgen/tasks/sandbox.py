"""Run a generated program where it can do no harm (Linux).

A program runs in a separate process, in an empty temporary folder, with a scrubbed environment. It reaches no
network, sees no files but the standard library with its shared libraries (read-only) and its folder, and is held to
limits on time, memory, processes, files and output. Whatever it started is dead when `run` returns.

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

Tests are not judged by the process that runs the program, which can forge whatever that process says: it makes the
calls and gives their values as plain data, and they are compared elsewhere (`fsgen.tasks.assertions`). So a program
passes only with the right values. It sees the calls, all of them, but never what is expected of them.

`docs/security.md` says what each promise rests on, and what is not promised.
"""

import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace

from fsgen.tasks import _sandbox_folder, assertions
from fsgen.tasks._sandbox_process import START_SECONDS, Isolation, Limit, SandboxResult, SandboxUnavailable, line, start
from fsgen.tasks.assertions import Assertion

__all__ = ["Isolation", "Limit", "SandboxResult", "SandboxUnavailable", "isolation", "run"]


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
        seconds: Limit on the processor time of each process, in whole seconds, rounded up; the wall clock has 6 times
            as much.
        memory_mb: Limit on the address space of each process, and on what all have in memory together, in MiB.
        processes: Limit on processes and threads at one time, the program itself included.
        output_bytes: Limit on what it prints.
        files_mb: Limit on the files it writes, in MiB.

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
    result = start(f"{program}\n{setup}" if setup else program, calls, isolation(), **limits)
    if not result.passed:
        return result
    error, statements = _compare(asserted, result.values)
    if statements and not error:  # more than comparing with literals: a second sandbox, with none of the program in it
        second = start("\n".join([assertions.imports(setup), *statements]), (), isolation(), **limits)
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
            return line(f"AssertionError ({assertion.text[:300]}, not {own[0]!r})"), []
    return "", statements


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
            _sandbox_folder.sweep()
            result = start("pass", (), mode, START_SECONDS, 512, 8, 1 << 16, 16)
        except (SandboxUnavailable, OSError) as error:  # such as a folder for temporary files that is full
            missing.append(f"{mode}: {error}")
            continue
        if result.passed:
            _known.update(mode=mode, reason="")
            return
        missing.append(f"{mode}: an empty program failed there ({result.error})")
    _known.update(mode="none", reason="; ".join(missing))
