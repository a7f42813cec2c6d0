"""What looking up n-grams brings beside a draft model: on the tasks, and where a text repeats its prompt.

    python -m benchmarks.proposers [--limit 16] [--max-tokens 96] [--draft-tokens 5]

Tokens for each call of the target, greedy, and the draft tokens that are accepted: neither depends on the machine. The
bundled models do not edit code or summarise. So for these two kinds of text the completion is given, as if a target
wrote it, and only what the n-grams propose in it is counted.
"""

from __future__ import annotations

import argparse
import re

from rich.console import Console
from rich.table import Table

import fsgen
from fsgen import SamplingParams, tasks
from fsgen.engine import Sequence
from fsgen.engine.proposers import NgramProposer
from fsgen.metrics import Counts

TASKS = ("gsm8k", "mmlu_stem", "mbpp", "pocket_math")
DRAFT, TARGET = "pocket-0.6m-distilled", "pocket-4m"
ARTICLE = (
    "The city council voted on Tuesday to close the old harbour bridge for repairs. The bridge, which was built in "
    "1931, carries 14,000 cars a day. Engineers found rust in the main cables last spring. Repairs will take eighteen "
    "months and cost 42 million. Drivers are to use the tunnel, which stays free of charge until the bridge opens."
)
SUMMARY = (
    " The old harbour bridge, which was built in 1931 and carries 14,000 cars a day, will close for repairs, since "
    "engineers found rust in the main cables. Repairs will take eighteen months and cost 42 million; the tunnel stays "
    "free of charge until the bridge opens."
)
EDIT = "\n# The same, with the function renamed to solve:\n"


def completed(proposer: NgramProposer, prompt: list[int], completion: list[int], most: int) -> float:
    """Tokens a call of a target that writes exactly this completion."""
    text = Sequence(prompt, "speculative:ngram=3")
    calls, written = 0, 0
    while written < len(completion):
        drafted = proposer.continuation(text, min(most, len(completion) - written))
        agreed = 0
        while agreed < len(drafted) and drafted[agreed] == completion[written + agreed]:
            agreed += 1
        taken = completion[written : written + agreed + 1]
        text.ids += taken
        written += len(taken)
        calls += 1
    return written / calls


def edits(limit: int) -> list[tuple[str, str]]:
    """Code to edit, and the edited code: programs of MBPP with one name changed."""
    programs = [example.reference or "" for example in tasks.get("mbpp").load(limit=limit)]
    return [(program + EDIT, re.sub(r"def (\w+)", "def solve", program, count=1)) for program in programs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=16, help="texts of each kind")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--draft-tokens", type=int, default=5)
    given = parser.parse_args()
    members = fsgen.load(draft=DRAFT, target=TARGET)
    table = Table("texts", "drafts", "tokens a call", "accepted", title=f"{TARGET}, greedy, k={given.draft_tokens}")
    for name in TASKS:
        prompts = [example.prompt for example in tasks.get(name).load(limit=given.limit)]
        for label, method in ((DRAFT, "speculative"), ("n-grams of 3", "speculative:ngram=3")):
            texts = fsgen.generate(
                members, prompts, method, draft_tokens=given.draft_tokens, sampling=SamplingParams(given.max_tokens)
            )
            stats = Counts.total(text.stats for text in texts)
            table.add_row(name, label, f"{stats.mean_accepted_length:.2f}", f"{stats.acceptance_rate or 0:.0%}")
    proposer, encode = NgramProposer(), members.tokenizer.encode
    kinds = {"summarising": [(ARTICLE + "\nSummary:", SUMMARY)], "code editing": edits(given.limit)}
    for name, pairs in kinds.items():
        rates = [completed(proposer, encode(a), encode(b), given.draft_tokens) for a, b in pairs]
        table.add_row(f"{name} (given texts)", "n-grams of 3", f"{sum(rates) / len(rates):.2f}", "")
    Console().print(table)


if __name__ == "__main__":
    main()
