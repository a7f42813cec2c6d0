"""Collaborative decoding of a small and a large language model: measured, planned, run."""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fsgen.api import generate, stream
    from fsgen.backends import Members, load
    from fsgen.conversation import chat
    from fsgen.generation import Generation
    from fsgen.methods.method import Method
    from fsgen.types import Example, SamplingParams, Token

__all__ = [
    "Example",
    "Generation",
    "Members",
    "Method",
    "SamplingParams",
    "Token",
    "chat",
    "generate",
    "load",
    "stream",
]
__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent, until a program wants to hear

_HOMES = {
    "api": ("generate", "stream"),
    "backends": ("Members", "load"),
    "conversation": ("chat",),
    "generation": ("Generation",),
    "methods.method": ("Method",),
    "types": ("Example", "SamplingParams", "Token"),
}


def __getattr__(name: str) -> Any:
    # Imported when first used: torch takes seconds, and `fsgen --help` and `fsgen models` need none of it.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
