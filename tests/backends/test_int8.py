"""Weights of eight bits: near the model that they round, row by row, and never a change of what the target writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numba import njit
from torch import nn

import fsgen
from fsgen import SamplingParams
from fsgen.backends import Model, ModelInfo, int4, int8, load
from fsgen.backends.cpu import gemm, weights
from fsgen.backends.cpu.arithmetic import quantize
from fsgen.backends.cpu.gemm import PANEL
from fsgen.backends.cpu.memory import BFLOAT16, FLOAT32, INT4_PAIR, INT8_PAIR, INT16_PAIR, OPTIONS, pointer
from fsgen.backends.cpu.model import CpuModel
from fsgen.backends.cpu.modules import weights_of
from fsgen.backends.cpu.weights import Linear, pack
from fsgen.backends.transformers.checkpoint import open_with_transformers
from fsgen.backends.transformers.model import TransformersModel
from fsgen.metrics import Counts
from tests.tiny import tiny_model, tiny_tokenizer

DRAFT, TARGET = "pocket-0.6m", "pocket-4m"
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


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt-neox"])
def test_a_model_is_near_the_one_that_it_rounds(architecture: str, compiled: bool) -> None:
    plain = TransformersModel(tiny_model(architecture), tiny_tokenizer(), architecture, compiled=compiled)
    module = tiny_model(architecture)
    int8.quantise(module, architecture)
    assert not any(type(part) is nn.Linear for part in module.modules())
    rounded = TransformersModel(module, tiny_tokenizer(), architecture, info=plain.info, compiled=compiled)
    texts = [[5, 9, 30, 31, 7], [12, 40]]
    one, other = (model.session(2).score(texts, 1).softmax(-1) for model in (plain, rounded))
    assert 0 < float((one - other).abs().sum(-1).max()) < 0.1


@pytest.mark.parametrize("pairs", [False, *[True] * gemm.HAS_INT8_PAIRS])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_the_compiled_pass_reads_the_rounded_weights(
    architecture: str, pairs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "HAS_INT8_PAIRS", pairs)
    module = tiny_model(architecture, attention_bias=True) if architecture != "qwen2" else tiny_model(architecture)
    int8.quantise(module, architecture)
    assert weights_of(module)
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
    # Pairs round the inputs to sixteen bits.
    assert (ours - expected).abs().max() < (5e-4 if pairs else 1e-4)


@pytest.mark.skipif(not gemm.HAS_INT8_PAIRS, reason="this processor does not multiply pairs of whole numbers")
@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(1, 64, 32), (2, 66, 96), (3, 512, 64), (9, 1300, 160)])
def test_products_of_pairs_are_exact(tokens: int, inputs: int, outputs: int) -> None:
    rng, blocks = np.random.default_rng(tokens), -(-inputs // 512)
    x = rng.integers(-32767, 32768, (tokens, inputs)).astype(np.int16)
    weight = rng.integers(-127, 128, (outputs, inputs)).astype(np.int8)
    x[0], weight[0] = 32767, -127  # the largest sums that there can be
    steps, scales = rng.random((tokens, blocks), np.float32), rng.random(outputs, np.float32)
    packed, out = pack(torch.from_numpy(weight), inputs, 2).numpy(), np.zeros((tokens, outputs), np.float32)
    zeros = np.zeros(outputs, np.float32)
    given = [array.ctypes.data for array in (x, steps, packed, scales, zeros, out)]
    _multiply(*given, tokens, inputs, outputs, blocks)
    expected = np.zeros((tokens, outputs))
    for block in range(blocks):
        part = slice(512 * block, 512 * (block + 1))
        sums = x[:, part].astype(np.int64) @ weight[:, part].T.astype(np.int64)
        expected += sums.astype(np.float32) * steps[:, block, None].astype(np.float64)
    np.testing.assert_allclose(out, expected * scales, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@njit(**OPTIONS)
def _multiply(
    x: Any, steps: Any, weight: Any, scales: Any, zeros: Any, out: Any, tokens: int, inputs: int, outputs: int,
    blocks: int,
) -> None:  # fmt: skip
    rows = gemm.Quantized(pointer(x, INT16_PAIR), inputs // 2, pointer(steps, FLOAT32), blocks)
    columns = gemm.Columns(pointer(weight, INT8_PAIR), PANEL, inputs // 2 * PANEL, pointer(scales, FLOAT32), PANEL)
    add, into = gemm.Rows(pointer(zeros, FLOAT32), 0), gemm.Rows(pointer(out, FLOAT32), outputs)
    gemm.gemm(tokens, inputs // 2, outputs // gemm.LANES, rows, columns, add, into, gemm.ADD_LAST)


@pytest.mark.skipif(not gemm.HAS_INT8_PAIRS, reason="this processor does not multiply pairs of whole numbers")
@pytest.mark.parametrize(("tokens", "inputs"), [(1, 32), (2, 66), (3, 544), (9, 1300)])
def test_products_of_four_bits_are_exact(tokens: int, inputs: int) -> None:
    outputs, groups, blocks = 64, -(-inputs // 32), -(-inputs // 512)
    torch.manual_seed(tokens)
    levels, scales = int4.rounded(torch.randn(outputs, inputs))
    layer = Linear([(levels, scales, None)], 1, inputs, 2)
    x = torch.randint(-32767, 32768, (tokens, inputs)).to(torch.int16).numpy()
    steps = np.random.default_rng(0).random((tokens, blocks), np.float32)
    out, zeros = np.zeros((tokens, outputs), np.float32), np.zeros(outputs, np.float32)
    assert layer.scales is not None
    given = [x.ctypes.data, steps.ctypes.data, layer.weight.data_ptr(), layer.scales.data_ptr(), zeros.ctypes.data]
    _multiply4(*given, out.ctypes.data, tokens, inputs, outputs, blocks, groups)
    weight = (levels.double() - 8) * scales.double().repeat_interleave(32, 1)[:, :inputs]
    steps_of = np.repeat(steps, 512, 1)[:, :inputs].astype(np.float64)
    expected = (x * steps_of) @ weight.numpy().T
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@njit(**OPTIONS)
def _multiply4(
    x: Any, steps: Any, weight: Any, scales: Any, zeros: Any, out: Any, tokens: int, inputs: int, outputs: int,
    blocks: int, groups: int,
) -> None:  # fmt: skip
    rows = gemm.Quantized(pointer(x, INT16_PAIR), inputs // 2, pointer(steps, FLOAT32), blocks)
    columns = gemm.Columns(
        pointer(weight, INT4_PAIR), PANEL, inputs // 2 * PANEL, pointer(scales, BFLOAT16), groups * PANEL
    )
    add, into = gemm.Rows(pointer(zeros, FLOAT32), 0), gemm.Rows(pointer(out, FLOAT32), outputs)
    gemm.gemm(tokens, inputs // 2, outputs // gemm.LANES, rows, columns, add, into, gemm.ADD_LAST)


def test_rounding_to_four_bits() -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, 70)
    weight[3] = 0
    levels, scales = int4.rounded(weight)
    assert (levels.dtype, levels.shape, scales.shape) == (torch.uint8, weight.shape, (40, 3))
    steps = scales.repeat_interleave(32, 1)[:, :70]
    off = ((levels.float() - 8) * steps - weight).abs()
    # Half a step, but a whole one at the end that has one level less.
    assert (off <= steps.abs() * 1.01 + 1e-6).all()
    assert (off <= steps.abs() * 0.51).float().mean() > 0.95
    assert not ((levels.float() - 8) * steps)[3].any()


@pytest.mark.skipif(not gemm.HAS_INT8_PAIRS, reason="this processor does not multiply pairs of whole numbers")
def test_a_model_of_four_bits() -> None:
    exact, members = load(target=DRAFT), load(draft=DRAFT, target="pocket-1.5m", weights="int4")
    assert (_kind(members.draft), _kind(members.target)) == ("int4", "int4")
    assert members.draft is not None
    assert exact.target is not None
    ids = exact.tokenizer.encode(PROMPTS[0])
    one, other = (model.session(1).score([ids], len(ids))[0].softmax(-1) for model in (exact.target, members.draft))
    assert 0 < float((one - other).abs().sum(-1).mean()) < 0.5
    sampling = SamplingParams(max_tokens=48)
    expected = fsgen.generate(members, PROMPTS, "plain", sampling=sampling)
    for batch_size in (1, 3):
        texts = fsgen.generate(members, PROMPTS, "speculative", None, 4, sampling, batch_size)
        assert [text.token_ids for text in texts] == [text.token_ids for text in expected]


def test_four_bits_are_for_the_compiled_pass(tmp_path: Path) -> None:
    tiny_model("gpt2").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"does not run on the compiled .*, which int4 weights need"):
        load(target=tmp_path, weights="int4")


def test_four_bits_need_the_instruction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "HAS_INT8_PAIRS", False)
    with pytest.raises(ValueError, match="int4 weights need a processor with AVX-512 VNNI"):
        load(target=DRAFT, weights="int4")


@njit(**OPTIONS)
def _quantize(numbers: Any, out: Any, scale: Any) -> None:
    quantize(numbers, out, scale)


@pytest.mark.parametrize("count", [2, 32, 176, 512])
def test_inputs_are_rounded_to_the_nearest_of_65535_levels(count: int) -> None:
    numbers = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    out, scale, top = np.zeros(count, np.int16), np.zeros(1, np.float32), np.abs(numbers).max()
    _quantize(numbers, out, scale)
    assert scale[0] == pytest.approx(top / 32767, rel=1e-6)
    assert (np.abs(out - numbers.astype(np.float64) * 32767 / top) < 0.501).all()
    _quantize(np.zeros(count, np.float32), out, scale)
    assert not out.any()
    assert scale[0] == 0
    numbers[1] = np.nan  # must not vanish in whole numbers
    _quantize(numbers, out, scale)
    assert np.isnan(scale[0])


def test_a_model_of_other_layers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'some' \(GPT2LMHeadModel\) cannot have int8 weights: transformer.h.0"):
        int8.quantise(tiny_model("gpt2"), "some")


def test_a_processor_with_inexact_products_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    int8.check_products()
    exact = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: exact(a, b).clamp(max=2**15 - 1))
    with pytest.raises(ValueError, match="int8 weights need a processor"):
        load(draft=DRAFT, target=TARGET, weights="draft=int8")


def test_greedy_texts_stay_the_targets(target: Model) -> None:
    members = load(draft=DRAFT, target=target, weights="draft=int8")
    sampling = SamplingParams(max_tokens=48)
    expected = fsgen.generate(members, PROMPTS, "plain", sampling=sampling)
    for batch_size in (1, 3):
        texts = fsgen.generate(members, PROMPTS, "speculative", None, 4, sampling, batch_size)
        assert [text.token_ids for text in texts] == [text.token_ids for text in expected]
        rate = Counts.total(text.stats for text in texts).acceptance_rate
        assert rate is not None
        assert 0.5 < rate < 1


def test_a_text_does_not_depend_on_its_batch(target: Model) -> None:
    members = load(draft=DRAFT, target=target, weights="draft=int8")
    sampling = SamplingParams(max_tokens=24, temperature=0.8, seed=3)
    alone = [fsgen.generate(members, [prompt], "speculative", sampling=sampling)[0] for prompt in PROMPTS]
    together = fsgen.generate(members, PROMPTS, "speculative", sampling=sampling)
    assert [text.token_ids for text in together] == [text.token_ids for text in alone]


def test_the_draft_alone_is_rounded() -> None:
    members = load(draft=DRAFT, target=DRAFT, weights="draft=int8")
    assert (_kind(members.draft), _kind(members.target)) == ("int8", "float32")
    assert members.draft is not None
    assert members.target is not None
    assert members.draft.info == members.target.info


def test_a_rounded_target_writes_its_own_texts() -> None:
    members = load(draft=DRAFT, target="pocket-1.5m", weights="int8")
    assert (_kind(members.draft), _kind(members.target)) == ("int8", "int8")
    sampling = SamplingParams(max_tokens=48)
    expected = fsgen.generate(members, PROMPTS, "plain", sampling=sampling)
    for method in ("speculative", "contrastive", "ensemble"):
        alone = expected if method == "speculative" else fsgen.generate(members, PROMPTS, method, "always", 1, sampling)
        texts = fsgen.generate(members, PROMPTS, method, None, 4, sampling, 3)
        assert [text.token_ids for text in texts] == [text.token_ids for text in alone]
    mixed = load(draft=DRAFT, target="pocket-1.5m", weights="target=int8, draft=bfloat16")
    assert (_kind(mixed.draft), _kind(mixed.target)) == ("bfloat16", "int8")


@pytest.mark.parametrize(("weights", "expected"), [("bfloat16", "bfloat16"), ("auto", "float32")])
def test_a_draft_in_another_type(weights: str, expected: str) -> None:
    members = load(draft=DRAFT, target="pocket-1.5m", weights=f"draft={weights}")
    assert _kind(members.draft) == expected
    assert _kind(members.target) == "float32"


def test_a_half_precision_checkpoint_counts_its_weights_as_they_were(tmp_path: Path) -> None:
    tiny_model("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    checkpoint = open_with_transformers(tmp_path)
    plain, rounded = (checkpoint.load(kind) for kind in ("float32", "int8"))
    assert rounded.info == plain.info
    assert {weight.dtype for weight in rounded.module.parameters()} == {torch.float32}


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"draft": DRAFT, "weights": "int2"}, "weights='int2' is unknown: choose auto, .* int8, int4"),
        ({"weights": "draft=int8"}, "weights='draft=int8' names 'draft': weights are still to be loaded of target"),
        ({"draft": DRAFT, "weights": "draft=int8,draft=auto"}, "names 'draft' twice"),
        ({"draft": DRAFT, "weights": "draft=int8,target=int3"}, "weights='int3' is unknown"),
        ({"draft": DRAFT, "dtype": "int8"}, "dtype='int8' is unknown"),
    ],
)
def test_what_is_refused_before_weights_load(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load(target=TARGET, **arguments)


def test_a_draft_at_hand_keeps_its_weights(target: Model) -> None:
    with pytest.raises(ValueError, match="names 'draft': weights are still to be loaded of target"):
        load(draft=target, target=TARGET, weights="draft=int8")
    with pytest.raises(ValueError, match="changes nothing: no member has weights that are still to be loaded"):
        load(draft=target, target=target, weights="int8")


def test_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsgen.backends.places.check_device", lambda device: None)
    with pytest.raises(ValueError, match=r"int8 weights are for a CPU, and 'pocket-0.6m' would go to cuda:0"):
        load(draft=DRAFT, target=TARGET, device="cuda:0", weights="draft=int8")


def _kind(model: Model | None) -> str:
    assert isinstance(model, CpuModel)
    return model.kind.removesuffix(" pairs")
