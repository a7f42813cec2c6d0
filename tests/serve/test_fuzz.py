"""Requests made from the OpenAPI description, good and bad: none makes the server fail or hang.

FSGEN_FULL_TESTS=1 makes 10,000 of them instead of a few hundred.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from benchmarks.serving import free_port, running
from fsgen.backends import Members
from fsgen.serve.limits import Limits
from tests.serve.conftest import PATIENCE, Running, serving, until
from tests.serve.test_api import ask

schemathesis = pytest.importorskip("schemathesis")

REQUESTS = 10_000 if os.environ.get("FSGEN_FULL_TESTS") == "1" else 300
MEMORY = 24 * 2**20  # bytes by which the second and the third time may have more than the first
PATHS = {
    "POST /v1/completions": 0.4,
    "POST /v1/chat/completions": 0.3,
    "POST /tokenize": 0.1,
    "POST /detokenize": 0.1,
    "GET /v1/models/{name}": 0.1,
}


@pytest.fixture(scope="module")
def small(pair: Members) -> Iterator[Running]:
    """Its texts are short, so that many requests take seconds."""
    with serving(pair, limits=Limits(rows=8, output=24, choices=8)) as found:
        yield found


def fuzz(url: str, path: str, most: int) -> Counter[int]:
    """Makes so many requests of a kind, the same ones each time: how many have which status."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    method, _, where = path.partition(" ")
    operation = schema[where][method]
    statuses = Counter[int]()

    @settings(
        max_examples=max(10, most),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def each(case: Any) -> None:
        answer = case.call(timeout=PATIENCE)
        statuses[answer.status_code] += 1
        assert answer.status_code < 500, (case.body, answer.content)
        if answer.status_code >= 400:
            error = answer.json()["error"]
            assert error["message"]
            assert error["type"]

    each()
    return statuses


@pytest.mark.parametrize("path", PATHS)
def test_no_request_makes_it_fail_or_hang(small: Running, path: str) -> None:
    statuses = fuzz(small.url, path, int(REQUESTS * PATHS[path]))
    assert statuses[200] + statuses[400] + statuses[404] > 0
    until(small.idle, PATIENCE)
    assert ask(small.url, "/health")[0] == 200


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_back_where_it_was(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "fsgen", "serve", "--draft", "pocket-0.25m", "--target", "pocket-1.5m"]
    command += ["--port", str(port), "--rows", "8", "--max-tokens", "24"]
    with running(command, port, tmp_path / "log") as process:

        def resident() -> int:
            return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        def round_of_requests() -> None:
            for path, share in PATHS.items():
                fuzz(f"http://127.0.0.1:{port}", path, int(REQUESTS * share / 3))

        round_of_requests()  # the first ones fill what is kept for good
        before = resident()
        round_of_requests()
        round_of_requests()
        grown = resident() - before
    assert grown < MEMORY, f"{grown / 2**20:.1f} MiB more"
