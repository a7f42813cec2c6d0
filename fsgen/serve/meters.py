"""What is counted: for Prometheus, with vLLM's names where it has them, and for the page of the server's state."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from fsgen.serve.job import Job
from fsgen.serve.records import accepted_by_round
from fsgen.types import SOURCES, Token

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
LENGTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
POSITIONS = 64  # of a round's drafted tokens
INTERVAL, KEPT = 5.0, 720  # seconds of an entry of the history, and entries: an hour


class Meters:
    """An `Observer` of a scheduler; it is called in the engine's thread.

    Args:
        model: the name under which clients know it.
    """

    def __init__(self, model: str) -> None:
        self._registry = CollectorRegistry()
        self._model = model
        self.running = self._gauge("vllm:num_requests_running", "Texts that are being written.")
        self.waiting = self._gauge("vllm:num_requests_waiting", "Texts that wait for a row.")
        self._prompt = self._counter("vllm:prompt_tokens", "Tokens of prompts.")
        self._tokens = self._counter("vllm:generation_tokens", "Written tokens.")
        self._ended = self._counter("vllm:request_success", "Finished texts, by reason.", "finished_reason")
        self._failed = self._counter("fsgen:request_failure", "Texts that were not finished, by cause.", "cause")
        self._sources = self._counter("fsgen:tokens", "Written tokens, by source.", "source")
        self._known = self._counter("fsgen:known_tokens", "Tokens at which both systems' greedy choices are known.")
        self._differing = self._counter("fsgen:differing_tokens", "Of these, those at which they differ.")
        self._consulted = self._counter("fsgen:consulted_tokens", "Tokens at which System 2 was consulted.")
        self._calls = self._counter("fsgen:forward_calls", "Forward calls in which texts took part.", "role")
        self._drafts = self._counter("vllm:spec_decode_num_drafts", "Rounds with drafted tokens to verify.")
        self._drafted = self._counter("vllm:spec_decode_num_draft_tokens", "Drafted tokens to verify.")
        self._accepted = self._counter("vllm:spec_decode_num_accepted_tokens", "Accepted drafted tokens.")
        self._positions = self._counter(
            "vllm:spec_decode_num_accepted_tokens_per_pos",
            "Accepted drafted tokens, by place in the draft.",
            "position",
        )
        self._first = self._histogram("vllm:time_to_first_token_seconds", "From arrival to the first token.")
        self._each = self._histogram("vllm:time_per_output_token_seconds", "Between tokens, the mean of a text.")
        self._whole = self._histogram("vllm:e2e_request_latency_seconds", "From arrival to the last token.")
        self._queued = self._histogram("vllm:request_queue_time_seconds", "From arrival to a row.")
        self._prompts = self._histogram("vllm:request_prompt_tokens", "Tokens of a prompt.", LENGTHS)
        self._outputs = self._histogram("vllm:request_generation_tokens", "Tokens of a completion.", LENGTHS)
        self._batch = self._histogram("fsgen:batch_size", "Texts in a round.", BATCHES)
        self._rounds = self._histogram("fsgen:round_seconds", "Seconds of a round.")
        self.history: deque[dict[str, float]] = deque(maxlen=KEPT)

    def _labels(self, *more: str) -> tuple[str, ...]:
        return ("model_name", *more)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ("model_name",), registry=self._registry).labels(self._model)

    def _counter(self, name: str, text: str, label: str | None = None) -> Counter:
        made = Counter(name, text, ("model_name", *([label] if label else [])), registry=self._registry)
        return made if label else made.labels(self._model)

    def _histogram(self, name: str, text: str, buckets: Sequence[float] = SECONDS) -> Histogram:
        return Histogram(name, text, ("model_name",), registry=self._registry, buckets=buckets).labels(self._model)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)

    # ---- Observer

    def round(self, running: int, waiting: int, tokens: Sequence[Token], seconds: float) -> None:
        self.running.set(running)
        self.waiting.set(waiting)
        if running:
            self._batch.observe(running)
            self._rounds.observe(seconds)
        counts = dict.fromkeys(SOURCES, 0)
        known = differing = consulted = 0
        for token in tokens:
            counts[token.source] += 1
            consulted += token.consulted
            differs = token.differs
            known += differs is not None
            differing += differs is True
        for source, count in counts.items():
            if count:
                self._sources.labels(self._model, source).inc(count)
        self._tokens.inc(len(tokens))
        self._known.inc(known)
        self._differing.inc(differing)
        self._consulted.inc(consulted)
        self._remember(counts | {"known": known, "differing": differing, "consulted": consulted}, running, waiting)

    def ended(self, job: Job) -> None:
        if job.failure is not None:
            self._failed.labels(self._model, job.failure.kind).inc()
            return
        one, now = job.sequence, job.ended or time.monotonic()
        self._whole.observe(now - job.arrived)
        if job.started is not None:
            self._queued.observe(job.started - job.arrived)
        if one is None:
            return
        self._ended.labels(self._model, "length" if one.stop_reason == "length" else "stop").inc()
        self._prompt.inc(one.prompt_length)
        self._prompts.observe(one.prompt_length)
        self._outputs.observe(len(job.tokens))
        for role, usage in one.usage.items():
            self._calls.labels(self._model, role).inc(usage.calls)
        if job.first is not None:
            self._first.observe(job.first - job.arrived)
            if len(job.tokens) > 1:
                self._each.observe((now - job.first) / (len(job.tokens) - 1))
        accepted = accepted_by_round(job)
        for number, drafted in one.verified.items():
            self._drafts.inc()
            self._drafted.inc(drafted)
            self._accepted.inc(accepted.get(number, 0))
            for place in range(min(POSITIONS, accepted.get(number, 0))):
                self._positions.labels(self._model, str(place)).inc()

    def _remember(self, counts: dict[str, int], running: int, waiting: int) -> None:
        """Adds a round to the present entry of the history."""
        start = time.time() // INTERVAL * INTERVAL
        if not self.history or self.history[-1]["time"] != start:
            self.history.append({"time": start, "rounds": 0, "running": 0, "waiting": 0, **dict.fromkeys(counts, 0)})
        entry = self.history[-1]
        entry["rounds"] += 1
        for name, value in counts.items():
            entry[name] += value
        entry["running"], entry["waiting"] = max(entry["running"], running), max(entry["waiting"], waiting)

    def state(self) -> list[dict[str, Any]]:
        """The history, oldest first."""
        return [dict(entry) for entry in list(self.history)]
