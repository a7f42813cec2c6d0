"""The commands, as they are typed: what they print, where, and with which exit status."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fsgen
from fsgen.backends import Model
from fsgen.backends.cpu.checkpoint import CpuCheckpoint
from fsgen.cli import app, main
from fsgen.cli.generate import METHODS
from fsgen.cli.generate import ROUTERS as COMPLETED
from fsgen.cli.options import DRAFT, TARGET, TUNED
from fsgen.methods.method import PRESETS
from fsgen.methods.routers import ROUTERS
from fsgen.models.bundled import bundled
from fsgen.types import Token
from tests.study.ladder import questions, save_model
from tests.tiny import save_tiny, tiny_tokenizer

PROMPT = "the fox"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Saved models: a draft, a target and a base of one tokenizer, and one of another."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("target", "draft", "base", "foreign")):
        save_tiny(root / name, seed=seed, tokenizer=tiny_tokenizer(digits=name == "foreign"))
    return {folder.name: str(folder) for folder in root.iterdir()}


@pytest.fixture
def pair(folders: dict[str, str]) -> list[str]:
    return ["--draft", folders["draft"], "--target", folders["target"], "--max-tokens", "12"]


# --- models


def test_models_as_json(run: Any) -> None:
    answer = run("models", "--json")
    listed = json.loads(answer.out)
    assert answer.status == 0
    assert [row["name"] for row in listed] == [info.name for info in bundled()]
    assert set(listed[0]) == {"name", "path", "family", "parameters", "non_embedding_parameters", "tuned_from"}
    assert {DRAFT, TUNED, TARGET} <= {row["name"] for row in listed}
    assert next(row["tuned_from"] for row in listed if row["name"] == TUNED) == DRAFT


def test_models_as_a_table(run: Any) -> None:
    answer = run("models")
    header, *rows = answer.out.splitlines()
    assert header.split() == ["name", "family", "parameters", "non_embedding", "tuned_from", "path"]
    for row, info in zip(rows, bundled(), strict=True):
        assert row.split()[0] == info.name
        assert row.rstrip().endswith(info.path)
        assert f"{info.parameters:,}" in row


# --- generate


def test_plain_text_goes_to_stdout_and_figures_to_stderr(run: Any, pair: list[str], folders: dict[str, str]) -> None:
    run("generate", PROMPT, *pair)  # which may compile, and say so
    answer = run("generate", PROMPT, *pair)
    members = fsgen.load(draft=folders["draft"], target=folders["target"])
    written = fsgen.generate(members, [PROMPT], sampling=fsgen.SamplingParams(max_tokens=12))[0]
    assert answer.status == 0
    assert answer.out == written.text + "\n"
    assert answer.err.startswith("12 tokens in ")
    assert answer.err.count("\n") == 1
    assert "collaboration frequency" in answer.err


def test_json_is_one_object_with_everything(run: Any, pair: list[str]) -> None:
    answer = run("generate", PROMPT, *pair, "--json", "--candidates", "2")
    record = json.loads(answer.out)
    assert list(record) == ["text", "tokens", "stats", "prompt_tokens", "stop_reason"]
    assert set(record["tokens"][0]) == {field.name for field in fields(Token)}
    assert "".join(token["text"] for token in record["tokens"]) == record["text"]
    assert [token["position"] for token in record["tokens"]] == list(range(12))
    assert len(record["tokens"][0]["target_top"]) == 2
    assert record["stop_reason"] == "length"
    metrics = {"collaboration_frequency", "consulted_rate", "acceptance_rate", "mean_accepted_length"}
    metrics |= {"target_calls_per_token", "target_tokens_per_token", "seconds", "draft_seconds", "system2_seconds"}
    assert metrics <= set(record["stats"])
    assert record["stats"]["tokens"] == 12


def test_every_option_reaches_the_loop(run: Any, pair: list[str]) -> None:
    options = ["--method", "route", "--router", "entropy:2", "--draft-tokens", "3", "--dtype", "float32"]
    options += ["--temperature", "0.9", "--top-k", "20", "--top-p", "0.95", "--min-p", "0.01", "--seed", "3"]
    first = json.loads(run("generate", PROMPT, *pair, *options, "--device", "cpu", "--json").out)
    again = json.loads(run("generate", PROMPT, *pair, *options, "--device", "cpu", "--json").out)
    other = json.loads(run("generate", PROMPT, *pair, *options[:-1], "4", "--json").out)
    assert first["text"] == again["text"] != other["text"]
    assert first["stats"]["sampled"] is True


def test_a_stop_string_ends_the_text(run: Any, pair: list[str]) -> None:
    whole = run("generate", PROMPT, *pair).out.rstrip("\n")
    middle = whole[4:6]
    record = json.loads(run("generate", PROMPT, *pair, "--stop", "\0", "--stop", middle, "--json").out)
    assert record["stop_reason"] == "stop"
    assert record["text"] == whole[: whole.index(middle)]


def test_proxy_tuning_reads_three_models(run: Any, pair: list[str], folders: dict[str, str]) -> None:
    answer = run("generate", PROMPT, *pair, "--method", "proxy:alpha=0.5", "--base", folders["base"])
    assert answer.status == 0


def test_only_models_that_the_method_calls_are_loaded(
    run: Any, pair: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = CpuCheckpoint.load

    def watched(checkpoint: CpuCheckpoint, *arguments: Any) -> Model:
        loaded.append(Path(checkpoint.name).name)
        return load(checkpoint, *arguments)

    monkeypatch.setattr(CpuCheckpoint, "load", watched)
    assert run("generate", PROMPT, *pair, "--method", "plain").status == 0
    assert loaded == ["target"]
    assert run("generate", PROMPT, *pair, "--method", "route", "--router", "never").status == 0
    assert loaded == ["target", "draft"]


@pytest.mark.parametrize("typed", ["the fox\n", "the fox"])
def test_a_dash_reads_stdin_without_its_last_line_break(
    run: Any, pair: list[str], typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    from_stdin = json.loads(run("generate", "-", *pair, "--json").out)
    assert from_stdin["text"] == json.loads(run("generate", PROMPT, *pair, "--json").out)["text"]


def test_the_bundled_pair_writes_where_no_model_is_named(run: Any) -> None:
    assert run("generate", "Question: 1 + 1\nAnswer:", "--max-tokens", "4").status == 0
    proxy = run("generate", "Question: 1 + 1\nAnswer:", "--max-tokens", "4", "--method", "proxy")
    assert proxy.status == 0


def test_stderr_has_our_words_alone(pair: list[str], folders: dict[str, str]) -> None:
    # Of a prompt beyond this length the tokenizer would warn.
    settings = Path(folders["target"], "tokenizer_config.json")
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"model_max_length": 64}))
    command = [sys.executable, "-m", "fsgen", "generate", "x" * 500, *pair]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: prompt 0 has 500 tokens")
    assert done.stderr.count("\n") == 1


def test_a_pipe_gets_pure_json(pair: list[str]) -> None:
    command = [sys.executable, "-m", "fsgen", "generate", "-", *pair, "--json"]
    done = subprocess.run(command, input="the fox\n", capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["prompt_tokens"] > 0
    assert done.stderr == ""


def test_a_terminal_gets_colours_and_the_figures(pair: list[str]) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "fsgen", "generate", PROMPT, *pair, "--draft-tokens", "5"]
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while more := os.read(ours, 4096):
            shown += more
    except OSError:  # Linux's end of file for a terminal whose other side is closed
        pass
    assert process.wait() == 0
    assert process.communicate()[1] == b""
    # Cyan is accepted, red recovered; the legend shows all four, the figures close the output.
    assert b"\x1b[36maccepted\x1b[0m" in shown
    assert b"\x1b[1;31m" in shown.split(b"accepted")[0]
    closing = shown.removesuffix(b"\x1b[0m")  # from colorama, which numba starts where it is installed
    assert b"ended by length" in closing.splitlines()[-1]


# --- errors


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "guess"], ["unknown method 'guess'", *PRESETS]),
        (["--method", "contrastive:gamma=1"], ["no parameter 'gamma'", "alpha, beta"]),
        (["--method", "contrastive:beta=much"], ["beta='much' is not a number"]),
        (["--router", "guess"], ["unknown router 'guess'", *ROUTERS]),
        (["--router", "max-prob:2"], ["max-prob:2 is impossible"]),
        (["--method", "proxy"], ["proxy", "--base"]),
        (["--base", "{base}"], ["speculative", "--base"]),
        (["--base", "{foreign}", "--method", "proxy"], ["different tokenizers", "foreign", "draft", "a base needs"]),
        (["--draft", "{draft}/nothing"], ["no model at"]),
        (["--draft-tokens", "1000"], ["draft_tokens=1000"]),
        (["--max-tokens", "1000"], ["max_tokens=1000", "context window of 128"]),
        (["--max-tokens", "0"], ["max_tokens=0"]),
        (["--temperature", "-1"], ["temperature=-1.0"]),
        (["--temperature", "nan"], ["temperature=nan"]),
        (["--temperature", "warm"], ["--temperature"]),
        (["--top-p", "0"], ["top_p=0.0"]),
        (["--top-k", "-1"], ["top_k=-1"]),
        (["--min-p", "1"], ["min_p=1.0"]),
        (["--seed", "-1"], ["seed=-1"]),
        (["--stop", ""], ["stop="]),
        (["--dtype", "int3"], ["dtype='int3'", "float32"]),
        (["--device", "abacus"], ["device='abacus'", "cpu"]),
        (["--colour", "red"], ["--colour"]),
    ],
)
def test_errors_are_one_line_before_any_weights_load(
    run: Any, pair: list[str], folders: dict[str, str], arguments: list[str], words: list[str]
) -> None:
    answer = run("generate", PROMPT, *pair, *(argument.format(**folders) for argument in arguments))
    assert answer.status == 2
    assert answer.out == ""
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1
    assert all(word in answer.err for word in words)


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate"], "prompt"),
        (["generate", ""], "the prompt is empty"),
        (["generate", "x", "--target", "{target}"], "needs a draft model; give --draft"),
        (["generate", "x", "--draft", "pocket-9t"], "no bundled model 'pocket-9t'"),
        (["study", "{target}/nothing.yaml"], "nothing.yaml"),
        (["guess"], "guess"),
        (["models", "guess"], "guess"),
    ],
)
def test_errors_of_the_other_kind(run: Any, folders: dict[str, str], arguments: list[str], words: str) -> None:
    answer = run(*(argument.format(**folders) for argument in arguments))
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1
    assert words in answer.err


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise KeyError("ours")

    monkeypatch.setattr("fsgen.models.bundled.bundled", broken)
    with pytest.raises(KeyError):
        main(["models"])


# --- router


def test_a_router_is_trained_shown_and_used(run: Any, tmp_path: Path) -> None:
    noises = {"small": 0.1, "middle": 0.2, "large": 0.0}  # the small one agrees half of the time
    models = {name: str(save_model(tmp_path / name, noise)) for name, noise in noises.items()}
    pair = ["--draft", models["small"], "--target", models["large"]]
    study = {
        "tasks": [{"name": "pocket_math", "limit": 12, "max_tokens": 24, "data": questions(tmp_path)}],
        "pairs": [{"draft": models["small"], "target": models["large"]}],
        "methods": ["oracle"],
    }
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    assert run("study", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "runs")).status == 0
    trained = run("router", "train", str(tmp_path / "runs"), "--calls", "0.5", "--kind", "trees")
    file = tmp_path / "runs" / "routers" / "small-trees.npz"
    assert trained.status == 0
    assert trained.out.splitlines()[-1] == f"router: learned:{file}"
    assert all(word in trained.out for word in ("AUROC", "max-prob", "random", "perfect", "calibration"))
    shown = json.loads(run("router", "show", str(file)).out)
    assert (shown["kind"], shown["record"]["budget"]) == ("trees", {"calls": 0.5})
    written = json.loads(
        run(
            "generate",
            "What is 3?",
            *pair,
            "--max-tokens",
            "24",
            "--method",
            "route",
            "--router",
            f"learned:{file}",
            "--json",
        ).out
    )
    assert 0 < written["stats"]["consulted_rate"] < 1
    checked = run("verify", *pair, "--router", f"learned:{file}", "--prompts", "3", "--max-tokens", "8", "--json")
    assert (checked.status, json.loads(checked.out)["faults"]) == (0, [])
    study["grids"] = [{"methods": ["oracle"]}, {"methods": ["route"], "routers": [f"learned:{file}"]}]
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    assert run("study", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "runs")).status == 0
    row = json.loads((tmp_path / "runs" / "summary.json").read_text())[-1]
    assert row["router"].startswith("learned:")
    assert str(tmp_path) not in row["router"], "its content is its identity"
    analysed = run("analyze", str(tmp_path / "runs"), "--run", row["run"], "--no-pictures", "--json")
    signs = {sign["sign"]: sign for sign in json.loads(analysed.out)["runs"][0]["signs"]}
    assert signs["too few"]["numbers"]["missed"] is not None, "applied to the run that consulted everywhere"
    study["pairs"] = [{"draft": models["middle"], "target": models["large"]}]
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    refused = run("study", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "runs"))
    assert refused.status == 2
    assert "learned on the draft" in refused.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "{draft}"], "not the folder of a study"),
        (["train", "{draft}", "--kind", "forest"], "unknown kind 'forest': choose one of svm, logistic, trees"),
        (["train", "{draft}", "--calls", "0.1", "--misses", "0.1"], "one budget"),
        (["train", "{draft}", "--calls", "3"], "a budget of calls of 3 is impossible"),
        (["show", "{draft}/nothing.npz"], "there is no learned router"),
        (["show", "{draft}/config.json"], "is no learned router, or is damaged"),
    ],
)
def test_errors_of_routers(run: Any, folders: dict[str, str], arguments: list[str], words: str) -> None:
    answer = run("router", *(argument.format(**folders) for argument in arguments))
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert words in answer.err


# --- help, version, study


def test_help_names_every_method_and_router(run: Any) -> None:
    assert run().out == run("--help").out
    words = " ".join(run("generate", "--help").out.split()).replace("- ", "-")
    assert all(name in words for name in [*PRESETS, *ROUTERS])


def test_version(run: Any) -> None:
    assert run("--version").out == f"fsgen {fsgen.__version__}\n"


def test_a_study_ends_with_its_report(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsgen.report
    import fsgen.study

    class Result:
        failed: dict[str, str] = {}  # noqa: RUF012
        rows: tuple[Any, ...] = ()

    called: list[Any] = []

    def run_study(config: Path | None, out: Path, **options: Any) -> Result:
        called.append((config, out, options.pop("limit"), options.pop("fresh")))
        assert list(options) == ["console", "cluster"]
        return Result()

    monkeypatch.setattr(fsgen.study, "run_study", run_study)
    monkeypatch.setattr(fsgen.report, "write", lambda folder, **_: folder / "report.html")
    assert run("study").out == "report: runs/bundled/report.html\n"
    answer = run("study", "mine.yaml", "--out", str(tmp_path), "--limit", "2", "--fresh")
    assert answer.out == f"report: {tmp_path}/report.html\n"
    assert called == [(None, Path("runs/bundled"), None, False), (Path("mine.yaml"), tmp_path, 2, True)]
    Result.failed = {"key": "it broke"}
    assert run("study").status == 1


def test_a_study_ends_with_its_answers(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsgen.analysis.study
    import fsgen.report
    import fsgen.study
    from fsgen.analysis.short import ShortAnswer
    from fsgen.analysis.study import StudyAnalysis

    answers = tuple(ShortAnswer(f"Question {i}", f"answer {i} " * 12) for i in range(5))
    analysis = StudyAnalysis("made", short=answers)
    given: list[Any] = []
    result = SimpleNamespace(failed={}, rows=[None])
    monkeypatch.setattr(fsgen.study, "run_study", lambda *args, **options: result)
    monkeypatch.setattr(fsgen.analysis.study, "analyze", lambda folder: analysis)

    def write(folder: Path, analysis: StudyAnalysis) -> Path:
        given.append(analysis)
        return folder / "report.html"

    monkeypatch.setattr(fsgen.report, "write", write)
    lines = run("study").out.splitlines()
    assert given == [analysis], "the page has the same answers"
    assert [line[:10] for line in lines if line.startswith("Question")] == [f"Question {i}" for i in range(5)]
    assert all(" ".join(lines).count(f"answer {i}") == 12 for i in range(5)), "none is cut off"
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "report: runs/bundled/report.html"


def test_a_report_goes_where_it_should(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsgen.report

    calls: list[tuple[Any, ...]] = []

    def write(*given: Any) -> Path:
        calls.append(given)
        return Path(given[1] or given[0] / "report.html")

    monkeypatch.setattr(fsgen.report, "write", write)
    assert run("report", str(tmp_path)).out == f"report: {tmp_path}/report.html\n"
    answer = run("report", str(tmp_path), "--out", "page.html", "--figures", str(tmp_path / "figures"))
    assert answer.out == f"report: page.html\nfigures: {tmp_path}/figures\n"
    assert calls == [(tmp_path, None, None), (tmp_path, Path("page.html"), tmp_path / "figures")]


def test_a_report_needs_a_study(run: Any, tmp_path: Path) -> None:
    answer = run("report", str(tmp_path))
    assert answer.status == 2
    assert "no study.json" in answer.err


# --- help and completion


def test_help_begins_with_a_short_line_and_has_an_example(run: Any) -> None:
    listed = run("--help").out.split("Commands:\n")[1].splitlines()
    assert len(listed) == len(app.registered_commands) + len(app.registered_groups)
    assert not [line for line in listed if line.endswith("...") or len(line) > 80]
    for line in listed:
        name = line.split()[0]
        if name not in ("models", "router"):
            assert f"\n    fsgen {name} " in run(name, "--help").out


def test_options_stand_in_groups(run: Any) -> None:
    shown = run("generate", "--help").out
    titles = ["Arguments:", "Models:", "The method:", "How tokens are chosen:", "Where a text ends:", "Many prompts:"]
    places = [shown.index(f"\n{title}\n") for title in [*titles, "Options:"]]
    assert places == sorted(places)
    assert places[1] < shown.index("--weights") < places[2] < shown.index("--router <") < places[3]
    assert places[-1] < shown.index("--json")
    assert set(METHODS) == set(PRESETS)
    assert {name.rstrip(":") for name in COMPLETED} == set(ROUTERS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("fsgen gen", ["generate"]),
        ("fsgen generate --draft pocket-0.6m-t", ["pocket-0.6m-tuned"]),
        ("fsgen generate --method spec", ["speculative"]),
        ("fsgen chat --router max", ["max-prob:"]),
        ("fsgen generate --repet", ["--repetition-penalty"]),
    ],
)
def test_the_shell_completes(words: str, expected: list[str]) -> None:
    environment = os.environ | {
        "_FSGEN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1),
    }  # fmt: skip
    command = [sys.executable, "-c", "import sys; sys.argv = ['fsgen']; from fsgen.cli import main; main()"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.stdout.split() == expected


def test_the_tab_key_finds_the_public_names() -> None:
    assert set(fsgen.__all__) < set(dir(fsgen))
    shown = subprocess.run([sys.executable, "-m", "fsgen", "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout == f"fsgen {fsgen.__version__}\n"
