"""Models are found, compared and refused before any weights load."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import save_file

import fsgen.models.bundled as registry
from fsgen.backends import Members, load, plan
from fsgen.backends.alignment import first_difference
from fsgen.backends.opening import open_checkpoint
from fsgen.backends.places import check_device, place
from fsgen.backends.tokenizer import plain_tokenizer
from fsgen.backends.transformers.model import TransformersModel
from fsgen.models.bundled import bundled
from tests.tiny import save_tiny, tiny_config, tiny_model, tiny_tokenizer


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def save_without_weights(folder: Path, config: Any = None, tokenizer: Any = None) -> Path:
    (config or tiny_config("llama")).save_pretrained(folder)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    save_file({}, folder / "model.safetensors")
    return folder


def test_members_from_local_folders(tmp_path: Path) -> None:
    draft = save_tiny(tmp_path / "draft")
    target = save_tiny(tmp_path / "target", "gpt-neox", max_position_embeddings=96)
    members = load(draft=str(draft), target=target)
    assert members.names() == {"draft": str(draft), "target": str(target)}
    assert members.base is None
    assert (members.vocab_size, members.context, members.eos_ids) == (96, 96, frozenset({1}))
    assert members.draft is not None
    assert members.draft.info.family == "llama"
    ids = members.tokenizer.encode("the cat in there")
    assert members.tokenizer.decode(ids) == "the cat in there"
    logits = members.draft.session(1).score([ids], 1)
    assert logits.dtype == torch.float32
    assert members.draft.device == torch.device("cpu")


def test_the_same_model_twice_is_loaded_once(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "one")
    members = load(draft=str(folder), target=folder, base=str(tmp_path / ".." / tmp_path.name / "one"))
    assert members.draft is members.target is members.base


def test_models_at_hand_are_taken_as_they_are() -> None:
    tokenizer = tiny_tokenizer()
    draft, target = (TransformersModel(tiny_model(kind), tokenizer, kind) for kind in ("llama", "gpt2"))
    members = load(draft=draft, target=target)
    assert members.draft is draft
    assert dict(members) == {"draft": draft, "target": target}
    assert members == Members.of(draft, target)


def test_models_at_hand_are_compared_whatever_their_names() -> None:
    models = [TransformersModel(tiny_model("llama"), tiny_tokenizer(digits=digits), "same") for digits in (False, True)]
    assert "different tokenizers: their pre-tokenizers differ" in str(Members.of(*models).difference)
    with pytest.raises(ValueError, match="different tokenizers: their pre-tokenizers differ"):
        Members.of(models[0], models[0], models[1])
    without_tokenizer = TransformersModel(tiny_model("llama", vocab_size=128))
    assert Members.of(models[0], without_tokenizer).vocab_size == 96


def test_dtype(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "half", dtype="bfloat16")
    tiny_model("llama").to(torch.bfloat16).save_pretrained(folder)
    for dtype, expected in (("auto", "float32"), ("bfloat16", "bfloat16")):
        target: Any = load(target=folder, dtype=dtype).target
        assert target.kind.removesuffix(" pairs") == expected
    target = load(target=folder, dtype="float16").target
    assert target.module.dtype == torch.float16


def test_padding_rows_are_cropped(tmp_path: Path) -> None:
    draft = save_tiny(tmp_path / "draft", vocab_size=128)
    target = save_tiny(tmp_path / "target", vocab_size=112)
    members = load(draft=draft, target=target)
    assert members.vocab_size == 112
    assert members.draft is not None
    assert members.draft.vocab_size == 128


@pytest.mark.usefixtures("no_weights")
def test_a_token_among_the_cropped_rows_is_a_difference(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<role{i}>" for i in range(20)]})
    draft = save_without_weights(tmp_path / "draft", tiny_config("llama", vocab_size=128), tokenizer)
    target = save_without_weights(tmp_path / "target", tiny_config("llama", vocab_size=112))
    difference = plan(draft=draft, target=target).difference
    assert difference is not None
    assert re.search(r"different vocabularies.*<role19>.*115.*112 ids", difference)
    with pytest.raises(ValueError, match=r"different vocabularies.*<role19>.*115.*112 ids") as caught:
        load(draft=target, target=target, base=draft)
    assert str(draft) in str(caught.value)
    assert str(target) in str(caught.value)


@pytest.mark.usefixtures("no_weights")
def test_different_tokenizers_are_named_by_both_names(tmp_path: Path) -> None:
    draft = save_without_weights(tmp_path / "draft", tokenizer=tiny_tokenizer(special=("<bos>", "<eos>")))
    target = save_without_weights(tmp_path / "target")
    assert "different tokenizers: id 0 is '<bos>'" in str(plan(draft=str(draft), target=str(target)).difference)
    with pytest.raises(ValueError, match=r"different tokenizers: id 0 is .*'<s>'") as caught:
        load(draft=str(draft), target=str(draft), base=str(target))
    assert str(draft) in str(caught.value)
    assert str(target) in str(caught.value)


def test_differences_of_tokenizers() -> None:
    names = ("A", "B")
    one = tiny_tokenizer()
    assert first_difference(one, one, names) is None
    assert first_difference(one, tiny_tokenizer(), names) is None
    assert first_difference(one, tiny_tokenizer(digits=True), names) == "their pre-tokenizers differ"
    swapped = first_difference(one, tiny_tokenizer(special=("</s>", "<s>")), names)
    assert swapped == "the token '<s>' is 0 in A and 1 in B"
    assert "is only in B" in str(first_difference(one, tiny_tokenizer(size=97), names))
    chatty = tiny_tokenizer()
    chatty.add_special_tokens({"additional_special_tokens": ["<role>"]})
    assert first_difference(one, chatty, names) is None
    other = tiny_tokenizer()
    other.add_special_tokens({"additional_special_tokens": ["<tool>"]})
    assert first_difference(chatty, other, names) == "id 96 is '<role>' in A and '<tool>' in B"


def test_families_that_share_their_tokenizer_files(tmp_path: Path) -> None:
    draft, target = save_tiny(tmp_path / "draft", "qwen2"), save_tiny(tmp_path / "target", "llama")
    assert (draft / "tokenizer.json").read_bytes() == (target / "tokenizer.json").read_bytes()
    read = {
        folder: (transformers.AutoTokenizer.from_pretrained(folder), plain_tokenizer(folder))
        for folder in (draft, target)
    }
    assert read[draft][0].backend_tokenizer.to_str() != read[target][0].backend_tokenizer.to_str()
    for one, other in product(read[draft], read[target]):
        assert first_difference(one, other, ("draft", "target")) is None
    assert load(draft=draft, target=target).difference is None
    save_tiny(tmp_path / "draft", "qwen2", tokenizer=tiny_tokenizer(digits=True))
    assert "different tokenizers" in str(load(draft=draft, target=target).difference)


def test_no_prefix_is_an_empty_prefix() -> None:
    one, two = tiny_tokenizer(), tiny_tokenizer()
    one.backend_tokenizer.model.continuing_subword_prefix = ""
    assert one.backend_tokenizer.to_str() != two.backend_tokenizer.to_str()
    assert first_difference(one, two, ("A", "B")) is None
    one.backend_tokenizer.model.continuing_subword_prefix = "##"
    assert "continuing_subword_prefix is '##' in A and None in B" in str(first_difference(one, two, ("A", "B")))


def test_tokenizers_that_hide_their_rules_are_probed() -> None:
    class Hidden:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def get_vocab(self) -> Any:
            return self.inner.get_vocab()

        def encode(self, text: str, add_special_tokens: bool) -> Any:
            return self.inner.encode(text, add_special_tokens=add_special_tokens)

    one = Hidden(tiny_tokenizer())
    assert first_difference(one, Hidden(tiny_tokenizer()), ("A", "B")) is None
    lower = tiny_tokenizer()
    lower.backend_tokenizer.normalizer = __import__("tokenizers").normalizers.Lowercase()
    assert "split" in str(first_difference(one, Hidden(lower), ("A", "B")))


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("kind", "config", "words"),
    [("Rwkv", {"hidden_size": 16}, "does not take as a cache"), ("xLSTM", {}, "do not mention")],
)
def test_states_that_no_session_can_keep_are_refused_before_their_weights(
    tmp_path: Path, kind: str, config: dict[str, Any], words: str
) -> None:
    folder = save_without_weights(tmp_path / "state", getattr(transformers, f"{kind}Config")(**config))
    with pytest.raises(ValueError, match=f"{folder}.*{kind}ForCausalLM.*cannot be used: .*recurrent state.*{words}"):
        load(target=folder)


@pytest.mark.usefixtures("no_weights")
def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = save_without_weights(tmp_path / "old")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pickle \(pytorch_model.bin\).*safetensors"):
        load(target=folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match="no weights in the safetensors format"):
        load(target=folder)


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "no model is given"),
        ({"target": "pocket-3t"}, "no bundled model 'pocket-3t': "),
        ({"target": "./nowhere"}, r"'\./nowhere'.*no such folder"),
        ({"target": Path("nowhere")}, "'nowhere'.*no such folder"),
        ({"target": "nobody/nothing"}, "'nobody/nothing'.*local folder.*bundled"),
        ({"target": "x", "dtype": "int3"}, "dtype='int3' is unknown: choose auto, float32"),
        ({"target": "x", "device": "tpu"}, "device='tpu' is unknown: choose auto, cpu"),
        ({"target": "x", "device": "cuda:"}, "unknown"),
        ({"target": "x", "device": "cuda:99"}, "not there"),
    ],
)
def test_impossible_requests(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load(**arguments)


def test_auto_is_the_cpu_where_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    checkpoint = open_checkpoint(save_without_weights(tmp_path / "one"))
    assert place(checkpoint, "auto") == "cpu"
    with pytest.raises(ValueError, match="no GPU"):
        check_device("cuda")


def test_auto_takes_one_gpu_where_the_model_fits_and_spreads_it_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [1000, 5000]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (free[gpu.index], 9000))
    folder = save_without_weights(tmp_path / "one")
    weights = folder / "model.safetensors"
    save_file({"some": torch.zeros(3000 - 72, dtype=torch.uint8)}, weights)
    assert weights.stat().st_size == 3000
    assert place(open_checkpoint(folder), "auto") == "cuda:1"
    save_file({"some": torch.zeros(4500 - 72, dtype=torch.uint8)}, weights)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="accelerate"):
        place(open_checkpoint(folder), "auto")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert place(open_checkpoint(folder), "auto") == "auto"
    check_device("cuda:1")


@pytest.fixture
def pocket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "pocket"
    monkeypatch.setattr(registry, "ROOT", root)
    for name, width in (("pocket-0.2m", 64), ("pocket-0.1m", 32), ("pocket-0.1m-tuned", 32)):
        folder = save_tiny(root / name, hidden_size=width, tie_word_embeddings=width == 32)
        facts = {"tuned_from": "pocket-0.1m"} if name.endswith("tuned") else {}
        (folder / "pocket.json").write_text(json.dumps(facts))
    return root


def test_the_registry_reads_headers_only(pocket: Path, no_weights: None) -> None:
    listed = bundled()
    assert [info.name for info in listed] == ["pocket-0.1m", "pocket-0.1m-tuned", "pocket-0.2m"]
    assert [info.tuned_from for info in listed] == [None, "pocket-0.1m", None]
    assert {info.family for info in listed} == {"pocket"}
    with pytest.raises(ValueError, match=r"'pocket-7b': the bundled models are pocket-0.1m, pocket-0.1m-tuned"):
        load(target="pocket-7b")


def test_a_bundled_name_is_its_folder(pocket: Path) -> None:
    members = load(draft="pocket-0.1m", target="pocket-0.2m", base="pocket-0.1m-tuned")
    for listed in bundled():
        module = tiny_model(
            "llama",
            hidden_size=64 if listed.name == "pocket-0.2m" else 32,
            tie_word_embeddings=listed.name != "pocket-0.2m",
        )
        counted = TransformersModel(module).info
        assert (listed.parameters, listed.non_embedding_parameters) == (
            counted.parameters,
            counted.non_embedding_parameters,
        )
    assert members.target is not None
    assert members.target.info == bundled()[-1]
    assert members.names()["base"] == "pocket-0.1m-tuned"


def test_nothing_bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "ROOT", tmp_path / "none")
    assert bundled() == []
    with pytest.raises(ValueError, match="no models are bundled"):
        load(target="pocket-1m")
