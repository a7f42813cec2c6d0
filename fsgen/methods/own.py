"""Routers and fusions from elsewhere (`fsgen.plugins`), tried on a few logits before they are used."""

from __future__ import annotations

from dataclasses import is_dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from fsgen.methods.fusions import Fusion
from fsgen.methods.routers import Router
from fsgen.plugins import find, subclass, tried

TRIED = 1000  # entries of the vocabulary that a part is tried on


@cache
def own_router(text: str) -> Router | None:
    """The router that a text names; None where it names none. Raises ValueError for one that breaks the protocol."""
    found = find("routers", text)
    if found is None:
        return None
    part, name, argument = found
    router: Router = subclass(part, Router, name, "router").parse(argument)
    logits = torch.randn(3, TRIED, generator=torch.Generator().manual_seed(0))
    with tried("router", name):
        flags: Any = router.consult(logits, np.arange(3), np.arange(3, dtype=np.uint64))
        hash((router, str(router)))  # texts of equal methods are decoded together, and tables name them
    if not (isinstance(flags, list) and len(flags) == 3 and all(isinstance(flag, bool) for flag in flags)):
        right = "consult gives a list of one bool a row"
        raise ValueError(f"router {name!r} breaks the protocol: {right}, not {flags!r:.60}")
    return router


@cache
def own_fusion(text: str) -> tuple[Fusion, str, str] | None:
    """The fusion that a text names, with its name and the parameters behind it; None where it names none.

    Raises:
        ValueError: one that breaks the protocol.
    """
    found = find("fusions", text)
    if found is None:
        return None
    part, name, rest = found
    subclass(part, Fusion, name, "fusion")
    made: Any = part
    if not is_dataclass(part) or not isinstance(getattr(part, "name", None), str):
        raise ValueError(f"fusion {name!r} breaks the protocol: it is a frozen dataclass with a `name`")
    z = torch.randn(3, 2, 4, TRIED, generator=torch.Generator().manual_seed(0))
    with tried("fusion", name):
        fusion: Fusion = made()
        hash(fusion)
        q: Any = fusion(z[0], z[1] if fusion.reads_draft else None, z[2] if fusion.reads_base else None)
    if not (isinstance(q, torch.Tensor) and q.shape == z[0].shape and not q.isnan().any()):
        raise ValueError(f"fusion {name!r} breaks the protocol: it gives logits of the target's shape, without NaN")
    return fusion, name, rest
