"""Collaborative decoding of a small and a large language model: measured, planned, run."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fsgen.generation import Generation, generate, stream
    from fsgen.methods import Method
    from fsgen.models import Members, load
    from fsgen.types import Example, SamplingParams, Token

__all__ = ["Example", "Generation", "Members", "Method", "SamplingParams", "Token", "generate", "load", "stream"]
__version__ = "0.1.0"

_HOMES = {
    "generation": ("Generation", "generate", "stream"),
    "methods": ("Method",),
    "models": ("Members", "load"),
    "types": ("Example", "SamplingParams", "Token"),
}


def __getattr__(name: str) -> Any:
    # Imported when first used: torch takes seconds, and `fsgen --help` and `fsgen models` need none of it.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
