"""`custom_generate` of transformers: greedy texts are the model's own, token for token; other things are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fsgen.integrations.transformers import export
from fsgen.models.bundled import ROOT
from tests.conftest import Finished

PROMPTS = ["Question: Tom has 3 boxes of 12 pens. How many pens?\nAnswer:", "Question: 2 + 2?\nAnswer:", "The cat"]


@pytest.fixture(scope="module")
def model() -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(ROOT / "pocket-1.5m", dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    found = transformers.AutoTokenizer.from_pretrained(ROOT / "pocket-1.5m", padding_side="left")
    found.pad_token = found.eos_token
    return found


@pytest.fixture(scope="module")
def inputs(tokenizer: Any) -> dict[str, Any]:
    found = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    return {name: found[name] for name in ("input_ids", "attention_mask")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("exported") / "with-draft"
    export(made, {"draft": "pocket-0.25m"})
    return str(made)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """transformers copies the code that it runs."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", list(__import__("sys").path))


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 40},
        {},  # both have a budget of their own
        {"max_length": 60, "repetition_penalty": 1.3},
        {"max_new_tokens": 24, "min_new_tokens": 20},
        {"max_new_tokens": 24, "eos_token_id": [0, 14, 17]},
        {"max_new_tokens": 12, "return_dict_in_generate": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("drafting", [{}, {"draft": "ngram:2"}, {"draft_tokens": 3}, {"method": "plain"}], ids=str)
def test_greedy_texts_are_those_of_the_model(
    model: Any, inputs: dict[str, Any], folder: str, options: dict[str, Any], drafting: dict[str, Any]
) -> None:
    expected = model.generate(**inputs, **options, do_sample=False)
    found = model.generate(
        **inputs, **options, **drafting, do_sample=False, custom_generate=folder, trust_remote_code=True
    )
    if "return_dict_in_generate" in options:
        assert type(found) is type(expected)
        expected, found = expected.sequences, found.sequences
    assert found.dtype == expected.dtype
    assert found.tolist() == expected.tolist()


def test_one_row_without_a_mask_and_stop_strings(model: Any, tokenizer: Any, folder: str) -> None:
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    options = {"max_new_tokens": 40, "stop_strings": ["pens"], "tokenizer": tokenizer, "do_sample": False}
    expected = model.generate(ids, **options)
    found = model.generate(ids, **options, custom_generate=folder, trust_remote_code=True)
    assert found.tolist() == expected.tolist()
    assert expected.shape[1] < ids.shape[1] + 40


def test_sampled_texts_follow_the_seed_of_torch(model: Any, inputs: dict[str, Any], folder: str) -> None:
    def sampled(seed: int) -> Any:
        torch.manual_seed(seed)
        options = {"do_sample": True, "temperature": 2.0, "num_return_sequences": 2, "max_new_tokens": 8}
        return model.generate(**inputs, **options, custom_generate=folder, trust_remote_code=True)

    one = sampled(1)
    assert one.shape[0] == 6
    assert one.tolist() == sampled(1).tolist() != sampled(2).tolist()
    assert one[0].tolist() != one[1].tolist()
    assert one[:, : inputs["input_ids"].shape[1]].tolist() == inputs["input_ids"].repeat_interleave(2, 0).tolist()


def test_a_streamer_gets_each_token(model: Any, tokenizer: Any, folder: str, capsys: Any) -> None:
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    options = {"max_new_tokens": 20, "do_sample": False, "streamer": transformers.TextStreamer(tokenizer)}
    found = model.generate(ids, **options, custom_generate=folder, trust_remote_code=True)
    assert capsys.readouterr().out.strip() == tokenizer.decode(found[0]).strip()


def test_an_assistant_model_is_the_draft(model: Any, inputs: dict[str, Any], tmp_path: Path) -> None:
    export(tmp_path / "plain", {"draft": "ngram"})
    draft = transformers.AutoModelForCausalLM.from_pretrained(ROOT / "pocket-0.25m", dtype=torch.float32)
    options = {**inputs, "max_new_tokens": 16, "do_sample": False}
    found = model.generate(
        **options, assistant_model=draft, draft=None, custom_generate=str(tmp_path / "plain"), trust_remote_code=True
    )
    assert found.tolist() == model.generate(**options).tolist()


def test_contrastive_decoding_writes_other_texts(model: Any, inputs: dict[str, Any], folder: str) -> None:
    options = {**inputs, "max_new_tokens": 40, "do_sample": False, "custom_generate": folder, "trust_remote_code": True}
    contrastive = model.generate(**options, method="contrastive:beta=2")
    assert contrastive.tolist() != model.generate(**options).tolist()


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"num_beams": 4}, "num_beams=4 is nothing that collaborative decoding can follow"),
        ({"no_repeat_ngram_size": 2}, "no_repeat_ngram_size=2"),
        ({"output_scores": True}, "output_scores=True"),
        ({"logits_processor": [print]}, "logits_processor="),
        ({"num_beans": 4}, "num_beans=4"),
        ({"method": "guess"}, "unknown method 'guess'"),
        ({"max_new_tokens": 5000}, "context window"),
    ],
)
def test_what_cannot_be_followed_is_refused(
    model: Any, inputs: dict[str, Any], folder: str, options: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        model.generate(**inputs, **options, custom_generate=folder, trust_remote_code=True)


def test_padding_must_be_on_the_left(model: Any, tokenizer: Any, folder: str) -> None:
    right = tokenizer(PROMPTS, return_tensors="pt", padding=True, padding_side="right")
    with pytest.raises(ValueError, match="padded on the left"):
        model.generate(
            right.input_ids, attention_mask=right.attention_mask, custom_generate=folder, trust_remote_code=True
        )


def test_its_code_must_be_trusted(model: Any, inputs: dict[str, Any], folder: str) -> None:
    with pytest.raises(ValueError, match="trust_remote_code"):
        model.generate(**inputs, custom_generate=folder, trust_remote_code=False)


def test_the_command(tmp_path: Path, run: Callable[..., Finished]) -> None:
    out = tmp_path / 'a "folder"'
    done = run("export-transformers", str(out), "--draft", "pocket-0.25m", "--method", "route", "--router", "entropy:1")
    assert done.status == 0, done.err
    file = out / "custom_generate" / "generate.py"
    assert str(file) in done.out
    names: dict[str, Any] = {}
    exec(compile(file.read_text(), str(file), "exec"), names)
    assert names["SETTINGS"] == {
        "draft": "pocket-0.25m", "method": "route", "router": "entropy:1", "weights": "auto"
    }  # fmt: skip
    assert run("export-transformers", str(out), "--draft", "pocket-0.6m").status == 0  # its own may be written again
    for words, fault in (
        (["--draft", "pocket-9m"], "pocket-9m"),
        (["--method", "guess", "--draft", "pocket-0.25m"], "unknown method"),
        ([], "give --draft"),
        (["--method", "proxy", "--draft", "pocket-0.6m-tuned"], "give --base"),
    ):
        refused = run("export-transformers", str(tmp_path / "other"), *words)
        assert (refused.status, fault in refused.err) == (2, True), refused.err
    file.write_text("def generate(model, **arguments): ...")
    refused = run("export-transformers", str(out), "--draft", "pocket-0.6m")
    assert "another program wrote it" in refused.err
