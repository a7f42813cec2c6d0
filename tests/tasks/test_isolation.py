"""Each test attacks one property of the sandbox, under both ways of isolation."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from fsgen.tasks import _sandbox_folder, _sandbox_process, sandbox
from tests.tasks.processes import outliving, sandbox_processes


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

    @pytest.mark.parametrize("command", ["F_SETOWN", "F_SETSIG", "F_SETOWN_EX"])
    def test_no_descriptor_sends_signals(self, command: str) -> None:
        number = {"F_SETOWN": 8, "F_SETSIG": 10, "F_SETOWN_EX": 15}[command]
        program = (
            f"import ctypes, fcntl, os, socket, struct\nc = ctypes.CDLL(None)\nr, w = os.pipe()\n"
            f"assert c.fcntl(r, {number}, struct.pack('ii', 1, os.getppid())) == -1\n"
            f"assert c.fcntl(r, {number}, os.getpid()) == -1\na, b = socket.socketpair()\n"
            "for request in (0x8901, 0x8902):\n    try: fcntl.ioctl(a, request, struct.pack('i', os.getpid()))\n"
            "    except OSError: pass\n    else: raise AssertionError\nassert fcntl.fcntl(r, fcntl.F_GETFL) == 0"
        )
        result = sandbox.run(program)
        assert result.passed, result.error

    def test_installed_packages_and_libraries_are_not_read(self) -> None:
        folder = Path(os.__file__).parent
        places = [folder / "site-packages", Path(pytest.__file__), Path(sys.base_prefix) / "bin"]
        places += [path for path in Path("/usr/lib").iterdir() if path.name != "locale"]
        program = (
            "import os\ndef reads(path):\n    for base, folders, files in os.walk(path):\n        for file in files:\n"
            "            try: open(os.path.join(base, file), 'rb').read(1)\n            except OSError: continue\n"
            "            yield os.path.join(base, file)\n"
        )
        libraries = set(_sandbox_process.libraries())
        assert 5 < len(libraries) < 100
        result = sandbox.run(
            f"{program}seen = [p for d in {[*map(str, places)]} for p in reads(d)]", ["assert seen == 0"]
        )
        seen = result.values[0]
        assert isinstance(seen, list)
        own = f"{folder}/"
        assert {os.path.realpath(path) for path in seen if not path.startswith(own) or "site-packages" in path} <= {
            os.path.realpath(path) for path in libraries
        }

    def test_the_end_of_the_caller_is_the_end_of_the_program(self, tmp_path: Path, mode: str) -> None:
        program = (
            "import ctypes, signal, time\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\n"
            "for s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n    except OSError: pass\n"
            "open('mine', 'w').close()\ntime.sleep(60)"
        )
        caller = (
            f"import tempfile\nfrom fsgen.tasks import _sandbox_process\ntempfile.tempdir = {str(tmp_path)!r}\n"
            f"print('ready', flush=True)\n_sandbox_process.start({program!r}, (), {mode!r}, 60, 512, 4, 1 << 16, 16)"
        )
        with subprocess.Popen([sys.executable, "-c", caller], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(1.5)
            assert sandbox_processes()
            process.kill()
        assert not outliving()
        [left] = tmp_path.glob("fsgen-sandbox-*")
        monkeypatch = pytest.MonkeyPatch()
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(tmp_path))
            _sandbox_folder.sweep()
            assert left.exists()  # it may be one that is just being made
            os.utime(left, (1, 1))
            with _sandbox_folder.folder() as locked:
                os.utime(locked, (1, 1))
                _sandbox_folder.sweep()
                assert [*tmp_path.iterdir()] == [locked]

    def test_a_deep_folder_is_removed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        program = (
            "import os\nfor i in range(1500):\n    os.mkdir('a' * 20)\n    os.chdir('a' * 20)\n"
            "open('x', 'w').close()\nos.mkdir('closed', 0)\nos.symlink('/', 'way')"
        )
        result = sandbox.run(program)
        assert result.passed or result.limit == "files"
        assert not list(tmp_path.iterdir())

    def test_nothing_outlives_the_program(self) -> None:
        program = (
            "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
            "        time.sleep(60)\n    os._exit(0)\nprint('away')"
        )
        began = time.monotonic()
        result = sandbox.run(program)
        assert result.passed or result.limit == "processes"
        assert time.monotonic() - began < 10
        assert not outliving()

    def test_nothing_outlives_the_time_limit(self) -> None:
        program = "import os, time\ntry: os.fork(); os.setsid()\nexcept OSError: pass\ntime.sleep(60)"
        assert sandbox.run(program, seconds=0.3).limit == "time"
        assert not outliving()

    def test_no_privileges(self) -> None:
        program = (
            "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\n"
            "assert c.unshare(0x10000000) < 0\nassert c.ptrace(16, 1, 0, 0) < 0\n"
            "assert c.mount(b'none', b'/tmp', b'tmpfs', 0, None) < 0\nassert c.chroot(b'/tmp') < 0"
        )
        assert sandbox.run(program).passed
