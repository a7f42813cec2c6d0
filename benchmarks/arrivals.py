"""`fsgen simulate` beside `fsgen serve`: requests that arrive at three rates, and what was predicted of them.

    python -m benchmarks.arrivals [--rows 16] [--draft-tokens 4] [--seconds 30] [--shares 0.25 0.5 0.75] [--json FILE]

The simulation knows the calls (`fsgen profile`), the decode loop at one row and at all rows (`fsgen plan`'s
calibration), acceptance by the place in the draft (of texts that the target wrote alone), and what a request takes
beside its rounds (the median of `/tokenize`, which runs no model). It never sees the server write. Loads are shares of
the tokens per second that it predicts where requests never end; both get the same arrivals. Ends with 1 where a
median latency or a throughput is off by more than 20 %. About four minutes; on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

import fsgen
from benchmarks.serving import DRAFT, TARGET, Work, free_port, one_text, prepared, running
from fsgen import Members
from fsgen.methods.method import parse
from fsgen.planner.calibrate import calibrate
from fsgen.planner.reading import read
from fsgen.planner.rounds import count
from fsgen.planner.simulate import Fleet, Load, Served, simulate
from fsgen.planner.texts import Written
from fsgen.planner.times import measure

PATH = "/v1/completions"
BOUND = 0.2
PROBES = 20


@dataclass(frozen=True)
class Compared:
    """A load: the medians of latency and the tokens per second that were predicted and measured."""

    rate: float
    requests: int
    predicted_latency: float
    latency: float
    predicted_speed: float
    speed: float
    different: int

    @property
    def errors(self) -> tuple[float, float]:
        """Of the latency and of the speed, as parts of what was measured."""
        return self.predicted_latency / self.latency - 1, self.predicted_speed / self.speed - 1


def acceptance(members: Members, prompts: list[list[int]], work: Work, draft_tokens: int) -> list[float]:
    """The chance of a drafted token by its place, where those before it are accepted."""
    texts = [
        Written(tuple(prompt), tuple(members.tokenizer.encode(text, add_special_tokens=False)), cut=True)
        for prompt, text in zip(prompts, work.expected, strict=True)
    ]
    assert members.draft is not None
    method = parse("speculative", None, draft_tokens)
    found = count(read(members.draft, texts, vocab=members.vocab_size), method)
    return [found.accepted_at[place] / found.verified_at[place] for place in range(draft_tokens)]


def fleet_of(members: Members, work: Work, rows: int, draft_tokens: int) -> Fleet:
    """What is measured of the members alone."""
    assert members.draft is not None
    assert members.target is not None
    prompts = [members.tokenizer.encode(each) for each in work.prompts]
    target, draft = (measure(each, rows, 20.0) for each in (members.target, members.draft))
    loops = {each: calibrate(members, prompts, each, target, draft) for each in {1, rows}}
    return Fleet(target, draft, draft_tokens, acceptance(members, prompts, work, draft_tokens), rows, loops=loops)


async def request_seconds(port: int, work: Work) -> float:
    """What a request takes that runs no model."""
    found = []
    for number in range(PROBES):
        started = time.perf_counter()
        await one_text(port, "/tokenize", {"prompt": work.prompts[number % len(work.prompts)]})
        found.append(time.perf_counter() - started)
    return statistics.median(found)


async def arriving(port: int, load: Load, work: Work) -> tuple[float, float, int]:
    """Requests arrive at the server: the median latency, tokens per second, and how many texts were different."""
    started, ends, found, different = time.perf_counter(), list[float](), list[float](), 0
    arrivals = load.arrivals()

    async def one(number: int, arrival: float) -> None:
        nonlocal different
        await asyncio.sleep(max(0.0, started + arrival - time.perf_counter()))
        place = number % len(work.prompts)
        body = {"prompt": work.prompts[place], "max_tokens": work.max_tokens, "temperature": 0, "stream": True}
        text, _ = await one_text(port, PATH, body)
        ends.append(time.perf_counter() - started)
        found.append(ends[-1] - arrival)
        different += text != work.expected[place]

    await asyncio.gather(*[one(number, arrival) for number, arrival in enumerate(arrivals)])
    tokens = sum(load.lengths[number % len(load.lengths)][1] for number in range(load.requests))
    return statistics.median(found), tokens / (max(ends) - arrivals[0]), different


def compared(port: int, fleet: Fleet, load: Load, work: Work) -> Compared:
    """A load in the simulation, and at the server."""
    expected: Served = simulate(fleet, load)
    latency, speed, different = asyncio.run(arriving(port, load, work))
    predicted = expected.latency[50], expected.tokens_per_second
    return Compared(load.rate, load.requests, predicted[0], latency, predicted[1], speed, different)


def table_of(rows: list[Compared]) -> Table:
    """As it is printed."""
    table = Table()
    for title in ("requests/s", "requests", "latency p50", "predicted", "error", "tokens/s", "predicted", "error"):
        table.add_column(title, justify="right")
    for each in rows:
        latency, speed = each.errors
        times = (f"{each.latency:.3f} s", f"{each.predicted_latency:.3f} s", f"{latency:+.0%}")
        speeds = (f"{each.speed:.0f}", f"{each.predicted_speed:.0f}", f"{speed:+.0%}")
        table.add_row(f"{each.rate:.2f}", str(each.requests), *times, *speeds)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--draft-tokens", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each load")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.5, 0.75], help="of what is possible")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()

    members = fsgen.load(DRAFT, TARGET)
    work = prepared(members, given.max_tokens, given.seconds)
    lengths = [(len(members.tokenizer.encode(each)), n) for each, n in zip(work.prompts, work.tokens, strict=True)]
    fleet = fleet_of(members, work, given.rows, given.draft_tokens)
    port, rows = free_port(), list[Compared]()
    command: list[Any] = [sys.executable, "-m", "fsgen", "serve", "--draft", DRAFT, "--target", TARGET]
    command += ["--draft-tokens", given.draft_tokens, "--rows", given.rows, "--queue", 10_000, "--port", port]
    with TemporaryDirectory() as folder, running([str(each) for each in command], port, Path(folder) / "log"):
        asyncio.run(one_text(port, PATH, {"prompt": work.prompts[0], "temperature": 0, "stream": True}))
        fleet = Fleet(**vars(fleet) | {"request_seconds": asyncio.run(request_seconds(port, work))})
        most = simulate(fleet, Load(1e6, lengths, 32 * given.rows)).tokens_per_second / statistics.mean(work.tokens)
        for number, share in enumerate(given.shares):
            load = Load(share * most, lengths, max(30, round(share * most * given.seconds)), seed=number)
            rows.append(compared(port, fleet, load, work))
            print(rows[-1], file=sys.stderr)
    Console(width=110).print(table_of(rows))
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(each) for each in rows]), encoding="utf-8")
    if any(each.different or max(map(abs, each.errors)) > BOUND for each in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
