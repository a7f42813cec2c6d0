"""Strings of methods and routers, and what they are refused for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from fsgen.methods.fusions import FUSIONS
from fsgen.methods.method import PRESETS, parse, parse_router
from fsgen.methods.routers import ROUTERS, Router
from fsgen.types import SamplingParams
from tests.engine import reference


def test_presets() -> None:
    assert set(PRESETS) == {
        "oracle", "speculative", "contrastive", "proxy", "ensemble", "mixture", "route", "plain",
    }  # fmt: skip
    oracle = PRESETS["oracle"]
    assert (oracle.draft_tokens, oracle.adds_bonus, str(oracle.router)) == (1, False, "always")
    assert PRESETS["speculative"].draft_tokens == 5
    assert PRESETS["speculative"].adds_bonus
    assert not PRESETS["contrastive"].adds_bonus
    assert (PRESETS["route"].skips_verification, str(PRESETS["route"].router)) == (True, "max-prob:0.5")
    assert PRESETS["proxy"].roles == ("draft", "target", "base")
    assert PRESETS["plain"].roles == ("target",)
    assert parse("route", "never").roles == ("draft",)


def test_parameters_and_names() -> None:
    method = parse("contrastive:alpha=0.2,beta=0.3,draft_tokens=3")
    assert (method.fusion.alpha, method.fusion.beta, method.draft_tokens) == (0.2, 0.3, 3)  # type: ignore[attr-defined]
    assert method.name == "contrastive:alpha=0.2,beta=0.3"
    assert parse(method, draft_tokens=7).draft_tokens == 7
    routed = parse("route:fusion=mixture,w=0.25")
    assert (routed.fusion.name, routed.fusion.w) == ("mixture", 0.25)  # type: ignore[attr-defined]
    assert parse("route:rollback=0.3").rollback == 0.3
    assert parse(" speculative ").name == "speculative"


@pytest.mark.parametrize(
    "text", ["max-prob:0.123456789", "entropy:12", *(r.usage or n for n, r in ROUTERS.items() if n != "learned")]
)
def test_routers_write_themselves_as_they_are_read(text: str) -> None:
    assert str(parse_router(text)) == text.removesuffix(".0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spekulative", r"unknown method 'spekulative'; there are oracle, speculative, .*plain"),
        ("", "unknown method ''"),
        ("contrastive:gamma=1", "has no parameter 'gamma'; it has alpha, beta, draft_tokens"),
        ("contrastive:beta", "write name=value"),
        ("contrastive:beta=x", "beta='x' is not a number"),
        ("contrastive:beta=-1", "beta=-1.0 is impossible"),
        ("contrastive:alpha=0", "alpha=0.0 is impossible"),
        ("contrastive:beta=nan", "beta=nan is impossible"),
        ("contrastive:beta=0.1,beta=0.2", "given twice"),
        ("mixture:w=1", "w=1.0 is impossible"),
        ("proxy:alpha=inf", "alpha=inf"),
        ("speculative:rollback=0.3", "has no parameter 'rollback'"),
        ("speculative:draft_tokens=-1", "neither a count"),
        ("speculative:draft_tokens=65", "draft_tokens=65 is impossible: 0 to 64"),
        ("speculative:verifier=maybe", "unknown verifier 'maybe'; there are auto, exact, rejection, coupled"),
        ("route:fusion=sum", "unknown fusion 'sum'; there are target, contrastive"),
        ("route:rollback=2", "rollback=2.0 is impossible"),
        ("route:fusion=mixture,rollback=0.5", "reads the target alone"),
        ("route:draft_tokens=0", "at least 1"),
        ("contrastive:draft_tokens=0", "at least 1"),
        ("oracle:draft_tokens=0", "at least 1"),
    ],
)
def test_bad_methods_are_named_with_what_exists(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sometimes", r"unknown router 'sometimes'; there are always, never, max-prob:0.5, .*position:0-16"),
        ("always:1", "takes no argument"),
        ("max-prob", "needs a number, as in max-prob:0.5"),
        ("max-prob:1.5", "impossible: at least 0 and at most 1"),
        ("margin:-1", "impossible"),
        ("entropy:nan", "impossible"),
        ("random:2", "impossible"),
        ("position:5", "needs two positions"),
        ("position:7-3", "0 <= A < B"),
        ("position:-1-3", "two positions"),
    ],
)
def test_bad_routers_are_named_with_what_exists(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_router(text)


def test_a_router_that_cannot_be_a_key_is_refused() -> None:
    @dataclass
    class Often(Router):
        name = "often"

        def consult(self, logits: torch.Tensor, positions: Any, seeds: Any) -> list[bool]:
            return [True] * len(logits)

    with pytest.raises(ValueError, match="'speculative' needs a fusion and a router that are frozen dataclasses"):
        replace(PRESETS["speculative"], router=Often())


def test_a_router_without_a_draft_is_refused() -> None:
    with pytest.raises(ValueError, match=r"drafts nothing that the router 'max-prob:0.5' could judge"):
        parse("plain", "max-prob:0.5")


def test_routers_read_p_by_hand() -> None:
    p = torch.tensor([[0.6, 0.3, 0.1], [0.4, 0.35, 0.25], [0.98, 0.01, 0.01]])
    positions, seeds = np.array([0, 1, 2]), np.zeros(3, dtype=np.uint64)
    entropies = (-(p * p.log()).sum(-1)).tolist()
    expected = {
        "max-prob:0.5": [False, True, False],
        "margin:0.2": [False, True, False],
        "margin:0.31": [True, True, False],
        f"entropy:{entropies[0] - 0.01:g}": [True, True, False],
        "position:1-3": [False, True, True],
        "always": [True] * 3,
        "never": [False] * 3,
        "random:0": [False] * 3,
        "random:1": [True] * 3,
    }
    for text, flags in expected.items():
        assert parse_router(text).consult(p.log() + 3.0, positions, seeds) == flags


@pytest.mark.parametrize("name", list(FUSIONS))
def test_fusions_equal_their_formulas(name: str) -> None:
    z = torch.from_numpy(np.random.default_rng(3).normal(size=(3, 50, 9)) * 2).float()
    fused = FUSIONS[name]()(z[0], z[1], z[2]).softmax(-1).double()
    for i in range(50):
        assert torch.allclose(fused[i], reference.fuse(name, z[0, i], z[1, i], z[2, i]), atol=1e-6)


def test_verifier_follows_the_sampling() -> None:
    greedy, drawn = SamplingParams(), SamplingParams(temperature=1.0)
    method = PRESETS["speculative"]
    assert method.verifier_for(greedy).name == "exact"
    assert method.verifier_for(drawn).name == "coupled"  # it chooses its draft lengths by a clock
    assert method.fixed().verifier_for(drawn).name == "rejection"
    assert parse("plain").verifier_for(drawn).name == "rejection"
    assert parse("speculative:verifier=rejection").verifier_for(greedy).name == "rejection"
