"""Sampled output is distributed as q: G-tests over at least 200,000 draws on four-token distributions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fsgen import SamplingParams, generate
from fsgen import probs as definitions
from fsgen.backends.cpu.model import COMPILED
from fsgen.methods.fusions import FUSIONS
from fsgen.methods.verifiers import VERIFIERS
from fsgen.probs import (
    ACCEPT,
    DECIDE,
    DRAFT,
    Compiled,
    Transforms,
    race,
    race_times,
    residual,
    sample,
    summarize,
    total_variation,
    uniforms,
    variation,
)
from tests.doubles import Markov, group
from tests.engine import reference

TARGET = torch.tensor([0.9, -0.3, 0.1, -1.2])
DRAFT_LOGITS = torch.tensor([-0.2, 0.8, 0.0, -0.6])
BASE = torch.tensor([0.1, 0.2, -0.5, 0.3])
TRANSFORMS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.7},
    {"top_k": 2},
    {"top_p": 0.8},
    {"min_p": 0.35},
    {"temperature": 0.9, "top_k": 3, "top_p": 0.9, "min_p": 0.1},
]
N = 200_000


@contextmanager
def use(compiled: Compiled | None) -> Iterator[None]:
    """Compiled versions of what `probs` defines, or none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(definitions, "_compiled", compiled)
        yield


def g_test(observed: np.ndarray, expected: np.ndarray) -> float:
    """The p-value of counts against probabilities; a token of probability 0 must not be there at all."""
    assert observed[expected == 0].sum() == 0
    possible = expected > 0
    if possible.sum() == 1:
        return 1.0
    return float(stats.power_divergence(
        observed[possible], observed.sum() * expected[possible] / expected[possible].sum(), lambda_="log-likelihood"
    ).pvalue)  # fmt: skip


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
@pytest.mark.parametrize("fusion", list(FUSIONS))
def test_verified_tokens_are_distributed_as_q(fusion: str, transform: dict[str, Any]) -> None:
    sampling = SamplingParams(**({"temperature": 1.0} | transform))
    transforms = Transforms([sampling], torch.device("cpu"))
    fused = FUSIONS[fusion]()(TARGET, DRAFT_LOGITS, BASE)
    p = transforms.drawn(DRAFT_LOGITS[None, None]).expand(N, 1, 4)
    q = transforms.drawn(fused[None, None]).expand(N, 2, 4)
    seeds, zero = np.arange(N, dtype=np.uint64), np.zeros((N, 1), dtype=np.int64)

    def draw(stream: int, width: int = 1) -> torch.Tensor:
        return torch.from_numpy(uniforms(seeds[:, None], zero + np.arange(width), stream))

    drafted = sample(p, draw(DRAFT))
    verdict = VERIFIERS["rejection"].verify(drafted.tolist(), p, q, draw(ACCEPT, 2), draw(DECIDE, 2))
    accepted, token = torch.tensor(verdict.accepted), torch.tensor(verdict.token)
    first = torch.where(accepted == 1, drafted[:, 0], token)
    expected = reference.transform(
        reference.fuse(fusion, TARGET, DRAFT_LOGITS, BASE), **{"temperature": 1.0} | transform
    ).numpy()
    assert g_test(first.bincount(minlength=4).numpy(), expected) > 1e-4
    # The token after an accepted one is distributed as q too.
    bonus = token[accepted == 1]
    assert g_test(bonus.bincount(minlength=4).numpy(), expected) > 1e-4
    # The rejection rate is the total variation, which is what the trace records.
    distance = float(total_variation(p[0, 0], q[0, 0]))
    assert 1 - accepted.float().mean() == pytest.approx(distance, abs=5 * math.sqrt(0.25 / N))


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
def test_what_is_drawn_by_shared_noise_is_distributed_as_it_should(transform: dict[str, Any]) -> None:
    transforms = Transforms([SamplingParams(**({"temperature": 1.0} | transform))], torch.device("cpu"))
    p, q = (transforms.drawn(z[None, None]).expand(N // 4, 4, 4) for z in (DRAFT_LOGITS, TARGET))
    seeds, positions = np.arange(N // 4, dtype=np.uint64), np.arange(4)[None] + np.zeros((N // 4, 1), dtype=np.int64)
    drafted, own = race(p, seeds, positions), race(q, seeds, positions)
    for tokens, probs in ((drafted, p), (own, q)):
        assert g_test(tokens.ravel().bincount(minlength=4).numpy(), probs[0, 0].double().numpy()) > 1e-4
    # At another place it is another draw.
    before, after = own[:, 0], own[:, 1]
    pairs = np.bincount((4 * before + after).numpy(), minlength=16)
    assert g_test(pairs, np.outer(q[0, 0], q[0, 0]).ravel().astype(float)) > 1e-4
    # The two agree as often as is promised, and what System 2 draws does not tell which token was drafted otherwise.
    distance = float(total_variation(p[0, 0], q[0, 0]))
    agreed = float((drafted == own).float().mean())
    assert (1 - distance) / (1 + distance) - 0.006 < agreed <= 1 - distance + 0.006


def test_shared_noise_is_the_same_wherever_it_is_made() -> None:
    dice = torch.Generator().manual_seed(2)
    probs = (3 * torch.randn(5, 7, 300, generator=dice)).softmax(-1)
    probs[:, :, :40] = 0
    seeds, positions = np.arange(5, dtype=np.uint64) * 7919, np.arange(35).reshape(5, 7)
    with use(COMPILED):
        tokens = race(probs, seeds, positions)
    assert tokens.min() >= 40
    with use(None):
        assert torch.equal(tokens, race(probs, seeds, positions))
    assert torch.equal(tokens[2:3, 3:4], race(probs[2:3, 3:4], seeds[2:3], positions[2:3, 3:4]))
    certain = torch.zeros(1, 1, 9)
    certain[..., 6] = 1
    assert race(certain, seeds[:1], positions[:1, :1]).tolist() == [[6]]


def written_out(key: int, token: int) -> float:
    """A token's time in a race: its word by MurmurHash3's last step, twice."""
    word = token * 0x9E3779B9
    for half in (key & 0xFFFFFFFF, key >> 32):
        word = (word + half) & 0xFFFFFFFF
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            word = ((word ^ (word >> shift)) * factor) & 0xFFFFFFFF
    return -math.log1p(-(word + 0.5) * 2.0**-32)


@settings(max_examples=50, deadline=None)
@given(keys=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4), vocab=st.integers(1, 40))
def test_the_times_of_a_race_are_the_written_out_ones(keys: list[int], vocab: int) -> None:
    times = race_times(np.array(keys, np.uint64), vocab, torch.device("cpu"))
    assert times.tolist() == [[pytest.approx(written_out(key, t), rel=1e-15) for t in range(vocab)] for key in keys]
    tail = race_times(np.array(keys, np.uint64), 152_064, torch.device("cpu"))[:, -1]
    assert tail.tolist() == [pytest.approx(written_out(key, 152_063), rel=1e-15) for key in keys]


@pytest.mark.parametrize("compiled", [None, COMPILED], ids=["torch", "compiled"])
@pytest.mark.parametrize("vocab", [1, 5, 256, 300, 2048])
def test_a_race_of_logits_is_that_of_their_probabilities(vocab: int, compiled: Compiled | None) -> None:
    rows = [SamplingParams(temperature=t, seed=3 * i) for i, t in enumerate((1.0, 0.0, 0.3, 2.5))]
    transforms, seeds = Transforms(rows, torch.device("cpu")), np.array([row.seed for row in rows], np.uint64)
    logits = 3 * torch.randn(4, 200, vocab, generator=torch.Generator().manual_seed(vocab))
    positions = np.arange(200) + 7 * np.arange(4)[:, None]
    with use(compiled):
        tokens = transforms.race(logits, seeds, positions)
    assert torch.equal(tokens, race(transforms.drawn(logits).double(), seeds, positions))
    assert torch.equal(tokens[1], logits[1].argmax(-1))
    cut = Transforms([SamplingParams(temperature=1.0, top_k=2)] * 4, torch.device("cpu"))  # beyond a temperature
    assert cut.temperatures is None
    assert torch.equal(cut.race(logits, seeds, positions), race(cut.drawn(logits), seeds, positions))


def test_total_variation_may_be_taken_later_at_each_temperature() -> None:
    temperatures = [1.0, 0.5, 2.0]
    transforms = Transforms([SamplingParams(temperature=t) for t in temperatures], torch.device("cpu"))
    p, q = torch.randn(2, 3, 1, 700, generator=torch.Generator().manual_seed(1))
    now = total_variation(transforms.measured(p), transforms.measured(q))[:, 0]
    assert torch.allclose(variation(p[:, 0], q[:, 0], temperatures), now, atol=1e-6)
    assert torch.allclose(variation(p[:, 0].double(), q[:, 0].double(), temperatures).float(), now, atol=1e-6)


TABLES = [torch.from_numpy(np.random.default_rng(s).normal(size=(4, 4)) * 1.2).float() for s in (1, 2, 3)]


@pytest.mark.parametrize(
    ("method", "transform"),
    [
        *((m, {"temperature": 0.8}) for m in ("speculative", "contrastive", "proxy", "ensemble", "mixture")),
        *(("speculative", t) for t in ({"top_k": 2}, {"top_p": 0.7}, {"min_p": 0.4})),
        ("oracle", {"temperature": 1.0}),
        ("plain", {"temperature": 1.0}),
        ("route", {"temperature": 0.8}),
        *((f"{m}:verifier=coupled", {"temperature": 0.8}) for m in ("speculative", "contrastive", "proxy", "plain")),
    ],
    ids=str,
)
def test_texts_of_the_loop_are_distributed_as_q(method: str, transform: dict[str, Any]) -> None:
    """Three tokens from a Markov chain, whose 64 texts have known probabilities: 30,000 tokens through the loop."""
    rows = 10_000
    target, draft, base = (Markov(table, seed) for seed, table in enumerate(TABLES))
    members = group(draft, target, base)
    preset = method.partition(":")[0]
    router = {"route": "always"}.get(preset)
    k = {"plain": 0, "oracle": 1, "route": None}.get(preset, 2)
    options = {"temperature": 1.0} | transform
    sampling = [SamplingParams(max_tokens=3, ignore_eos=True, seed=seed, **options) for seed in range(rows)]
    texts = generate(members, [[1]] * rows, method, router, k, sampling, batch_size=rows)
    counts = np.zeros((4, 4, 4))
    for text in texts:
        counts[tuple(text.token_ids)] += 1

    fusion = preset if preset in FUSIONS else "target"
    rows_of_q = [
        reference.transform(reference.fuse(fusion, *(table[i] for table in TABLES)), **options) for i in range(4)
    ]
    expected = np.array(
        [rows_of_q[1][a] * rows_of_q[a][b] * rows_of_q[b][c] for a, b, c in itertools.product(range(4), repeat=3)]
    ).reshape(4, 4, 4)
    assert g_test(counts.ravel(), expected.ravel()) > 1e-4


def test_the_expected_rejection_rate_is_the_one_counted() -> None:
    members = group(Markov(TABLES[1], 1), Markov(TABLES[0], 0))
    sampling = [SamplingParams(max_tokens=4, ignore_eos=True, seed=s, temperature=1.0) for s in range(10_000)]
    texts = generate(members, [[1]] * len(sampling), "oracle", sampling=sampling, batch_size=len(sampling))
    total = texts[0].stats.total(text.stats for text in texts)
    counted = total.recovered / (total.accepted + total.recovered)
    assert total.collaboration_frequency == pytest.approx(counted, abs=0.012)


@settings(max_examples=200, deadline=None)
@given(
    logits=st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=12, unique=True),
    temperature=st.floats(0.1, 3.0),
    top_k=st.integers(0, 14),
    top_p=st.floats(0.05, 1.0),
    min_p=st.floats(0.0, 0.95),
)
def test_transforms_equal_the_written_out_ones(
    logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    z = torch.tensor(logits)
    ours = Transforms([params], torch.device("cpu")).drawn(z[None, None])[0, 0].double()
    expected = reference.transform(reference.softmax(z), temperature, top_k, top_p, min_p)
    # A token at the edge of a cut may fall either way by rounding; anything else must agree.
    rounded = (
        any(
            abs(value - cut) < 1e-5
            for probs in (ours, expected, reference.transform(reference.softmax(z), temperature, top_k))
            for value, cut in [(mass, top_p) for mass in probs.sort(descending=True).values.cumsum(0).tolist()]
            + [(float(prob / probs.max()), min_p) for prob in probs]
        )
        or min(z.sort().values.diff().abs()) < 1e-4
    )
    if not rounded:
        assert torch.allclose(ours, expected, atol=1e-5)
    assert float(ours.sum()) == pytest.approx(1.0, abs=1e-5)


def test_transforms_equal_those_of_transformers() -> None:
    from transformers import (
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    z = torch.from_numpy(np.random.default_rng(0).normal(size=(64, 300)) * 3).float()
    rows = [SamplingParams(temperature=0.7, top_k=40, top_p=0.85, min_p=0.02)] * len(z)
    scores = z
    for warper in (TemperatureLogitsWarper(0.7), TopKLogitsWarper(40), TopPLogitsWarper(0.85), MinPLogitsWarper(0.02)):
        scores = warper(torch.zeros((len(z), 1), dtype=torch.long), scores)
    ours = Transforms(rows, torch.device("cpu")).drawn(z[:, None])[:, 0]
    torch.testing.assert_close(ours, scores.softmax(-1))


def test_rows_of_a_batch_have_their_own_transforms() -> None:
    rows = [SamplingParams(), SamplingParams(temperature=0.5), SamplingParams(temperature=1.0, top_k=1)]
    z = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 2, 6))).float()
    together = Transforms(rows, torch.device("cpu"))
    for i, row in enumerate(rows):
        alone = Transforms([row], torch.device("cpu"))
        torch.testing.assert_close(together.drawn(z)[i], alone.drawn(z[i : i + 1])[0])
        torch.testing.assert_close(together.measured(z)[i], alone.measured(z[i : i + 1])[0])
    one_hot = together.drawn(z)[0]
    assert one_hot.argmax(-1).tolist() == z[0].argmax(-1).tolist()
    assert one_hot.sum(-1).tolist() == [1.0, 1.0]


def test_impossible_tokens_are_never_drawn() -> None:
    probs = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0])
    edges = torch.tensor([0.0, 0.5, 1.0 - 2.0**-32, 0.49999999], dtype=torch.float64)
    assert sample(probs.expand(4, 5), edges).tolist() == [1, 3, 3, 1]


def test_uniform_numbers_look_uniform_and_independent() -> None:
    seeds, positions = np.arange(500, dtype=np.uint64)[:, None], np.arange(400)
    for stream in (DRAFT, ACCEPT, DECIDE):
        u = uniforms(seeds, positions, stream)
        assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-4
        for shifted in (u[1:].ravel(), u[:, 1:].ravel()):
            other = u[:-1].ravel() if len(shifted) == 499 * 400 else u[:, :-1].ravel()
            assert abs(np.corrcoef(shifted, other)[0, 1]) < 0.012
    a, b = uniforms(seeds, positions, DRAFT).ravel(), uniforms(seeds, positions, ACCEPT).ravel()
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.012


def test_residual_and_total_variation_by_hand() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2, 0.0]), torch.tensor([0.2, 0.3, 0.1, 0.4])
    torch.testing.assert_close(residual(p, q), torch.tensor([0.0, 0.0, 0.0, 1.0]))
    assert float(total_variation(p, q)) == pytest.approx(0.4)
    torch.testing.assert_close(residual(q, q), q)


def test_summary_by_hand() -> None:
    z = torch.log(torch.tensor([0.5, 0.25, 0.125, 0.125]))
    summary = summarize(z, top=3)
    assert int(summary.token) == 0
    assert float(summary.prob) == pytest.approx(0.5)
    assert float(summary.margin) == pytest.approx(0.25)
    assert float(summary.entropy) == pytest.approx(1.75 * math.log(2))
    assert summary.top_ids.tolist()[:2] == [0, 1]
    masked = summarize(torch.tensor([0.0, -torch.inf, 0.0]))
    assert float(masked.entropy) == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"min_p": 1.0}, "min_p=1.0"),
        ({"seed": -1}, "seed=-1"),
        ({"stop": ("a", "")}, "stop="),
    ],
)
def test_impossible_sampling_values_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SamplingParams(**options)
