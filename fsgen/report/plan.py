"""A plan as a page: the speed-up of each draft and draft length, and where each candidate loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from fsgen.analysis.labels import listed, short_name
from fsgen.analysis.short import ShortAnswer
from fsgen.files import write_text
from fsgen.report import provenance
from fsgen.report.chart import NEUTRAL, Axis, Chart, Data, Figure, Key, Layer, Row, Series, coloured
from fsgen.report.page import render
from fsgen.report.sections import Group
from fsgen.report.table import Column, Entry

Found: TypeAlias = Mapping[str, Any]
"""A candidate, as `fsgen plan --json` has it."""

PLAIN = "plain decoding"
SHOWN = ("1", "2", "4", "8", "auto")  # draft lengths that are drawn over the batch size
_UNREAD = "Its interval covers the texts and the times together."


def write(found: Found, path: Path, target: str, hardware: str, objective: str) -> Path:
    """Writes the page, whole or not at all.

    Args:
        found: what `fsgen plan --json` prints.
        path: the file.
        target, hardware, objective: as they were asked for.
    """
    shown = groups(found)
    sections = {"findings": "In short"} | {group.id: group.title for group in shown} | {"details": "Details"}
    batches = listed(list(found["by_batch"]))
    page = render(
        "plan",
        shown,
        sections,
        name=short_name(target),
        title=_title(found),
        facts=f"{len(found['candidates'])} candidates at batch {batches}; times: {hardware}; objective: {objective}",
        links=provenance.links(),
        short=_short(found),
        columns=COLUMNS,
        rows=[[column.entry(one) for column in COLUMNS] for one in found["candidates"]],
        assumptions=found["assumptions"],
    )
    write_text(path, page)
    return path


def draft_of(one: Found) -> str:
    """What drafts, in a word."""
    if one["method"] == "plain":
        return PLAIN
    _, _, ngram = one["method"].partition("ngram=")
    return f"ngram:{ngram}" if ngram else short_name(one["draft"])


def named(one: Found) -> str:
    """A candidate in a few words."""
    if one["method"] == "plain":
        return PLAIN
    router = "" if one["router"] == "always" else f", {one['router']}"
    tokens = f"{one['draft_tokens']} token{'s' * (one['draft_tokens'] != 1)}"
    return f"{one['method'].partition(':')[0]} with {draft_of(one)}, {tokens}{router}"


def groups(found: Found) -> list[Group]:
    """The figures of a plan."""
    drafting = [one for one in found["candidates"] if one["method"] != "plain"]
    fixed = [one for one in drafting if one["router"] == "always"]
    speed = [_by_batch(fixed, found), _by_length(fixed, found)]
    made = {"Speed-up": tuple(filter(None, speed)), "Where each candidate loses": (_losses(drafting, found),)}
    return [Group(title.lower().replace(" ", "-"), title, figures) for title, figures in made.items() if drafting]


def _row(one: Found) -> dict[str, Any]:
    return {
        "draft": draft_of(one),
        "tokens": str(one["draft_tokens"]),
        "batch": one["batch"],
        "x plain": one["speedup"],
        "low": one["low"],
        "high": one["high"],
    }


def _by_batch(fixed: Sequence[Found], found: Found) -> Figure | None:
    """Over the batch size, a line for each draft length."""
    batches = sorted({one["batch"] for one in fixed})
    if len(batches) < 2:
        return None
    rows = [_row(one) for one in fixed if str(one["draft_tokens"]) in SHOWN]
    rows.sort(key=lambda row: (row["draft"], row["batch"], SHOWN.index(row["tokens"])))
    lengths = [length for length in SHOWN if any(row["tokens"] == length for row in rows)]
    plain: list[Row] = [
        {"draft": draft, "tokens": PLAIN, "batch": batch, "x plain": 1.0}
        for draft in dict.fromkeys(row["draft"] for row in rows)
        for batch in (batches[0], batches[-1])
    ]
    stops = found["stops_paying"]
    end = (
        "A draft pays at each of these batch sizes."
        if stops is None
        else f"From batch {stops} on, no draft is surely worth it."
    )
    best = listed([f"{one['speedup']:.2f} at batch {batch}" for batch, one in found["by_batch"].items()])
    return Figure(
        name="plan-batch",
        title="Speed-up over batch size, by draft length",
        finding=f"The chosen configuration is {best} times as fast as plain decoding. {end}",
        note="A line for each number of drafted tokens; bands are 95 % intervals over texts and times together. Below "
        "the dashed line a draft makes it slower.",
        data=Data.of(rows),
        chart=Chart(
            x=Axis("batch", "texts at a time", log=True, ticks=batches),
            y=Axis("x plain", "times as fast as plain decoding", low=0),
            layers=(
                Layer("line", plain, shown=()),
                Layer("band", rows),
                Layer("line", rows, shown=("tokens", "batch", "x plain", "low", "high")),
            ),
            series=(Series("tokens", (*coloured(lengths, "line"), Key(PLAIN, NEUTRAL, "dash"))),),
            facets=("draft",),
            height=240,
        ),
    )


def _by_length(fixed: Sequence[Found], found: Found) -> Figure | None:
    """Over the draft length, a line for each draft."""
    rows = [
        _row(one) | {"tokens": one["draft_tokens"], "at": f"batch {one['batch']}"}
        for one in fixed
        if isinstance(one["draft_tokens"], int)
    ]
    rows.sort(key=lambda row: (row["batch"], row["draft"], row["tokens"]))
    if not rows:
        return None
    ends = min(row["tokens"] for row in rows), max(row["tokens"] for row in rows)
    plain: list[Row] = [
        {"at": at, "draft": PLAIN, "tokens": end, "x plain": 1.0}
        for at in dict.fromkeys(row["at"] for row in rows)
        for end in ends
    ]
    drafts = list(dict.fromkeys(row["draft"] for row in rows))
    best = [max((row for row in rows if row["at"] == at), key=lambda row: row["x plain"]) for at in _panels(rows)]
    said = listed([f"{row['tokens']} with {row['draft']} at {row['at']}" for row in best])
    return Figure(
        name="plan-length",
        title="Speed-up by draft length",
        finding=f"Of fixed draft lengths the fastest is {said}.",
        note="Bands are 95 % intervals over texts and times together. More drafted tokens save calls of the target as "
        "long as they are accepted, and each costs a call of the draft.",
        data=Data.of([{key: value for key, value in row.items() if key != "at"} for row in rows]),
        chart=Chart(
            x=Axis("tokens", "drafted tokens of a round"),
            y=Axis("x plain", "times as fast as plain decoding", low=0),
            layers=(
                Layer("line", plain, shown=()),
                Layer("band", rows),
                Layer("line", rows, shown=("draft", "tokens", "x plain", "low", "high")),
                Layer("point", rows, intervals=False, shown=("draft", "tokens", "x plain", "low", "high"), size=30),
            ),
            series=(Series("draft", (*coloured(drafts, "line"), Key(PLAIN, NEUTRAL, "dash"))),),
            facets=("at",),
            height=240,
        ),
    )


def _panels(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["at"] for row in rows))


def _losses(drafting: Sequence[Found], found: Found) -> Figure:
    """What each candidate gains, tokens for a call of the target, and what it pays, time beside these calls."""
    chosen = {batch: named(one) for batch, one in found["by_batch"].items()}
    rows = [
        {
            "at": f"batch {one['batch']}",
            "candidate": named(one),
            "draft": draft_of(one),
            "tokens a call": one["tokens_per_call"],
            "beside": one["draft_share"],
            "speed-up": one["speedup"],
            "low": one["low"],
            "high": one["high"],
            "why": one["reason"],
        }
        for one in drafting
        if one["tokens_per_call"] is not None
    ]
    drafts = list(dict.fromkeys(row["draft"] for row in rows))
    lost = [row for row in rows if chosen.get(row["at"].removeprefix("batch ")) != row["candidate"]]
    slower = sum(row["speed-up"] < 1 for row in rows)
    return Figure(
        name="plan-losses",
        title="What each candidate gains and pays",
        finding=f"{slower} of {len(rows)} candidates are slower than plain decoding; {len(lost)} are not chosen, each "
        "for the reason in the table.",
        note="A candidate gains by more tokens for each call of the target (to the right), and pays by the share of "
        "the time that its draft and the loop take (upwards). What lies above and to the left of another one loses to "
        "it.",
        data=Data.of(rows),
        chart=Chart(
            x=Axis("tokens a call", "tokens for each call of the target"),
            y=Axis("beside", "share of the time that is not the target's", low=0, high=1, format="%"),
            layers=(
                Layer("point", rows, intervals=False, size=60, shown=("candidate", "speed-up", "low", "high", "why")),
            ),
            series=(Series("draft", coloured(drafts)),),
            facets=("at",),
            height=240,
        ),
    )


# ---- words


def _title(found: Found) -> str:
    choice = found["choice"]
    if found["verdict"] == "plain":
        return "No draft is surely worth it"
    return f"{named(choice)}: {choice['speedup']:.2f} times as fast"


def _short(found: Found) -> list[ShortAnswer]:
    choice, several = found["choice"], len(found["by_batch"]) > 1
    at = f", at batch {choice['batch']}" if several else ""
    pays = {
        "plain": "No: plain decoding, since no candidate's interval lies above 1.",
        "draft": f"Yes: {named(choice)}{at}. Texts stay what the target writes alone.",
        "route": f"Yes: {named(choice)}{at}. It trusts the draft where the router does, so texts may change.",
    }
    said = [ShortAnswer("Is a draft worth it?", pays[found["verdict"]])]
    sure = f"{choice['speedup']:.2f} times as fast as plain decoding, and with 95 % confidence "
    said.append(
        ShortAnswer("How much does it bring?", sure + f"{choice['low']:.2f} to {choice['high']:.2f} times. {_UNREAD}")
    )
    if several:
        each = [f"{batch}: {named(one)} ({one['speedup']:.2f})" for batch, one in found["by_batch"].items()]
        stops = found["stops_paying"]
        end = "" if stops is None else f" From batch {stops} on, no draft is surely worth it."
        said.append(ShortAnswer("By batch size", f"{'; '.join(each)}.{end}"))
    here = [one for one in found["candidates"] if one["batch"] == choice["batch"] and named(one) != named(choice)]
    if found["verdict"] != "route":  # no router that trusts is allowed
        here = [one for one in here if not one["accuracy_loss_high"]]
    if here:
        second = max(here, key=lambda one: one["speedup"])
        said.append(ShortAnswer("The runner-up", f"{named(second)}, {second['speedup']:.2f}: {second['reason']}."))
    said.append(ShortAnswer("What this rests on", f"{found['texts']} texts; {'; '.join(found['assumptions'][:2])}."))
    return said


def _word(word: str) -> Entry:
    return Entry(word, word)


def _number(value: float | None, form: str = ".2f", factor: float = 1.0) -> Entry:
    return Entry("-" if value is None else format(value if factor == 1 else factor * value, form), value)


COLUMNS = (
    Column("batch", "How many texts are written at a time.", lambda one: _number(one["batch"], "d")),
    Column(
        "draft",
        "What drafts: a model, n-grams of the text so far, or nothing.",
        lambda one: _word(draft_of(one)),
        False,
    ),
    Column("method", "How draft and target write together.", lambda one: _word(one["method"].partition(":")[0]), False),
    Column(
        "tokens", "Drafted tokens of a round; auto: chosen adaptively.", lambda one: _word(str(one["draft_tokens"]))
    ),
    Column(
        "router",
        "Where the draft stops, or with `route` where the target is asked.",
        lambda one: _word(one["router"]),
        False,
    ),
    Column("x plain", "Times as fast as plain decoding, as predicted.", lambda one: _number(one["speedup"])),
    Column(
        "from", "The lower end of its 95 % interval, over texts and times together.", lambda one: _number(one["low"])
    ),
    Column("to", "The upper end.", lambda one: _number(one["high"])),
    Column("tokens/s", "Of all texts together.", lambda one: _number(one["tokens_per_second"], ",.0f")),
    Column("tokens a call", "Tokens for each call of the target.", lambda one: _number(one["tokens_per_call"])),
    Column(
        "beside",
        "The share of the time that is not the target's calls: the draft's, and the loop's.",
        lambda one: _number(one["draft_share"], ".0%"),
    ),
    Column(
        "loss",
        "The accuracy that is lost; where it is not known, at most the share of texts that change.",
        lambda one: _number(one["accuracy_loss"], ".1%"),
    ),
    Column(
        "GB", "Memory of the weights, and of keys and values.", lambda one: _number(one["memory_bytes"], ".2f", 1e-9)
    ),
    Column("price", "Of a million tokens.", lambda one: _number(one["price"], ".3g")),
    Column("why", "Why it is chosen, or not.", lambda one: _word(one["reason"]), False),
)
