"""What is wrong with the words that a command is given is one line, before any work."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.inputs.values import (
    HUGE,
    NO_COUNTS,
    NO_DEVICES,
    NO_DTYPES,
    NO_METHODS,
    NO_MODELS,
    NO_NUMBERS,
    NO_ROUTERS,
    NO_SHARES,
    Case,
)

WRONG: dict[str, tuple[str, ...]] = {
    "--draft": NO_MODELS,
    "--target": NO_MODELS,
    "--base": NO_MODELS,
    "--method": NO_METHODS,
    "--router": NO_ROUTERS,
    "--draft-tokens": (*NO_COUNTS, "65", "auto ", "AUTO"),
    "--max-tokens": (*NO_COUNTS, "0", "9223372036854775808"),
    "--dtype": NO_DTYPES,
    "--device": NO_DEVICES,
    "--weights": (
        *NO_DTYPES,
        "int2",
        "draft=int2",
        "somebody=int8",
        "draft=",
        "=int8",
        "draft=int8,draft=int8",
        "int8,",
    ),
}
OF_GENERATE = {
    "--temperature": (*NO_SHARES, "1e-300"),
    "--top-k": (*NO_COUNTS, "9223372036854775808", "2147483648"),
    "--top-p": (*NO_SHARES, "0", "1.1"),
    "--min-p": (*NO_SHARES, "1"),
    "--seed": (*NO_COUNTS, "18446744073709551616"),
    "--candidates": NO_COUNTS,
    "--stop": ("", "\udcff"),
    "--repetition-penalty": (*NO_SHARES, "0"),
    "--presence-penalty": (*NO_NUMBERS, "nan", "inf", "-2.1", "3", HUGE),
    "--frequency-penalty": (*NO_NUMBERS, "nan", "inf", "-2.1", "3", HUGE),
    "--logit-bias": (
        "",
        "x",
        "5",
        "5=",
        "=1",
        "5=x",
        "5=nan",
        "5=inf",
        "-1=1",
        "5=1,5=2",
        "5=1,",
        "\udcff",
        HUGE + "=1",
    ),
    "--n": (*NO_COUNTS, "0", "2"),
    "--min-tokens": (*NO_COUNTS, "129"),
    "--stop-token-ids": ("", "x", "1,", "-1", "1.5", "1 2", "\udcff", HUGE * 12),
    "--logprobs": NO_COUNTS,
    "--input": ("", "nothing.jsonl", ".", "{empty}", "{binary}", "/dev/null", "\udcff", "a\0b"),
}
OF_VERIFY = {
    "--prompts": (*NO_COUNTS, "0"),
    "--batch-size": (*NO_COUNTS, "0"),
    "--task": ("", "guess", "gsm8k,mbpp", "\udcff"),
    "--prompts-file": ("", "nothing.txt", ".", "{empty}", "{binary}", "/dev/null", "\udcff"),
}
OF_BENCH = {
    **{
        option: WRONG[option]
        for option in ("--draft", "--target", "--draft-tokens", "--dtype", "--device", "--weights")
    },
    "--batch-size": ("", "0", "1,", "1;8", "-1", "1.5", "many", "9223372036854775808", "\udcff"),
    "--acceptance": ("-0.1", "1.1", "nan", "0.5,", "often", "\udcff"),
    "--prompt-tokens": (*NO_COUNTS, "0", "9223372036854775808"),
    "--max-tokens": (*NO_COUNTS, "0", "1", "9223372036854775808"),
    "--turns": (*NO_COUNTS, "0"),
}


def words() -> Iterator[Case]:
    """Command lines of which one word is wrong."""
    pair = ("--draft", "{draft}", "--target", "{target}", "--max-tokens", "8")
    commands = ((("generate", "x"), WRONG | OF_GENERATE), (("verify",), WRONG | OF_VERIFY), (("bench",), OF_BENCH))
    yield from (("bench", *line.split()) for line in ("--draft {draft}", "--target random:8B", "--draft random:0.5B",
                "--draft {draft} --target random:7B", "--draft random:1B --target random:7B"))  # fmt: skip
    for command, options in commands:
        for option, values in options.items():
            yield from ((*command, *pair, option, value) for value in values)
    for start in (("study", "{study}"), ("experiment", "threshold")):
        yield from ((*start, "--limit", value) for value in (*NO_COUNTS, "0"))
        yield from ((*start, "--out", place) for place in ("{file}", "{file}/x", "\udcff", "a\0b"))
    for name in ("report", "analyze", "router train", "router show", "scaling"):
        yield from (
            (*name.split(), place) for place in ("", "nothing", "{file}", "{empty}", "/dev/null", "\udcff", "a\0b")
        )
    yield from (
        ("report", "{empty}", option, place)
        for option, place in itertools.product(("--figures", "--out"), ("{file}/x", "\udcff"))
    )
    yield ("report", "{empty}", "--figures", "{file}")
    yield ("report", "{empty}", "--out", "{empty}")
    yield from (
        ("scaling", "published", "--predict", value)
        for value in (
            "",
            ":",
            "7B",
            "7B:",
            ":7B",
            "7B:7B:7B",
            "0:1",
            "-7B:1B",
            "nan:1",
            "inf:1",
            "1e400:1",
            "7X:1B",
            "\udcff",
            "a\nb",
        )
    )
    yield from (("scaling", "published", "--sizes", value) for value in ("", "all", "\udcff"))
    yield from (("experiment", name) for name in ("", "guess", "../threshold", "threshold.yaml", "\udcff", "a\0b"))
    yield from (
        ("experiment", "threshold", "--config", place) for place in ("nothing", "{empty}", "{binary}", "/dev/null")
    )
    for line in ("guess", "--guess", "models x", "models --guess", "generate", "generate x y", "study a b",
                    "router", "router guess", "router train", "router show", "scaling", "report", "analyze",
                    "experiment", "generate --draft", "generate -", "verify x"):  # fmt: skip
        yield tuple(line.split())
    yield ("generate", "")
    yield ("generate", "a\udcffb")


@pytest.mark.parametrize(
    ("case", "fault"),
    [
        (("report", "{empty}", "--figures", "{file}"), "is a file"),
        (("report", "{empty}", "--figures", "{file}/x"), "is a file"),
        (("report", "{empty}", "--out", "{empty}"), "is a folder"),
        (("router", "train", "{empty}", "--out", "{empty}"), "is a folder"),
        (("study", "--out", "{file}"), "is a file"),
        (("experiment", "threshold", "--out", "{file}/x"), "is a file"),
    ],
)
def test_places_are_checked_before_the_work(refused: Callable[..., str], case: Case, fault: str) -> None:
    assert fault in refused(*case)


def test_a_folder_without_the_right_to_write(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    assert f"no right to write {str(tmp_path)!r}" in refused("study", "--out", "new/folder")


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("case", list(words()), ids=lambda case: ascii(" ".join(case))[:60])
def test_wrong_words_are_refused_in_one_line(refused: Callable[..., str], case: Case) -> None:
    refused(*case)
