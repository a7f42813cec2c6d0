"""What bulk jobs through a server cost beside the server's own time: writing texts, and scoring whole texts.

    python -m benchmarks.bulk [--texts 64] [--max-tokens 64] [--rounds 5] [--top 20]

`fsgen serve` runs in a process of its own. Our client (`vllm:URL#MODEL`, as a study has it) and one that sends the same
requests, as many at a time, and reads no answer take turns; the time of the latter is the server's own. Their ratio in
each round is printed with its middle: so what else the machine does is in both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2

from benchmarks.serving import free_port, running
from fsgen import SamplingParams, load, tasks
from fsgen.backends.remote.model import RemoteModel
from fsgen.backends.remote.said import Memory
from fsgen.backends.remote.server import Server
from fsgen.backends.remote.wire import Wanted

TARGET = "pocket-4m"


def sent(url: str, path: str, bodies: list[dict[str, Any]], at_a_time: int) -> None:
    """The requests alone; answers are taken whole and not looked at."""
    from concurrent.futures import ThreadPoolExecutor

    with (
        httpx2.Client(timeout=600.0, limits=httpx2.Limits(max_connections=at_a_time), trust_env=False) as client,
        ThreadPoolExecutor(at_a_time) as threads,
    ):
        for answer in threads.map(lambda body: client.post(url + path, json=body), bodies):
            answer.raise_for_status()


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("texts", 64), ("max-tokens", 64), ("rounds", 5), ("top", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    port = free_port()
    command = [sys.executable, "-m", "fsgen", "serve", "--target", TARGET, "--method", "plain", "--port", str(port)]
    with TemporaryDirectory() as folder, running([*command, "--name", "big"], port, Path(folder) / "log"):
        url = f"http://127.0.0.1:{port}"
        members = load(target=f"vllm:{url}#big?top={options.top}&tokenizer={TARGET}")
        model = members.target
        assert isinstance(model, RemoteModel)
        assert isinstance(model.source, Server)
        wire = model.source.abilities.wire
        examples = tasks.get("gsm8k").load(options.texts)
        prompts = [list(members.tokenizer.encode(each.prompt))[-256:] for each in examples]
        sampling = [SamplingParams(options.max_tokens)] * len(prompts)
        writing = [wire.write(Wanted(each, options.max_tokens, (), members.eos_ids)) for each in prompts]
        scoring = [wire.score(each, len(each) - 1) for each in prompts]

        def write() -> None:
            model.memory = Memory()
            model.write(prompts, sampling)

        def score() -> None:
            model.memory = Memory()
            model.score([(each, len(each) - 1) for each in prompts])

        for name, work, bodies in (("writing", write, writing), ("scoring", score, scoring)):
            ratios, alone = [], []
            for number in range(options.rounds + 1):
                ours = timed(work)
                theirs = timed(lambda bodies=bodies: sent(url, wire.path, bodies, 32))  # type: ignore[misc]
                if number:  # the first one warms up
                    ratios.append(ours / theirs)
                    alone.append(theirs)
            shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"{name}: {statistics.median(ratios):.2f} times the server's own {min(alone):.2f} s ({shown})")


if __name__ == "__main__":
    main()
