"""Weights of eight bits: near the model that they round, row by row, and never a change of what the target writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fsgen
from fsgen import SamplingParams
from fsgen.backends import Model, ModelInfo, int8, load
from fsgen.backends.cpu.weights import supports
from fsgen.backends.transformers.checkpoint import open_checkpoint
from fsgen.backends.transformers.model import TransformersModel, load_weights
from fsgen.metrics import Counts
from tests.tiny import tiny_model, tiny_tokenizer

DRAFT, TARGET = "pocket-0.6m", "pocket-8m"
PROMPTS = [
    "Question: Tom has 12 apples and buys 30 more. How many apples does he have?\nAnswer:",
    "Question: A farm has 3 cows.\nAnswer:",
    "def add(a, b):\n",
]


@pytest.fixture(scope="module")
def target() -> Model:
    model = load(target=TARGET).target
    assert model is not None
    return model


@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_is_near_the_one_that_it_rounds(bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(80, 48, bias=bias), torch.randn(2, 5, 80)
    with torch.inference_mode():
        exact, rounded = layer(x), int8.Int8Linear.rounding(layer)(x)
    assert rounded.shape == exact.shape
    assert rounded.dtype == torch.float32
    off = (rounded - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert 0 < float(off.max()) < 0.03


def test_a_layer_computes_the_rounded_weights() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, 8)
    rounded = int8.Int8Linear.rounding(layer)
    x = torch.randint(-127, 128, (4, 16)).float()
    x[:, 0] = 127  # the scale of every row is one: nothing of the input is lost
    weight = rounded.weight.float() * rounded.scales[:, None]
    assert float((weight - layer.weight.detach()).abs().max()) <= float(rounded.scales.max()) / 2 * 1.001
    torch.testing.assert_close(rounded(x), nn.functional.linear(x, weight, layer.bias))


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    layer = int8.Int8Linear.rounding(nn.Linear(64, 40))
    x = torch.randn(33, 64) * torch.logspace(-3, 3, 33)[:, None]
    together = layer(x)
    assert all(torch.equal(together[row : row + 1], layer(x[row : row + 1])) for row in range(len(x)))
    zeros = layer(torch.zeros(1, 64))
    assert layer.bias is not None
    assert torch.equal(zeros[0], layer.bias)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt-neox"])
def test_a_model_is_near_the_one_that_it_rounds(architecture: str) -> None:
    plain = TransformersModel(tiny_model(architecture), tiny_tokenizer(), architecture)
    module = tiny_model(architecture)
    int8.quantise(module, architecture)
    assert not any(type(part) is nn.Linear for part in module.modules())
    rounded = TransformersModel(module, tiny_tokenizer(), architecture, info=plain.info)
    texts = [[5, 9, 30, 31, 7], [12, 40]]
    one, other = (model.session(2).score(texts, 1).softmax(-1) for model in (plain, rounded))
    assert 0 < float((one - other).abs().sum(-1).max()) < 0.1


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_the_compiled_pass_reads_the_rounded_weights(architecture: str) -> None:
    module = tiny_model(architecture, attention_bias=True) if architecture != "qwen2" else tiny_model(architecture)
    int8.quantise(module, architecture)
    assert supports(module)
    texts = [[5, 9, 30, 31, 7], [12, 40]]
    info = ModelInfo(architecture, "", architecture, 1, 1)
    ours = TransformersModel(module, tiny_tokenizer(), architecture, info=info).session(2).score(texts, 1)[:, 0]
    for part in list(module.modules()):  # the same model with the rounded weights as numbers, inputs not rounded
        for name, child in list(part.named_children()):
            if isinstance(child, int8.Int8Linear):
                layer = nn.Linear(child.weight.shape[1], child.weight.shape[0], bias=child.bias is not None)
                layer.weight = nn.Parameter(child.weight * child.scales[:, None])
                if child.bias is not None:
                    layer.bias = nn.Parameter(child.bias)
                setattr(part, name, layer)
    with torch.inference_mode():
        expected = torch.stack([module(torch.tensor([text]), use_cache=False).logits[0, -1] for text in texts])
    assert (ours - expected).abs().max() < 1e-4


def test_a_model_of_other_layers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'some' \(GPT2LMHeadModel\) cannot have int8 weights: transformer.h.0"):
        int8.quantise(tiny_model("gpt2"), "some")


def test_a_processor_with_inexact_products_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    int8.check_products()
    exact = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: exact(a, b).clamp(max=2**15 - 1))
    with pytest.raises(ValueError, match="int8 weights need a processor"):
        load(draft=DRAFT, target=TARGET, draft_weights="int8")


def test_greedy_texts_stay_the_targets(target: Model) -> None:
    members = load(draft=DRAFT, target=target, draft_weights="int8")
    sampling = SamplingParams(max_tokens=48)
    expected = fsgen.generate(members, PROMPTS, "plain", sampling=sampling)
    for batch_size in (1, 3):
        texts = fsgen.generate(members, PROMPTS, "speculative", None, 4, sampling, batch_size)
        assert [text.token_ids for text in texts] == [text.token_ids for text in expected]
        rate = Counts.total(text.stats for text in texts).acceptance_rate
        assert rate is not None
        assert 0.5 < rate < 1


def test_a_text_does_not_depend_on_its_batch(target: Model) -> None:
    members = load(draft=DRAFT, target=target, draft_weights="int8")
    sampling = SamplingParams(max_tokens=24, temperature=0.8, seed=3)
    alone = [fsgen.generate(members, [prompt], "speculative", sampling=sampling)[0] for prompt in PROMPTS]
    together = fsgen.generate(members, PROMPTS, "speculative", sampling=sampling)
    assert [text.token_ids for text in together] == [text.token_ids for text in alone]


def test_the_draft_alone_is_rounded() -> None:
    members = load(draft=DRAFT, target=DRAFT, draft_weights="int8")
    draft, target = _module(members.draft), _module(members.target)
    assert draft is not target
    assert any(isinstance(part, int8.Int8Linear) for part in draft.modules())
    assert not any(isinstance(part, int8.Int8Linear) for part in target.modules())
    assert members.draft is not None
    assert members.target is not None
    assert members.draft.info == members.target.info


@pytest.mark.parametrize(("weights", "expected"), [("bfloat16", torch.bfloat16), ("auto", torch.float32)])
def test_a_draft_in_another_type(weights: str, expected: torch.dtype) -> None:
    members = load(draft=DRAFT, target="pocket-1.5m", draft_weights=weights)
    assert _module(members.draft).dtype == expected
    assert _module(members.target).dtype == torch.float32


def test_a_half_precision_checkpoint_counts_its_weights_as_they_were(tmp_path: Path) -> None:
    tiny_model("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    plain, rounded = (load_weights(checkpoint, kind) for kind in ("float32", "int8"))
    assert rounded.info == plain.info
    assert {weight.dtype for weight in rounded.module.parameters()} == {torch.float32}


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"draft": DRAFT, "draft_weights": "int4"}, r"draft_weights='int4' is unknown: choose auto, .* or int8"),
        ({"draft_weights": "int8"}, "draft_weights='int8' changes nothing: no draft is named"),
        ({"draft": DRAFT, "dtype": "int8"}, "dtype='int8' is unknown"),
    ],
)
def test_what_is_refused_before_weights_load(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load(target=TARGET, **arguments)


def test_a_draft_at_hand_keeps_its_weights(target: Model) -> None:
    with pytest.raises(ValueError, match="the draft pocket-8m is loaded already"):
        load(draft=target, target=TARGET, draft_weights="int8")


def test_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsgen.backends.transformers.checkpoint.check_device", lambda device: None)
    with pytest.raises(ValueError, match=r"int8 weights are for a CPU, and 'pocket-0.6m' would go to cuda:0"):
        load(draft=DRAFT, target=TARGET, device="cuda:0", draft_weights="int8")


def _module(model: Model | None) -> Any:
    assert isinstance(model, TransformersModel)
    return model.module
