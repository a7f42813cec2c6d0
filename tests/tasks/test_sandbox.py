"""Verdicts, limits and the choice of isolation."""

import importlib.util
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fsgen.tasks import _sandbox_process, sandbox
from tests.tasks.processes import outliving


@pytest.mark.usefixtures("mode")
class TestVerdicts:
    def test_a_program_that_ends_passes(self) -> None:
        result = sandbox.run("print('hello')\nassert 1 + 1 == 2")
        assert result.passed
        assert (result.limit, result.error, result.stdout) == (None, "", "hello\n")
        assert 0 <= result.seconds < 5

    def test_a_failed_assert_shows_itself(self) -> None:
        result = sandbox.run("def f(): return 1\nassert f() == 2")
        assert not result.passed
        assert (result.limit, result.error) == (None, "AssertionError (line 2: assert f() == 2)")

    def test_a_syntax_error_shows_itself(self) -> None:
        result = sandbox.run("def f(:\n    pass")
        assert not result.passed
        assert result.error.startswith("SyntaxError: invalid syntax (line 1")

    def test_an_exception_shows_itself(self) -> None:
        assert sandbox.run("\n[][1]").error == "IndexError: list index out of range (line 2: [][1])"

    @pytest.mark.parametrize(
        "program",
        [
            "import os\nos._exit(0)",
            "import sys\nsys.exit(0)",
            "exit()",
            "raise SystemExit",
            "raise KeyboardInterrupt",
            "import os\nos.abort()",
            "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
            "import os\nif os.fork() == 0:\n    pass\nelse:\n    os._exit(0)",
        ],
    )
    def test_leaving_before_the_end_is_no_pass(self, program: str) -> None:
        result = sandbox.run(f"{program}\nassert False")
        assert not result.passed
        assert result.error

    def test_junk_on_every_descriptor_is_no_pass(self) -> None:
        program = (
            "import os\n"
            "for fd in range(3, 256):\n"
            '    try: os.write(fd, b\'{"token": null, "error": null, "limit": null}\\n[]\\n\')\n'
            "    except OSError: pass\n"
            "os._exit(0)"
        )
        assert not sandbox.run(program).passed

    def test_closed_outputs_do_no_harm(self) -> None:
        assert sandbox.run("import os, sys\nsys.stdout.close()\nos.close(2)").passed

    def test_standard_input_is_at_its_end(self) -> None:
        assert "EOFError" in sandbox.run("input()").error

    def test_results_repeat(self) -> None:
        results = {sandbox.run("print(hash('a'), {'x', 'y', 'z'})").stdout for _ in range(2)}
        assert len(results) == 1

    def test_deep_recursion(self) -> None:
        assert sandbox.run("def f(): return f()\nf()").error.startswith("RecursionError")
        crash = (
            "import sys\nsys.setrecursionlimit(10**8)\nclass A:\n    def __getattr__(s, n): return getattr(s, n)\nA().x"
        )
        assert not sandbox.run(crash).passed

    def test_the_standard_library_is_there(self) -> None:
        graphical = {"antigravity", "idlelib", "this", "tkinter", "_tkinter", "turtle", "turtledemo"}
        names = [name for name in sorted(sys.stdlib_module_names - graphical) if importlib.util.find_spec(name)]
        result = sandbox.run("\n".join(f"import {name}" for name in names))
        assert result.passed, result.error

    def test_nothing_of_ours_can_be_imported(self) -> None:
        program = (
            "import sys\nassert not [name for name in sys.modules if 'fsgen' in name]\n"
            "for name in ('fsgen', 'fsgen.tasks', 'kernel', 'program'):\n    try: __import__(name)\n"
            "    except ModuleNotFoundError: pass\n    else: raise AssertionError(name)"
        )
        assert sandbox.run(program).passed

    def test_threads_of_the_caller(self) -> None:
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(sandbox.run, [f"assert {i} % 2 == 0" for i in range(8)]))
        assert [result.passed for result in results] == [True, False] * 4


@pytest.mark.usefixtures("mode")
class TestLimits:
    def test_time(self) -> None:
        began = time.monotonic()
        result = sandbox.run("while True: pass", seconds=0.3)
        said = {f"time limit ({what})" for what in ("0.3 s of processor time", "1.8 s of wall-clock time")}
        assert (result.passed, result.limit) == (False, "time")
        assert result.error in said
        assert time.monotonic() - began < 5

    def test_sleep_and_deaf_programs(self) -> None:
        program = (
            "import signal, time\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n"
            "    except OSError: pass\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass"
        )
        assert sandbox.run(program, seconds=0.3).limit == "time"

    def test_a_program_that_closes_its_pipes(self) -> None:
        program = "import os\nos.closerange(0, 256)\nwhile True: pass"
        assert sandbox.run(program, seconds=0.3).limit == "time"

    def test_memory(self) -> None:
        result = sandbox.run("x = [0] * 10**9")
        assert (result.passed, result.limit) == (False, "memory")
        assert sandbox.run("x = []\nwhile True: x.append('a' * 10**6)", memory_mb=128).limit == "memory"

    def test_time_is_that_of_the_processor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What waits, as on a machine that is busy, has more; what computes is stopped by its own time."""
        assert sandbox.run("import time\ntime.sleep(1.5)", seconds=1).passed
        with monkeypatch.context() as patch:
            patch.setattr(_sandbox_process, "WALL", 60)  # on a machine that is really busy, too
            result = sandbox.run("while True: pass", seconds=1)
        assert (result.limit, result.error) == ("time", "time limit (1 s of processor time)")
        deaf = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
        assert not sandbox.run(deaf, seconds=1).passed
        result = sandbox.run("import time\ntime.sleep(60)", seconds=0.2)
        assert (result.limit, result.error) == ("time", "time limit (1.2 s of wall-clock time)")

    def test_memory_of_all_processes(self, mode: str) -> None:
        """Several processes, each within the limit, have more than it together; what they share counts once."""
        if mode == "landlock":
            pytest.skip("a program has one process there")
        apart = (
            "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n"
            "        x = bytearray(os.urandom(1)) * (100 << 20)\n        time.sleep(30)\ntime.sleep(30)"
        )
        result = sandbox.run(apart, memory_mb=256, seconds=10)
        assert (result.passed, result.limit, result.error) == (
            False, "memory", "memory limit (256 MiB for all processes)"
        )  # fmt: skip
        assert not outliving()
        shared = (
            "import os, time\nx = bytearray(os.urandom(1)) * (100 << 20)\n"
            "for _ in range(4):\n    if os.fork() == 0: time.sleep(0.5); os._exit(0)\n"
            "for _ in range(4): os.wait()"
        )
        assert sandbox.run(shared, memory_mb=256, seconds=10).passed

    def test_processes(self) -> None:
        result = sandbox.run("import os\nwhile True: os.fork()", seconds=3)
        assert (result.passed, result.limit) == (False, "processes")
        quiet = sandbox.run("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", seconds=0.3)
        assert quiet.limit == "time"
        assert not outliving()

    def test_output(self) -> None:
        result = sandbox.run("while True: print('x' * 1000)", output_bytes=5000)
        assert (result.passed, result.limit, len(result.stdout)) == (False, "output", 5000)
        assert sandbox.run("import sys\nprint('x' * 9000, file=sys.stderr)", output_bytes=5000).limit == "output"

    def test_files(self) -> None:
        result = sandbox.run("open('big', 'wb').write(bytes(5 << 20))", files_mb=1)
        assert (result.passed, result.limit) == (False, "files")
        result = sandbox.run(
            "for i in range(20): open(f'f{i}', 'wb').write(bytes(1 << 19))\nwhile True: pass", files_mb=1
        )
        assert (result.passed, result.limit) == (False, "files")

    def test_files_of_a_program_that_closes_its_pipes(self, mode: str) -> None:
        program = "import os\nos.closerange(0, 64)\nfor i in range(99): open(f'f{i}', 'wb').write(bytes(1 << 19))\n"
        result = sandbox.run(program + "while True: pass", files_mb=1, seconds=5)
        assert not result.passed
        assert result.limit == ("files" if mode == "landlock" else None)  # there the program's own report is lost

    def test_files_without_content(self) -> None:
        result = sandbox.run("n = 0\nwhile True:\n    n += 1\n    open(f'f{n}', 'w').close()", files_mb=1)
        assert (result.passed, result.limit) == (False, "files")

    @pytest.mark.parametrize(
        "call",
        ["memfd_create(b'a', 0)", "syscall(447, 0)", "shmget(0, 1 << 20, 0o1600)", "msgget(0, 0o1600)",
         "semget(0, 9, 0o1600)"],
    )  # fmt: skip
    def test_memory_that_no_limit_counts(self, call: str) -> None:
        result = sandbox.run(f"import ctypes\nassert ctypes.CDLL(None).{call} == -1")
        assert result.passed, result.error

    @pytest.mark.parametrize("name", ["seconds", "memory_mb", "processes", "output_bytes", "files_mb"])
    def test_limits_must_be_positive(self, name: str) -> None:
        limits: dict[str, Any] = {name: 0}
        with pytest.raises(ValueError, match=f"sandbox limit {name} must be positive, not 0"):
            sandbox.run("pass", **limits)


def test_without_isolation_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*_: object) -> sandbox.SandboxResult:
        raise sandbox.SandboxUnavailable("not here")

    monkeypatch.setattr(sandbox, "_known", {})
    monkeypatch.setattr(sandbox, "start", unavailable)
    monkeypatch.delenv("FSGEN_UNSAFE_SANDBOX", raising=False)
    with pytest.raises(sandbox.SandboxUnavailable, match="namespaces: not here; landlock: not here"):
        sandbox.run("pass")
    monkeypatch.setenv("FSGEN_UNSAFE_SANDBOX", "1")
    assert sandbox.isolation() == "none"


def test_on_request_a_harmless_program_runs_without_isolation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "isolation", lambda: "none")
    assert sandbox.run("assert True").passed
    assert sandbox.run("assert False").error.startswith("AssertionError")
    assert sandbox.run("while True: pass", seconds=0.3).limit == "time"


def test_isolation_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    probes: list[int] = []

    def probe() -> None:
        probes.append(1)
        sandbox._known.update(mode="landlock", reason="")

    monkeypatch.setattr(sandbox, "_known", {})
    monkeypatch.setattr(sandbox, "_probe", probe)
    threads = [threading.Thread(target=sandbox.isolation) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert probes == [1]
