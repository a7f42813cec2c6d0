"""How fast one process stores what others write, and how many bytes that takes: what many workers wait for first.

    python -m benchmarks.storing runs/bundled [--parts 40] [--examples 32]

It takes the texts of a finished study, stores them again as parts of so many examples, and counts the seconds of the
processor, so that what else the machine does is no part of it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from fsgen.files import read_json
from fsgen.study.store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--parts", type=int, default=40)
    parser.add_argument("--examples", type=int, default=32)
    options = parser.parse_args()
    study = Store(options.study)
    runs = [row["run"] for row in read_json(options.study / "study.json")["rows"]]
    generations, traces = study.generations(runs[0]), study.traces(runs[0])
    names = generations["example"].unique(maintain_order=True).to_list()
    tokens, seconds, size = 0, 0.0, 0
    with TemporaryDirectory() as folder:
        store = Store(Path(folder))
        for part in range(options.parts):
            chosen = [names[(part * options.examples + i) % len(names)] for i in range(options.examples)]
            mine = [table.filter(table["example"].is_in(chosen)) for table in (traces, generations)]
            rows = mine[0].drop([name for name in mine[0].columns if name.endswith("_bounds")]).to_arrow()
            started = time.process_time()
            store.write_part("run", part * options.examples, (part + 1) * options.examples, rows, mine[1].to_arrow())
            seconds += time.process_time() - started
            tokens += rows.num_rows
        size = sum(file.stat().st_size for file in Path(folder).rglob("*.parquet"))
    print(f"{tokens / seconds:,.0f} tokens stored in a second of one core, {size / tokens:.0f} bytes a token")


if __name__ == "__main__":
    main()
