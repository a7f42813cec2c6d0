"""Processes of sandboxes on this machine."""

import time
from pathlib import Path


def outliving(patience: float = 10.0) -> dict[str, str]:
    """Processes of sandboxes that are still there after a while, by id; those of tests beside this one end by then."""
    found = sandbox_processes()
    ends = time.monotonic() + patience
    while found and time.monotonic() < ends:
        time.sleep(0.05)
        now = sandbox_processes()
        found = {pid: line for pid, line in found.items() if pid in now}
    return found


def sandbox_processes() -> dict[str, str]:
    found = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_text()
        except OSError:
            continue
        if "_sandbox_child" in line:
            found[entry.parent.name] = line
    return found
