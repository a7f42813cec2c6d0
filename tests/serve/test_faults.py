"""Clients that vanish, that read slowly, that are too many; a server that is told to end.

The numbers are small, so that the tests take seconds; FSGEN_FULL_TESTS=1 runs them whole.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from typing import Any

import pytest

from fsgen import generate
from fsgen.backends import Members
from fsgen.serve.limits import Limits
from fsgen.types import SamplingParams
from tests.serve.conftest import PATIENCE, Running, serving, until
from tests.serve.test_api import PROMPT, ask

FULL = os.environ.get("FSGEN_FULL_TESTS") == "1"
VANISHING, SLOW, CROWD = (300, 100, 64) if FULL else (40, 12, 16)


def request(body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


async def opened(url: str, limit: int = 2**16) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port), limit=limit)


async def answer(url: str, body: dict[str, Any]) -> tuple[int, bytes]:
    """Status and body of an answer, read to its end."""
    reader, writer = await opened(url)
    try:
        writer.write(request(body).replace(b"\r\nContent-Type", b"\r\nConnection: close\r\nContent-Type"))
        text = await asyncio.wait_for(reader.read(), PATIENCE)
        return int(text.split(b" ", 2)[1]), text.partition(b"\r\n\r\n")[2]
    finally:
        writer.close()


def events(body: bytes) -> list[Any]:
    """The data of the events of a stream, of which the chunks' lengths are lines of their own."""
    lines = [line.removeprefix(b"data: ") for line in body.splitlines() if line.startswith(b"data: ")]
    return [line.decode() if line == b"[DONE]" else json.loads(line) for line in lines]


def text_of(found: list[Any]) -> str:
    return "".join(event["choices"][0]["text"] for event in found if isinstance(event, dict) and "choices" in event)


def test_clients_that_vanish_free_their_rows(running: Running, pair: Members) -> None:
    dice = random.Random(1)
    expected = generate(pair, PROMPT, sampling=SamplingParams(max_tokens=40))[0].text

    async def vanish(number: int) -> None:
        await asyncio.sleep(dice.random() * VANISHING * 0.01)
        reader, writer = await opened(running.url)
        body = {"prompt": PROMPT, "max_tokens": 400, "ignore_eos": True, "stream": number % 3 > 0, "n": 1 + number % 2}
        data = request(body)
        cut = dice.random()
        writer.write(data if cut > 0.1 else data[: int(len(data) * cut * 10)])
        if cut > 0.1:
            await asyncio.wait([asyncio.ensure_future(reader.read(1))], timeout=dice.random() * 0.3)
        writer.transport.abort()

    async def stays() -> str:
        status, body = await answer(running.url, {"prompt": PROMPT, "max_tokens": 40, "temperature": 0})
        assert status == 200
        return str(json.loads(body)["choices"][0]["text"])

    async def all_of_them() -> list[str]:
        gone = [asyncio.ensure_future(vanish(number)) for number in range(VANISHING)]
        texts = [await stays() for _ in range(4)]
        await asyncio.gather(*gone)
        return texts

    assert asyncio.run(all_of_them()) == [expected] * 4
    until(running.idle, 10)
    assert ask(running.url, "/health")[0] == 200


def test_slow_readers_hold_nobody_up_and_lose_nothing(running: Running, pair: Members) -> None:
    body = {
        "prompt": PROMPT,
        "max_tokens": 60,
        "temperature": 0,
        "stream": True,
        "fsgen": {"candidates": 10},
        "logprobs": 5,
    }
    expected = generate(pair, PROMPT, sampling=SamplingParams(max_tokens=60))[0].text

    async def slow(hurry: asyncio.Event) -> bytes:
        reader, writer = await opened(running.url, limit=64)
        writer.write(request(body).replace(b"\r\nContent-Type", b"\r\nConnection: close\r\nContent-Type"))
        parts = []
        while part := await asyncio.wait_for(reader.read(1 << 30 if hurry.is_set() else 32), PATIENCE):
            parts.append(part)
            if not hurry.is_set():
                await asyncio.wait([asyncio.ensure_future(hurry.wait())], timeout=0.05)
        writer.close()
        return b"".join(parts)

    async def together() -> list[bytes]:
        hurry = asyncio.Event()
        readers = [asyncio.ensure_future(slow(hurry)) for _ in range(SLOW)]
        await asyncio.sleep(0.2)
        quick = await asyncio.wait_for(answer(running.url, {"prompt": PROMPT, "max_tokens": 5}), 30)
        assert quick[0] == 200
        while not running.idle():  # their texts are written long before they are read
            await asyncio.sleep(0.05)
        assert not any(reader.done() for reader in readers)
        hurry.set()
        return await asyncio.gather(*readers)

    for found in asyncio.run(together()):
        shown = events(found)
        assert shown[-1] == "[DONE]"
        assert text_of(shown) == expected


def test_a_full_queue_answers_at_once(pair: Members) -> None:
    with serving(pair, limits=Limits(rows=1, queue=2)) as small:

        async def crowd() -> list[tuple[int, bytes]]:
            body = {"prompt": PROMPT, "max_tokens": 150, "ignore_eos": True}
            return await asyncio.gather(*[answer(small.url, body) for _ in range(CROWD)])

        found = asyncio.run(crowd())
        statuses = [status for status, _ in found]
        assert set(statuses) == {200, 429}
        refused = json.loads(next(body for status, body in found if status == 429))
        assert refused["error"]["code"] == "queue_full"
        blocker = small.service.scheduler
        until(small.idle)
        assert ask(small.url, "/v1/completions", {"prompt": "a", "n": 9})[2]["retry-after"].isdecimal()
        assert blocker.fault is None


def test_a_stream_that_fails_ends_with_an_error() -> None:
    from tests.serve.test_scheduler import faulty

    with serving(faulty(every=1)) as broken:
        status, found, _ = ask(broken.url, "/v1/completions", {"prompt": [1, 2]})
        assert (status, found["error"]["code"]) == (500, "model_failed")
        assert "away" in found["error"]["message"]
        _, body, _ = ask(broken.url, "/v1/completions", {"prompt": [1, 2], "stream": True})
        last = events(body)
        assert last[-2]["error"]["code"] == "model_failed"
        assert last[-1] == "[DONE]"
        assert ask(broken.url, "/health")[0] == 200


def test_time_for_a_request_is_bounded(pair: Members) -> None:
    with serving(pair, limits=Limits(rows=1, seconds=0.2)) as hasty:
        body = {"prompt": PROMPT, "max_tokens": 900, "ignore_eos": True, "fsgen": {"method": "plain"}}
        status, found, _ = ask(hasty.url, "/v1/completions", body)
        assert (status, found["error"]["code"]) == (504, "timeout")
        until(hasty.idle, 10)


@pytest.fixture
def process() -> Any:
    """The command, on a free port: the process and its address."""
    command = [sys.executable, "-m", "fsgen", "serve", "--port", "0", "--rows", "4", "--drain", "20"]
    models = ["--draft", "pocket-0.25m", "--target", "pocket-1.5m"]
    with subprocess.Popen([*command, *models], stderr=subprocess.PIPE, text=True) as found:
        assert found.stderr is not None
        line = found.stderr.readline()
        try:
            assert "serving pocket-0.25m+pocket-1.5m on http://127.0.0.1:" in line
            yield found, line.split()[-1]
        finally:
            found.kill()


def test_sigterm_under_load_finishes_what_was_taken(process: Any, pair: Members) -> None:
    server, url = process
    expected = generate(pair, PROMPT, sampling=SamplingParams(max_tokens=200, ignore_eos=True))[0].text
    body = {"prompt": PROMPT, "max_tokens": 200, "ignore_eos": True, "temperature": 0, "stream": True}

    async def load() -> list[tuple[int, bytes]]:
        asked = [asyncio.ensure_future(answer(url, body)) for _ in range(CROWD)]
        while ask_running(url) < 4:
            await asyncio.sleep(0.02)
        server.send_signal(signal.SIGTERM)
        return await asyncio.gather(*asked)

    found = asyncio.run(load())
    whole = [text for status, text in found if status == 200]
    assert len(whole) >= 4
    assert all(text_of(events(text)) == expected for text in whole)
    late = [json.loads(text)["error"]["code"] for status, text in found if status != 200]
    assert set(late) <= {"not_available"}, "what arrived after the signal has an answer too"
    assert server.wait(PATIENCE) == 0
    with pytest.raises(OSError, match="refused"):
        ask(url, "/health")


def ask_running(url: str) -> int:
    return int(ask(url, "/fsgen/state")[1]["running"])
