"""The page of findings: made from the stored answers of experiments and nothing else, so that they cannot part."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from fsgen.analysis.answers import FOLDER, Answer, entries, from_dict, not_bundled, with_ladder
from fsgen.analysis.intervals import Estimate
from fsgen.files import read_json, write_json, write_text

_WIDTH = 120
_VERDICTS = {True: "yes", False: "no", None: "open"}


def read_answers(folders: Sequence[Path]) -> list[Answer]:
    """The answers of some folders, by the names of their experiments.

    A folder may hold an experiment twice, run by itself and with all others: the answer that was written last counts.

    Args:
        folders: of experiments, folders that hold those, or folders of answers.

    Raises:
        ValueError: a folder has none, or two have one of the same experiment.
    """
    found: dict[str, tuple[Path, Answer]] = {}
    for folder in folders:
        for name, (file, answer) in _newest(folder).items():
            if name in found:
                raise ValueError(f"the experiment {name} has two answers: {found[name][0]} and {file}")
            found[name] = file, answer
    return [answer for _, (_, answer) in sorted(found.items())]


def _newest(folder: Path) -> dict[str, tuple[Path, Answer]]:
    """The last answer of each experiment of a folder, and its file."""
    files = {*folder.glob(f"{FOLDER}/*.json"), *folder.glob(f"*/{FOLDER}/*.json")}
    if folder.name == FOLDER:
        files |= {*folder.glob("*.json")}
    if not files:
        raise ValueError(f"{str(folder)!r} has no answers: run `fsgen experiment NAME --out {folder}` first")
    oldest_first = sorted(files, key=lambda file: (file.stat().st_mtime_ns, file))
    answers = ((file, from_dict(read_json(file))) for file in oldest_first)
    return {answer.experiment: (file, answer) for file, answer in answers}


def keep(answers: Iterable[Answer], folder: Path) -> None:
    """Write answers into a folder, without their charts and tables: what a page of findings is made from.

    Where the bundled ladder is named, the names of its models are kept too: another version may bundle others.
    """
    for answer in answers:
        kept = replace(with_ladder(answer), charts=(), tables=())
        write_json(folder / f"{answer.experiment}.json", kept.as_dict())


def page(answers: Sequence[Answer], experiments: Sequence[str] = ()) -> str:
    """The page, as Markdown.

    Args:
        answers: what is told.
        experiments: all that there are: those without an answer are named.
    """
    told = {answer.experiment for answer in answers}
    sections = [
        {
            "title": answer.title,
            "question": _filled(
                f"{answer.question} **{_VERDICTS[answer.holds]}** (`fsgen experiment {answer.experiment}`)"
            ),
            "former": _filled(_former(answer)),
            "statement": _filled(answer.statement),
            "models": _filled(f"Models and tasks: {_setting(answer)}."),
            "numbers": [_item(f"{name}: {_number(number)}") for name, number in answer.numbers.items()],
            "overturn": _filled(f"What would overturn it: {answer.overturn}"),
            "remarks": [_item(remark) for remark in answer.remarks],
        }
        for answer in answers
    ]
    missing = [f"`fsgen experiment {name}`" for name in experiments if name not in told]
    left = _filled(f"Without a stored answer are: {', '.join(missing)}.") if missing else ""
    text = (resources.files("fsgen.report") / "templates" / "findings.md.j2").read_text(encoding="utf-8")
    plain = jinja2.Environment(autoescape=False, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return plain.from_string(text).render(sections=sections, missing=left) + "\n"


def write(out: Path, text: str) -> None:
    """Write the page."""
    write_text(out, text)


def _filled(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), _WIDTH, break_long_words=False, break_on_hyphens=False)


def _item(text: str) -> str:
    whole = " ".join(text.split())
    return textwrap.fill(
        whole, _WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _number(number: Estimate) -> str:
    return str(number) if abs(number.value) < 100 else number.shown(",.0f")


def _former(answer: Answer) -> str:
    """That an answer is of a former ladder, where one of its models is not bundled any more; or nothing."""
    if not (gone := [f"`{name}`" for name in not_bundled(answer)]):
        return ""
    are = "is" if len(gone) == 1 else "are"
    return (
        f"**Of a former ladder**: {', '.join(gone)} {are} not bundled any more, and models of the other names may have "
        "been trained anew. Of the models that are bundled now this says nothing."
    )


def _setting(answer: Answer) -> str:
    """The models and tasks of an answer's configuration, in words."""
    named = [_pair(entry, answer.ladder) for entry in entries(answer.config, "pairs")]
    said = ", ".join(dict.fromkeys(named)) or "as its options name them"
    tasks = entries(answer.config, "tasks")
    counted = (f"{task['name']} ({task['limit']})" if task.get("limit") else task["name"] for task in tasks)
    return f"{said}; {', '.join(dict.fromkeys(counted)) or 'no task of a study'}"


def _pair(entry: Any, models: Sequence[str]) -> str:
    if "ladder" not in entry:
        return " → ".join(f"`{Path(str(entry[role])).name}`" for role in ("draft", "target") if entry.get(role))
    listed = entry["ladder"]
    names = ", ".join(
        f"`{Path(str(name)).name}`" for name in ((models or [listed]) if isinstance(listed, str) else listed)
    )
    kinds = ["all trainings of each size"] * bool(entry.get("trainings")) + ["each with each"] * bool(
        entry.get("every")
    )
    return f"the ladder {names}" + (f" ({', '.join(kinds)})" if kinds else "")
