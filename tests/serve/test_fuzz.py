"""Requests made from the OpenAPI description, good and bad: none makes the server fail or hang.

FSGEN_FULL_TESTS=1 makes 10,000 of them instead of a few hundred.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from fsgen.backends import Members
from fsgen.serve.limits import Limits
from tests.serve.conftest import PATIENCE, Running, serving, until
from tests.serve.test_api import ask

schemathesis = pytest.importorskip("schemathesis")

REQUESTS = 10_000 if os.environ.get("FSGEN_FULL_TESTS") == "1" else 300
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


@pytest.mark.parametrize("path", PATHS)
def test_no_request_makes_it_fail_or_hang(small: Running, path: str) -> None:
    schema = schemathesis.openapi.from_url(f"{small.url}/openapi.json")
    method, _, where = path.partition(" ")
    operation = schema[where][method]
    statuses = Counter[int]()

    @settings(
        max_examples=max(10, int(REQUESTS * PATHS[path])),
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
    assert statuses[200] + statuses[400] + statuses[404] > 0
    until(small.idle, PATIENCE)
    assert ask(small.url, "/health")[0] == 200
