"""What the token viewer shows: some examples of each task, in every run, in a compact form.

The page holds one object. Each string is stored once, in `words`; what texts have in common (the same tokens, the same
distributions of a target) is stored once, in `columns`; probabilities are in thousandths, entropies in hundredths.
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
from fsgen.analysis.labels import listed, method_label, short_name, task_label
from fsgen.analysis.traces import scan_traces
from fsgen.files import read_table
from fsgen.render import LOOKS, SHADES

CANDIDATES = 5
_AT_ONCE = 8
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
            f"The distributions of both systems at each token, in every run of some examples: {counts}, spread evenly "
            f"over the order in which they ran. The page has the {self.candidates} most likely tokens of each system; "
            "the folder of the study has the traces of all examples."
        )


def viewer(folder: Path, rows: Sequence[SummaryRow], budget: int = BUDGET) -> Viewer | None:
    """Choose examples, the same in every run of a task, evenly over their order, until the budget is used up.

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
    prompts = {task: _prompts(folder, of_task[0]) for task, of_task in by_task.items()}
    shown: Counter[str] = Counter()
    for task, of_task in by_task.items():
        left = budget // len(by_task)
        tables = _Tables(folder, orders[task])
        for example in orders[task]:
            texts = [text for row in of_task for text in _texts(tables, row, example, spelling)]
            if shown[task] and packed.cost(texts) > left:
                break
            # The first example may be cut, so that every task has one.
            for text in texts:
                if (cost := packed.cost([text])) <= left:
                    packed.add(text)
                    left -= cost
            shown[task] += 1
    return Viewer(
        content=packed.json(by_task, prompts),
        examples={task: (shown[task], len(orders[task])) for task in by_task},
        candidates=CANDIDATES,
    )


def _order(folder: Path, rows: Sequence[SummaryRow]) -> list[str]:
    """The examples of a task that every run has, each as far as possible from the ones before it."""
    texts = [read_generations(folder, row.run).filter(pl.col("error").is_null())["example"].to_list() for row in rows]
    common = set(texts[0]).intersection(*texts[1:]) or set(texts[0])
    names = [name for name in dict.fromkeys(texts[0]) if name in common]
    return [names[i] for i in _spread(len(names))]


def _spread(count: int) -> list[int]:
    """The numbers below `count`: at a quarter, at three quarters, then between those, ever finer."""
    taken: list[int] = []
    parts = 2
    while len(taken) < count:
        taken += [place for i in range(1, parts * 2, 2) if (place := count * i // (parts * 2)) not in set(taken)]
        parts *= 2
        if parts > 4 * count:
            taken += [i for i in range(count) if i not in set(taken)]
    return list(dict.fromkeys(taken))[:count]


def _prompts(folder: Path, row: SummaryRow) -> dict[str, dict[str, str | None]]:
    """The prompt and the reference of each example, where the folder has them."""
    table = read_examples(folder, read_run(folder, row.run))
    rows = [] if table is None else table.select("example", "prompt", "reference").to_dicts()
    return {row.pop("example"): row for row in rows}


# ---- spelling


class _Spelling:
    """The texts of tokens, by the vocabulary of a run; their numbers where the folder has no vocabulary."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._keys = {row["run"]: row.get("vocabulary") for row in read_study(folder)["rows"]}
        self._known: dict[str, tuple[list[bytes], list[bool]]] = {}

    def of(self, run: str) -> tuple[Callable[[int], bytes], Callable[[int], bool]]:
        """Functions of a token of this run: its bytes, and whether it is a special token."""
        key = self._keys.get(run)
        path = self._folder / "vocabularies" / f"{key}.parquet"
        if key is None or not path.is_file():
            return lambda token: f"[{token}]".encode(), lambda token: False
        if key not in self._known:
            table = read_table(path).sort("token")
            self._known[key] = table["text"].to_list(), table["special"].to_list()
        texts, special = self._known[key]
        return (
            lambda token: texts[token] if token < len(texts) else b"",
            lambda token: token < len(special) and special[token],
        )


def pieces(tokens: Iterable[tuple[bytes, bool]]) -> list[str]:
    """What each token (its bytes, whether it is special) adds to the text.

    The tokens of an incomplete character add nothing until it is complete; if it never is, the last one shows what
    there is. A special token is shown as its name between other angle brackets.
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


def as_text(text: bytes, special: bool) -> str:
    """A token by itself, such as a candidate that was not written; bytes that are no text are in hex."""
    if special:
        return named(text)
    try:
        return text.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in text)


# ---- texts


class _Tables:
    """The tables of a task's runs, read for some examples at a time.

    Args:
        folder: of the study.
        order: the examples, as they are asked for.
    """

    def __init__(self, folder: Path, order: Sequence[str]) -> None:
        self._folder, self._order = folder, order
        self._place = {example: number // _AT_ONCE for number, example in enumerate(order)}
        self._read: dict[str, tuple[int, pl.DataFrame, pl.DataFrame]] = {}

    def of(self, run: str, example: str) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The trace of an example in a run, and its texts."""
        place, here = self._place[example], pl.col("example") == example
        if run not in self._read or self._read[run][0] != place:
            some = pl.col("example").is_in(self._order[place * _AT_ONCE : (place + 1) * _AT_ONCE])
            traces = scan_traces(self._folder, run).filter(some).sort("turn", "position").collect()
            self._read[run] = place, traces, read_generations(self._folder, run).filter(some)
        _, traces, texts = self._read[run]
        return traces.filter(here), texts.filter(here)


def _texts(tables: _Tables, row: SummaryRow, example: str, spelling: _Spelling) -> list[dict[str, Any]]:
    """The turns of an example in a run; none where it failed."""
    traces, texts = tables.of(row.run, example)
    generations = {text["turn"]: text for text in texts.iter_rows(named=True)}
    spell, special = spelling.of(row.run)
    result = []
    for (turn,), tokens in traces.group_by("turn", maintain_order=True):
        about = generations[turn]
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
    """The distribution of one system at each token: entropy, and candidates with probabilities; None if unknown."""
    columns = [f"{side}_{name}" for name in ("token", "prob", "entropy", "entropy_bounds", "top_ids", "top_probs")]
    if columns[3] not in tokens.columns:
        tokens = tokens.with_columns(pl.lit(None).alias(columns[3]))
    result: list[Any] = []
    for token, prob, entropy, bounds, ids, probs in tokens.select(columns).iter_rows():
        if token is None:
            result.append(None)
            continue
        best = list(zip(ids or [], probs or [], strict=True))[:CANDIDATES] or [(token, prob)]
        kept = [(i, round(1000 * p)) for i, p in best if p is not None and (round(1000 * p) or i == token)]
        result.append(
            [_hundredths(entropy, bounds), [(as_text(spell(i), special(i)), thousandths) for i, thousandths in kept]]
        )
    return result


def _hundredths(entropy: float | None, bounds: Sequence[float] | None) -> int | list[int] | None:
    """An entropy, what it is at least and at most where only that is known, or None."""
    if entropy is not None:
        return round(100 * entropy)
    return [round(100 * bound) for bound in bounds] if bounds is not None else None


# ---- packing

_COLUMNS = ("tokens", "draft", "target")


def _length(each: Any) -> int:
    """About how many characters an entry of a column takes."""
    if each is None:
        return 2
    return 4 if isinstance(each, str) else 6 + 8 * len(each[1])


@dataclass
class _Packed:
    """Texts, with their equal columns stored once."""

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

    def json(self, by_task: dict[str, list[SummaryRow]], prompts: dict[str, dict[str, dict[str, str | None]]]) -> str:
        """All of it, as the page reads it."""
        used = {text["run"] for text in self.texts}
        rows = [(task, row) for task, of_task in by_task.items() for row in of_task if row.run in used]
        place = {row.run: number for number, (_, row) in enumerate(rows)}
        examples: dict[tuple[str, str], int] = {}
        texts = []
        for text in self.texts:
            example = rows[place[text["run"]]][0], text["example"]
            number = examples.setdefault(example, len(examples))
            texts.append(text | {"run": place[text["run"]], "example": number})
        words, columns = _numbered([json.loads(key) for key in self._columns])
        content = {
            "looks": {source: {"rgb": look.rgb, "line": look.line} for source, look in LOOKS.items()},
            "shades": SHADES,
            "words": words,
            "columns": columns,
            "runs": [_described(task, row) for task, row in rows],
            "examples": [
                {"task": task, "name": name, "prompt": None, "reference": None, **prompts[task].get(name, {})}
                for task, name in examples
            ],
            "texts": texts,
        }
        return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _described(task: str, row: SummaryRow) -> dict[str, str | None]:
    """A run, as the page names it."""
    return {
        "run": row.run,
        "task": task,
        "method": method_label(row),
        "draft": short_name(row.draft),
        "target": short_name(row.target),
        "base": row.base and short_name(row.base),
    }


def _numbered(columns: list[list[Any]]) -> tuple[list[str], list[list[Any]]]:
    """The words in columns, the most frequent first, and the columns with the numbers of their words."""
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

    return list(words), [[numbers(each) for each in column] for column in columns]
