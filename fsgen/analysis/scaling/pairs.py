"""Reads `TARGET:DRAFT`, a pair whose frequency is predicted."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

import polars as pl

from fsgen.analysis.labels import short_name
from fsgen.analysis.scaling.results import Model

UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


def parse_pair(
    text: str, points: pl.DataFrame, others: Callable[[], Mapping[str, float]] = dict
) -> tuple[Model, Model]:
    """Target and draft of `TARGET:DRAFT`.

    Args:
        text: each of both a size (`70B`, `70e9`), a model of the points, or another model that is known.
        points: as `read_points` gives them.
        others: the sizes of other models by name; called only where they are needed.

    Raises:
        ValueError: it is no such pair, a name is not known, or the draft is the larger one.
    """
    names = [name.strip() for name in text.split(":")]
    if len(names) != 2 or not all(names):
        raise ValueError(f"pair {text!r} is not TARGET:DRAFT, such as 70B:7B or two names of models")
    known: dict[str, float] = {}
    for role in ("target", "draft"):
        for name, parameters in points.select(role, f"{role}_parameters").unique(maintain_order=True).rows():
            known.setdefault(name, parameters)
            known.setdefault(short_name(name), parameters)
    models = []
    for name in names:
        parameters = known.get(name) or read_size(name) or others().get(name)
        if parameters is None:
            choices = ", ".join([*known, *(other for other in others() if other not in known)])
            raise ValueError(f"{name!r} in {text!r} is neither a size, such as 70B or 70e9, nor one of {choices}")
        models.append(Model(name, parameters))
    target, draft = models
    if target.parameters < draft.parameters:
        raise ValueError(f"pair {text!r} is TARGET:DRAFT, but the target {target.name} is smaller than {draft.name}")
    return target, draft


def read_size(text: str) -> float | None:
    """A number of parameters such as `70B`, `0.5b`, `70e9`; None for anything else.

    Raises:
        ValueError: a number that is too small for a model; `70` alone may mean anything.
    """
    found = re.fullmatch(r"([0-9.]+(?:e\+?[0-9]+)?)([kmbt]?)", text.replace("_", "").replace(",", "").lower())
    try:
        size = float(found[1]) * UNITS[found[2]] if found else None
    except ValueError:
        return None
    if size is not None and not 1e3 <= size < math.inf:
        raise ValueError(f"size {text!r} is not a model's; billions of parameters are written 70B or 70e9")
    return size
