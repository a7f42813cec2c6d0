"""Wrong words of the commands that plan, serve, convert and compare: one line, before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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

NO_FILES = ("", "nothing.jsonl", ".", "{empty}", "\udcff", "a\0b", "x" * 5000)
NO_OUTPUTS = (*NO_FILES, "{binary}", "/dev/null")
NO_FOLDERS = ("", "nothing", "{file}", "{empty}", "/dev/null", "\udcff", "a\0b")
NO_PLACES = ("{file}", "{file}/x", "\udcff", "a\0b", "/proc/nothing/x")
NO_TASKS = ("", "guess", "gsm8k,mbpp", "\udcff")
NO_BATCHES = ("", "0", "1,", "1;8", "-1", "1.5", "many", "4097", HUGE, "\udcff")
NO_CHANCES = ("", "-0.1", "1.1", "nan", "inf", "often", "nothing.json", "{empty}", "{file}", "{binary}", "/dev/null")
NO_SERVERS = ("", "x", "openai:", "openai:x", "openai:http://", "openai:ftp://127.0.0.1/#m", "vllm:http://[::1#m",
              "openai:http://127.0.0.1:99999#m", "guess:http://127.0.0.1#m", "\udcff",
              "openai:http://a\0b#m")  # fmt: skip
NO_WEIGHTS = (*NO_DTYPES, "int2", "draft=int2", "somebody=int8", "draft=", "=int8", "int8,")
MODELS = {"--dtype": NO_DTYPES, "--device": NO_DEVICES}
METHOD = {"--method": NO_METHODS, "--router": NO_ROUTERS, "--draft-tokens": (*NO_COUNTS, "65", "AUTO")}
# Of each command a line in which nothing is wrong, and the values that are, by the option that they take the place of.
COMMANDS: dict[str, dict[str, tuple[str, ...]]] = {
    "plan --draft {draft} --target {target} --hardware H100 --acceptance 0.8": {
        **MODELS,
        "--target": NO_MODELS,
        "--draft": NO_MODELS,
        "--weights": NO_WEIGHTS,
        "--acceptance": NO_CHANCES,
        "--limit": (*NO_COUNTS, "0", "1"),
        "--max-tokens": (*NO_COUNTS, "0", "1"),
        "--hardware": ("", "guess", "H100x", "9xH100", "\udcff"),
        "--batch": NO_BATCHES,
        "--context": (*NO_COUNTS, "0"),
        "--objective": ("", "speed", "LATENCY", "\udcff"),
        "--max-accuracy-loss": (*NO_NUMBERS, "nan", "inf", "-0.1", "1.1"),
        "--price": (*NO_NUMBERS, "nan", "inf", "-1"),
        "--write": ("{empty}", "{file}/x", "\udcff", "a\0b"),
        "--export": ("", "guess", "VLLM", "\udcff"),
    },
    "plan --draft {draft} --target {target} --hardware H100": {
        "--texts": NO_OUTPUTS,
        "--prompts": NO_FILES,
        "--study": NO_FOLDERS,
        "--task": NO_TASKS,
    },
    "simulate --target random:7B --draft random:0.5B --hardware H100": {
        "--target": (*NO_MODELS, "random:", "random:0B", "random:-1B", "random:x", "random:1e400B"),
        "--draft": (*NO_MODELS, "random:0"),
        "--draft-tokens": (*NO_COUNTS, "0", "65"),
        "--acceptance": NO_CHANCES,
        "--hardware": ("", "guess", "measured", "\udcff"),
        "--rate": (*NO_NUMBERS, "nan", "inf", "0", "-1", "1e-400"),
        "--trace": NO_OUTPUTS,
        **dict.fromkeys(("--prompt-tokens", "--max-tokens", "--requests", "--rows", "--machines"), (*NO_COUNTS, "0")),
        "--dtype": NO_DTYPES,
        "--seed": NO_COUNTS,
    },
    "serve --draft {draft} --target {target} --port 0": {
        **MODELS,
        **METHOD,
        "--draft": NO_MODELS,
        "--target": (*NO_MODELS, "openai:http://127.0.0.1:9#m"),
        "--base": NO_MODELS,
        "--weights": NO_WEIGHTS,
        "--plan": NO_OUTPUTS,
        "--host": ("", "nowhere.invalid", "999.1.1.1", "a b", "\udcff", "a\0b", "192.0.2.1"),
        "--port": (*NO_COUNTS, "65536"),
        "--api-key-file": NO_OUTPUTS,
        "--allow-origin": ("", "x", "http://", "http://a/b", "https://a/", "a b://c", "null", "\udcff"),
        "--rows": (*NO_COUNTS, "0"),
        "--queue": NO_COUNTS,
        "--max-model-len": (*NO_COUNTS, "1"),
        "--max-tokens": (*NO_COUNTS, "0"),
        "--timeout": (*NO_NUMBERS, "nan", "inf", "0", "-1"),
        "--drain": (*NO_NUMBERS, "nan", "inf", "-1"),
        "--chat-template": (*NO_OUTPUTS,),
    },
    "predict --target {target} --draft {draft}": {
        **MODELS,
        "--target": NO_MODELS,
        "--draft": NO_MODELS,
        "--prompts": NO_OUTPUTS,
        "--task": NO_TASKS,
        "--count": (*NO_COUNTS, "0"),
        "--max-tokens": (*NO_COUNTS, "0"),
        "--batch-size": (*NO_COUNTS, "0"),
        "--predictor": (*NO_OUTPUTS, "{file}"),
        "--fit": ("nothing", "{empty}"),
        "--out": ("new.json",),
    },
    "predict": {"--fit": NO_FOLDERS, "--out": ("x.json",), "--target": ("{target}",), "--draft": ("{draft}",)},
    "import vllm-outputs {outputs} --tokenizer {draft} --out new": {
        "--out": NO_PLACES,
        "--tokenizer": NO_MODELS,
        "--parameters": NO_COUNTS,
        "--requests": NO_OUTPUTS,
        "--name": ("",),
    },
    "merge {empty} {empty}": {"--out": ("new", "", *NO_PLACES)},
    "judge {empty}": {"--by": (*NO_SERVERS, "openai:http://127.0.0.1:9#m")},
    "export-transformers new --draft {draft}": {
        **METHOD,
        "--draft": NO_MODELS,
        "--base": NO_MODELS,
        "--weights": NO_WEIGHTS,
    },
    "profile {draft}": {
        **MODELS,
        "--weights": NO_WEIGHTS,
        "--batch": (*NO_COUNTS, "0", "4097"),
        "--seconds": (*NO_NUMBERS, "nan", "inf", "0", "-1"),
    },
    "pair {draft} {target}": {
        **MODELS,
        "--prompts": NO_OUTPUTS,
        "--task": NO_TASKS,
        "--count": (*NO_COUNTS, "0"),
    },
    "probe openai:http://127.0.0.1:9#m": {"--draft": NO_MODELS},
    "chat --draft {draft} --target {target}": {
        **MODELS,
        **METHOD,
        "--draft": NO_MODELS,
        "--target": NO_MODELS,
        "--max-tokens": (*NO_COUNTS, "0"),
        "--temperature": (*NO_SHARES, "1e-300"),
    },
}
# Lines of which the words without an option are wrong, or missing.
LINES = (
    "plan x", "plan --guess", "simulate", "simulate x --target random:7B", "serve x", "predict x", "predict",
    "predict --target {target}", "import", "import guess {outputs} --tokenizer {draft} --out new",
    "import vllm-outputs", "import vllm-outputs {outputs}", "import vllm-outputs {empty} --tokenizer {draft} --out new",
    "import vllm-outputs {binary} --tokenizer {draft} --out new",
    "import openai-logs {file} --tokenizer {draft} --out new", "import vllm-outputs /dev/null --tokenizer {draft} "
    "--out new", "merge", "merge {empty}", "merge nothing {empty} --out new", "merge {file} {file} --out new", "judge",
    "judge {empty}", "judge nothing --by openai:http://127.0.0.1:9#m", "export-transformers",
    "export-transformers {file} --draft {draft}", "export-transformers {file}/x --draft {draft}", "profile",
    "profile x y", "pair", "pair {draft}", "probe", "chat x",
)  # fmt: skip


def without(line: list[str], option: str) -> list[str]:
    """The words of a line, less this option and its value."""
    return line[: line.index(option)] + line[line.index(option) + 2 :] if option in line else line


def cases() -> Iterator[Case]:
    for line, options in COMMANDS.items():
        for option, values in options.items():
            yield from ((*without(line.split(), option), option, value) for value in values)
    yield from (tuple(line.split()) for line in LINES)
    yield from (("profile", name) for name in (*NO_MODELS, "random:0", "random:x"))
    yield from (("pair", name, "{target}") for name in NO_MODELS)
    yield from (("probe", name) for name in (*NO_SERVERS, "{draft}"))
    yield from (("export-transformers", place) for place in NO_PLACES)


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("case", list(cases()), ids=lambda case: ascii(" ".join(case))[:60])
def test_wrong_words_are_refused_in_one_line(refused: Callable[..., str], case: Case) -> None:
    refused(*case)
