"""A server in a thread of the test, and what speaks to it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn
from openai import OpenAI

from fsgen.backends import Members, load
from fsgen.methods.method import Method, parse
from fsgen.serve.app import make_app
from fsgen.serve.guard import LOOPBACK
from fsgen.serve.job import Job, ServedSequence
from fsgen.serve.limits import Limits
from fsgen.serve.meters import Meters
from fsgen.serve.run import PLAIN_TEMPLATE, make_service
from fsgen.serve.scheduler import Scheduler
from fsgen.serve.service import Service
from fsgen.types import SamplingParams

PATIENCE = 60.0  # seconds that anything here may take, on a busy machine


@dataclass
class Running:
    """A server that runs, and its parts."""

    url: str
    service: Service
    meters: Meters
    server: uvicorn.Server

    def client(self, api_key: str = "none") -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, timeout=PATIENCE)

    def idle(self) -> bool:
        return not self.service.scheduler.running and not self.service.scheduler.waiting


@contextmanager
def serving(
    members: Members,
    method: Method | str = "speculative",
    limits: Limits | None = None,
    name: str | None = None,
    **options: Any,
) -> Iterator[Running]:
    """A server on a free port of 127.0.0.1."""
    template = PLAIN_TEMPLATE if hasattr(members.tokenizer, "chat_template") else None
    service, meters = make_service(members, parse(method), limits or Limits(rows=8), name, template=template)
    app = make_app(service, meters, hosts=LOOPBACK, **options)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none", timeout_graceful_shutdown=10))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Running(f"http://127.0.0.1:{port}", service, meters, server)
    finally:
        service.scheduler.drain()
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


def until(true: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Waits until something is so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def pair() -> Members:
    return load("pocket-0.25m", "pocket-1.5m")


@pytest.fixture(scope="session")
def running(pair: Members) -> Iterator[Running]:
    with serving(pair) as found:
        yield found


# ---- a scheduler without HTTP


def job(
    ids: Sequence[int],
    method: str | Method = "speculative",
    sampling: SamplingParams = SamplingParams(max_tokens=24),  # noqa: B008 - frozen
    client: str = "one",
    seconds: float = PATIENCE,
) -> Job:
    """A text; made within the event loop that reads it."""
    sequence = ServedSequence(list(ids), parse(method), sampling)
    return Job(sequence, client, time.monotonic() + seconds, asyncio.Event())


async def ended(jobs: Sequence[Job]) -> None:
    """Waits until all have ended."""
    async with asyncio.timeout(PATIENCE):
        for each in jobs:
            while not each.done:
                await each.changed.wait()
                each.changed.clear()


def scheduled(
    members: Members, program: Callable[[Scheduler], Awaitable[Any]], limits: Limits | None = None, observer: Any = None
) -> Any:
    """Runs a program with a scheduler, which must end when it is drained."""
    scheduler = Scheduler(members, limits or Limits(rows=4), observer)

    async def run() -> Any:
        scheduler.start(asyncio.get_running_loop())
        try:
            async with asyncio.timeout(4 * PATIENCE):
                return await program(scheduler)
        finally:
            scheduler.drain()
            assert await asyncio.to_thread(scheduler.join, PATIENCE)

    return asyncio.run(run())
