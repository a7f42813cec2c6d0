"""A command that is given what is wrong: one line, by which it is refused, and nothing written."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.inputs.values import OUTPUT, STUDY
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files and folders by the names that the table has for them."""
    root = tmp_path_factory.mktemp("inputs")
    for seed, name in enumerate(("draft", "target")):
        save_tiny(root / name, seed=seed)
    save_tiny(root / "broken")
    settings = root / "broken" / "config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"max_position_embeddings": 0}))
    (root / "empty").mkdir()
    (root / "file").write_text("x")
    (root / "binary").write_bytes(bytes(range(256)))
    (root / "study").write_text(STUDY)
    (root / "outputs").write_text(OUTPUT)
    return {path.name: str(path) for path in root.iterdir()}


@pytest.fixture
def refused(run: Any, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command in an empty folder, which must refuse it; gives what it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    monkeypatch.setattr("fsgen.backends.remote.http.UNKNOWN", 0.1)

    def refused(*case: str) -> str:
        began, before = time.process_time(), sorted(tmp_path.rglob("*"))
        arguments = [places.get(word[1:-1], word) if word[:1] == "{" else word for word in case]
        arguments = [word.replace("{file}", places["file"]) for word in arguments]
        answer = run(*arguments)
        assert (answer.status, answer.out) == (2, ""), answer
        assert answer.err.startswith("error: "), answer.err
        assert len(answer.err) > len("error: x\n")
        assert answer.err.count("\n") == 1
        assert answer.err.strip().isprintable()
        assert sorted(tmp_path.rglob("*")) == before, "something was written"
        assert time.process_time() - began < 10
        return str(answer.err)

    return refused
