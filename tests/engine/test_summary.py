"""What a trace keeps of a distribution, by torch and by compiled code: both give what the definitions do."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fsgen import probs
from fsgen.backends.cpu.model import COMPILED
from fsgen.probs import Lines, Summary, _summarize, in_memory, summarize, total_variation, variation


@pytest.fixture(scope="module", params=["torch", "compiled"], autouse=True)
def by(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probs, "_compiled", COMPILED if request.param == "compiled" else None)
        yield request.param


def exact(logits: torch.Tensor, top: int = 0) -> Summary:
    return _summarize(logits.double(), top)


def test_by_hand(by: str) -> None:
    z = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    found = summarize(z, 3)
    assert found.token.tolist() == [0]
    assert found.prob[0] == pytest.approx(0.5)
    assert found.margin[0] == pytest.approx(0.25)
    assert found.entropy[0] == pytest.approx(1.75 * math.log(2))
    if by == "compiled":
        assert found.top_ids.tolist() == [[0, 1, 2]]  # of equals, the first one; torch takes any
    assert found.top_probs[0].tolist() == pytest.approx([0.5, 0.25, 0.125])
    assert variation(z, torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log())[0] == pytest.approx(0.45)


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(1, 20),
    vocab=st.sampled_from([2, 3, 16, 17, 64, 1000, 1024, 1025, 5000]),
    top=st.sampled_from([0, 1, 2, 10]),
    scale=st.sampled_from([0.01, 1.0, 30.0]),
    seed=st.integers(0, 10**6),
    threads=st.integers(1, 3),
)
def test_it_agrees_with_float64(n: int, vocab: int, top: int, scale: float, seed: int, threads: int) -> None:
    dice = torch.Generator().manual_seed(seed)
    p, q = (scale * torch.randn(n, vocab, generator=dice) for _ in range(2))
    p[0, torch.rand(vocab, generator=dice) < 0.5] = -torch.inf  # what is masked adds nothing
    p[0, seed % vocab] = 1.0
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found, many, apart = (
            summarize(p, top),
            summarize(Lines([p] * len(p), list(range(len(p)))), top),
            variation(p, q),
        )
    finally:
        torch.set_num_threads(before)
    right = exact(p, top)
    assert torch.equal(found.token, right.token)
    for ours, listed, theirs in zip(found[1:4], many[1:4], right[1:4], strict=True):
        assert torch.equal(ours, listed)
        assert (ours - theirs).abs().max() < 2e-6 * max(1.0, float(theirs.abs().max()))
    assert found.top_ids.shape == found.top_probs.shape == (n, min(top, vocab))
    most_likely = p.double().softmax(-1).gather(-1, found.top_ids)
    assert torch.allclose(found.top_probs.double(), most_likely, atol=2e-6)
    assert torch.allclose(found.top_probs.double(), right.top_probs, atol=2e-6)
    assert (apart - total_variation(p.double().softmax(-1), q.double().softmax(-1))).abs().max() < 1e-6


def test_what_is_no_distribution_shows() -> None:
    z = torch.tensor([[1.0, torch.nan, 2.0], [torch.inf, 1.0, 2.0], [-torch.inf] * 3, [1.0, 2.0, 3.0]])
    z = torch.cat([z, z[:1]])
    z.view(torch.int32)[4, 1] = -(2**22)  # the NaN that the processor makes, which is negative
    assert z[4].isnan().tolist() == [False, True, False]
    found, right = summarize(z), _summarize(z, 0)
    for name in ("prob", "margin", "entropy"):
        assert torch.equal(getattr(found, name).isnan(), getattr(right, name).isnan())
    assert variation(z, z).isnan().tolist() == [True, True, True, False, True]


def test_shapes_and_logits_that_lie_elsewhere() -> None:
    z = torch.randn(2, 3, 50)
    assert summarize(z, 4).top_ids.shape == (2, 3, 4)
    assert summarize(z[0, 0]).entropy.shape == ()
    across = torch.randn(50, 6).T  # a position is not in one piece
    assert not in_memory(across)
    for ours, theirs in zip(summarize(across, 2), summarize(across.contiguous(), 2), strict=True):
        assert torch.allclose(ours.double(), theirs.double(), atol=1e-6)
    assert torch.allclose(variation(across, across.flip(0)), variation(across.contiguous(), across.flip(0)), atol=1e-6)
    double = summarize(Lines([across.double()] * len(across), list(range(len(across)))))
    assert double.prob.dtype == torch.float64
    assert summarize(torch.randn(0, 7)).token.shape == (0,)
