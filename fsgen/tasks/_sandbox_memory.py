"""What all processes of a sandbox have in memory together."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


def is_over(process: int, limit: int) -> bool:
    """Whether a process and all below it have more than so many bytes; what they share counts once.

    A kernel without lists of children (`CONFIG_PROC_CHILDREN`) shows the first process alone.
    """
    processes = list(_family(process))
    if sum(map(_resident, processes)) <= limit:  # what is shared is counted several times here
        return False
    return sum(map(_share, processes)) > limit


def _family(process: int) -> Iterator[int]:
    yield process
    with suppress(OSError):  # a process may end at any time
        for thread in Path(f"/proc/{process}/task").iterdir():
            with suppress(OSError):
                for child in (thread / "children").read_text().split():
                    yield from _family(int(child))


def _resident(process: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE
    return 0


def _share(process: int) -> int:
    """The memory of a process, of shared pages its part; all that it has where the kernel does not say more."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return _resident(process)
