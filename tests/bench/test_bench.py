"""`fsgen bench`: acceptance that is set is had, texts stay the target's, random models have their shapes."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
import torch

import fsgen
from fsgen import SamplingParams
from fsgen.backends import Members, plan
from fsgen.backends.cpu.gemm import HAS_INT8_PAIRS
from fsgen.backends.transformers.model import TransformersModel
from fsgen.bench import shapes, speed
from fsgen.bench.scripted import ScriptedModel
from fsgen.metrics import Counts
from tests.tiny import tiny_model, tiny_tokenizer

PROMPTS = [[1 + (7 * i + j) % 90 for j in range(6)] for i in range(8)]
SAMPLING = SamplingParams(max_tokens=48, ignore_eos=True)


@pytest.fixture(scope="module")
def members() -> Members:
    models = [TransformersModel(tiny_model("llama", seed), tiny_tokenizer()) for seed in range(2)]
    return Members.of(draft=models[0], target=models[1])


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.8, 1.0])
def test_a_scripted_draft_has_the_acceptance_that_is_set(members: Members, rate: float) -> None:
    assert members.draft is not None
    plain = fsgen.generate(members, PROMPTS, "plain", sampling=SAMPLING)
    scripts = {tuple(ids): [*ids, *text.token_ids] for ids, text in zip(PROMPTS, plain, strict=True)}
    scripted = Members.of(draft=ScriptedModel(members.draft, scripts, rate), target=members.target)
    for length in (4, "auto"):
        texts = fsgen.generate(scripted, PROMPTS, "speculative", None, length, SAMPLING, 3)
        assert [text.token_ids for text in texts] == [text.token_ids for text in plain]
    counts = Counts.total(text.stats for text in fsgen.generate(scripted, PROMPTS, "oracle", sampling=SAMPLING))
    assert counts.collaboration_frequency == pytest.approx(1 - rate, abs=0.08 * (0 < rate < 1))


def test_an_impossible_acceptance(members: Members) -> None:
    assert members.draft is not None
    with pytest.raises(ValueError, match=r"an acceptance of 1\.5 is impossible"):
        ScriptedModel(members.draft, {}, 1.5)


def test_each_way_writes_all_tokens(members: Members) -> None:
    found = list(speed.ways(members, PROMPTS[:1], 8, 1, 2, [0.5], compare=True))
    names = ["plain", "speculative, 0.5 accepted", "transformers", "transformers, assisted"]
    assert [way.name for way in found] == names
    speeds = speed.measure(found, 1, 2, torch.device("cpu"))
    assert {way.tokens for way in found} == {8}
    assert all(one.tokens_per_second > 0 and one.ratio > 0 for one in speeds)
    assert speeds[0].ratio == 1
    assert [one.tokens_per_call is not None for one in speeds] == [False, True, False, False]


@pytest.mark.parametrize("path", ["compiled", "transformers"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_random_model_has_its_shape(path: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 300}  # fmt: skip
    monkeypatch.setitem(shapes.SHAPES, "tiny", small)
    if path == "transformers":
        monkeypatch.setattr("fsgen.backends.places.on_cpu", lambda device: False)
    model: Any = shapes.random_model("random:tiny", dtype, "cpu")
    assert type(model).__name__ == ("CpuModel" if path == "compiled" else "TransformersModel")
    assert (model.vocab_size, model.info.name) == (300, "random:tiny")
    sampling = SamplingParams(20, ignore_eos=True)
    text = fsgen.generate(Members.of(target=model), [[5, 6, 7]], "plain", sampling=sampling)[0]
    assert len(text.token_ids) == 20


def test_what_bench_prints(members: Members, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsgen.bench.speed.bandwidth", lambda device: 1e10)
    planned = plan(draft=members.draft, target=members.target)
    monkeypatch.setattr("fsgen.cli.bench._planned", lambda *_: planned)
    words = ["--prompt-tokens", "8", "--max-tokens", "4", "--turns", "1", "--batch-size", "1,2"]
    status, out, _ = run("bench", *words, "--json")
    assert status == 0
    record = json.loads(out)
    assert record["bandwidth"] == 1e10
    assert [(one["batch_size"], one["way"]) for one in record["speeds"]] == [
        (size, way) for size in (1, 2) for way in ("plain", "speculative")
    ]
    assert record["calls"]["2"]["draft"] > 0
    status, out, _ = run("bench", *words)
    assert status == 0
    assert "reads 10.0 GB/s" in out
    assert out.count("speculative") == 2


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--draft ngram", "is no model"),
        ("--max-tokens 100000", "the window is"),
        ("--target random:0.5B --max-tokens 40000", "the window is 32768"),
        ("--target random:0.5B --transformers", "the target 'random:0.5B'"),
        pytest.param(
            "--weights draft=int4 --transformers",
            "the draft 'pocket-0.6m'",
            marks=pytest.mark.skipif(not HAS_INT8_PAIRS, reason="four bits need AVX-512 VNNI"),
        ),
        ("--target pocket-4m --acceptance 0.5", "is for a draft"),
        ("--target vllm:http://127.0.0.1:9#big", "does not run on this machine"),
        ("--target pocket-4m --draft sglang:http://127.0.0.1:9#small", "does not run on this machine"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_loaded(
    words: str, error: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for loads in ("fsgen.backends.members.Plan.load", "fsgen.bench.shapes.random_model"):
        monkeypatch.setattr(loads, lambda *_: pytest.fail("something was loaded"))
    pair = [] if "--target" in words else ["--target", "pocket-4m"]
    if "--draft" not in words and "weights" in words:
        pair += ["--draft", "pocket-0.6m"]
    status, _, err = run("bench", *pair, *words.split())
    assert status == 2
    assert error in err


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("architecture", "slots"), [("llama", lambda n: -(-n // 32) * 32), ("gpt2", lambda n: 64)])
def test_keys_and_values_take_what_the_formula_says(architecture: str, slots: Any, dtype: torch.dtype) -> None:
    """docs/gpu.md: 2 x layers x heads of keys and values x their size x slots x bytes a number, for each row."""
    rows, tokens = 3, 40
    model = TransformersModel(tiny_model(architecture).to(dtype), tiny_tokenizer())
    config = model.module.config
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if architecture == "llama":
        size = -(-size // 16) * 16  # the compiled pass fills values up to whole vectors
    session: Any = model.session(rows)
    for row in range(rows):
        session.begin(row, 4, tokens)
    session.score([[1, 2, 3, 4]] * rows, 1)
    held = session._forward
    if architecture == "llama":
        found = [held._keys, held._values]
    else:
        found = [part for layer in held._cache.layers for part in (layer.keys, layer.values)]
    allocated = sum(part.nbytes for part in found)
    assert allocated == rows * model.cache_bytes(tokens)
    assert allocated <= 2 * config.num_hidden_layers * heads * size * rows * slots(tokens) * dtype.itemsize


def _counting(method: Any, name: str, reads: Counter[str]) -> Any:
    def counted(self: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        reads[name] += 1
        return method(self, *arguments, **options)

    return counted


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("method", "length"), [("plain", None), ("speculative", 4)])
def test_what_a_round_reads_back(
    method: str, length: int | None, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/gpu.md: one read for each drafted token and some two for what System 2 decides, for all rows together."""
    models = [TransformersModel(tiny_model("gpt2", seed), tiny_tokenizer()) for seed in range(2)]
    members = Members.of(draft=models[0], target=models[1])
    reads = Counter[str]()
    for name in ("tolist", "item", "numpy", "__bool__", "__int__", "__float__"):
        plain = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, _counting(plain, name, reads))
    found = []
    for tokens in (12, 24):
        reads.clear()
        sampling = SamplingParams(tokens, temperature, ignore_eos=True)
        texts = fsgen.generate(members, PROMPTS, method, None, length, sampling, 8)
        rounds = max(text.stats.target_calls for text in texts)
        found.append((reads.total(), rounds))
    (few, first), (many, last) = found
    assert (many - few) / (last - first) <= (1 if length is None else length + 2.5)
