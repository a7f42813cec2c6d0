"""`fsgen serve`: its options, and what it refuses before any weights load."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import Finished

Run = Callable[..., Finished]


def test_help_names_the_bounds(run: Run) -> None:
    found = run("serve", "--help")
    assert found.status == 0
    for option in ("--rows", "--queue", "--api-key-file", "--host", "--fixed-method", "--drain"):
        assert option in found.out


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "guess"], "unknown method 'guess'"),
        (["--target", "no-such-model"], "no-such-model"),
        (["--target", "vllm:http://127.0.0.1:9#big"], "is behind a server already"),
        (["--rows", "0"], "--rows"),
        (["--port", "70000"], "--port"),
        (["--host", "192.0.2.1"], "the address 192.0.2.1:8000 cannot be used"),
        (["--method", "proxy", "--target", "pocket-4m", "--draft", "/nowhere"], "/nowhere"),
    ],
)
def test_what_cannot_be_served_is_one_line(run: Run, arguments: list[str], words: str) -> None:
    found = run("serve", *arguments)
    assert found.status == 2
    assert found.err.startswith("error: ")
    assert found.err.count("\n") == 1
    assert words in found.err


@pytest.mark.usefixtures("no_weights")
def test_a_port_that_is_taken_is_told_before_the_models_load(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = run("serve", "--port", str(taken.getsockname()[1]))
    assert (found.status, "cannot be used" in found.err) == (2, True)


def test_without_the_extra_it_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("fsgen.serve", "uvicorn", "fastapi"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    found = run("serve")
    assert found.status == 2
    assert "fsgen serve needs uvicorn: pip install 'fsgen[serve]'" in found.err


@pytest.mark.usefixtures("no_weights")
def test_a_plan_names_the_models(run: Run, tmp_path: Path) -> None:
    common = {"speedup": 1.2, "low": 1.1, "high": 1.3, "tokens_per_second": 10.0}
    setting = {"draft": "pocket-0.25m", "method": "speculative", "draft_tokens": 4} | common
    content = {"verdict": "draft", "target": "no-such-model", "batch_size": 1, "by_batch_size": {1: setting}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    found = run("serve", "--plan", str(tmp_path / "plan.yaml"))
    assert (found.status, "no-such-model" in found.err) == (2, True)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "does not exist"), (b"{% if %}", "no chat template in Jinja"), (b"\xff", "utf-8"), (b" ", "it is empty")],
)
def test_a_chat_template_is_read_before_the_models_load(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, words: str
) -> None:
    monkeypatch.setattr("fsgen.backends.Plan.load", lambda *arguments: pytest.fail("weights were loaded"))
    if content is not None:
        (tmp_path / "chat.jinja").write_bytes(content)
    found = run("serve", "--port", "0", "--chat-template", str(tmp_path / "chat.jinja"))
    assert (found.status, words in found.err) == (2, True), found.err


def test_a_key_file_is_read_first(run: Run, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("short")
    found = run("serve", "--api-key-file", str(tmp_path / "keys"))
    assert (found.status, "at least 8 characters" in found.err) == (2, True)
