"""The names of models, methods and tasks in tables and charts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fsgen.analysis.frequency import SummaryRow


def short_name(name: str | None) -> str:
    """A model without its folder or owner; a dash for none."""
    return name.rstrip("/").rpartition("/")[2] if name else "-"


def names_by_size(models: Iterable[tuple[str | None, float | None]]) -> list[str]:
    """The short names of models with their sizes, the smallest first."""
    sized = sorted({(size or 0, str(name)) for name, size in models})
    return list(dict.fromkeys(short_name(name) for _, name in sized))


def method_label(row: SummaryRow) -> str:
    """The method, with router, draft length and sampling where these are not the defaults."""
    parts = [row.method]
    if row.router not in (None, "always"):
        parts.append(row.router)
    if row.draft_tokens > 1:
        parts.append(f"k={row.draft_tokens}")
    if row.sampling != "greedy":
        parts.append(row.sampling)
    return " ".join(parts)


def task_label(row: SummaryRow) -> str:
    """The task, with the number of few-shot examples and the chat format where it has them."""
    return task_name(row.task, row.shots, row.chat)


def task_name(task: str, shots: int, chat: bool) -> str:
    """As `task_label`, of a task that no run has yet."""
    return task + f", {shots} shots" * (shots > 0) + ", chat" * chat


def texts_label(row: SummaryRow) -> str:
    """How many examples, and how many of them failed."""
    return f"{row.examples}" + (f" ({row.failed} failed)" if row.failed else "")


def by_task(rows: Iterable[SummaryRow]) -> list[SummaryRow]:
    """The rows of each task together, in the order in which the tasks come."""
    rows = list(rows)
    order = list(dict.fromkeys(map(task_label, rows)))
    return sorted(rows, key=lambda row: order.index(task_label(row)))


def decimal(value: float | None, digits: int) -> str:
    """A number of so many digits; a dash for none."""
    return "-" if value is None else f"{value:.{digits}f}"


def interval(row: SummaryRow) -> str:
    """The interval of the collaboration frequency; empty for none."""
    return "" if row.ci_low is None else f"[{row.ci_low:.3f}, {row.ci_high:.3f}]"


def millions(parameters: int | None) -> str:
    """A number of parameters: `0.42 M`, `7.6 B`."""
    if not parameters:
        return "unknown"
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= size or (unit == "M" and parameters >= 5e4):
            return f"{parameters / size:.3g} {unit}"
    return str(parameters)


def set_label(task: str, method: str, several: bool) -> str:
    """A set of pairs: its task, and its method where there are several methods."""
    return f"{task}, {method}" if several else task


def listed(parts: Sequence[str]) -> str:
    """Items in a sentence: `a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
