"""Fixtures of the experiments' tests: tiny models and questions, as those of studies have them."""

from tests.study.conftest import data, ladder

__all__ = ["data", "ladder"]
