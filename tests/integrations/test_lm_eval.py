"""lm-evaluation-harness: pairs as a model of it, its tasks in studies, the same numbers both ways, on local data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import transformers
import yaml

import fsgen
from fsgen import tasks
from fsgen.backends import Members
from fsgen.likelihood import log_likelihoods
from fsgen.models.bundled import ROOT
from fsgen.study import run_study
from tests.conftest import Finished
from tests.servers import TestServer, answers

lm_eval = pytest.importorskip("lm_eval")
from fsgen.integrations.lm_eval import CollaborativeLM  # noqa: E402

DRAFT, TARGET = "pocket-0.25m", "pocket-1.5m"
WRITTEN = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n\nQuestion:", "\nQuestion:"], "max_gen_toks": 48, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    "filter_list": [
        {"name": name, "filter": [{"function": "regex", "regex_pattern": pattern, "group_select": select}, *last]}
        for name, pattern, select, last in [
            ("last", r"(-?\d+)", -1, [{"function": "take_first"}]),
            ("first", r"(-?\d+)", 0, [{"function": "take_first"}]),
        ]
    ],
}
CHOICES = {
    "output_type": "multiple_choice",
    "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")],
}
ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{question}}",
    "metric_list": [{"metric": "word_perplexity"}],
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Tasks in the harness's format, of questions that are bundled."""
    here = tmp_path_factory.mktemp("tasks")
    math = [{"question": e.prompt, "answer": e.reference} for e in tasks.get("pocket_math").load(24)]
    stem = tasks.source.rows(None, "mmlu_stem_test.jsonl.gz", ("question", "choices", "answer"))[::90]
    kept = [{name: row[name] for name in ("question", "choices", "answer")} for row in stem]
    for name, task, rows in (("written", WRITTEN, math), ("choices", CHOICES, kept), ("rolling", ROLLING, math)):
        data = here / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        whole = {"task": name, "dataset_path": "json", "test_split": "test", "metadata": {"version": 1}, **task}
        whole |= {"dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(here / "cache")}}
        (here / f"{name}.yaml").write_text(yaml.safe_dump(whole))
    shots = yaml.safe_load((here / "written.yaml").read_text()) | {"task": "shots", "num_fewshot": 2}
    (here / "shots.yaml").write_text(yaml.safe_dump(shots))
    unsafe = yaml.safe_load((here / "written.yaml").read_text()) | {"task": "unsafe", "unsafe_code": True}
    (here / "unsafe.yaml").write_text(yaml.safe_dump(unsafe))
    (here / "group.yaml").write_text(yaml.safe_dump({"group": "several", "task": ["written", "choices"]}))
    return str(here)


def test_the_answer_of_likelihoods_is_the_choice(folder: str) -> None:
    for metric, chosen in (("acc", 1), ("acc_norm", 2)):
        task = tasks.get("lm_eval:choices", include_path=folder, metric=metric)
        (example,) = task.load(1)
        count = len(task.choices(example))
        words = [continuation.strip() for _, continuation in task.choices(example)]
        found = [(-50.0 * len(word), False) for word in words]
        found[1] = (-0.5, False)
        found[2] = (-1e-3 * len(words[2]) - (0.5 if metric == "acc" else 0.0), False)
        score = task.score_choices(example, found)
        assert count == 4
        expected = max(range(4), key=lambda i: found[i][0] / (len(words[i]) if metric == "acc_norm" else 1))
        assert expected == chosen
        assert score.answer == words[chosen]
        assert score.note.startswith("by likelihood; acc")


def evaluated(folder: str, names: list[str], method: str, **options: Any) -> dict[str, Any]:
    """What the harness finds."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=folder, include_defaults=False)
    args = {"draft": DRAFT, "target": TARGET, "method": method, "batch_size": 8}
    found: dict[str, Any] = lm_eval.simple_evaluate(
        "fsgen", args, tasks=names, task_manager=manager, bootstrap_iters=0, **options
    )
    return found


class Request:
    """What the harness asks."""

    def __init__(self, *args: Any) -> None:
        self.args = args


def test_likelihoods_are_those_of_transformers() -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(ROOT / TARGET, dtype=torch.float32)
    ours = CollaborativeLM(draft=DRAFT, target=TARGET, batch_size=3)
    asked = [("Question: 2 + 2?\nAnswer:", " 4"), ("The cat sat on", " the mat"), ("", "One day"), ("A b ", "c")]

    def plain(context: list[int], rest: list[int]) -> float:
        with torch.no_grad():
            logits = model(torch.tensor([context + rest])).logits[0].double().log_softmax(-1)
        return float(sum(logits[len(context) - 1 + i, token] for i, token in enumerate(rest)))

    encode = ours.tokenizer.encode
    pairs = [(encode(asked[0][0]), encode(" 4")), (encode(asked[1][0]), encode(" the mat")), ([0], encode("One day"))]
    pairs.append((encode("A b"), encode("A b c")[len(encode("A b")) :]))
    found = ours.loglikelihood([Request(*one) for one in asked], disable_tqdm=True)
    for (logprob, _), pair in zip(found, pairs, strict=True):
        assert logprob == pytest.approx(plain(*pair), abs=1e-3)

    text = "Tom has 3 boxes of 12 pens. " * 3
    (rolling,) = ours.loglikelihood_rolling([Request(text)], disable_tqdm=True)
    assert rolling == pytest.approx(plain([0], encode(text)), abs=1e-3)


def test_a_text_longer_than_the_window_is_read_in_windows() -> None:
    ours = CollaborativeLM(target="pocket-0.25m", method="plain")
    text = "one two three four five. " * 400
    ids = ours.tok_encode(text)
    assert len(ids) > ours.max_length
    (whole,) = ours.loglikelihood_rolling([Request(text)], disable_tqdm=True)
    parts = [([0], ids[: ours.max_length])]
    at = ours.max_length
    while at < len(ids):
        stop = min(at + ours.max_length, len(ids))
        parts.append((ids[stop - ours.max_length - 1 : at], ids[at:stop]))
        at = stop
    found = log_likelihoods(ours.members, parts)
    assert whole == pytest.approx(sum(one.logprob for one in found), rel=1e-6)


def test_texts_are_those_of_generate(members: Members) -> None:
    ours = CollaborativeLM(draft=DRAFT, target=TARGET, batch_size=2)
    prompts = [example.prompt for example in tasks.get("gsm8k").load(3)]
    settings = {"until": ["\nQuestion:"], "max_gen_toks": 32, "do_sample": False, "temperature": 0.7}
    written = ours.generate_until([Request(prompt, settings) for prompt in prompts], disable_tqdm=True)
    sampling = fsgen.SamplingParams(32, stop="\nQuestion:")
    assert written == [each.text for each in fsgen.generate(members, prompts, "plain", sampling=sampling)]
    info = ours.get_model_info()
    assert info["members"] == {"draft": DRAFT, "target": TARGET}
    assert 0 < info["counts"]["greedy"]["collaboration_frequency"] < 1

    drawn = {"until": [], "max_gen_toks": 16, "do_sample": True, "temperature": 5.0}
    twice = ours.generate_until([Request(prompts[0], drawn)] * 2, disable_tqdm=True)
    assert twice[0] != twice[1]  # repeats of a question differ


@pytest.fixture(scope="module")
def members() -> Members:
    return fsgen.load(DRAFT, TARGET)


def test_a_study_finds_what_the_harness_finds(folder: str, tmp_path: Path) -> None:
    named = [{"name": f"lm_eval:{name}", "include_path": folder} for name in ("written", "choices", "shots")]
    own: dict[str, Any] = {
        "name": "jsonl",
        "data": f"{folder}/written.jsonl",
        "prompt": "{question}",
        "answer": "answer",
    }
    own |= {"metric": "number", "max_tokens": 48, "stop": ["\n\nQuestion:", "\nQuestion:"]}
    methods = ["plain", "contrastive", "oracle"]
    pairs = [{"draft": DRAFT, "target": TARGET}]
    study = run_study({"tasks": [*named, own], "methods": methods, "pairs": pairs, "replay": True}, tmp_path)
    means = {(row.task, row.method): row.accuracy or 0.0 for row in study.rows if row.target == TARGET}
    for method in ("plain", "contrastive"):
        found = evaluated(folder, ["written", "choices", "shots"], method)["results"]
        assert means["lm_eval-written", method] == pytest.approx(found["written"]["exact_match,last"])
        assert means["lm_eval-shots", method] == pytest.approx(found["shots"]["exact_match,last"])
        assert means["lm_eval-choices", method] == pytest.approx(found["choices"]["acc,none"])
        assert means["jsonl-written", method] == means["lm_eval-written", method]  # our own task of the same data
    assert 0 < means["lm_eval-written", "plain"] < 1  # else all of this says nothing
    assert means["lm_eval-choices", "oracle"] == means["lm_eval-choices", "plain"]
    assert len(set(means.values())) > 2


def test_a_study_refuses_choices_whose_likelihoods_a_server_does_not_tell(folder: str, tmp_path: Path) -> None:
    with TestServer(answers("vllm", TARGET)) as server:
        study = {
            "tasks": [{"name": "lm_eval:choices", "include_path": folder, "limit": 2}],
            "methods": ["oracle"],
            "pairs": [{"draft": DRAFT, "target": f"vllm:{server.url}#big"}],
        }
        with pytest.raises(ValueError, match="the target vllm:big tells the probabilities of the most likely tokens"):
            run_study(study, tmp_path)


def test_a_question_without_likelihoods_fails_alone(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def some(members: Members, pairs: Any, *more: Any, **options: Any) -> Any:
        seen.append(pairs[0][0])
        if seen[0] in [context for context, _ in pairs]:
            raise ValueError("no such luck")
        return log_likelihoods(members, pairs, *more, **options)

    monkeypatch.setattr("fsgen.study.worker.log_likelihoods", some)
    tasks = [{"name": "lm_eval:choices", "include_path": folder, "limit": 3}]
    pairs = [{"draft": DRAFT, "target": TARGET}]
    study = run_study({"tasks": tasks, "methods": ["plain"], "pairs": pairs}, tmp_path)
    assert not study.failed
    texts = pl.concat(pl.read_parquet(part) for part in tmp_path.glob("generations/run=*/part-*.parquet"))
    failed = texts.filter(pl.col("error").is_not_null())
    assert failed["error"].to_list() == ["not scored: ValueError: no such luck"]
    assert len(texts.filter(pl.col("score").is_not_null())) == len(texts) - 1 >= 2


def test_perplexity_by_the_harness(folder: str) -> None:
    found = evaluated(folder, ["rolling"], "speculative", limit=4)
    assert 1 < found["results"]["rolling"]["word_perplexity,none"] < 1e6
    assert found["config"]["method"] == "speculative"


@pytest.mark.parametrize(
    ("name", "settings", "fault"),
    [
        ("guess", {}, "no task 'guess'"),
        ("several", {}, "is a group of tasks"),
        ("rolling", {}, "output type is loglikelihood_rolling, which `fsgen lm-eval` alone can run"),
        ("unsafe", {}, "has no sandbox"),
        ("written", {"metric": "exact_match,middle"}, "there are exact_match,last, exact_match,first"),
        ("written", {"metric": "bleu"}, "metric='bleu' is unknown"),
    ],
)
def test_what_a_study_cannot_score_is_refused(folder: str, name: str, settings: dict[str, str], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        tasks.get(f"lm_eval:{name}", include_path=folder, **settings)


def test_filters_and_few_shot_examples(folder: str) -> None:
    first = tasks.get("lm_eval:written", include_path=folder, metric="exact_match,first")
    last = tasks.get("lm_eval:written", include_path=folder)
    example = last.load(1)[0]
    text = f"7 and then {example.reference}"
    assert (last.score(example, text).value, first.score(example, text).value) == (1.0, 0.0)
    assert last.score(example, text).answer == example.reference
    shots = tasks.get("lm_eval:shots", include_path=folder)
    assert shots.default_shots == 2
    (shown,) = shots.load(1)
    assert shown.prompt.count("Answer:") == 3
    assert len(shown.messages) == 5
    assert shown.messages[0][1] in shown.prompt
    assert [each.prompt for each in shots.load(3)] == [each.prompt for each in shots.load()][:3]
    assert sorted(each.id for each in last.load(seed=1)) == sorted(each.id for each in last.load())
    with pytest.raises(ValueError, match="limit=99"):
        last.load(99)
    with pytest.raises(ValueError, match="has its own data"):
        last.load(data="x.jsonl")


def test_settings_that_are_not_known_are_refused() -> None:
    ours = CollaborativeLM(target="pocket-0.25m", method="plain")
    with pytest.raises(ValueError, match="setting 'num_beams' is unknown"):
        ours.generate_until([Request("a", {"num_beams": 4})])
    with pytest.raises(ValueError, match="leaves no room"):
        ours.generate_until([Request("a", {"max_gen_toks": 5000})])
    with pytest.raises(ValueError, match="batch_size='many'"):
        CollaborativeLM(target="pocket-0.25m", batch_size="many")
    with pytest.raises(ValueError, match="model argument 'drift' is unknown; there are draft, target"):
        CollaborativeLM(target="pocket-0.25m", drift="pocket-0.25m")
    routed = CollaborativeLM(draft="pocket-0.25m", target="pocket-0.6m", method="route")
    with pytest.raises(ValueError, match="gives no likelihoods"):
        routed.loglikelihood([Request("a", " b")])


def test_the_command(folder: str, tmp_path: Path, run: Callable[..., Finished]) -> None:
    words = ["--model_args", "draft=pocket-0.25m,target=pocket-0.6m", "--tasks", "written", "--include_path", folder]
    done = run("lm-eval", *words, "--limit", "2", "--batch_size", "2", "--output_path", str(tmp_path))
    assert done.status == 0, done.err
    assert "exact_match" in done.out
    (results,) = tmp_path.rglob("results*.json")
    stored = json.loads(results.read_text())
    assert stored["config"]["members"] == {"draft": "pocket-0.25m", "target": "pocket-0.6m"}
    refused = run("lm-eval", "--model_args", "target=pocket-9m", "--tasks", "written", "--include_path", folder)
    assert (refused.status, "error: " in refused.err) == (2, True)
    refused = run("lm-eval", "--guess")
    assert (refused.status, refused.out, refused.err) == (2, "", "error: unrecognized arguments: --guess\n")
