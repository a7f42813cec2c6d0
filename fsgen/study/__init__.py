"""A grid of tasks, pairs, methods, routers and samplings: checked as a whole, run in parts, resumed after a crash."""

from fsgen.study.cluster import Cluster
from fsgen.study.config import StudyConfig, load_config
from fsgen.study.run import StudyResult, run_study

__all__ = ["Cluster", "StudyConfig", "StudyResult", "load_config", "run_study"]
