"""How many texts are written at a time: as many as wanted, where memory has room for their keys and values."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fsgen.backends.protocol import Model

if TYPE_CHECKING:
    import torch

SHARE = 0.6
"""Of the free memory that keys and values may take; logits, traces and the forward passes need some too."""

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_MIB = 2**20


def rows_within(models: Iterable[Model], tokens: int, wanted: int, budget: int | None = None) -> int:
    """How many rows of up to `tokens` tokens can be held at a time.

    Args:
        models: whose keys and values they are.
        tokens: of the longest text, its prompt included.
        wanted: the most rows.
        budget: bytes for the keys and values of all models together; `SHARE` of the free memory of each device if None.

    Raises:
        ValueError: there is not room for one.
    """
    needs: dict[torch.device, int] = {}
    for model in models:
        needs[model.device] = needs.get(model.device, 0) + model.cache_bytes(tokens)
    rows = wanted
    if budget is not None:
        rows = _fitting(rows, sum(needs.values()), budget, tokens, "the budget of")
    else:
        for device, need in needs.items():
            free = free_bytes(device)
            if free is not None:
                rows = _fitting(
                    rows, need, int(SHARE * free), tokens, f"what {device} has free, of which {SHARE:.0%} is"
                )
    return rows


def _fitting(rows: int, need: int, room: int, tokens: int, what: str) -> int:
    if need > room:
        raise ValueError(
            f"the keys and values of one text of {tokens} tokens take {need / _MIB:,.1f} MiB, more than {what} "
            f"{room / _MIB:,.1f} MiB: shorten the text or its budget of tokens"
        )
    return min(rows, room // need) if need else rows


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a device, None where that is not known."""
    if device.type == "cuda":
        import torch  # here, because commands that load no model are quick

        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    found = [free for free in (_of_the_machine(), _of_the_container()) if free is not None]
    return min(found) if found else None


def _of_the_machine() -> int | None:
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _of_the_container() -> int | None:
    try:
        limit, used = ((_CGROUP / f"memory.{name}").read_text(encoding="ascii").strip() for name in ("max", "current"))
    except OSError:
        return None
    return None if limit == "max" else max(0, int(limit) - int(used))
