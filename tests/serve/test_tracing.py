"""Spans: what a request asked for, how long its parts took, and whose child it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from fsgen.backends import Members
from fsgen.serve.limits import Limits
from fsgen.serve.tracing import Spans, otlp
from tests.conftest import Finished
from tests.serve.conftest import serving, until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def traced(members: Members, *asked: dict[str, Any], limits: Limits | None = None) -> tuple[list[ReadableSpan], Any]:
    """The spans of requests, and the last answer."""
    exporter = InMemorySpanExporter()
    with serving(members, limits=limits, spans=Spans(SimpleSpanProcessor(exporter))) as running:
        for body in asked:
            headers = {"x-request-id": "mine", "traceparent": f"00-{TRACE}-{PARENT}-01"}
            answer = httpx2.post(f"{running.url}/v1/completions", json=body, headers=headers, timeout=60)
        wanted = len(asked)
        until(lambda: sum(span.kind is SpanKind.SERVER for span in exporter.get_finished_spans()) >= wanted)
        return list(exporter.get_finished_spans()), answer


def about(span: ReadableSpan) -> dict[str, Any]:
    """A span's attributes."""
    return dict(span.attributes or {})


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_has_a_span_with_its_parts(pair: Members, stream: bool) -> None:
    body = {"prompt": "Question: 2 + 2?", "max_tokens": 9, "temperature": 0, "stream": stream}
    spans, answer = traced(pair, body | {"fsgen": {"method": "speculative", "draft_tokens": 3}})
    *parts, whole = spans
    attributes = about(whole)
    assert (whole.name, whole.kind) == ("text_completion pocket-0.25m+pocket-1.5m", SpanKind.SERVER)
    assert f"{whole.context.trace_id:032x}" == TRACE
    assert whole.parent is not None
    assert f"{whole.parent.span_id:016x}" == PARENT
    assert attributes["fsgen.request_id"] == "mine"
    assert attributes["gen_ai.operation.name"] == "text_completion"
    assert attributes["gen_ai.request.max_tokens"] == 9
    assert attributes["fsgen.method"] == "speculative"
    assert attributes["fsgen.draft_tokens"] == 3
    assert attributes["gen_ai.latency.e2e"] >= attributes["gen_ai.latency.time_to_first_token"] > 0
    assert whole.status.status_code is StatusCode.UNSET
    if not stream:
        usage = answer.json()["usage"]
        assert attributes["gen_ai.request.id"] == answer.json()["id"]
        assert attributes["gen_ai.usage.prompt_tokens"] == usage["prompt_tokens"]
        assert attributes["gen_ai.usage.completion_tokens"] == usage["completion_tokens"] == 9
        assert attributes["fsgen.target_calls"] == usage["target_calls"]
        assert attributes["fsgen.draft_calls"] == usage["draft_calls"]
    assert [part.name for part in parts] == ["queue", "first_token", "decode"]
    assert all(part.parent is not None and part.parent.span_id == whole.context.span_id for part in parts)
    assert parts[0].start_time == whole.start_time
    assert [part.end_time for part in parts[:2]] == [part.start_time for part in parts[1:]]
    assert parts[2].end_time == whole.end_time


def test_texts_of_a_request_have_parts_of_their_own(pair: Members) -> None:
    spans, _ = traced(pair, {"prompt": ["a", "b"], "max_tokens": 3, "temperature": 0})
    assert sorted((part.name, about(part)["index"]) for part in spans[:-1]) == [
        (name, index) for name in ("decode", "first_token", "queue") for index in (0, 1)
    ]
    assert about(spans[-1])["gen_ai.usage.num_sequences"] == 2


def test_a_request_that_fails_says_so(pair: Members) -> None:
    asked = {"prompt": "a", "max_tokens": 400, "ignore_eos": True, "temperature": 0}
    spans, answer = traced(pair, asked, limits=Limits(2, seconds=0.05))
    assert answer.status_code == 504
    failed = spans[-1]
    assert failed.status.status_code is StatusCode.ERROR
    assert about(failed)["error.type"] == "time"


def test_bad_addresses_and_the_missing_extra(run: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("localhost:4318", "ftp://somewhere/v1/traces", "http://", "http://[::1"):
        with pytest.raises(ValueError, match="spans cannot be sent to"):
            otlp(address)
    monkeypatch.delitem(sys.modules, "fsgen.serve.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry.context", None)
    found = run("serve", "--otlp-traces-endpoint", "http://127.0.0.1:4318/v1/traces")
    assert (found.status, found.out) == (2, "")
    assert "pip install 'fsgen[otel]'" in found.err
