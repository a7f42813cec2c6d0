"""How fast `fsgen serve` serves: streams at a time, beside the engine alone, the target alone, and other servers.

    python -m benchmarks.serving [--streams 1 8 16 32 64] [--seconds 10] [--max-tokens 96] [--no-others] [--json FILE]

Every server runs in a process of its own on 127.0.0.1; the client shares the machine's cores with it. So many
streams are kept open: each asks for the next prompt as soon as it has its text. A row ends when all texts that were
begun in its seconds are there; tokens per second go by all of that time, for the engine alone, too. What a token takes
of the processor is told apart: of what writes (the server's process, or the engine's), and of the client. Every greedy
text is compared with that of the engine. In the short default form it takes about four minutes on a quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

import fsgen
from fsgen import Members, SamplingParams, tasks
from fsgen.api import completed
from fsgen.engine import Engine, Sequence
from fsgen.models.bundled import ROOT

DRAFT, TARGET = "pocket-0.6m-distilled", "pocket-4m"
PROMPTS = 64
PATIENCE = 120.0  # seconds for a server to start, and for one text


@dataclass
class Result:
    """What was measured with so many streams.

    `first`: seconds to the first event of each text; `processor`, `client`: seconds of the processor that the process
    which writes has taken, and the client.
    """

    name: str
    streams: int
    tokens: int = 0
    seconds: float = 0.0
    texts: int = 0
    different: int = 0
    failures: int = 0
    first: list[float] = field(default_factory=list)
    processor: float = 0.0
    client: float = 0.0

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def per_token(self, seconds: float) -> float:
        """Microseconds."""
        return 1e6 * seconds / self.tokens if self.tokens else 0.0

    def at(self, share: float) -> float:
        """The time to the first token that this share of the texts stays below."""
        ordered = sorted(self.first) or [0.0]
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True)
class Work:
    """What is asked: prompts, the text that each should get, and how long one goes on asking."""

    prompts: list[str]
    expected: list[str]
    tokens: list[int]
    max_tokens: int
    seconds: float


def engine_alone(members: Members, work: Work, streams: int, method: str) -> Result:
    """The engine without a server, with as many texts at a time."""
    result, end = Result(f"engine alone, {method}", streams), time.perf_counter() + work.seconds
    sampling, ids = SamplingParams(work.max_tokens), [members.tokenizer.encode(each) for each in work.prompts]

    def texts() -> Iterator[Sequence]:
        number = 0
        while time.perf_counter() < end:
            yield Sequence(ids[number % len(ids)], method, sampling)
            number += 1

    started, before = time.perf_counter(), time.process_time()
    for number, text in completed(Engine(members, streams), texts(), streams):
        result.tokens += len(text.token_ids)
        result.texts += 1
        result.different += text.text != work.expected[number % len(ids)]
    result.seconds, result.processor = time.perf_counter() - started, time.process_time() - before
    return result


# ---- the client


async def one_text(port: int, path: str, body: dict[str, Any]) -> tuple[str, float]:
    """One stream: its text, and the seconds to its first event. Raises OSError or ValueError where it fails."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    try:
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        status = await reader.readline()
        if b" 200 " not in status:
            raise ValueError(f"{status!r}: {await reader.read()!r}")
        first, parts = 0.0, []
        async for line in reader:
            if line.startswith(b"data: {"):
                first = first or time.perf_counter() - started
                parts.append(line)
        events = [json.loads(line[6:]) for line in parts]
        if any("error" in event for event in events):
            raise ValueError(str(events[-1]))
        return "".join(map(shown, events)), first
    finally:
        writer.close()


def shown(event: dict[str, Any]) -> str:
    """The text of an event, of a completion or of a chat."""
    found = [each.get("text") or each.get("delta", {}).get("content") or "" for each in event.get("choices", [])]
    return "".join(found) or str(event.get("content", ""))


def processor_seconds(process: int) -> float:
    """Of a process, by its id: all of its threads; 0 where the system is not Linux."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def served(port: int, path: str, body: Callable[[str], dict[str, Any]], work: Work, result: Result) -> Result:
    """Keeps streams open until the seconds are over."""
    started, asked = time.perf_counter(), 0

    async def stream() -> None:
        nonlocal asked
        while time.perf_counter() < started + work.seconds:
            number = asked % len(work.prompts)
            asked += 1
            try:
                text, first = await asyncio.wait_for(one_text(port, path, body(work.prompts[number])), PATIENCE)
            except (OSError, ValueError, TimeoutError) as error:
                result.failures += 1
                print("failed:", str(error)[:200], file=sys.stderr)
                return
            result.first.append(first)
            result.texts += 1
            result.different += text != work.expected[number]
            result.tokens += work.tokens[number]

    before = time.process_time()
    await asyncio.gather(*[stream() for _ in range(result.streams)])
    result.seconds, result.client = time.perf_counter() - started, time.process_time() - before
    return result


# ---- servers


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[int]:
    """A server in a process of its own, which listens when this begins: its id. Raises RuntimeError if it fails."""
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as process:
        try:
            end = time.monotonic() + PATIENCE
            while process.poll() is None and time.monotonic() < end:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.1)
            if process.poll() is not None or time.monotonic() >= end:
                raise RuntimeError(f"{command[0]} did not start: {log.read_text()[-300:]}")
            yield process.pid
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()


@dataclass(frozen=True)
class Server:
    """A way to serve the target's greedy texts: what starts it, and what is asked of it."""

    name: str
    command: list[str]
    path: str
    body: dict[str, Any]

    def asked(self, prompt: str, tokens: int) -> dict[str, Any]:
        return {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True} | self.body


def servers(port: int, rows: int, folder: Path, others: bool) -> list[Server]:
    """Ours with drafts and without, and those of others that are installed."""
    own = [sys.executable, "-m", "fsgen", "serve", "--draft", DRAFT, "--target", TARGET, "--port", str(port)]
    own += ["--rows", str(rows), "--queue", str(2 * rows)]
    path = "/v1/completions"
    found = [Server("fsgen serve", own, path, {})]
    if not others:
        return found
    found.append(Server("fsgen serve, target alone", own, path, {"fsgen": {"method": "plain", "tokens": False}}))
    model = str(ROOT / TARGET)
    if command := shutil.which("transformers", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"):
        options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
        found.append(Server("transformers serve", [command, "serve", model, *options], path, {"model": model}))
    if command := shutil.which("llama-server"):
        from benchmarks.gguf_files import write_gguf

        file = write_gguf(ROOT / TARGET, folder / "target.gguf")
        options = ["--host", "127.0.0.1", "--port", str(port), "--parallel", str(rows), "--ctx-size", str(rows * 512)]
        found.append(Server("llama.cpp's server", [command, "-m", str(file), *options], path, {"model": "target"}))
    return found


def measured(server: Server, port: int, work: Work, streams: list[int], log: Path) -> Iterator[Result]:
    """A server with each number of streams."""
    with running(server.command, port, log) as process:
        few = Work(work.prompts[:1], work.expected[:1], work.tokens[:1], work.max_tokens, 0.1)
        asyncio.run(served(port, server.path, lambda prompt: server.asked(prompt, 8), few, Result("warm", 1)))
        for count in streams:
            result = Result(server.name, count)
            body = partial(server.asked, tokens=work.max_tokens)
            before = processor_seconds(process)
            asyncio.run(served(port, server.path, body, work, result))
            result.processor = processor_seconds(process) - before
            yield result


def prepared(members: Members, max_tokens: int, seconds: float) -> Work:
    """Prompts, and the texts that the library writes for them."""
    prompts = [example.prompt for example in tasks.get("gsm8k").load(limit=PROMPTS)]
    texts = fsgen.generate(members, prompts, "plain", sampling=SamplingParams(max_tokens))
    return Work(prompts, [each.text for each in texts], [len(each.token_ids) for each in texts], max_tokens, seconds)


def shown_table(results: list[Result]) -> Table:
    """Shares are of the engine alone with as many streams: of its tokens per second, and of those per second of CPU."""
    alone = {each.streams: each for each in results if each.name.startswith("engine alone, spec")}
    titles = ["", "streams", "tokens/s", "share", "CPU us/token", "share", "client us/token"]
    table = Table()
    for title in (*titles, "texts", "first token p50", "p99", "different", "failed"):
        table.add_column(title, justify="right" if title else "left")
    for each in results:
        own, other = each.per_token(each.processor), each.per_token(each.client)
        engine = alone.get(each.streams)
        shares = ["-", "-"]
        if engine is not None and engine.speed and own:
            shares = [f"{each.speed / engine.speed:.2f}", f"{engine.per_token(engine.processor) / own:.2f}"]
        first = [f"{1000 * each.at(part):.0f} ms" if each.first else "-" for part in (0.5, 0.99)]
        costs = [f"{each.speed:.0f}", shares[0], f"{own:.0f}", shares[1], f"{other:.0f}" if other else "-"]
        table.add_row(
            each.name, str(each.streams), *costs, str(each.texts), *first, str(each.different), str(each.failures)
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 16, 32, 64])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each row; 60 for figures to be quoted")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--no-others", action="store_true", help="neither the target alone nor other servers")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()

    members = fsgen.load(DRAFT, TARGET)
    work = prepared(members, given.max_tokens, given.seconds)
    results: list[Result] = []
    for streams in given.streams:
        results.append(engine_alone(members, work, streams, "speculative"))
        print(f"{results[-1].name}, {streams}: {results[-1].speed:.0f} tokens/s", file=sys.stderr)
    port = free_port()
    with TemporaryDirectory() as folder:
        for server in servers(port, max(given.streams), Path(folder), not given.no_others):
            streams = given.streams if server.name == "fsgen serve" else sorted({*given.streams[:1], 16})
            try:
                for result in measured(server, port, work, streams, Path(folder) / "log"):
                    results.append(result)
                    print(f"{result.name}, {result.streams}: {result.speed:.0f} tokens/s", file=sys.stderr)
            except RuntimeError as error:
                print("left out:", error, file=sys.stderr)
    Console(width=150).print(shown_table(results))
    if given.json is not None:
        rows = [asdict(each) | {"tokens_per_second": each.speed} for each in results]
        given.json.write_text(json.dumps(rows), encoding="utf-8")
    if any(each.failures or each.different for each in results if each.name.startswith("fsgen")):
        sys.exit(1)


if __name__ == "__main__":
    main()
