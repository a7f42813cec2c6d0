"""The decode loop: `Engine` and `Sequence`, and what they are made of."""

from fsgen.engine.engine import Engine
from fsgen.engine.sequence import Sequence

__all__ = ["Engine", "Sequence"]
