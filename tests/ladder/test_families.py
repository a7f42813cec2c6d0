"""The other families: their shapes, the fast scan of Mamba-2, and the shares of the optimizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ladder import __main__ as steps
from ladder import families, scan, score, train
from ladder.families import FamilySize, Mamba2Size, NeoXSize
from ladder.sizes import SIZES

_NEOX = NeoXSize("pocket-neox-test", hidden=32, layers=2, heads=2, ffn=48)
_MAMBA2 = Mamba2Size("pocket-mamba2-test", hidden=32, layers=2, heads=2, state=16)


def _ids(*shape: int) -> torch.Tensor:
    return torch.randint(1, 200, shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("size", families.SIZES, ids=lambda size: size.name)
def test_shapes_count_their_parameters(size: FamilySize) -> None:
    model = size.new_model()
    embedding = model.get_input_embeddings().weight.numel()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert (size.parameters, size.non_embedding_parameters) == (counted, counted - embedding)


@pytest.mark.parametrize("size", families.SIZES, ids=lambda size: size.name)
def test_a_size_is_that_of_a_llama(size: FamilySize) -> None:
    llama = next(one for one in SIZES if one.name == "pocket" + size.name.removeprefix(size.family))
    assert size.hidden == llama.hidden
    assert size.parameters == pytest.approx(llama.parameters, rel=0.03)
    assert size.non_embedding_parameters == pytest.approx(llama.non_embedding_parameters, rel=0.04)


@pytest.mark.parametrize("size", [_NEOX, _MAMBA2], ids=lambda size: size.family)
def test_muon_takes_the_matrices_alone(size: FamilySize) -> None:
    model = size.new_model()
    muon, adam = train.optimizers(model, train.Schedule())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    matrices, others = ({names[id(p)] for p in optimizer.param_groups[0]["params"]} for optimizer in (muon, adam))
    wanted = {
        _NEOX: ("query_key_value.weight", "dense.weight", "dense_h_to_4h.weight", "dense_4h_to_h.weight"),
        _MAMBA2: ("in_proj.weight", "out_proj.weight"),
    }[size]
    assert len(matrices) == size.layers * len(wanted)
    assert all(name.endswith(wanted) for name in matrices)
    assert matrices | others == set(names.values())
    assert all(adam_group["weight_decay"] == 0 for adam_group in adam.param_groups)


def _outcome(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model.zero_grad()
    logits = model(input_ids=ids, use_cache=False).logits
    torch.autograd.backward(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))
    return logits.detach(), [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("length", [128, 100])
def test_the_fast_scan_is_the_scan(length: int) -> None:
    model, ids = _MAMBA2.new_model(), _ids(2, length)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)  # of fresh weights the states hardly matter
    logits, gradients = _outcome(model, ids)
    with scan.fast_scan():
        ours, our_gradients = _outcome(model, ids)
    assert logits.std() > 0.1
    torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-4)
    for ours_, theirs in zip(our_gradients, gradients, strict=True):
        torch.testing.assert_close(ours_, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def test_the_fast_scan_forgets_nothing() -> None:
    model, ids = _MAMBA2.new_model().eval(), _ids(1, 128)
    with torch.no_grad(), scan.fast_scan():
        before = model(input_ids=ids, use_cache=False).logits[0, -1]
        ids[0, 3] += 1
        after = model(input_ids=ids, use_cache=False).logits[0, -1]
    assert not torch.equal(before, after)


@pytest.mark.parametrize("size", [_NEOX, _MAMBA2], ids=lambda size: size.family)
def test_a_family_trains(size: FamilySize, tmp_path: Path) -> None:
    model, ids = size.new_model(), _ids(4, 64)
    before = train.next_token_loss(model, ids, ids).item() / ids[:, 1:].numel()
    with scan.fast_scan():
        train.fit(model, [(ids, ids)] * 12, tmp_path, train.Schedule(), compiled=False)
    assert train.next_token_loss(model, ids, ids).item() / ids[:, 1:].numel() < before - 1.0
    copy = score.inference_copy(model)
    torch.testing.assert_close(
        copy(input_ids=ids, use_cache=False).logits, model(input_ids=ids, use_cache=False).logits, rtol=1e-3, atol=1e-3
    )


def test_steps_refuse_what_they_do_not_make() -> None:
    with pytest.raises(ValueError, match=r"no train for pocket-9t; choose one of pocket-neox-0\.25m, "):
        steps.run("train", "pocket-9t")
