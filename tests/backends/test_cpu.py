"""The compiled forward pass: what transformers computes, and the same last bit however the work is cut."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fsgen
from fsgen import SamplingParams
from fsgen.backends import ModelInfo, int8
from fsgen.backends.cpu import arithmetic, forward, gemm, memory, modules, weights
from fsgen.backends.cpu.gemm import HAS_PAIRS
from fsgen.backends.cpu.modules import weights_of
from fsgen.backends.cpu.session import CpuSession
from fsgen.backends.cpu.weights import interleave, pack
from fsgen.backends.transformers.model import TransformersModel
from fsgen.types import as_dict
from tests.backends.scripts import alone, on_threads
from tests.tiny import tiny_model, tiny_tokenizer

# Sizes that fill no panel, block or vector, beside those that do.
ODD: dict[str, Any] = {"hidden_size": 36, "intermediate_size": 50, "num_attention_heads": 3, "num_key_value_heads": 3}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, odd sizes": ("llama", {**ODD, "vocab_size": 97}),
    "llama, wide heads": ("llama", {"head_dim": 48, "attention_bias": True}),
    "llama, stretched": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}),
    "mistral, a window": ("mistral-sliding", {}),
    "qwen2, a window in one layer": ("qwen2-sliding", {}),
    "qwen3": ("qwen3", {}),
}


# Of weights; the last one only where the processor has the instruction.
HELD = ["float32", "bfloat16", *["bfloat16 pairs"] * HAS_PAIRS]


def model_of(kind: str, held: str = "float32") -> TransformersModel:
    name, sizes = KINDS[kind]
    module = tiny_model(name, 3, **sizes).to(getattr(torch, held.split()[0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "HAS_PAIRS", held == "bfloat16 pairs")
        model = TransformersModel(module, tiny_tokenizer())
        found = model.session(1)._forward
    assert isinstance(found, forward.CpuForward)
    assert found._weights.kind == held
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_transformers_does(kind: str) -> None:
    model = model_of(kind)
    rng = random.Random(1)
    texts = [[rng.randrange(96) for _ in range(n)] for n in (120, 37, 64)]
    logits = model.session(3).score(texts, [5, 37, 1])
    for row, last in enumerate((5, 37, 1)):
        assert (logits[row, -last:] - alone(model.module, texts[row], last)).abs().max() < 1e-4


@pytest.mark.parametrize("held", HELD[1:])
def test_bfloat16_is_as_near_to_float32_as_transformers_is(held: str) -> None:
    model, text = model_of("qwen3", held), list(range(1, 90))
    exact = model_of("qwen3")
    for parameter, rounded in zip(exact.module.parameters(), model.module.parameters(), strict=True):
        parameter.data.copy_(rounded)
    wanted = alone(exact.module, text, 60)
    ours = (model.session(1).score([text], 60)[0] - wanted).abs().mean()
    theirs = (alone(model.module, text, 60).float() - wanted).abs().mean()
    assert 0 < ours < theirs


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["llama, odd sizes", "mistral, a window", "qwen3", "llama, wide heads"]),
    held=st.sampled_from(HELD),
    seed=st.integers(0, 10**6),
    threads=st.integers(1, 3),
    most=st.sampled_from([3, 17, 256]),
)
def test_logits_do_not_depend_on_how_the_work_is_cut(kind: str, held: str, seed: int, threads: int, most: int) -> None:
    model, rng = _models(kind, held), random.Random(seed)
    rows = rng.randint(1, 6)
    texts = [[rng.randrange(96) for _ in range(rng.randint(1, 120))] for _ in range(rows)]
    expected = [model.session(1).score([text], len(text))[0] for text in texts]  # each alone, in one call
    session, lengths = model.session(rows), [0] * rows
    with on_threads(threads), pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "MAX_TOKENS", most)
        patch.setattr(forward, "ALONE", 0)  # several threads for the smallest pass too
        while any(length < len(text) for length, text in zip(lengths, texts, strict=True)):
            steps = [rng.choice((0, 1, 1, 2, 5, 40)) for _ in texts]
            new = [min(len(text), length + step) for text, length, step in zip(texts, lengths, steps, strict=True)]
            if new == lengths:
                continue
            given_ = [text[:n] if n > length else None for text, n, length in zip(texts, new, lengths, strict=True)]
            last = [max(1, rng.randint(0, n - length)) for n, length in zip(new, lengths, strict=True)]
            logits = session.score(given_, last)
            for row, text in enumerate(given_):
                if text is not None:
                    got = logits[row, logits.shape[1] - last[row] :]
                    assert torch.equal(got, expected[row][len(text) - last[row] : len(text)])
            lengths = new


_made: dict[tuple[str, str], TransformersModel] = {}


def _models(kind: str, held: str) -> TransformersModel:
    if (kind, held) not in _made:
        _made[kind, held] = model_of(kind, held)
    return _made[kind, held]


def test_logits_that_no_row_wants_are_zero() -> None:
    model = model_of("llama")
    logits = model.session(4).score([None, [4, 5, 6], None, [7]], [1, 2, 1, 1])
    assert logits.shape == (4, 2, 96)
    assert not logits[0].any()
    assert not logits[2].any()
    assert not logits[3, 0].any()
    assert logits[1].all()
    assert logits[3, 1].all()


@pytest.mark.parametrize("held", HELD)
def test_a_copied_beginning_is_the_computed_one(held: str) -> None:
    model = model_of("qwen3", held)
    text = [(5 * i) % 96 for i in range(100)]
    session = model.session(2)
    session.score([text, None], 1)
    for length in (40, 64, 99):
        with torch.inference_mode():
            session._forward.copy(0, 1, length)
        session._known[1] = text[:length]
        assert torch.equal(session.score([None, text], 1)[1], session.score([text, None], 1)[0])


def test_the_number_of_threads_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "ALONE", 0)
    model, text = model_of("llama"), [(5 * i) % 96 for i in range(100)]
    session = model.session(1)
    for threads, end in ((1, 40), (4, 80), (2, 100)):
        with on_threads(threads):
            got = session.score([text[:end]], 10)
        with on_threads(1):
            assert torch.equal(got, model.session(1).score([text[:end]], 10))


def test_sessions_in_two_python_threads_compute_what_each_does_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "ALONE", 0)
    model, texts = model_of("llama"), [[(k * i) % 96 for i in range(100)] for k in (5, 7)]
    with on_threads(1):
        expected = [model.session(1).score([text], len(text))[0] for text in texts]

    def token_by_token(text: list[int]) -> torch.Tensor:
        session = model.session(1)
        return torch.cat([session.score([text[: n + 1]], 1)[0] for n in range(len(text))])

    with on_threads(2), ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            assert all(map(torch.equal, pool.map(token_by_token, texts), expected))


def test_nan_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsgen.backends.transformers.model.check_finite", lambda *_: None)  # which would refuse it
    model = model_of("llama")
    model.module.model.norm.weight.data.fill_(float("nan"))
    broken = TransformersModel(model.module, tiny_tokenizer())
    assert broken.session(1).score([[1, 2, 3]], 1).isnan().all()


@settings(deadline=None)
@given(st.floats(-87, 87, width=32))
def test_exp(x: float) -> None:
    assert abs(float(arithmetic.exp(np.float32(x))) / np.exp(float(np.float32(x))) - 1) < 1e-7 * max(4, abs(x))


@memory.inlined
def _rounded(numbers: Any, halves: Any) -> None:
    for i in range(len(numbers)):
        halves[i] = arithmetic.narrow(numbers[i], halves[i])  # type: ignore[no-untyped-call]


def test_bfloat16_rounding_is_that_of_torch() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    numbers = bits.view(np.float32)[~np.isnan(bits.view(np.float32))]
    halves = np.empty(len(numbers), np.uint16)
    _rounded(numbers, halves)
    assert (halves == torch.from_numpy(numbers).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)).all()


def test_packed_weights() -> None:
    weight = torch.arange(70.0 * 3).view(70, 3)
    held = pack(weight, 5)
    assert held.shape == (3, 5, gemm.PANEL, 1)
    assert torch.equal(held.transpose(1, 2).reshape(96, 5)[:70, :3], weight)
    assert held.sum() == weight.sum()  # and 0 for the rest
    pairs = pack(weight, 4, per=2)
    assert pairs.shape == (3, 2, gemm.PANEL, 2)
    assert pairs[1, 1, 7].tolist() == [weight[39, 2], 0]
    both = interleave(torch.full((17, 2), 1.0), torch.full((17, 2), 2.0))
    assert both[:, 0].tolist() == [1.0] * 16 + [2.0] * 16 + [1.0] + [0.0] * 15 + [2.0] + [0.0] * 15


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("llama", {"hidden_act": "relu"}),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}),
        ("gemma3", {"attn_logit_softcapping": 2.0}),
        ("gpt-neox", {"hidden_act": "relu"}),
        ("gpt2", {}),
    ],
)
def test_unsupported_models_run_on_transformers(kind: str, sizes: dict[str, Any]) -> None:
    module = tiny_model(kind, **sizes)
    assert not weights_of(module)
    text = list(range(2, 40))
    assert (TransformersModel(module).session(1).score([text], 3)[0] - alone(module, text, 3)).abs().max() < 1e-4


def test_large_models_and_mixed_types_are_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny_model("llama")
    assert weights_of(module)
    assert not weights_of(tiny_model("llama").to(torch.float16))
    mixed = tiny_model("llama")
    mixed.lm_head.to(torch.bfloat16)
    assert not weights_of(mixed)
    partly = tiny_model("llama")
    partly.lm_head = int8.Int8Linear.rounding(partly.lm_head)
    assert not weights_of(partly)
    monkeypatch.setattr(modules, "LARGEST", 10_000)
    assert not weights_of(module)


@pytest.mark.parametrize("pairs", [False, *[True] * gemm.HAS_INT8_PAIRS])
def test_int8_logits_do_not_depend_on_the_batch(pairs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "HAS_INT8_PAIRS", pairs)
    module = tiny_model("qwen2")
    int8.quantise(module, "some")
    model = TransformersModel(module, tiny_tokenizer(), info=ModelInfo("some", "", "qwen2", 1, 1))
    texts = [[(3 * i + r) % 96 for i in range(20 + r)] for r in range(5)]
    together = model.session(5).score(texts, 2)
    for row, text in enumerate(texts):
        assert torch.equal(together[row], model.session(1).score([text], 2)[0])


@pytest.mark.parametrize("seed", [7, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama", "mistral-sliding"])
def test_reading_a_prefix_in_another_row_changes_no_bit(kind: str, dtype: torch.dtype, seed: int) -> None:
    window = {"sliding_window": 90} if kind == "mistral-sliding" else {}
    model = TransformersModel(tiny_model(kind, 3, max_position_embeddings=400, **window).to(dtype), tiny_tokenizer())
    rng, shared, read_elsewhere, rows = random.Random(seed), 0, 0, 6
    beginnings = [[rng.randrange(96) for _ in range(n)] for n in (150, 70, 100)]
    beginnings.append([*beginnings[0][:110], *beginnings[1]])  # one that leaves another on its way

    def text() -> list[int]:
        return [*rng.choice([beginnings[0], *beginnings]), *(rng.randrange(96) for _ in range(rng.randint(1, 40)))]

    session = model.session(rows)
    assert isinstance(session, CpuSession)
    session._cpu.reserve(400)
    session._cpu._keys.fill_(torch.nan)  # a read of slots that were never written shows
    texts = [text() for _ in range(rows)]
    for _ in range(40):
        given_ = [one if rng.random() < 0.8 else None for one in texts]
        last = [rng.randint(1, 3) for _ in texts]
        logits = session.score(given_, last)
        for row, one in enumerate(given_):
            if one is None:
                continue
            shared += (session._prefixes[row] or (0, 0))[1]
            read_elsewhere += session._missing[row]
            expected = model.session(1).score([one], last[row])[0]
            assert torch.equal(logits[row, logits.shape[1] - last[row] :], expected)
            change = rng.random()
            if change < 0.15:  # another text takes the row
                texts[row] = text()
                session.begin(row, len(texts[row]), 300)
            elif change < 0.3:  # another one, not announced, or one that is cut off
                texts[row] = rng.choice((text(), texts[row][: rng.randint(3, len(texts[row]))]))
            else:
                texts[row] = [*one, *(rng.randrange(96) for _ in range(rng.choice((2, 2, 4))))]
    assert shared > read_elsewhere > 40 * 64


def test_a_draft_never_writes_padding_tokens() -> None:
    tokenizer = tiny_tokenizer()
    draft = TransformersModel(tiny_model("llama", 1, vocab_size=200), tokenizer)
    target = TransformersModel(tiny_model("llama", 2), tokenizer)
    members, sampling = fsgen.load(draft=draft, target=target), SamplingParams(max_tokens=30, ignore_eos=True)
    prompts = ["abc", "de", "f"]
    plain, *others = (
        [text.token_ids for text in fsgen.generate(members, prompts, method, draft_tokens=k, sampling=sampling)]
        for method, k in (("plain", None), ("speculative", 4), ("speculative", "auto"))
    )
    assert others == [plain, plain]


def near_pair() -> fsgen.Members:
    """A target, and a draft that is it with a little noise: it agrees with it here and there."""
    target, draft = tiny_model("llama", 2), tiny_model("llama", 2)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in draft.parameters():
            weight += 0.1 * weight.std() * torch.randn(weight.shape, generator=noise)
    tokenizer = tiny_tokenizer()
    return fsgen.load(draft=TransformersModel(draft, tokenizer), target=TransformersModel(target, tokenizer))


def records(texts: list[fsgen.Generation]) -> list[Any]:
    """All that is recorded of texts, but for seconds."""
    counts = [
        {name: value for name, value in as_dict(text.stats).items() if not name.endswith("seconds")} for text in texts
    ]
    logits = [None if text.logits is None else text.logits.tolist() for text in texts]
    return [(t.text, t.tokens, t.stop_reason, c, z) for t, c, z in zip(texts, counts, logits, strict=True)]


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(["plain", "speculative", "contrastive"]),
    lengths=st.lists(st.tuples(st.integers(1, 25), st.integers(1, 30)), min_size=1, max_size=7),
    drafted=st.integers(1, 6),
    batch=st.integers(1, 5),
    ends=st.sets(st.integers(0, 95), max_size=6),
    stop=st.sampled_from([(), ("a",), ("the",)]),
    keep_logits=st.booleans(),
    ignores=st.booleans(),
    mixed=st.booleans(),
    shared=st.booleans(),
    temperatures=st.sampled_from([(0.0,), (0.0,), (1.0,), (0.3, 0.0, 1.5)]),
    coupled=st.booleans(),
)
def test_no_record_depends_on_the_batch(
    method: str,
    lengths: list[tuple[int, int]],
    drafted: int,
    batch: int,
    ends: set[int],
    stop: tuple[str, ...],
    keep_logits: bool,
    ignores: bool,
    mixed: bool,
    shared: bool,
    temperatures: tuple[float, ...],
    coupled: bool,
) -> None:
    members = near_pair()
    beginning = [(5 * j) % 96 for j in range(70 * shared)]
    prompts = [beginning + [(7 * i * j) % 96 for j in range(1, n + 1)] for i, (n, _) in enumerate(lengths, 1)]
    sampling = [
        SamplingParams(
            max_tokens=n,
            temperature=temperatures[i % len(temperatures)],
            seed=i,
            stop=stop,
            stop_token_ids=tuple(ends)[mixed * i :],
            ignore_eos=ignores,
        )
        for i, (_, n) in enumerate(lengths)
    ]

    def texts(rows: int) -> list[fsgen.Generation]:
        name, k = method + ":verifier=coupled" * coupled, None if method == "plain" else drafted
        return fsgen.generate(
            members, prompts, name, None, k, sampling, batch_size=rows, candidates=1, keep_logits=keep_logits
        )

    assert records(texts(batch)) == records(texts(1))
