"""A span of OpenTelemetry for each request, with vLLM's names of attributes where it has them. Needs the extra `otel`.

A request's span covers it from its arrival to its last token. Below it lie, for each text, `queue` (until it has a
row), `first_token` (until its first token) and `decode` (until its last one).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import fsgen
from fsgen.serve.answers import Answer
from fsgen.serve.job import Job

Value = str | int | float


def otlp(endpoint: str) -> SpanProcessor:
    """Sends spans by HTTP to an address such as http://localhost:4318/v1/traces, in a thread of its own.

    Raises:
        ValueError: it is no such address.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    try:
        given = urlsplit(endpoint)
        good = given.scheme in ("http", "https") and given.hostname and given.port != 0
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"spans cannot be sent to {endpoint!r}: give an address like http://localhost:4318/v1/traces")
    return BatchSpanProcessor(OTLPSpanExporter(endpoint))


class Spans:
    """What traces the requests of a server.

    Args:
        processor: takes the spans.
    """

    def __init__(self, processor: SpanProcessor) -> None:
        resource = Resource.create({"service.name": "fsgen", "service.version": fsgen.__version__})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("fsgen.serve", fsgen.__version__)

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()

    def record(self, answer: Answer, request_id: str, headers: Mapping[str, str]) -> None:
        """A request that has ended.

        Args:
            answer: to it.
            request_id: as in the log.
            headers: of the request; a `traceparent` among them is the caller's span.
        """
        jobs, now = answer.texts.jobs, time.monotonic()
        zero = time.time_ns() - int(1e9 * now)  # of the clock by which jobs are timed

        def at(seconds: float) -> int:
            return zero + int(1e9 * seconds)

        parent = TraceContextTextMapPropagator().extract(dict(headers))
        began, ended = min(job.arrived for job in jobs), max(job.ended or now for job in jobs)
        attributes: dict[str, Value] = {
            "fsgen.request_id": request_id,
            **_attributes(answer),
            **_latencies(jobs, began, ended),
        }
        name = f"{attributes['gen_ai.operation.name']} {answer.service.name}"
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes, start_time=at(began))
        inside = set_span_in_context(span, Context())
        for index, job in enumerate(jobs):
            for name, start, end in _parts(job):
                part = self._tracer.start_span(name, inside, attributes={"index": index}, start_time=at(start))
                part.end(at(end))
        if fault := next((job.failure for job in jobs if job.failure is not None), None):
            span.set_attribute("error.type", fault.kind)
            span.set_status(Status(StatusCode.ERROR, str(fault)))
        elif not all(job.ended for job in jobs):
            span.set_attribute("error.type", "cancelled")
            span.set_status(Status(StatusCode.ERROR, "the client went away"))
        span.end(at(ended))


def _attributes(answer: Answer) -> dict[str, Value]:
    """What was asked for, and what it took."""
    request, texts = answer.request, answer.texts
    written = [job.sequence for job in texts.jobs if job.sequence is not None]
    calls = {
        role: sum(one.usage[role].calls for one in written if role in one.usage) for role in ("draft", "target", "base")
    }
    found: dict[str, Value] = {
        "gen_ai.operation.name": "chat" if answer.chat else "text_completion",
        "gen_ai.request.id": answer.id,
        "gen_ai.request.model": request.model or answer.service.name,
        "gen_ai.response.model": answer.service.name,
        "gen_ai.request.temperature": request.temperature,
        "gen_ai.request.top_p": request.top_p,
        "gen_ai.request.n": request.n,
        "gen_ai.request.max_tokens": max((one.sampling.max_tokens for one in written), default=0),
        "gen_ai.usage.num_sequences": len(texts.jobs),
        "gen_ai.usage.prompt_tokens": sum(map(len, texts.prompts)),
        "gen_ai.usage.completion_tokens": sum(len(job.tokens) for job in texts.jobs),
        "fsgen.method": texts.method.name,
        "fsgen.router": str(texts.method.router),
        "fsgen.draft_tokens": "auto" if texts.method.adaptive else texts.method.draft_tokens,
    }
    return found | {f"fsgen.{role}_calls": count for role, count in calls.items()}


def _latencies(jobs: list[Job], began: float, ended: float) -> dict[str, Value]:
    """Seconds: of the text that waited longest, to the first token of all, and of the whole."""
    started = [job.started - job.arrived for job in jobs if job.started is not None]
    first = [job.first - began for job in jobs if job.first is not None]
    found: dict[str, Value] = {"gen_ai.latency.e2e": ended - began}
    if started:
        found["gen_ai.latency.time_in_queue"] = max(started)
    if first:
        found["gen_ai.latency.time_to_first_token"] = min(first)
        found["gen_ai.latency.time_in_model_decode"] = ended - began - min(first)
    return found


def _parts(job: Job) -> Iterator[tuple[str, float, float]]:
    """The spans of a text, as far as it came."""
    times = (job.arrived, job.started, job.first, job.ended)
    for name, start, end in zip(("queue", "first_token", "decode"), times, times[1:], strict=False):
        if start is not None and end is not None:
            yield name, start, end
