"""The folder of one program: made, locked while the caller lives, measured, and removed whatever is in it."""

import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

_PREFIX = "fsgen-sandbox-"
_PAGE = 4096  # what a name takes at least, a file without content too
_UNLOCKED_SECONDS = 60.0  # more than lies between the making of a folder and its lock


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """An empty folder, gone afterwards; one that a killed process left is found by `sweep`."""
    path = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
    lock = _lock(path)
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            _remove(path)
        if lock is not None:
            os.close(lock)


def sweep() -> None:
    """Remove what killed processes of this user left."""
    for path in Path(tempfile.gettempdir()).glob(_PREFIX + "*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if status.st_uid != os.geteuid() or time.time() - status.st_mtime < _UNLOCKED_SECONDS:
                continue
            lock = _lock(path)
            if lock is not None:
                _remove(path)
                os.close(lock)


def is_over(path: Path, limit: int) -> bool:
    """Whether what is in the folder takes more than so many bytes, or cannot be told."""
    folders = [path]
    while folders:
        try:
            for entry in os.scandir(folders.pop()):
                status = entry.stat(follow_symlinks=False)
                limit -= _PAGE + status.st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
        except FileNotFoundError:  # the program has just removed it
            continue
        except OSError:  # a path too long, a folder that cannot be read
            return True
        if limit < 0:
            return True
    return False


def _lock(path: Path) -> int | None:
    """The descriptor that holds the lock of a folder, which ends with this process; None where another holds it."""
    import fcntl  # not on every system that can import this module

    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove(path: Path) -> None:
    """Remove a folder, level by level, since a program can make it deeper than paths and recursion go."""
    names = (path / secrets.token_hex(16) for _ in count())  # that the program has not taken
    path.chmod(0o700)
    while entries := list(path.iterdir()):
        for entry in entries:
            if entry.is_symlink() or not entry.is_dir():
                entry.unlink()
                continue
            entry.chmod(0o700)
            for inner in entry.iterdir():
                inner.rename(next(names))
            entry.rmdir()
    path.rmdir()
