"""Fixtures of the experiments' tests: tiny models and questions, as those of studies have them; a silent console."""

from __future__ import annotations

import io

from rich.console import Console

from tests.study.conftest import data, ladder

__all__ = ["data", "ladder", "quiet"]


def quiet() -> Console:
    """A console that nobody sees."""
    return Console(file=io.StringIO())
