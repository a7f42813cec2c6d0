"""A model by its name, or a shape with random weights."""

from __future__ import annotations

from fsgen.backends import places
from fsgen.backends.members import load
from fsgen.backends.protocol import Model
from fsgen.backends.remote.address import require_here
from fsgen.bench.shapes import PREFIX, check_shape, random_model


def open_model(name: str, dtype: str = "auto", device: str = "auto", weights: str = "auto") -> Model:
    """A model to measure. Raises ValueError as `fsgen.load`, for an unknown shape, or a model elsewhere."""
    if name.startswith(PREFIX):
        check_shape(name)
        places.check_dtype(dtype)
        places.check_device(device)
        return random_model(name, places.weights_by_role(weights, ["target"]).get("target", dtype), device)
    require_here(name)
    target = load(target=name, dtype=dtype, device=device, weights=weights).target
    assert target is not None
    return target
