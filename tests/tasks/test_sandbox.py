"""Each test attacks one property of the sandbox, under both ways of isolation."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fsgen.tasks import sandbox


def _outliving(patience: float = 10.0) -> dict[str, str]:
    """Processes of sandboxes that are still there after a while, by id; those of tests beside this one end by then."""
    found = _sandbox_processes()
    ends = time.monotonic() + patience
    while found and time.monotonic() < ends:
        time.sleep(0.05)
        now = _sandbox_processes()
        found = {pid: line for pid, line in found.items() if pid in now}
    return found


def _sandbox_processes() -> dict[str, str]:
    found = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_text()
        except OSError:
            continue
        if "_sandbox_child" in line:
            found[entry.parent.name] = line
    return found


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
        names = "ast, bisect, cmath, collections, datetime, decimal, fractions, functools, heapq, itertools, json, math"
        assert sandbox.run(
            f"import {names}, operator, random, re, statistics, string, sqlite3, tempfile, typing"
        ).passed

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
        assert (result.passed, result.limit, result.error) == (False, "time", "time limit (0.3 s)")
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

    def test_processes(self) -> None:
        result = sandbox.run("import os\nwhile True: os.fork()", seconds=3)
        assert (result.passed, result.limit) == (False, "processes")
        quiet = sandbox.run("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", seconds=0.3)
        assert quiet.limit == "time"
        assert not _outliving()

    def test_output(self) -> None:
        result = sandbox.run("while True: print('x' * 1000)", output_bytes=5000)
        assert (result.passed, result.limit, len(result.stdout)) == (False, "output", 5000)
        assert sandbox.run("import sys\nprint('x' * 9000, file=sys.stderr)", output_bytes=5000).limit == "output"

    def test_files(self) -> None:
        result = sandbox.run("open('big', 'wb').write(bytes(5 << 20))", files_mb=1)
        assert (result.passed, result.limit) == (False, "files")

    @pytest.mark.parametrize("name", ["seconds", "memory_mb", "processes", "output_bytes", "files_mb"])
    def test_limits_must_be_positive(self, name: str) -> None:
        limits: dict[str, Any] = {name: 0}
        with pytest.raises(ValueError, match=f"sandbox limit {name} must be positive, not 0"):
            sandbox.run("pass", **limits)


@pytest.mark.usefixtures("mode")
class TestIsolation:
    def test_network(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(0.5)
            port = server.getsockname()[1]
            result = sandbox.run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)")
            assert (result.passed, result.limit) == (False, "network")
            with pytest.raises(TimeoutError):
                server.accept()

    @pytest.mark.parametrize("family", ["AF_UNIX", "AF_INET6", "AF_NETLINK", "AF_PACKET", "AF_VSOCK"])
    def test_no_socket_of_any_family(self, family: str) -> None:
        result = sandbox.run(f"import socket\nsocket.socket(socket.{family}, socket.SOCK_DGRAM)")
        assert (result.passed, result.limit) == (False, "network")

    def test_pairs_of_sockets_within_the_program_work(self) -> None:
        assert sandbox.run("import asyncio\nassert asyncio.run(asyncio.sleep(0, 5)) == 5").passed

    def test_names_are_not_resolved(self) -> None:
        result = sandbox.run("import urllib.request\nurllib.request.urlopen('http://example.com', timeout=2)")
        assert (result.passed, result.limit) == (False, "network")

    def test_local_sockets(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(tmp_path / "s"))
            server.listen()
            server.settimeout(0.5)
            path = str(tmp_path / "s")
            assert not sandbox.run(f"import socket\nsocket.socket(socket.AF_UNIX).connect({path!r})").passed
            with pytest.raises(TimeoutError):
                server.accept()

    def test_writing_elsewhere(self, tmp_path: Path) -> None:
        name = f"fsgen-sandbox-test-{os.getpid()}"
        folders = [
            tmp_path,
            Path.home(),
            Path(sandbox.__file__).parent,
            Path("/usr"),
            Path("/var/tmp"),
            Path("/dev/shm"),
        ]
        for place in (folder / name for folder in folders):
            try:
                result = sandbox.run(f"open({str(place)!r}, 'w').write('x')")
                assert (result.passed, result.limit) == (False, "files"), place
                assert not place.exists()
            finally:
                place.unlink(missing_ok=True)

    @pytest.mark.parametrize("name", ["é", "a b", "a\\b", "a\\040b", "a\nb\tc", "#", "\udcff", "link"])
    def test_nothing_is_writable_whatever_the_folder_is_called(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        outside = tmp_path / name
        if name == "link":
            (tmp_path / "real").mkdir()
            outside.symlink_to("real")
        else:
            outside.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(outside))
        program = (
            "import os, sys\nopen('own', 'w').write('x')\n"
            "for path in ('/', os.path.dirname(os.__file__), '/usr', '..', *sys.path):\n"
            "    place = os.path.join(path, f'fsgen-{os.getpid()}')\n"
            "    try: open(place, 'w').close()\n    except OSError: pass\n"
            "    else: raise AssertionError(place)\n"
        )
        if sandbox.isolation() == "namespaces":  # as root the program is another user, so the mounts are looked at too
            program += "    assert not os.path.exists(path) or os.statvfs(path).f_flag & os.ST_RDONLY, path"
        result = sandbox.run(program)
        assert result.passed, result.error
        assert not list(outside.iterdir())

    def test_changing_what_is_there(self, tmp_path: Path) -> None:
        kept = tmp_path / "kept"
        kept.write_text("kept")
        before = kept.stat()
        for call in ("open({!r}, 'a')", "os.remove({!r})", "os.chmod({!r}, 0o777)", "os.truncate({!r}, 0)",
                     "os.utime({!r}, (1, 1))", "os.rename({!r}, 'mine')", "os.link({!r}, 'mine')"):  # fmt: skip
            assert not sandbox.run("import os\n" + call.format(str(kept))).passed, call
        assert kept.read_text() == "kept"
        after = kept.stat()
        assert (before.st_mode, before.st_mtime_ns, after.st_nlink) == (after.st_mode, after.st_mtime_ns, 1)

    def test_symbolic_links_do_not_lead_out(self, tmp_path: Path) -> None:
        program = f"import os\nos.symlink({str(tmp_path)!r}, 'way')\nopen('way/out', 'w').write('x')"
        assert not sandbox.run(program).passed
        assert not list(tmp_path.iterdir())

    def test_the_folder_is_writable_and_gone_afterwards(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        program = (
            "import os, tempfile\nopen('a', 'w').write('x')\nassert os.listdir('.') == ['a']\n"
            "tempfile.mkstemp()\nos.mkdir('d')\nprint(os.path.expanduser('~') == os.getcwd())"
        )
        assert sandbox.run(program).stdout == "True\n"
        assert not list(tmp_path.iterdir())
        assert sandbox.run("import os\nassert os.listdir('.') == []").passed

    def test_files_and_secrets_are_not_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FSGEN_TEST_SECRET", "hunter2")
        (tmp_path / "secret").write_text("hunter2")
        assert "hunter2" not in sandbox.run("import os\nprint(dict(os.environ))").stdout
        for path in (tmp_path / "secret", Path(f"/proc/{os.getpid()}/environ"), Path("/etc/passwd")):
            result = sandbox.run(f"print(open({str(path)!r}).read())")
            assert (result.passed, result.limit, result.stdout) == (False, "files", "")
        assert not sandbox.run("import os\nprint(open(f'/proc/{os.getppid()}/environ').read())").passed

    def test_other_processes_cannot_be_killed(self) -> None:
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
            program = "import os\nfor p in (os.getppid(), {}):\n    try: os.kill(p, 9)\n    except OSError: pass"
            assert sandbox.run(program.format(other.pid)).passed
            assert other.poll() is None
            other.kill()

    def test_nothing_outlives_the_program(self) -> None:
        program = (
            "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
            "        time.sleep(60)\n    os._exit(0)\nprint('away')"
        )
        began = time.monotonic()
        result = sandbox.run(program)
        assert result.passed or result.limit == "processes"
        assert time.monotonic() - began < 10
        assert not _outliving()

    def test_nothing_outlives_the_time_limit(self) -> None:
        program = "import os, time\ntry: os.fork(); os.setsid()\nexcept OSError: pass\ntime.sleep(60)"
        assert sandbox.run(program, seconds=0.3).limit == "time"
        assert not _outliving()

    def test_no_privileges(self) -> None:
        program = (
            "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\n"
            "assert c.unshare(0x10000000) < 0\nassert c.ptrace(16, 1, 0, 0) < 0\n"
            "assert c.mount(b'none', b'/tmp', b'tmpfs', 0, None) < 0\nassert c.chroot(b'/tmp') < 0"
        )
        assert sandbox.run(program).passed


def test_without_isolation_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*_: object) -> sandbox.SandboxResult:
        raise sandbox.SandboxUnavailable("not here")

    monkeypatch.setattr(sandbox, "_known", {})
    monkeypatch.setattr(sandbox, "_start", unavailable)
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
