"""`python -m ladder.graded`: write the test problems of the graded tasks into the package."""

from __future__ import annotations

import itertools

from ladder.files import TASK_DATA, write_jsonl
from ladder.graded import chains, facts, lookup, tiny_python

TEST_SEED = 1
TEST_PROBLEMS = 500


def main() -> None:
    """Write 500 problems of each task; the same bytes each time."""
    for module in (chains, facts, lookup, tiny_python):
        made = itertools.islice(module.problems("test", TEST_SEED), TEST_PROBLEMS)
        name = module.__name__.rsplit(".", 1)[-1]
        write_jsonl(TASK_DATA / f"{name}.jsonl.gz", (problem.row for problem in made))


if __name__ == "__main__":
    main()
