"""What is wrong with the words, files and streams that a command is given is one line, before any work."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsgen.experiments.config import default_text, names
from fsgen.methods.learned.features import names as feature_names
from fsgen.methods.learned.file import FORMAT
from tests.tiny import save_tiny

Case = tuple[str, ...]
HUGE = "9" * 400

# --- the words of each command


NO_NUMBERS = ("", "x", "1.5.2", "0x1g", "--", "1e", "٣x", "\udcff", "\x1b[31m")
NO_COUNTS = (*NO_NUMBERS, "1.5", "nan", "inf", "1e3", "-1", HUGE * 12)
NO_SHARES = (*NO_NUMBERS, "nan", "inf", "-inf", "-1", "-1e-300", "1e308", HUGE)
NO_METHODS = (
    "", ":", "guess", "GUESS:", "plain:alpha=1", "contrastive:beta", "contrastive:beta=", "contrastive:=1",
    "contrastive:beta=1,beta=2", "contrastive:beta=1e308", "contrastive:beta=-1", "contrastive:beta=nan",
    "contrastive:alpha=0", "contrastive:alpha=1e-400", "contrastive:alpha=2", "proxy:alpha=inf", "proxy:alpha=1e300",
    "ensemble:w=-1e300", "ensemble:w=much", "mixture:w=0", "mixture:w=1", "mixture:w=nan", "route:rollback=0",
    "route:rollback=2", "route:rollback=x", "route:fusion=x", "speculative:verifier=x", "speculative:ngram=-1",
    "speculative:ngram=1.5", "speculative:ngram=inf", "speculative:ngram=1e300", "speculative:draft_tokens=1e3",
    f"speculative:draft_tokens={HUGE}", "speculative:fusion=target", "spec\0ulative", "\udcff",
)  # fmt: skip
NO_ROUTERS = (
    "", ":", "guess", "always:1", "never:x", "max-prob", "max-prob:", "max-prob:x", "max-prob:2", "max-prob:-1",
    "max-prob:nan", "max-prob:1e400", "margin:2", "margin:", "entropy:inf", "entropy:-1", "entropy:nan", "random:1.1",
    "random:", "position:", "position:5", "position:5-5", "position:9-3", "position:-1-3", "position:a-b",
    f"position:{HUGE * 12}-1", "learned:", "learned:nothing.npz", "learned:nothing.npz@1", "learned:~nobody7/x.npz",
    "learned:@", "learned:.", "learned:/dev/null", "learned:\0", f"learned:{'x' * 5000}", "\udcff",
)  # fmt: skip
NO_MODELS = ("", "pocket-9t", "nothing/at/all", ".", "/dev/null", "~nobody7/x", "ngram:0", "ngram:x",
             f"ngram:{HUGE}", "x" * 5000, "a\0b", "\udcff", "../..", "{file}", "{empty}", "{broken}")  # fmt: skip
NO_DTYPES = ("", "int3", "float64", "FLOAT32 ", "float32,float16", "__class__", "\udcff")
NO_DEVICES = ("", "abacus", "cuda:x", "cuda:-1", "cuda:999", "cpu:x", "meta", "cpu\n", "\udcff")

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
        "int4",
        "draft=int4",
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


# --- YAML


STUDY = "tasks: [gsm8k]\npairs: [{draft: a, target: b}]\nmethods: [oracle]\n"
NO_VALUES = (
    "3",
    "null",
    "[3]",
    "[null]",
    "[[]]",
    "[{}]",
    "{a: 1}",
    "true",
    "1.5",
    ".nan",
    "2026-11-21",
    "[[[a]]]",
    "[]",
    "[true]",
)


def studies() -> Iterator[str]:
    """Texts that are no study."""
    for key in ("tasks", "pairs", "methods", "routers", "sampling", "grids"):
        rest = "".join(line + "\n" for line in STUDY.splitlines() if not line.startswith(key))
        yield from (f"{rest}{key}: {value}" for value in NO_VALUES)
    yield from (
        f"{STUDY}{key}: {value}"
        for key, value in itertools.product(
            ("candidates", "batch_size", "seed", "definitions", "dtype", "device", "replay"),
            ("-1", "x", "[1]", "{a: 1}", ".inf", "null", '"\\ud800"'),
        )
    )
    for values in (
        "limit: 0",
        "limit: x",
        "shots: -1",
        "max_tokens: 0",
        "chat: 7",
        "data: [a]",
        "order: x",
        "order: .inf",
        "name: 3",
    ):
        yield STUDY.replace("[gsm8k]", "[{name: gsm8k, " + values + "}]" if "name" not in values else "[{name: 3}]")
    for values in ("temperature: 1.0e-300", "temperature: .nan", "temperature: 1.0e+300", "top_k: 9223372036854775808",
                   "top_k: -1", "top_p: 0", "min_p: 1", "top_k: 1.5", "top: 3"):  # fmt: skip
        yield STUDY + "sampling: [{" + values + "}]"
    yield from ("", "3", "null", "a", "- a", "---\na: 1\n---\nb: 1", "{", "[" * 5000, "{a: " * 5000, "- " * 5000 + "a",
                "tasks: " + "[" * 5000 + "]" * 5000, "a: &a [*a]", "&a {tasks: *a}", "? [a]\n: b", "? {a: b}\n: c",
                "a: !!int ''", "a: !!timestamp x", "a: !!float x", "a: !!binary é", "a: !!python/name:os.system",
                "a: !guess x", "\t- a",
                f"seed: {'9' * 5000}", "a: *b", "\x00", "\x1b[31m: 1", "seed: 0x" + "f" * 9000)  # fmt: skip
    yield from (STUDY + twice for twice in ("methods: [plain]", "seed: 1\nseed: 1", "'seed': 1\n\"seed\": 2"))
    yield STUDY.replace("target: b", "target: b, target: c")
    yield STUDY + "seed: 18446744073709551616"
    yield STUDY + "#" + "x" * 2**20


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files and folders by the names that the table has for them."""
    root = tmp_path_factory.mktemp("inputs")
    for seed, name in enumerate(("draft", "target")):
        save_tiny(root / name, seed=seed)
    save_tiny(root / "broken")
    settings = root / "broken" / "config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"max_position_embeddings": 0}))
    (root / "empty").mkdir()
    (root / "file").write_text("x")
    (root / "binary").write_bytes(bytes(range(256)))
    (root / "study").write_text(STUDY)
    return {path.name: str(path) for path in root.iterdir()}


@pytest.fixture
def refused(run: Any, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command in an empty folder, which must refuse it; gives what it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))

    def refused(*case: str) -> str:
        began, before = time.process_time(), sorted(tmp_path.rglob("*"))
        arguments = [places.get(word[1:-1], word) if word[:1] == "{" else word for word in case]
        arguments = [word.replace("{file}", places["file"]) for word in arguments]
        answer = run(*arguments)
        assert (answer.status, answer.out) == (2, ""), answer
        assert answer.err.startswith("error: "), answer.err
        assert len(answer.err) > len("error: x\n")
        assert answer.err.count("\n") == 1
        assert answer.err.strip().isprintable()
        assert sorted(tmp_path.rglob("*")) == before, "something was written"
        assert time.process_time() - began < 10
        return str(answer.err)

    return refused


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("case", list(words()), ids=lambda case: ascii(" ".join(case))[:60])
def test_wrong_words_are_refused_in_one_line(refused: Callable[..., str], case: Case) -> None:
    refused(*case)


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("text", list(studies()), ids=lambda text: ascii(text[-60:]))
def test_what_is_no_study_is_refused_in_one_line(refused: Callable[..., str], text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    refused("study", str(file))
    refused("experiment", "threshold", "--config", str(file))


@pytest.mark.parametrize("name", names())
def test_an_experiment_refuses_the_file_of_another(refused: Callable[..., str], name: str, tmp_path: Path) -> None:
    other = next(each for each in names() if each != name)
    (tmp_path / "mine.yaml").write_text(default_text(other))
    assert f"is for the experiment {other!r}, not {name!r}" in refused("experiment", name, "--config", "mine.yaml")


def test_each_fault_of_a_study_is_in_the_line(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("tasks: [{nam: x}]\npairs: [3]\nmethods: [1]\nextra: 1")
    said = refused("study", "mine.yaml")
    faults = ("tasks.0.nam: unknown key; ", "pairs.0: must be a ", "methods.0: ", "extra: unknown key")
    assert all(fault in said for fault in faults), said


# --- learned routers


HEADER = {"format": FORMAT, "kind": "logistic", "top": 4, "features": list(feature_names(4)), "threshold": 0.5,
          "draft": {"name": "a", "digest": "b"}, "vocabulary": "c", "record": {}}  # fmt: skip
DEEP = "[" * 100_000 + "]" * 100_000


def arrays(size: int = 8) -> dict[str, Any]:
    return {"mean": np.zeros(size), "scale": np.ones(size), "weights": np.zeros(size), "bias": np.zeros(1)}


def write_router(path: Path, header: str | bytes, **changed: Any) -> None:
    text = header.encode("utf-8", "surrogatepass") if isinstance(header, str) else header
    with path.open("wb") as stream:
        np.savez(stream, header=np.frombuffer(text, np.uint8), **arrays() | changed)


def test_the_router_that_the_others_are_made_of_is_one(run: Any, tmp_path: Path) -> None:
    write_router(tmp_path / "good.npz", json.dumps(HEADER))
    assert json.loads(run("router", "show", str(tmp_path / "good.npz")).out)["top"] == 4


def headers() -> Iterator[str]:
    """JSON that is no header of a learned router."""
    yield from ("", "3", "null", "[]", "{", "{}", DEEP, "\ud800", '{"a": ' * 100_000, HUGE * 12)
    values = (
        "null",
        "3.5",
        "-1",
        '"x"',
        "[]",
        "{}",
        "[1]",
        HUGE,
        HUGE * 12,
        "1000000000",
        "1e999",
        "NaN",
        DEEP,
        "true",
    )
    good = {
        "record": ("{}", "[]"),
        "draft": (),
        "vocabulary": tuple(values),
        "threshold": ("3.5", "-1", "1000000000", "true"),
    }
    for key, value in itertools.product(HEADER, values):
        if value not in good.get(key, ()) or value == DEEP:
            yield json.dumps(HEADER | {key: "HERE"}).replace('"HERE"', value)
    yield from (json.dumps({k: v for k, v in HEADER.items() if k != key}) for key in HEADER)


@pytest.mark.parametrize("header", list(headers()), ids=lambda header: ascii(header[-50:]))
def test_a_hostile_header_is_refused(refused: Callable[..., str], header: str, tmp_path: Path) -> None:
    write_router(tmp_path / "router.npz", header)
    assert "no learned router, or is damaged" in refused("router", "show", "router.npz")


@pytest.mark.parametrize(
    "changed",
    [
        {"mean": np.zeros(7)}, {"scale": np.zeros(8)}, {"weights": np.zeros((8, 8))}, {"bias": np.zeros(2)},
        {"mean": np.full(8, np.nan)}, {"mean": np.zeros(8, np.float32)}, {"more": np.zeros(1)},
        {"bias": np.array(["x"])}, {"bias": np.array([None])},
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_refused(refused: Callable[..., str], changed: Any, tmp_path: Path) -> None:
    write_router(tmp_path / "router.npz", json.dumps(HEADER), **changed)
    assert "no learned router, or is damaged" in refused("router", "show", "router.npz")


@pytest.mark.parametrize("shape", ["(10**15,)", "(1000000000000000,)", "(-1,)", "(3037000500, 3037000500)", "(" * 3000,
                                   f"({HUGE},)", "(1.5,)", "x", "(True,)"])  # fmt: skip
def test_shapes_that_are_not_there_are_refused(refused: Callable[..., str], shape: str, tmp_path: Path) -> None:
    described = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    with zipfile.ZipFile(tmp_path / "router.npz", "w") as archive:
        archive.writestr("header.npy", b"\x93NUMPY\x01\x00" + len(described).to_bytes(2, "little") + described)
    assert "no learned router, or is damaged" in refused("router", "show", "router.npz")


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_file_is_refused_or_read(run: Any, tmp_path: Path, seed: int) -> None:
    draw, file = np.random.default_rng(seed), tmp_path / "router.npz"
    write_router(file, json.dumps(HEADER))
    content = bytearray(file.read_bytes())
    content[draw.integers(len(content))] ^= 1 << draw.integers(8)
    file.write_bytes(content if seed % 3 else content[: draw.integers(len(content))])
    answer = run("router", "show", str(file))
    assert (answer.status, answer.err) == (0, "") or (answer.status, answer.err.count("\n")) == (2, 1)


# --- interruption


@pytest.mark.parametrize(
    ("command", "work"),
    [(("study",), "fsgen.study.run_study"), (("experiment", "threshold"), "fsgen.experiments.run_experiment")],
)
def test_an_interrupted_study_says_how_to_go_on(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: Case, work: str
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(work, interrupted)
    answer = run(*command, "--out", str(tmp_path))
    assert (answer.status, answer.out) == (130, "")
    assert "the same command, without --fresh, goes on from there" in answer.err


# --- surroundings


@pytest.mark.parametrize("surroundings", [{"LC_ALL": "C"}, {"HOME": "/proc/nothing"}], ids=["plain locale", "no home"])
def test_without_a_home_and_with_the_plainest_locale(places: dict[str, str], surroundings: dict[str, str]) -> None:
    command = [sys.executable, "-m", "fsgen", "generate", "the f\u00f6x \u2713", "--max-tokens", "4", "--json"]
    command += ["--draft", places["draft"], "--target", places["target"]]
    done = subprocess.run(command, env=surroundings, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["tokens"]) == 4


def test_bytes_that_are_no_text_are_refused_by_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "fsgen", "generate", b"a\xffb"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"error: the argument 'a\\udcffb' is not UTF-8\n"
