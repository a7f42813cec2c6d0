"""Models that are in memory, revisions of the hub, results as tables and JSON, studies from a mapping, the log."""

from __future__ import annotations

import builtins
import json
import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

import fsgen
from fsgen.backends.checkpoint import on_hub
from fsgen.backends.members import plan
from fsgen.backends.transformers.checkpoint import open_with_transformers
from fsgen.study.config import load_config
from fsgen.types import Token
from tests.doubles import trio
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer

PARAMS = fsgen.SamplingParams(max_tokens=12)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    return [save_tiny(root / name, seed=seed) for seed, name in enumerate(("target", "draft"))]


def test_models_of_transformers_are_taken_as_they_are(folders: list[Path]) -> None:
    target, draft = (AutoModelForCausalLM.from_pretrained(folder) for folder in folders)
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    named = fsgen.load(draft=str(folders[1]), target=folders[0])
    expected = fsgen.generate(named, "the cat", sampling=PARAMS)[0]
    target.train()
    for members in (
        fsgen.load(draft, target, tokenizer=tokenizer),
        fsgen.load(draft, target),  # the tokenizers of the places they came from
        fsgen.load(draft, str(folders[0]), tokenizer=str(folders[0])),
        fsgen.load(named.draft, target),
    ):
        assert fsgen.generate(members, "the cat", sampling=PARAMS)[0].token_ids == expected.token_ids
    assert not target.training
    same = fsgen.load(draft=target, target=target)
    assert same.draft is same.target
    assert fsgen.load(target=target).names() == {"target": str(folders[0])}


def test_what_is_no_model_is_refused(folders: list[Path]) -> None:
    made = tiny_model("llama")
    made.config.name_or_path = ""
    with pytest.raises(ValueError, match="the loaded LlamaForCausalLM has no tokenizer: give tokenizer="):
        fsgen.load(target=made)
    assert fsgen.load(target=made, tokenizer=tiny_tokenizer()).target is not None
    for wrong in (5, tiny_tokenizer(), {"a": 1}):
        with pytest.raises(ValueError, match="is no model: give a name, a folder, or a loaded"):
            fsgen.load(target=wrong)
    with pytest.raises(ValueError, match="tokenizer= is for models that are loaded already"):
        fsgen.load(target=str(folders[0]), tokenizer=tiny_tokenizer())
    with pytest.raises(ValueError, match=r"needs a base model; give base=$"):
        fsgen.generate(fsgen.load(draft=str(folders[1]), target=str(folders[0])), "a", "proxy")


def test_revisions_stand_behind_the_name(folders: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(name: str, allow_patterns: list[str], revision: str | None) -> str:
        asked.append((name, revision))
        return str(folders[0])

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert plan(target="someone/model@v1.2").target.name == "someone/model@v1.2"  # type: ignore[union-attr]
    plan(target="someone/model", revision="main")
    plan(draft="someone/draft@abc", target="someone/model", revision="main")
    plan(target="pocket-0.6m", revision="x")  # which is here
    plan(target="someone/model")
    names = ["someone/model", "someone/model", "someone/draft", "someone/model", "someone/model"]
    assert asked == list(zip(names, ["v1.2", "main", "abc", "main", None], strict=True))
    odd = tmp_path / "a@b"
    assert on_hub(str(save_tiny(odd))) == (str(odd), None)
    assert plan(target=odd).target is not None
    assert plan(target=str(odd)).target is not None


def test_revisions_reach_transformers(monkeypatch: pytest.MonkeyPatch, folders: list[Path]) -> None:
    seen: list[tuple[str, Any]] = []
    for name in ("AutoConfig", "AutoTokenizer", "AutoModelForCausalLM"):
        kind: Any = getattr(__import__("transformers"), name)
        real = kind.from_pretrained

        def fetched(path: str, *words: Any, real: Any = real, revision: str | None = None, **options: Any) -> Any:
            seen.append((path, revision))
            return real(folders[0], *words, **options)

        monkeypatch.setattr(kind, "from_pretrained", fetched)
    real_dict = PretrainedConfig.get_config_dict

    def read(path: Any, revision: str | None = None, **options: Any) -> Any:
        if path != "someone/model":
            return real_dict(path, **options)
        seen.append((path, revision))
        return {}, {}

    monkeypatch.setattr(PretrainedConfig, "get_config_dict", read)
    monkeypatch.setattr("fsgen.backends.transformers.settings._faults", lambda raw: [])
    open_with_transformers("someone/model@v2").load()
    asked = [revision for name, revision in seen if name == "someone/model"]
    assert asked == ["v2"] * 4  # the configuration twice, the tokenizer, the weights


def test_a_generation_as_plain_data() -> None:
    text = fsgen.generate(trio(), "abc", candidates=2, sampling=fsgen.SamplingParams(9, logprobs=1))[0]
    record = json.loads(text.to_json())
    assert list(record) == ["text", "tokens", "stats", "prompt_tokens", "stop_reason", "logprobs"]
    assert set(record["tokens"][0]) == {field.name for field in fields(Token)}
    assert "tokens" not in text.as_dict(whole=False)
    pandas = pytest.importorskip("pandas")
    frame = text.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["id"].tolist() == text.token_ids


def test_pandas_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    text, real = fsgen.generate(trio(), "abc")[0], builtins.__import__

    def without(name: str, *words: Any, **options: Any) -> Any:
        if name.split(".")[0] == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'")
        return real(name, *words, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr("polars._utils.unstable.issue_unstable_warning", lambda *_: None)
    with pytest.raises(ImportError, match="pip install pandas"):
        text.to_pandas()


def test_a_study_from_a_mapping() -> None:
    given = {"tasks": ["pocket_math"], "pairs": [{"target": "pocket-0.6m"}], "methods": ["plain"]}
    assert load_config(given).tasks[0].name == "pocket_math"  # type: ignore[index]
    with pytest.raises(ValueError, match="the study is not a study:\n- metods: unknown key"):
        load_config(given | {"metods": ["plain"]})


def test_the_log_is_silent_unless_it_is_wanted(
    folders: list[Path], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, logger="fsgen"):
        members = fsgen.load(target=str(folders[0]))
        fsgen.generate(members, ["a", "b"], "plain", sampling=PARAMS)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("fsgen")]
    assert any("loaded" in line and str(folders[0]) in line for line in said)
    assert any(line.startswith("wrote 2 texts of ") for line in said)
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("fsgen").handlers)
