"""The open questions of the field as ready experiments; docs/experiments.md tells how each is run and answered."""

from fsgen.experiments.config import ExperimentConfig, configured, default_text, names
from fsgen.experiments.run import run_experiment

__all__ = ["ExperimentConfig", "configured", "default_text", "names", "run_experiment"]
