"""What a study was made with: its size, its models, versions and hardware."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import Any

from fsgen.analysis.frequency import SummaryRow
from fsgen.analysis.labels import listed, millions, short_name, task_label

PAPER = "https://arxiv.org/abs/2406.12295"


def title(rows: Sequence[SummaryRow]) -> str:
    """What was studied: the pairs, and the tasks."""
    if not rows:
        return "A study without a finished run"
    tasks = listed(list(dict.fromkeys(map(task_label, rows))))
    pairs = list(dict.fromkeys((row.draft, row.target) for row in rows if row.draft is not None))
    if len(pairs) == 1:
        return f"{short_name(pairs[0][0])} drafting for {short_name(pairs[0][1])} on {tasks}"
    targets = list(dict.fromkeys(row.target for row in rows))
    if not pairs:
        return f"{listed(list(map(short_name, targets)))} alone on {tasks}"
    whom = f" with the target {short_name(targets[0])}" if len(targets) == 1 else " of models"
    return f"{len(pairs)} pairs{whom} on {tasks}"


def links() -> list[tuple[str, str]]:
    """Where more is said: the addresses of the project, and the paper that it starts from."""
    known = (entry.partition(", ") for entry in metadata.metadata("fsgen").get_all("Project-URL") or ())
    found = {address: name for name, _, address in known}
    return [(name, address) for address, name in ({PAPER: "Paper it starts from"} | found).items()]


def facts(rows: Sequence[SummaryRow], records: Sequence[dict[str, Any]]) -> str:
    """The size of the study, in a line."""
    tasks = dict.fromkeys(task_label(row) for row in rows)
    pairs = {(row.draft, row.target, row.base) for row in rows}
    names = {member["name"] for record in records for member in record["members"].values()}
    methods = {row.method for row in rows}
    counts = ((len(rows), "run"), (len(tasks), "task"), (len(pairs), "pair"), (len(names), "model"))
    shown = [f"{count} {word}{'s' * (count != 1)}" for count, word in (*counts, (len(methods), "method"))]
    return ", ".join(shown) + f"; {sum(row.tokens for row in rows):,} tokens in traces"


def models(records: Sequence[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Name, parameters, parameters without embeddings, and what it was tuned from; the smallest first."""
    found = {member["name"]: member for record in records for member in record["members"].values()}
    ordered = sorted(found.values(), key=lambda member: (member["parameters"], member["name"]))
    return [
        (
            short_name(member["name"]),
            millions(member["parameters"]),
            millions(member["non_embedding_parameters"]),
            short_name(member["tuned_from"]),
        )
        for member in ordered
    ]


def versions(records: Sequence[dict[str, Any]]) -> list[str]:
    """The distinct versions and hardware of the runs, a line each."""
    lines = []
    for record in records:
        versions = [f"{name} {value}" for name, value in record["versions"].items()]
        first = record["hardware"]
        for hardware in (first, *first.get("others", ())):  # several workers may have made a run
            machine = [hardware["processor"], f"{hardware['cores']} cores", *hardware["gpus"]]
            lines.append(", ".join([*versions, *machine]))
    return list(dict.fromkeys(lines))
