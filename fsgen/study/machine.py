"""What a run was made with: versions and hardware, for its record."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


@cache
def versions() -> dict[str, str]:
    """Of fsgen, of what computes, and of Python."""
    import fsgen

    found = {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")}
    with suppress(PackageNotFoundError):  # of an extra
        found["llama-cpp-python"] = version("llama-cpp-python")
    return {"fsgen": fsgen.__version__, **found, "python": platform.python_version()}


@cache
def hardware() -> dict[str, Any]:
    """Processor, its cores at hand, threads, memory in bytes, and GPUs."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "system": platform.system(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": [torch.cuda.get_device_name(gpu) for gpu in range(gpus)],
    }


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
