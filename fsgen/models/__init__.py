"""Models behind one call, `session.score(sequences, last)`. Importing this loads no model and no `transformers`."""

from fsgen.models.base import Model, ModelInfo, Session, Usage
from fsgen.models.members import Members, Plan, load, plan

__all__ = ["Members", "Model", "ModelInfo", "Plan", "Session", "Usage", "load", "plan"]
