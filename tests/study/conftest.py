"""Fixtures of the study's tests."""

from __future__ import annotations

import pytest

from tests.study.ladder import questions, save_ladder


@pytest.fixture(scope="session")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return save_ladder(tmp_path_factory.mktemp("ladder"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return questions(tmp_path_factory.mktemp("data"))
