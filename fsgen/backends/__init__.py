"""Models behind one call, `session.score(sequences, last)`. Importing this loads no model and no `transformers`."""

from fsgen.backends.members import Members, Plan, load, plan
from fsgen.backends.protocol import Model, Session, Usage
from fsgen.types import ModelInfo

__all__ = ["Members", "Model", "ModelInfo", "Plan", "Session", "Usage", "load", "plan"]
