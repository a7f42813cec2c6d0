"""`fsgen plan`: plain unless a draft surely pays; its file is taken elsewhere; errors come before any work."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import fsgen
from fsgen.planner import moments
from fsgen.planner.choose import PLAIN, Search, Situation, candidates
from fsgen.planner.export import exported, read_acceptance
from fsgen.planner.file import Chosen, load_plan, planned_study, read_plan, write_plan
from fsgen.planner.predict import Loop
from fsgen.planner.reading import Reading
from fsgen.planner.result import Answer, answer
from fsgen.planner.sources import assumed
from fsgen.planner.texts import Written
from fsgen.planner.work import Question
from tests.conftest import Finished
from tests.planner.test_times import Constant

QUESTION = Question("the-target", ["good", "bad"], batches=[1, 8])


def texts(rate: float, count: int, seed: int = 0) -> list[Reading]:
    """Greedy texts of 40 tokens, of which a draft agrees on a share."""
    found = []
    for number in range(count):
        same = (np.random.default_rng([seed, number]).random(40) < rate).astype(float)
        flags = {f"max-prob:{value}": same < 0.5 for value in (0.3, 0.5, 0.7, 0.9, 0.97)}
        found.append(Reading(Written((1, 2), (1,) * 40, cut=True), same, same, 0.2 + 0.7 * same, flags))
    return found


def search(rates: dict[str, float], times: dict[str, float], error: float = 0.02, **options: Any) -> Search:
    batches = options.pop("batches", [1])
    situation = Situation(
        Constant(1.0), {name: Constant(taken) for name, taken in times.items()},
        {(name, batch): Loop(error=error) for name in (None, *times) for batch in batches}, batches, 100,
    )  # fmt: skip
    wanted = candidates(list(rates), "max_loss" in options)
    return Search(situation, wanted, lambda name, count: texts(rates.get(name or "", 0.5), count), **options)


def answered(one: Search, counts: Sequence[int] = (8, 16, 32)) -> Answer:
    for count in counts:
        one.step(count)
        if one.clear:
            break
    return answer(one, "latency", [])


def test_a_draft_is_chosen_where_it_surely_pays() -> None:
    found = answered(search({"good": 0.9, "bad": 0.3}, {"good": 0.05, "bad": 0.05}))
    assert found.verdict == "draft"
    assert found.choice.candidate.draft == "good"
    assert found.choice.low > 1.5
    assert found.choice.low < found.choice.speedup.value < found.choice.high
    worse = [one for one in found.ranked if one.candidate.draft == "bad"]
    assert worse
    assert all("fewer tokens a call" in one.reason for one in worse)
    assert found.stops_paying is None


def test_plain_where_drafting_costs_too_much_or_is_not_sure() -> None:
    slow = answered(search({"good": 0.9}, {"good": 2.0}))
    assert (slow.verdict, slow.choice.candidate) == ("plain", PLAIN)
    assert slow.choice.reason in ("no draft is faster",) or "not surely" in slow.choice.reason
    assert slow.stops_paying == 1
    unsure = answered(search({"good": 0.6}, {"good": 0.3}, error=0.5))
    assert max(one.speedup.value for one in unsure.ranked) > 1
    assert unsure.verdict == "plain"
    assert "not surely above 1" in unsure.choice.reason


def test_what_cannot_win_is_dropped_and_reads_no_more() -> None:
    asked: list[tuple[str | None, int]] = []
    one = search({"good": 0.95, "bad": 0.1}, {"good": 0.02, "bad": 0.5})
    read_by = one.read_by

    def noted(name: str | None, count: int) -> Sequence[Reading]:
        asked.append((name, count))
        return read_by(name, count)

    one.read_by = noted
    answered(one)
    assert ("bad", 8) in asked
    assert ("bad", 16) not in asked
    assert one.clear
    assert one.texts == 16  # not 32


def test_a_trusting_router_is_judged_by_the_texts_that_it_changes() -> None:
    found = answered(search({"good": 0.8}, {"good": 0.05}, max_loss=0.3))
    routed = [one for one in found.ranked if not one.lossless]
    assert routed
    # The flags of these readings are exactly the disagreements: nothing changes, and that is known so far.
    assert all(one.accuracy_loss.value == 0 for one in routed)
    assert all(0 < (one.accuracy_loss.high or 0) < 0.4 for one in routed)
    assert found.verdict == "route"
    strict = answered(search({"good": 0.8}, {"good": 0.05}, max_loss=0.001))
    assert strict.verdict == "draft"
    assert any("0.001 is allowed" in one.reason for one in strict.ranked)


def test_the_batch_from_which_on_nothing_pays() -> None:
    one = search({"good": 0.8}, {"good": 0.05}, batches=[1, 8])
    dear = Loop(verify_seconds=5.0, error=0.02)
    one.situation = Situation(
        one.situation.target, one.situation.drafts, {**one.situation.loops, ("good", 8): dear}, [1, 8], 100
    )
    found = answered(one)
    assert found.by_batch[1].candidate.draft == "good"
    assert found.by_batch[8].candidate == PLAIN
    assert found.stops_paying == 8
    config = json.loads(shlex.split(exported("vllm", found, QUESTION))[1])
    lengths = config["num_speculative_tokens_per_batch_size"]
    assert [line[:2] for line in lengths] == [[1, 7], [8, 2**16]]
    assert lengths[0][2] == config["num_speculative_tokens"] > 0 == lengths[1][2]
    assert config["model"] == "good"


def test_exports() -> None:
    found = answered(search({"good": 0.9}, {"good": 0.05}))
    flags = shlex.split(exported("sglang", found, QUESTION))
    steps = int(flags[flags.index("--speculative-num-steps") + 1])
    assert flags[flags.index("--speculative-num-draft-tokens") + 1] == str(steps + 1)
    assert "--draft-max" in exported("llama.cpp", found, QUESTION)
    profile = json.loads(exported("profile", found, QUESTION))
    assert profile["schema_version"] == "1.0"
    assert profile["conditional_accept_rates"][0] == pytest.approx(0.9, abs=0.06)
    assert profile["mean_accept_length"] == pytest.approx(1 + sum(profile["marginal_accept_rates"]))
    with pytest.raises(ValueError, match="unknown export 'tgi'"):
        exported("tgi", found, QUESTION)
    with pytest.raises(ValueError, match="no draft of a fixed length"):
        exported("vllm", answered(search({"good": 0.9}, {"good": 3.0})), QUESTION)


def test_a_speculation_profile_is_read(tmp_path: Path) -> None:
    path = tmp_path / "speculation_profile.json"
    content = {"schema_version": "1.0", "measured": True, "conditional_accept_rates": [0.8, 0.8, 0.8]}
    path.write_text(json.dumps(content), encoding="utf-8")
    assert read_acceptance(str(path)) == pytest.approx(0.8)
    assert read_acceptance("0.7") == 0.7
    for broken in (
        {"schema_version": "2.0"},
        content | {"conditional_accept_rates": [2]},
        content | {"measured": False},
    ):
        path.write_text(json.dumps(broken), encoding="utf-8")
        with pytest.raises(ValueError, match=r"profile of version 1\.0|conditional_accept_rates"):
            read_acceptance(str(path))
    with pytest.raises(ValueError, match="neither a number nor"):
        read_acceptance(str(tmp_path / "none"))


def test_bounded_acceptance_widens_the_interval() -> None:
    readings = assumed(0.5, 8, 4, 40)
    bounded = [Reading(one.text, one.low, np.ones(40), one.probs) for one in readings]
    blind = [Reading(Written((1,), (1,) * 40, 1.0, cut=True), one.low, one.high, one.probs) for one in bounded]
    one = search({"good": 0.5}, {"good": 0.05})
    one.read_by = lambda name, count: blind
    one.wanted = one.alive = [(each, 1) for each in one.wanted if each.router == "always"]  # type: ignore[assignment]
    one.step(8)
    four = next(each for (c, _), each in one.judged.items() if c.draft_tokens == 4)
    assert four.high > 4  # all are accepted, at best
    assert four.speedup.value < 2.2


def test_a_plan_file_says_what_load_and_generate_take(tmp_path: Path) -> None:
    one = search({"good": 0.9}, {"good": 0.05}, batches=[1, 8])
    path = tmp_path / "plan.yaml"
    found = answered(one)
    write_plan(path, found, QUESTION)
    chosen = read_plan(path, 5)
    best = found.by_batch[1].candidate
    assert (chosen.draft, chosen.target, chosen.batch_size) == ("good", "the-target", 1)
    assert chosen.draft_tokens == str(best.draft_tokens)
    assert read_plan(path, 100).batch_size == 8
    assert chosen.expected[1] > 1
    assert load_plan(path).verdict == "draft"
    study = planned_study(None, chosen)
    assert study["pairs"] == [{"target": "the-target", "draft": "good"}]
    own = tmp_path / "study.yaml"
    own.write_text("tasks: [gsm8k]\nmethods: [oracle]\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has methods, which --plan says too"):
        planned_study(own, chosen)


def test_a_plan_of_ngrams_and_one_of_plain_decoding(tmp_path: Path) -> None:
    common = {"speedup": 1.2, "low": 1.1, "high": 1.3, "tokens_per_second": 10.0}
    settings = {
        1: {"method": "speculative:ngram=3", "draft_tokens": 4} | common,
        2: {"method": "plain", "draft_tokens": 0} | common,
    }
    content = {"plan": 1, "verdict": "draft", "target": "pocket-0.6m", "batch_size": 1, "by_batch_size": settings}
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    chosen = read_plan(path)
    assert (chosen.draft, chosen.method, chosen.draft_tokens) == ("ngram:3", "speculative", "4")
    assert planned_study(None, chosen)["methods"] == [{"name": "speculative:ngram=3", "draft_tokens": 4}]
    members = fsgen.load(chosen.draft, chosen.target)
    assert fsgen.generate(members, "1 2 3 1 2", chosen.method, chosen.router, chosen.draft_tokens)[0].tokens
    plain = read_plan(path, 2)
    assert plain == Chosen(None, "pocket-0.6m", None, "plain", None, None, 2, "auto", "auto", (1.2, 1.1, 1.3))
    for fault, match in (
        ({"plan": 2}, "plan: "), ({"verdict": "maybe"}, "verdict: "), ({"more": 1}, "more: "),
        ({"by_batch_size": {}}, "by_batch_size: "),
        ({"by_batch_size": {1: settings[1] | {"method": "magic"}}}, "unknown method 'magic'"),
    ):  # fmt: skip
        path.write_text(yaml.safe_dump(content | fault), encoding="utf-8")
        with pytest.raises(ValueError, match=f"is no plan of fsgen: {match}"):
            read_plan(path)
    path.write_text("[", encoding="utf-8")
    with pytest.raises(ValueError, match="is no plan of fsgen"):
        read_plan(path)


def plan_file(path: Path, **changes: Any) -> Path:
    """A plan of one draft at batch 1, and of plain decoding at batch 2."""
    common = {"speedup": 1.2, "low": 1.1, "high": 1.3, "tokens_per_second": 10.0}
    settings = {
        1: {"draft": "pocket-0.25m", "method": "speculative", "draft_tokens": 4} | common,
        2: {"method": "plain", "draft_tokens": 0} | common,
    }
    content = {"verdict": "draft", "target": "pocket-0.6m", "batch_size": 1, "by_batch_size": settings} | changes
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_types_of_weights_are_those_of_the_models_that_are_used(tmp_path: Path) -> None:
    path = plan_file(tmp_path / "plan.yaml", weights="draft=int8")
    assert read_plan(path, 1).weights == "draft=int8"
    plain = read_plan(path, 2)
    assert plain.weights == "auto"
    assert fsgen.load(plain.draft, plain.target, weights=plain.weights).target is not None
    both = plan_file(tmp_path / "both.yaml", weights="draft=int8,target=float32")
    assert read_plan(both, 2).weights == "target=float32"


def test_a_study_has_the_type_of_its_plan(tmp_path: Path) -> None:
    chosen = read_plan(plan_file(tmp_path / "plan.yaml", dtype="float32"))
    assert planned_study(None, chosen)["dtype"] == "float32"
    own = tmp_path / "study.yaml"
    own.write_text("tasks: [gsm8k]\ndtype: bfloat16\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has dtype 'bfloat16', and the plan 'float32'"):
        planned_study(own, chosen)
    with pytest.raises(ValueError, match="the plan has weights='draft=int8'"):
        planned_study(None, read_plan(plan_file(tmp_path / "int8.yaml", weights="draft=int8")))


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        *(("generate", option, value) for option, value in (("--dtype", "float32"), ("--weights", "int8"))),
        *(("serve", option, value) for option, value in (("--draft", "pocket-0.25m"), ("--weights", "int8"))),
        ("serve", "--method", "plain"),
        *(("bench", option, "4") for option in ("--batch-size", "--draft-tokens", "--prompt-tokens")),
        *(("bench", option, value) for option, value in (("--dtype", "float32"), ("--weights", "int8"))),
    ],
)
@pytest.mark.usefixtures("no_weights")
def test_what_a_plan_says_is_not_said_again(
    run: Callable[..., Finished], tmp_path: Path, command: str, option: str, value: str
) -> None:
    asked = ["--plan", str(plan_file(tmp_path / "plan.yaml")), option, value]
    found = run(command, *["2 + 2"] * (command == "generate"), *asked)
    assert (found.status, found.out) == (2, "")
    assert f"leave out {option}" in found.err


PLANNED = ("plan", "--target", "pocket-0.6m", "--draft", "pocket-0.25m")


def test_a_plan_is_made_written_and_used(
    run: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(moments, "TURNS", 1)
    monkeypatch.setattr(moments, "AGREE", 100.0)  # two series, whatever else this machine does
    path, page = tmp_path / "plan.yaml", tmp_path / "plan.html"
    few = ("--draft", "ngram", "--limit", "4", "--max-tokens", "8", "--batch", "1,2", "--max-accuracy-loss", "0.9")
    found = run(*PLANNED, *few, "--write", str(path), "--report", str(page), "--json")
    assert found.status == 0, found.err
    content = json.loads(found.out)
    assert content["verdict"] in ("draft", "route", "plain")
    assert {"draft", "method", "draft_tokens", "router", "batch", "speedup", "low", "high", "accuracy_loss",
            "memory_bytes", "reason"} <= content["choice"].keys()  # fmt: skip
    assert {one["draft"] for one in content["candidates"]} == {None, "pocket-0.25m"}
    assert all(one["reason"] for one in content["candidates"])
    assert content["texts"] == 4
    assert "4 texts" in page.read_text(encoding="utf-8")
    written = run("generate", "2 + 2", "--plan", str(path), "--max-tokens", "4", "--json")
    assert written.status == 0, written.err
    again = run("generate", "2 + 2", "--plan", str(path), "--draft", "pocket-0.25m")
    assert (again.status, again.out) == (2, "")
    assert "leave out --draft" in again.err
    measured = run("bench", "--plan", str(path), "--max-tokens", "6", "--turns", "1", "--json")
    assert measured.status == 0, measured.err
    speeds = json.loads(measured.out)["speeds"]
    assert speeds[0]["way"] == "plain"
    shown = run(*PLANNED, "--limit", "2", "--max-tokens", "4")
    assert shown.status == 0
    assert "greedy texts of the target" in shown.out


def test_a_plan_from_texts_needs_no_target(run: Callable[..., Finished], tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"prompt": "Question: 2 + 2?", "completion": " 4 and 4 and 4 and 4"}\n' * 4, encoding="utf-8")
    shape = tmp_path / "large"
    shape.mkdir()
    config = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
              "num_key_value_heads": 4, "vocab_size": 152064, "hidden_act": "silu"}  # fmt: skip
    (shape / "config.json").write_text(json.dumps(config), encoding="utf-8")
    asked = ("plan", "--target", str(shape), "--draft", "pocket-0.25m", "--hardware", "H100", "--texts", str(log))
    found = run(*asked, "--json", "--price", "2.5", "--objective", "price")
    assert found.status == 0, found.err
    content = json.loads(found.out)
    assert content["choice"]["price"] > 0
    assert any("H100" in line for line in content["assumptions"])
    assumed_rate = run("plan", "--target", str(shape), "--draft", "random:0.5B", "--hardware", "H100",
                       "--acceptance", "0.8", "--json", "--batch", "1,64")  # fmt: skip
    assert assumed_rate.status == 0, assumed_rate.err
    assert json.loads(assumed_rate.out)["choice"]["speedup"] > 1


def test_weights_of_each_role_are_those_of_the_roofline(run: Callable[..., Finished]) -> None:
    asked = ("plan", "--target", "random:7B", "--draft", "random:0.5B", "--hardware", "H100", "--acceptance", "0.8")

    def bytes_of(*weights: str) -> tuple[int, int]:
        found = run(*asked, "--context", "1", "--json", *weights)
        assert found.status == 0, found.err
        candidates = json.loads(found.out)["candidates"]
        plain = next(one["memory_bytes"] for one in candidates if one["method"] == "plain")
        return plain, max(one["memory_bytes"] for one in candidates) - plain

    (target, draft), (less, same), (half, quarter) = (
        bytes_of(*given) for given in ((), ("--weights", "target=int8"), ("--weights", "draft=int4,target=int8"))
    )
    assert less == half == pytest.approx(target / 2, rel=0.01)
    assert same == pytest.approx(draft, rel=0.01)
    assert quarter == pytest.approx(draft * 0.5625 / 2, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("--hardware", "GTX"), "unknown hardware 'GTX'"),
        (("--objective", "fame"), "unknown objective 'fame'"),
        (("--objective", "price"), "give it by --price"),
        (("--batch", "0"), "--batch '0' is impossible"),
        (("--acceptance", "1.5"), "an acceptance of 1.5 is impossible"),
        (("--acceptance", "high"), "neither a number nor"),
        (("--max-accuracy-loss", "2"), "a loss of accuracy of 2.0 is impossible"),
        (("--draft", "pocket-0.25m"), "each draft is named once"),
        (("--study", "nowhere"), "'nowhere' has no study"),
        (("--export", "tgi"), "unknown export 'tgi'"),
        (("--hardware", "L4", "--target", "random:32B", "--acceptance", "0.5"), "and L4 has 24 GB"),
        (("--task", "nothing"), "nothing"),
        (("--hardware", "H100", "--acceptance", "0.5", "--weights", "int3"), "weights='int3' is unknown"),
        (("--hardware", "H100", "--acceptance", "0.5", "--weights", "base=int8"), "names 'base'"),
        (("--hardware", "H100", "--acceptance", "0.5", "--dtype", "int9"), "dtype='int9' is unknown"),
    ],
)
@pytest.mark.usefixtures("no_weights")
def test_errors_before_work(run: Callable[..., Finished], arguments: tuple[str, ...], fault: str) -> None:
    found = run(*PLANNED, *arguments)
    assert (found.status, found.out) == (2, "")
    assert fault in found.err
    assert found.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        "profile vllm:http://127.0.0.1:9#big",
        "plan --target vllm:http://127.0.0.1:9#big --draft pocket-0.6m",
        "plan --target pocket-4m --draft openai:http://127.0.0.1:9#small",
    ],
)
def test_a_model_behind_a_server_is_not_timed(run: Callable[..., Finished], words: str) -> None:
    found = run(*words.split())
    assert found.status == 2
    assert "does not run on this machine, so its calls cannot be timed here" in found.err


def test_a_draft_of_another_tokenizer_is_refused(run: Callable[..., Finished]) -> None:
    found = run("plan", "--target", "pocket-4m", "--draft", "pocket-0.6m-vocab-512")
    assert found.status == 2
    assert "another tokenizer" in found.err or "there is no bundled model" in found.err
