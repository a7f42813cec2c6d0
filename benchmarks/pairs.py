"""What a draft with another tokenizer is worth: how much is accepted, and at how many calls, with looking ahead or not.

    python -m benchmarks.pairs DRAFT TARGET [--like DRAFT] [--prompts 16] [--max-tokens 96] [--draft-tokens 5]

`shared tokens` drafts only tokens that both models have; `looking ahead` is what `fsgen` does. `--like` is a draft with
the target's own tokenizer, to compare with. Greedy texts are checked to be those of the target alone.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from rich.console import Console
from rich.table import Table

import fsgen
from fsgen import SamplingParams, tasks
from fsgen.backends import Members
from fsgen.backends.translated import TranslatedModel
from fsgen.metrics import Counts


def ways(draft: str, target: str, like: str | None) -> list[tuple[str, Members]]:
    """The pairs that are compared, by name. Raises ValueError where the tokenizer is the same."""
    ahead = fsgen.load(draft=draft, target=target)
    if not isinstance(ahead.draft, TranslatedModel) or ahead.target is None:
        raise ValueError(f"{draft} and {target} have the same tokenizer")
    shared = replace(ahead, draft=TranslatedModel(ahead.draft.draft, ahead.target, look_ahead=0))
    found = [("shared tokens", shared), ("looking ahead", ahead)]
    return [*found, (like, fsgen.load(draft=like, target=ahead.target))] if like else found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("draft")
    parser.add_argument("target")
    parser.add_argument("--like")
    for name, number in (("--prompts", 16), ("--max-tokens", 96), ("--draft-tokens", 5)):
        parser.add_argument(name, type=int, default=number)
    given = parser.parse_args()
    prompts = [example.prompt for example in tasks.get("gsm8k").load(limit=given.prompts)]
    table = Table("draft", "sampling", "accepted", "tokens a call", "draft calls a token", box=None)
    for name, members in ways(given.draft, given.target, given.like):
        for temperature in (0.0, 0.6, 1.0):
            sampling = SamplingParams(given.max_tokens, temperature)
            texts = fsgen.generate(members, prompts, draft_tokens=given.draft_tokens, sampling=sampling)
            if not temperature:
                alone = fsgen.generate(members, prompts, "plain", sampling=sampling)
                assert [text.token_ids for text in texts] == [text.token_ids for text in alone]
            stats = Counts.total(text.stats for text in texts)
            figures = stats.acceptance_rate or 0.0, stats.mean_accepted_length or 0.0, stats.draft_calls / stats.tokens
            table.add_row(name, str(sampling), *(f"{value:.2f}" for value in figures))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
