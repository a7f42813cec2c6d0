"""How fast decoding is beside another busy process, as a share of its speed on a quiet machine.

    python -m benchmarks.shared_machine [--repeats 3] [--busy 1] [--batch-size 1]

Threads that wait for each other yield their core, so that one busy process on two cores takes its share and no more.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import fsgen
from fsgen import SamplingParams, tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--busy", type=int, default=1, help="busy processes beside it")
    parser.add_argument("--batch-size", type=int, default=1)
    given = parser.parse_args()
    members = fsgen.load(target="pocket-4m")
    prompts = [example.prompt for example in tasks.get("gsm8k").load(limit=4 * given.batch_size)]

    def rate() -> float:
        started = time.perf_counter()
        texts = fsgen.generate(members, prompts, "plain", sampling=SamplingParams(64), batch_size=given.batch_size)
        return sum(text.stats.tokens for text in texts) / (time.perf_counter() - started)

    rate()  # the first call warms up
    shares = []
    for _ in range(given.repeats):
        quiet = rate()
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(given.busy)]
        try:
            beside = rate()
        finally:
            for process in busy:
                process.kill()
                process.wait()
        shares.append(beside / quiet)
        print(f"quiet {quiet:,.0f} tokens/s, beside {given.busy} busy {beside:,.0f}: {shares[-1]:.2f}", flush=True)
    print(f"median share: {statistics.median(shares):.2f}")


if __name__ == "__main__":
    main()
