"""Machines on which less is allowed: the sandbox works there or refuses in one line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# A filter in the caller stands in for a container that refuses some system calls.
CALLER = """
import errno, sys
from fsgen.tasks import sandbox
from fsgen.tasks._sandbox_child import calls, kernel

kernel._SYSCALLS["x86_64"]["mount"] = 165
kernel._SYSCALLS["aarch64"]["mount"] = 40
if sys.argv[1:]:
    kernel.prctl(38, 1, "no_new_privs")
    walls = calls.Filter()
    walls.refuse(sys.argv[1:], errno.EPERM)
    walls.install()
try:
    result = sandbox.run("def f(x): return x + 1", ["assert f(1) == 2"])
    print(sandbox.isolation(), result.passed, result.error)
except sandbox.SandboxUnavailable as error:
    print("refused:", error)
"""
USER = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
NO_NAMESPACES = [
    "unshare",
    "--user",
    "--map-root-user",
    "sh",
    "-c",
    'echo 0 >/proc/sys/user/max_user_namespaces; "$@"',
    "-",
]


def _said(prefix: list[str], denied: tuple[str, ...] = (), **environment: str) -> str:
    if prefix and (not shutil.which("unshare") or subprocess.run([*prefix, "true"], capture_output=True).returncode):
        pytest.skip("no user namespaces to make this machine of")
    command = [*prefix, sys.executable, "-c", CALLER, *denied]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert not done.stderr
    [line] = done.stdout.splitlines()
    return line


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="Linux alone")
@pytest.mark.parametrize(
    ("prefix", "denied", "ways"),
    [
        (USER, (), ("namespaces", "landlock")),
        (NO_NAMESPACES, (), ("landlock",)),
        ([], ("unshare",), ("landlock",)),
        ([], ("mount",), ("landlock",)),
        ([], ("unshare", "landlock_create_ruleset"), ()),
    ],
)
def test_it_works_or_refuses_in_one_line(prefix: list[str], denied: tuple[str, ...], ways: tuple[str, ...]) -> None:
    line = _said(prefix, denied)
    refused = line.startswith("refused: generated programs cannot be isolated on this machine: namespaces: ")
    assert refused or line in [f"{way} True " for way in ways]


def test_where_no_temporary_folder_can_be_made_another_is_found(tmp_path: Path) -> None:
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    prefix += [f'mount -t tmpfs -o size=4k,nr_inodes=1 none {tmp_path}; TMPDIR={tmp_path} "$@"', "-"]
    assert _said(prefix, TMPDIR=str(tmp_path)) in ("namespaces True ", "landlock True ")
