"""What the token viewer shows: some examples of each task, in every run, packed small.

The page holds one object. Strings stand once, in `words`; what texts have in common (the same tokens, the same
distributions of a target) stands once, in `columns`; probabilities are in thousandths, entropies in hundredths.
"""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from fsgen.analysis.frequency import SummaryRow, read_examples, read_generations, read_run, read_study
from fsgen.analysis.labels import method_label, short_name, task_label
from fsgen.analysis.traces import scan_traces
from fsgen.render import LOOKS, SHADES
from fsgen.report.chart import listed

CANDIDATES = 5
BUDGET = 2_200_000
"""Characters of the texts' tokens, so that the page stays below 5 MB."""


@dataclass(frozen=True)
class Viewer:
    """The data of the token viewer.

    Attributes:
        content: what the page embeds, as JSON.
        examples: how many of each task are in it, by task, and how many there are.
        candidates: of each system, at most.
    """

    content: str
    examples: dict[str, tuple[int, int]]
    candidates: int

    @property
    def lead(self) -> str:
        """What is on the page, and what is not."""
        counts = listed([f"{shown} of {there} of {task}" for task, (shown, there) in self.examples.items()])
        return (
            f"What both systems held likely at each token, in every run of some examples: {counts}, spread evenly "
            f"over the order in which they ran. The {self.candidates} likeliest tokens of each system are here; the "
            "folder of the study has the traces of all examples."
        )


def viewer(folder: Path, rows: Sequence[SummaryRow], budget: int = BUDGET) -> Viewer | None:
    """Pick examples, the same in every run of a task, evenly over their order, until the budget is spent.

    Args:
        folder: of the study.
        rows: its runs.
        budget: characters that the tokens may take.

    Returns:
        None where no run has a trace.
    """
    rows = [row for row in rows if row.draft is not None and list((folder / "traces" / f"run={row.run}").glob("*"))]
    by_task: dict[str, list[SummaryRow]] = {}
    for row in rows:
        by_task.setdefault(task_label(row), []).append(row)
    if not rows:
        return None
    spelling = _Spelling(folder)
    packed = _Packed()
    orders = {task: _order(folder, of_task) for task, of_task in by_task.items()}
    asked = {task: _asked(folder, of_task[0]) for task, of_task in by_task.items()}
    shown: Counter[str] = Counter()
    for task, of_task in by_task.items():
        left = budget // len(by_task)
        for example in orders[task]:
            texts = [text for row in of_task for text in _texts(folder, row, example, spelling)]
            if shown[task] and packed.cost(texts) > left:
                break
            # The first example may be cut, so that every task has one.
            for text in texts:
                if (cost := packed.cost([text])) <= left:
                    packed.add(text)
                    left -= cost
            shown[task] += 1
    return Viewer(
        content=packed.json(by_task, asked),
        examples={task: (shown[task], len(orders[task])) for task in by_task},
        candidates=CANDIDATES,
    )


def _order(folder: Path, rows: Sequence[SummaryRow]) -> list[str]:
    """The examples of a task: those that every run has first, each as far as can be from the ones before it."""
    listed = [read_generations(folder, row.run).filter(pl.col("error").is_null())["example"].to_list() for row in rows]
    common = set(listed[0]).intersection(*listed[1:]) or set(listed[0])
    names = [name for name in dict.fromkeys(listed[0]) if name in common]
    return [names[i] for i in _spread(len(names))]


def _spread(count: int) -> list[int]:
    """The numbers below `count`: at a quarter, at three quarters, then ever finer between those that are there."""
    taken: list[int] = []
    parts = 2
    while len(taken) < count:
        taken += [place for i in range(1, parts * 2, 2) if (place := count * i // (parts * 2)) not in set(taken)]
        parts *= 2
        if parts > 4 * count:
            taken += [i for i in range(count) if i not in set(taken)]
    return list(dict.fromkeys(taken))[:count]


def _asked(folder: Path, row: SummaryRow) -> dict[str, tuple[str, str | None]]:
    """The prompt and the reference of each example, where the folder has them."""
    table = read_examples(folder, read_run(folder, row.run))
    if table is None:
        return {}
    return {
        name: (prompt, reference)
        for name, prompt, reference in table.select("example", "prompt", "reference").iter_rows()
    }


# ---- spelling


class _Spelling:
    """The texts of tokens, by the vocabulary of a run; a number where the folder has none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._keys = {row["run"]: row.get("vocabulary") for row in read_study(folder)["rows"]}
        self._known: dict[str, tuple[list[bytes], list[bool]]] = {}

    def of(self, run: str) -> tuple[Callable[[int], bytes], Callable[[int], bool]]:
        """What gives the bytes of a token of this run, and what tells whether it is a special one."""
        key = self._keys.get(run)
        path = self._folder / "vocabularies" / f"{key}.parquet"
        if key is None or not path.is_file():
            return lambda token: f"[{token}]".encode(), lambda token: False
        if key not in self._known:
            table = pl.read_parquet(path).sort("token")
            self._known[key] = table["text"].to_list(), table["special"].to_list()
        texts, special = self._known[key]
        return (
            lambda token: texts[token] if token < len(texts) else b"",
            lambda token: token < len(special) and special[token],
        )


def pieces(tokens: Iterable[tuple[bytes, bool]]) -> list[str]:
    """What each token (its bytes, whether it is special) adds to the text.

    While a character is incomplete, that is nothing; if it stays so, the last token shows it as it is. A special token
    adds nothing either, and shows as its name between angle brackets of another kind.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    shown, last = [], -1
    for text, special in tokens:
        shown.append(named(text) if special else decoder.decode(text))
        last = last if special else len(shown) - 1
    if last >= 0:
        shown[last] += decoder.decode(b"", final=True)
    return shown


def named(text: bytes) -> str:
    """A special token."""
    return f"\u27e8{text.decode(errors='replace').strip('<>|')}\u27e9"


def alone(text: bytes, special: bool) -> str:
    """A token by itself: a candidate that was not written. Bytes of which no text can be made are in hex."""
    if special:
        return named(text)
    try:
        return text.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in text)


# ---- texts


def _texts(folder: Path, row: SummaryRow, example: str, spelling: _Spelling) -> list[dict[str, Any]]:
    """The turns of an example in a run; none where it failed."""
    here = pl.col("example") == example
    traces = scan_traces(folder, row.run).filter(here).sort("turn", "position").collect()
    told = {text["turn"]: text for text in read_generations(folder, row.run).filter(here).iter_rows(named=True)}
    spell, special = spelling.of(row.run)
    result = []
    for (turn,), tokens in traces.group_by("turn", maintain_order=True):
        about = told[turn]
        written = tokens["token"].to_list()
        result.append(
            {
                "run": row.run,
                "example": example,
                "turn": turn,
                "score": about["score"],
                "answer": about["answer"],
                "stop": about["stop_reason"],
                "tokens": pieces((spell(token), special(token)) for token in written),
                "source": "".join(source[0] for source in tokens["source"]),
                "differs": _marks(tokens),
                "round": None if tokens["round"].equals(tokens["position"]) else tokens["round"].to_list(),
                "draft": _side(tokens, "draft", spell, special),
                "target": _side(tokens, "target", spell, special),
            }
        )
    return result


def _marks(tokens: pl.DataFrame) -> str:
    """A character a token: 1 where the greedy choices differ, 0 where they agree, - where one is not known."""
    differs = (tokens["draft_token"] != tokens["target_token"]).to_list()
    return "".join("-" if each is None else str(int(each)) for each in differs)


def _side(tokens: pl.DataFrame, side: str, spell: Callable[[int], bytes], special: Callable[[int], bool]) -> list[Any]:
    """Of each token what one system held likely: entropy, and candidates with their probabilities; None if unknown."""
    columns = (f"{side}_{name}" for name in ("token", "prob", "entropy", "top_ids", "top_probs"))
    result: list[Any] = []
    for token, prob, entropy, ids, probs in tokens.select(columns).iter_rows():
        if token is None:
            result.append(None)
            continue
        likely = list(zip(ids or [], probs or [], strict=True))[:CANDIDATES] or [(token, prob)]
        kept = [(i, round(1000 * p)) for i, p in likely if p is not None and (round(1000 * p) or i == token)]
        result.append(
            [round(100 * (entropy or 0.0)), [(alone(spell(i), special(i)), thousandths) for i, thousandths in kept]]
        )
    return result


# ---- packing

_COLUMNS = ("tokens", "draft", "target")


def _length(each: Any) -> int:
    """About how many characters an entry of a column takes."""
    if each is None:
        return 2
    return 4 if isinstance(each, str) else 6 + 8 * len(each[1])


@dataclass
class _Packed:
    """Texts in which what is equal stands once."""

    texts: list[dict[str, Any]] = field(default_factory=list)
    _columns: dict[str, int] = field(default_factory=dict)

    def cost(self, texts: Iterable[dict[str, Any]]) -> int:
        """About how many characters some texts would add."""
        total, seen = 0, set(self._columns)
        for text in texts:
            total += 120 + 2 * len(text["tokens"])
            for name in _COLUMNS:
                key = json.dumps(text[name])
                if key not in seen:
                    seen.add(key)
                    total += sum(_length(each) for each in text[name])
        return total

    def add(self, text: dict[str, Any]) -> None:
        """Keep a text."""
        packed = dict(text)
        for name in _COLUMNS:
            key = json.dumps(text[name])
            packed[name] = self._columns.setdefault(key, len(self._columns))
        self.texts.append(packed)

    def json(self, by_task: dict[str, list[SummaryRow]], asked: dict[str, dict[str, tuple[str, str | None]]]) -> str:
        """All of it, as the page reads it."""
        columns = [json.loads(key) for key in self._columns]
        counted: Counter[str] = Counter()
        for column in columns:
            for each in column:
                counted.update([each] if isinstance(each, str) else [word for word, _ in each[1]] if each else [])
        words = {word: number for number, (word, _) in enumerate(counted.most_common())}

        def numbers(each: Any) -> Any:
            if each is None:
                return 0
            if isinstance(each, str):
                return words[each]
            return [each[0], *(number for word, share in each[1] for number in (words[word], share))]

        used = {text["run"] for text in self.texts}
        runs: list[dict[str, Any]] = [
            {
                "run": row.run,
                "task": task,
                "method": method_label(row),
                "draft": short_name(row.draft),
                "target": short_name(row.target),
                "base": row.base and short_name(row.base),
            }
            for task, rows in by_task.items()
            for row in rows
            if row.run in used
        ]
        place = {run["run"]: number for number, run in enumerate(runs)}
        examples: list[dict[str, Any]] = []
        seen: dict[tuple[str, str], int] = {}
        for text in self.texts:
            task, name = runs[place[text["run"]]]["task"], text["example"]
            if (task, name) not in seen:
                seen[task, name] = len(examples)
                prompt, reference = asked[task].get(name, (None, None))
                examples.append({"task": task, "name": name, "prompt": prompt, "reference": reference})
            text |= {"run": place[text["run"]], "example": seen[task, name]}
        content = {
            "looks": {source: {"rgb": look.rgb, "line": look.line} for source, look in LOOKS.items()},
            "shades": SHADES,
            "words": list(words),
            "columns": [[numbers(each) for each in column] for column in columns],
            "runs": runs,
            "examples": examples,
            "texts": self.texts,
        }
        return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
