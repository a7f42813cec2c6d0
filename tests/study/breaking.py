"""A router during which a GPU breaks, once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fsgen.methods.routers import Router

MARK = "FSGEN_BREAKS"
"""The variable with the name of a file: where it is there, the next call removes it and breaks."""


@dataclass(frozen=True, slots=True)
class Breaking(Router):
    """Consults always. The process that breaks stays so: whatever it is asked from then on raises the same error."""

    name = "tests.study.breaking:Breaking"

    def consult(self, logits: Any, positions: Any, seeds: Any) -> list[bool]:
        file = Path(os.environ.get(MARK, ""))
        if file.is_file() or _state.get("broken"):
            _state["broken"] = True
            file.unlink(missing_ok=True)
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700)
        return [True] * len(positions)


_state: dict[str, bool] = {}
