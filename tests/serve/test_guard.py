"""Who may ask, and how much."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from fsgen.backends import Members
from fsgen.serve.guard import Keys
from fsgen.serve.limits import Limits
from fsgen.serve.run import KEYS, read_keys
from tests.serve.conftest import Running, serving, until
from tests.serve.test_api import ask

SECRET, OTHER = "a-long-secret", "another-secret"


@pytest.fixture(scope="module")
def locked(pair: Members) -> Iterator[Running]:
    options: dict[str, Any] = {"keys": [SECRET, OTHER], "origins": ["https://good.example"], "log_prompts": False}
    with serving(pair, limits=Limits(rows=2, body=4000), **options) as found:
        yield found


def test_keys(locked: Running) -> None:
    with pytest.raises(openai.AuthenticationError, match="incorrect API key"):
        locked.client(api_key="a-long-secre").models.list()
    assert len(locked.client(api_key=OTHER).models.list().data) == 1
    for path in ("/metrics", "/fsgen/state", "/v1/models", "/docs", "/openapi.json"):
        status, found, headers = ask(locked.url, path)
        assert (status, found["error"]["code"], headers["www-authenticate"]) == (401, "invalid_api_key", "Bearer")
    assert ask(locked.url, "/health")[0] == 200
    assert ask(locked.url, "/metrics", Authorization=f"Bearer {SECRET}")[0] == 200


def test_keys_are_compared_as_digests_and_all_of_them() -> None:
    keys = Keys([SECRET, OTHER])
    names = {keys.owner(f"Bearer {key}") for key in (SECRET, OTHER)}
    assert len(names) == 2
    assert not any(SECRET in str(name) or name is None for name in names)
    for wrong in ("", "Bearer", f"Basic {SECRET}", SECRET, f"Bearer {SECRET}x", "Bearer \udcff"):
        assert keys.owner(wrong) is None


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{SECRET}\n\n{OTHER}\n")
    monkeypatch.setenv(KEYS, "from-environment")
    assert read_keys(file) == [SECRET, OTHER]
    assert read_keys(None) == ["from-environment"]
    file.write_text("short\n")
    with pytest.raises(ValueError, match="at least 8"):
        read_keys(file)
    file.write_text("\n")
    with pytest.raises(ValueError, match="has no key"):
        read_keys(file)


def test_other_sites_and_other_names_are_refused(locked: Running) -> None:
    key = {"Authorization": f"Bearer {SECRET}"}
    assert ask(locked.url, "/v1/models", Origin="https://evil.example", **key)[0] == 403
    assert ask(locked.url, "/v1/models", Host="evil.example", **key)[0] == 421
    assert ask(locked.url, "/v1/models", Origin=locked.url, **key)[0] == 200
    status, _, headers = ask(locked.url, "/v1/models", Origin="https://good.example", **key)
    assert (status, headers["access-control-allow-origin"]) == (200, "https://good.example")
    assert ask(locked.url, "/v1/models", **key)[2]["access-control-allow-origin"] is None


def test_no_site_is_allowed_by_itself(running: Running) -> None:
    status, _, headers = ask(running.url, "/v1/models", Origin="https://good.example")
    assert (status, headers["access-control-allow-origin"]) == (403, None)
    body = json.dumps({"prompt": "a"}).encode()
    assert ask(running.url, "/v1/completions", body, **{"content-type": "text/plain"})[0] == 400, "a form could send it"


def test_bodies_are_bounded(locked: Running) -> None:
    key = {"Authorization": f"Bearer {SECRET}"}
    status, found, _ = ask(locked.url, "/v1/completions", {"prompt": "a" * 5000}, **key)
    assert (status, found["error"]["code"]) == (413, "request_too_large")
    host, port = locked.url.removeprefix("http://").split(":")
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {SECRET}\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(5):
            raw.sendall(b"400\r\n" + b"a" * 1024 + b"\r\n")
        assert b" 413 " in raw.recv(200)
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(f"{head}Content-Length: 10\r\n\r\n".encode())
    assert ask(locked.url, "/health")[0] == 200


def test_requests_are_logged_as_json_without_their_prompts(locked: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fsgen.serve.requests")
    body = {"prompt": "a secret story", "max_tokens": 2}
    headers = {"Authorization": f"Bearer {SECRET}", "X-Request-Id": "mine-1"}
    assert ask(locked.url, "/v1/completions", body, **headers)[2]["x-request-id"] == "mine-1"
    assert ask(locked.url, "/v1/models", **headers | {"X-Request-Id": "bad id"})[2]["x-request-id"] != "bad id"
    until(lambda: len([each for each in caplog.records if "models" in each.message]) > 0)
    [line] = [found for each in caplog.records if (found := json.loads(each.message))["request_id"] == "mine-1"]
    assert (line["request_id"], line["status"], line["completion_tokens"]) == ("mine-1", 200, 2)
    assert SECRET not in caplog.text
    assert "story" not in caplog.text


def test_prompts_are_logged_where_that_is_wanted(pair: Members, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fsgen.serve.requests")
    with serving(pair, limits=Limits(rows=1), log_prompts=True) as found:
        ask(found.url, "/v1/completions", {"prompt": "a story", "max_tokens": 2})
    assert json.loads(caplog.records[0].message)["prompt"] == "a story"
