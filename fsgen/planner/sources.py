"""Where the texts of a plan come from: a study, a task that the target writes now, or a rate that is assumed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fsgen.api import generate
from fsgen.backends.members import Members
from fsgen.files import DamagedError, read_json
from fsgen.planner.reading import Reading
from fsgen.planner.texts import Written
from fsgen.prompts import Tokenizing, encode, fits
from fsgen.study.store import Store
from fsgen.tasks import get
from fsgen.types import SamplingParams


def study_texts(folder: Path, target: str, members: Tokenizing) -> list[Written]:
    """The greedy texts of a target that a study has stored, of its first run for each task.

    Raises:
        ValueError: no study, none with texts of this target, or prompts that another tokenizer has read.
    """
    try:
        plan = read_json(folder / "study.json")
    except DamagedError:
        raise ValueError(f"{str(folder)!r} has no study: there is no study.json in it") from None
    store = Store(folder)
    records = [one for row in plan.get("rows", []) if (one := store.record(_run(row))) is not None]
    found: dict[str, list[Written]] = {}
    for record in records:
        task = record["identity"]["task"]
        if record["status"] == "finished" and _is_of(record, target) and task["name"] not in found:
            found[task["name"]] = _texts(store, record, members)
    texts = [text for each in found.values() for text in each]
    if not texts:
        known = sorted({one["members"]["target"]["name"] for one in records if "target" in one["members"]})
        shown = ", ".join(known) or "none"
        raise ValueError(f"{str(folder)!r} has no greedy texts that {target!r} wrote; its targets: {shown}")
    return texts


def _run(row: Any) -> str:
    return str(row["run"] if isinstance(row, dict) else row)


def _is_of(record: dict[str, Any], target: str) -> bool:
    """Whether a run's texts are what the target writes alone, greedily, from plain prompts."""
    method, identity = record["method"], record["identity"]
    member = record["members"].get("target", {})
    return (
        member.get("name") == target
        and method["fusion"]["name"] == "target"
        and not method["trusting"]
        and identity["sampling"] == "greedy"
        and not identity["task"]["chat"]
    )


def _texts(store: Store, record: dict[str, Any], members: Tokenizing) -> list[Written]:
    task = record["identity"]["task"]
    path = store.folder / "examples" / f"{task['examples'][:16]}.parquet"
    if not path.is_file():
        raise ValueError(f"{str(store.folder)!r} has no prompts of {task['name']}: {str(path)!r} is missing")
    prompts = dict(pl.read_parquet(path).select("example", "prompt").iter_rows())
    traces = store.traces(record["run"]).filter(pl.col("turn") == 1)
    tokens = {str(key[0]): rows["token"].to_list() for key, rows in traces.group_by("example", maintain_order=True)}
    found = []
    for row in store.generations(record["run"]).filter(pl.col("turn") == 1).iter_rows(named=True):
        ids = tokens.get(row["example"])
        if not ids:
            continue
        prompt = encode(members, prompts[row["example"]])
        if len(prompt) != row["prompt_tokens"]:
            raise ValueError(f"the texts of {str(store.folder)!r} are of another tokenizer: a prompt has other tokens")
        found.append(Written(tuple(prompt), tuple(ids), cut=row["stop_reason"] == "length"))
    return found


def task_prompts(name: str, members: Tokenizing, count: int, max_tokens: int) -> list[list[int]]:
    """Prompts of a task that fit, as token ids. Raises ValueError for an unknown task, or where none fits."""
    task = get(name)
    try:
        found = task.load(count)  # the first ones of all
    except ValueError:  # it has fewer
        found = task.load()
    examples = [each for each in found if fits(members, each.prompt, max_tokens)]
    if len(examples) < len(found):  # some are too long: as many that fit, of all of them
        examples = list(islice((each for each in task.load() if fits(members, each.prompt, max_tokens)), count))
    if not examples:
        raise ValueError(
            f"no prompt of {name} fits into the context window of {members.context} with {max_tokens} more"
        )
    return [encode(members, each.prompt) for each in examples]


def written_now(members: Members, prompts: Sequence[list[int]], sampling: SamplingParams, batch: int) -> list[Written]:
    """What the target writes greedily from these prompts."""
    texts = generate(members, list(prompts), "plain", sampling=sampling, batch_size=batch)
    return [
        Written(tuple(ids), tuple(text.token_ids), cut=text.stop_reason == "length")
        for ids, text in zip(prompts, texts, strict=True)
    ]


def assumed(rate: float, texts: int, prompt: int, tokens: int) -> list[Reading]:
    """Texts of which a drafted token is accepted with the same chance everywhere.

    Raises:
        ValueError: no chance.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"an acceptance of {rate} is impossible: choose 0 to 1")
    chances = np.full(tokens, rate)
    text = Written((1,) * prompt, (1,) * tokens, temperature=1.0, logprobs=(0.0,) * tokens, cut=True)
    # The draft's own probability says as much as is known.
    return [Reading(text, chances, chances, chances, {}) for _ in range(texts)]
