"""A study runs every cell once, records what failed as failed, and says what it found."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

import fsgen
from fsgen.api import generate
from fsgen.backends import load
from fsgen.study import StudyResult, models, run_study, worker
from fsgen.study.config import parse_config
from fsgen.study.models import LoadedModels
from fsgen.study.store import Store
from fsgen.tasks import get
from tests.study.ladder import byte_tokenizer, save_model, small_study, write_study
from tests.study.tables import tables


def studied(study: dict[str, Any], out: Path, **options: Any) -> StudyResult:
    options.setdefault("console", Console(file=io.StringIO()))
    config = write_study(out.parent / f"{out.name}.yaml", study)
    return run_study(config, out, **options)


@pytest.fixture(scope="module")
def finished(
    ladder: dict[str, str], data: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path, StudyResult, str]:
    """A study, its folder, what it returned and what it showed."""
    out = tmp_path_factory.mktemp("finished") / "out"
    study, shown = small_study(ladder, data), io.StringIO()
    result = studied(study, out, console=Console(file=shown))
    return study, out, result, shown.getvalue()


Finished = tuple[dict[str, Any], Path, StudyResult, str]


def test_the_summary(finished: Finished, ladder: dict[str, str]) -> None:
    _, out, result, _ = finished
    rows = json.loads((out / "summary.json").read_text())
    assert [row["method"] for row in rows] == ["oracle"] * 3 + ["contrastive", "proxy", "route", "speculative"]
    assert (result.ran, result.skipped, result.failed, result.failed_texts) == (12, 0, {}, 0)
    wanted = (
        "task draft target base method router sampling examples tokens collaboration_frequency ci_low ci_high "
        "consulted_rate target_calls_per_token target_tokens_per_token accuracy draft_accuracy target_accuracy seconds"
    )
    for row in rows:
        assert set(wanted.split()) <= set(row)
        assert (row["task"], row["examples"], row["failed"]) == ("pocket_math", 10, 0)
        if row["ci_low"] is not None:  # no interval where all examples are alike
            assert 0.0 <= row["ci_low"] <= row["collaboration_frequency"] <= row["ci_high"] <= 1.0
        assert None not in (row["accuracy"], row["draft_accuracy"], row["target_accuracy"])
        assert row["seconds"] > 0
    assert any(row["ci_low"] is not None for row in rows)
    oracle, proxy, route, sampled = rows[1], rows[4], rows[5], rows[6]
    assert (oracle["consulted_rate"], oracle["target_calls_per_token"], oracle["target_tokens_per_token"]) == (1, 1, 1)
    assert (oracle["engine"], route["engine"]) == ("replay", "loop")
    assert (oracle["base"], proxy["base"]) == (None, ladder["small"])
    assert 0 < route["consulted_rate"] < 1
    assert route["router"] == "max-prob:0.05"
    assert sampled["sampling"] == "temperature=1,top_p=0.9"
    assert oracle["accuracy"] == oracle["target_accuracy"], "the oracle writes what the target writes"


def test_what_is_shown(finished: Finished) -> None:
    shown = finished[3]
    assert "12 runs, 120 texts" in shown
    assert "[12/12]" in shown
    assert "pocket_math oracle small -> large: frequency 0." in shown
    assert "left" in shown
    assert "frequency, %" in shown
    assert "the report has all" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown, "no number is cut off"


def test_a_terminal_gets_a_bar(finished: Finished) -> None:
    study, out, _, _ = finished
    shown = io.StringIO()
    studied(study, out, fresh=True, console=Console(file=shown, force_terminal=True, width=100))
    assert "texts" in shown.getvalue()
    assert "tokens/s" in shown.getvalue()


def test_the_tables(finished: Finished) -> None:
    _, out, result, _ = finished
    generations = pl.read_parquet(out / "generations/**/*.parquet", hive_partitioning=True)
    traces = pl.read_parquet(out / "traces/**/*.parquet", hive_partitioning=True)
    assert generations.group_by("run", "example", "turn").len()["len"].to_list() == [1] * 120
    counted = traces.group_by("run", "example").agg(
        pl.len().alias("n"),
        (pl.col("draft_token") != pl.col("target_token")).sum().alias("differing_there"),
        pl.col("position").sort().eq(pl.int_range(pl.len())).all().alias("in_order"),
    )
    both = generations.join(counted, on=["run", "example"])
    assert len(both) == 120
    assert (both["n"] == both["tokens"]).all()
    assert (both["differing_there"] == both["differing"]).all()
    assert both["in_order"].all()
    for row in result.rows:
        if row.sampling == "greedy":
            mine = traces.filter((pl.col("run") == row.run) & pl.col("target_token").is_not_null())
            assert row.collaboration_frequency == (mine["draft_token"] != mine["target_token"]).mean()


def test_a_folder_has_the_prompts_and_what_its_tokens_mean(finished: Finished) -> None:
    _, out, result, _ = finished
    planned = {row["run"]: row for row in json.loads((out / "study.json").read_text())["rows"]}
    for row in result.rows:
        if row.sampling == "greedy":
            words = pl.read_parquet(out / "vocabularies" / f"{planned[row.run]['vocabulary']}.parquet")
            spelled = dict(words.filter(~pl.col("special")).select("token", "text").iter_rows())
            store = Store(out)
            written = store.traces(row.run).group_by("example").agg("token")
            texts = dict(store.generations(row.run).select("example", "text").iter_rows())
            for example, tokens in written.iter_rows():
                spelling = b"".join(spelled.get(token, b"") for token in tokens)
                assert spelling.decode(errors="replace").startswith(texts[example])
            record = json.loads((out / "runs" / f"{row.run}.json").read_text())
            prompts = pl.read_parquet(out / "examples" / f"{record['identity']['task']['examples'][:16]}.parquet")
            assert set(prompts["example"]) == set(texts)
            assert all(prompt.startswith("Question: What is") for prompt in prompts["prompt"])


def test_the_records(finished: Finished) -> None:
    _, out, _, _ = finished
    records = [json.loads(file.read_text()) for file in (out / "runs").glob("*.json")]
    assert len(records) == 12
    for record in records:
        assert record["status"] == "finished"
        assert record["error"] is None
        assert record["started"] <= record["finished"]
        assert record["versions"]["fsgen"] == fsgen.__version__
        assert {"torch", "transformers", "python"} <= set(record["versions"])
        assert {"processor", "cores", "memory_bytes", "gpus"} <= set(record["hardware"])
        assert record["task"]["max_tokens"] == 6
        for member in record["members"].values():
            assert 0 < member["non_embedding_parameters"] < member["parameters"]


def test_replay_writes_what_the_loop_writes(finished: Finished, tmp_path: Path) -> None:
    study, out, result, _ = finished
    only = study | {"grids": study["grids"][:1], "replay": False}
    looped = studied(only, tmp_path / "out")
    assert [row.run for row in looped.rows] == [row.run for row in result.rows[:3]]
    for row in looped.rows:
        assert row.engine == "loop"
        found = [Store(folder).traces(row.run).sort("example", "position") for folder in (out, tmp_path / "out")]
        exact = [name for name in found[0].columns if found[0][name].dtype not in (pl.Float32, pl.List(pl.Float32))]
        assert found[0].select(exact).equals(found[1].select(exact))
        for name in ("draft_prob", "draft_entropy", "target_prob", "total_variation"):
            assert (found[0][name] - found[1][name]).abs().max() < 1e-4  # type: ignore[operator]
        other = [
            Store(folder).generations(row.run).drop("draft_seconds", "system2_seconds", "seconds", "variation")
            for folder in (out, tmp_path / "out")
        ]
        assert other[0].equals(other[1])


def test_nothing_runs_twice(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    study, out, _, _ = finished
    before = tables(out)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(models, "load", fail)
    for changes in ({}, {"batch_size": 3}, {"name": "again"}):
        shown = io.StringIO()
        result = studied(study | changes, out, console=Console(file=shown))
        assert (result.ran, result.skipped) == (0, 12)
        assert "12 runs are finished already" in shown.getvalue()
    studied(study, out)
    assert tables(out) == before


def test_a_change_is_a_new_run_and_the_rest_is_skipped(ladder: dict[str, str], data: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    study = small_study(ladder, data)
    study["grids"] = study["grids"][1:2]
    assert (studied(study, out).ran, len(list((out / "runs").iterdir()))) == (3, 3)
    study["grids"][0]["methods"] = ["contrastive:beta=0.9"]
    result = studied(study, out)
    assert (result.ran, result.skipped, len(list((out / "runs").iterdir()))) == (1, 2, 4)
    assert [row.method for row in result.rows] == ["contrastive:beta=0.9"], "the summary is of this study"
    assert studied(study, out, limit=3).ran == 3
    assert studied(study, out, limit=3).rows[0].examples == 3
    assert studied(study, out, fresh=True).ran == 3
    assert len(list((out / "runs").iterdir())) == 3


def test_it_goes_on_with_another_batch_size(
    ladder: dict[str, str], data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study(ladder, data)
    study["grids"] = study["grids"][:2]
    whole, out = tmp_path / "whole", tmp_path / "out"
    studied(study, whole)
    left = 4
    write_part = Store.write_part

    def stopping(self: Store, *args: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        write_part(self, *args)

    monkeypatch.setattr(Store, "write_part", stopping)
    with pytest.raises(KeyboardInterrupt):
        studied(study, out)
    monkeypatch.undo()
    studied(study | {"batch_size": 7}, out)
    for row in json.loads((out / "summary.json").read_text()):
        one, two = (Store(folder).generations(row["run"])["text"].to_list() for folder in (whole, out))
        assert one == two


def test_two_studies_share_no_folder(finished: Finished) -> None:
    study, out, _, _ = finished
    with Store(out).locked(), pytest.raises(ValueError, match="another study is writing"):
        studied(study, out)


def test_a_sample_that_fails_is_recorded_as_failed(
    ladder: dict[str, str], data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study(ladder, data)
    study["grids"] = study["grids"][:2]
    bad: list[tuple[int, ...]] = []

    def failing(members: Any, prompts: Sequence[Any], method: Any, **options: Any) -> Any:
        bad[:] = bad or [prompts[1]]
        if bad[0] in prompts:
            raise RuntimeError("out of memory")
        return generate(members, prompts, method, **options)

    monkeypatch.setattr(worker, "generate", failing)
    shown = io.StringIO()
    result = studied(study, tmp_path / "out", console=Console(file=shown))
    assert result.failed == {}
    assert "1 texts failed" in shown.getvalue()
    for row in result.rows:
        assert (row.examples, row.failed) == (10, 1)
        found = Store(tmp_path / "out").generations(row.run)
        failed = found.filter(pl.col("error").is_not_null())
        assert len(failed) == 1
        assert "out of memory" in failed["error"][0]
        assert failed.select("text", "score", "answer", "stop_reason").row(0) == (None, None, None, None)
        assert row.tokens == found["tokens"].sum() == Store(tmp_path / "out").traces(row.run).height


def test_an_answer_that_cannot_be_scored_has_no_score(
    ladder: dict[str, str], data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Any, example: Any, text: str, **options: Any) -> Any:
        raise LookupError("odd text")

    monkeypatch.setattr(type(get("pocket_math")), "score", failing)
    study = small_study(ladder, data)
    study["grids"] = study["grids"][:1]
    result = studied(study, tmp_path / "out")
    assert all((row.accuracy, row.failed) == (None, 10) for row in result.rows)
    found = Store(tmp_path / "out").generations(result.rows[0].run)
    assert found["error"][0] == "not scored: LookupError: odd text"
    assert found["text"][0] is not None


def test_a_run_that_fails_is_tried_again(
    ladder: dict[str, str], data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study(ladder, data)
    study["grids"] = study["grids"][:1]

    def failing(target: str, **options: Any) -> Any:
        if target == ladder["large"]:
            raise RuntimeError("no room")
        return load(target=target, **options)

    monkeypatch.setattr(models, "load", failing)
    out = tmp_path / "out"
    result = studied(study, out)
    assert (result.ran, len(result.failed)) == (3, 3)
    assert any("the target alone failed" in error for error in result.failed.values())
    assert [row.target for row in result.rows] == [ladder["middle"]]
    states = {record["status"] for file in (out / "runs").iterdir() if (record := json.loads(file.read_text()))}
    assert states == {"finished", "failed"}
    monkeypatch.undo()
    result = studied(study, out)
    assert (result.ran, result.skipped, result.failed, len(result.rows)) == (3, 3, {}, 3)


def test_dialogues_have_their_second_turns(ladder: dict[str, str], tmp_path: Path) -> None:
    small, large = ladder["small"], ladder["large"]
    data = tmp_path / "dialogues.jsonl"
    questions = [{"question_id": i, "category": "writing", "turns": [f"Tell {i}", f"More {i}"]} for i in range(5)]
    data.write_text("".join(json.dumps(row) + "\n" for row in questions))
    study = {
        "batch_size": 3,
        "tasks": [{"name": "mt_bench", "max_tokens": 5, "data": str(data)}],
        "pairs": [{"draft": small, "target": large}],
        "methods": ["oracle", "speculative"],
    }
    result = studied(study, tmp_path / "out")
    assert [row.engine for row in result.rows] == ["replay", "loop"]
    texts = []
    for row in result.rows:
        assert (row.examples, row.tokens, row.accuracy) == (5, 50, None)
        found = Store(tmp_path / "out").generations(row.run)
        assert found["turn"].to_list() == [1, 2] * 5
        assert found["prompt_hash"].n_unique() == 10
        texts.append(found.select("example", "turn", "text", "prompt_hash"))
    assert texts[0].equals(texts[1])
    first = found.filter(pl.col("turn") == 1).row(0, named=True)
    example = next(e for e in get("mt_bench").load(data=str(data)) if e.id == first["example"])
    follow_up = get("mt_bench").follow_up(example, first["text"])
    assert follow_up is not None
    second = found.filter((pl.col("turn") == 2) & (pl.col("example") == example.id))
    assert second["prompt_tokens"][0] == len(follow_up.prompt.encode())


def test_chat_renders_the_template(ladder: dict[str, str], data: str, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    tokenizer.chat_template += "{% if add_generation_prompt %}<assistant>{% endif %}"
    names = [str(save_model(tmp_path / name, noise, tokenizer)) for name, noise in (("draft", 0.2), ("target", 0.0))]
    study = {
        "tasks": [{"name": "pocket_math", "limit": 2, "max_tokens": 3, "data": data, "chat": True}],
        "pairs": [{"draft": names[0], "target": names[1]}],
        "methods": ["oracle", "speculative"],
    }
    result = studied(study, tmp_path / "out")
    assert all(row.chat for row in result.rows)
    lengths = {
        example.id: len(f"<user>{example.messages[0][1]}<assistant>".encode())
        for example in get("pocket_math").load(2, data=data)
    }
    for row in result.rows:
        found = Store(tmp_path / "out").generations(row.run)
        assert dict(zip(found["example"], found["prompt_tokens"], strict=True)) == lengths


def test_large_models_make_room(
    ladder: dict[str, str], data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every model counted as large, no more are loaded than a unit needs, and the tables are the same."""
    study = small_study(ladder, data)
    study["grids"] = study["grids"][:1]
    studied(study, tmp_path / "small")
    loaded = []
    members = LoadedModels.members

    def watched(self: LoadedModels, roles: Any) -> Any:
        found = members(self, roles)
        loaded.append(set(self.loaded))
        return found

    monkeypatch.setattr(LoadedModels, "members", watched)
    monkeypatch.setattr(models, "SMALL_MODEL", 1)
    result = studied(study, tmp_path / "large")
    assert max(map(len, loaded)) == 2
    for row in result.rows:
        one, two = (Store(tmp_path / name).generations(row.run) for name in ("small", "large"))
        assert one["text"].equals(two["text"])
        assert one["differing"].equals(two["differing"])


def test_faults_come_before_the_folder(tmp_path: Path) -> None:
    config = parse_config("tasks: [nothing]\npairs: [{target: pocket-none}]\nmethods: [plain]")
    with pytest.raises(ValueError, match="cannot run"):
        run_study(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_draft_with_another_tokenizer_is_decoded_not_replayed(
    ladder: dict[str, str], data: str, tmp_path: Path
) -> None:
    other = save_model(tmp_path / "other", noise=0.1, tokenizer=byte_tokenizer(extra=4), vocab_size=262)
    large, task = ladder["large"], {"name": "pocket_math", "limit": 6, "max_tokens": 6, "data": data}
    study = {
        "name": "unlike",
        "batch_size": 3,
        "tasks": [task],
        "pairs": [{"draft": str(other), "target": large}, {"draft": ladder["small"], "target": large}],
        "methods": ["oracle"],
    }
    result = studied(study, tmp_path / "out")
    assert result.failed == {}
    unlike, like = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (unlike["engine"], like["engine"]) == ("loop", "replay")
    assert unlike["accuracy"] == unlike["target_accuracy"], "the oracle writes what the target writes"
    members = load(draft=other, target=large)
    prompts = [example.prompt for example in get("pocket_math").load(6, data=data)]
    texts = generate(members, prompts, "oracle", sampling=fsgen.SamplingParams(6, stop=get("pocket_math").stop))
    known, differing = (sum(getattr(text.stats, name) for text in texts) for name in ("known", "differing"))
    assert unlike["collaboration_frequency"] == pytest.approx(differing / known)
    study["methods"] = ["oracle", "ensemble"]
    with pytest.raises(ValueError, match=r"ensemble.* mixes the probabilities.*different tokenizers"):
        studied(study, tmp_path / "refused")
