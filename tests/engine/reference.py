"""Slow decoding, one token at a time and without caches or batches: what the loop must give, written independently."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fsgen.backends import Members

Logits = Callable[[Sequence[int]], Tensor]


def softmax(z: Tensor) -> Tensor:
    e = torch.exp(z.double() - z.double().max())
    return e / e.sum()


def fuse(name: str, target: Tensor, draft: Tensor, base: Tensor, **parameters: float) -> Tensor:
    """The fused distribution, [vocab], straight from the formulas and in float64."""
    zt, zd, zb = target.double(), draft.double(), base.double()
    if name == "target":
        return softmax(zt)
    if name == "contrastive":
        alpha, beta = parameters.get("alpha", 0.1), parameters.get("beta", 0.5)
        probs = softmax(zt)
        allowed = probs >= alpha * probs.max() * (1 - 1e-12)
        scores = (1 + beta) * zt - beta * zd
        scores[~allowed] = -torch.inf
        return softmax(scores)
    if name == "proxy":
        return softmax(zt + parameters.get("alpha", 1.0) * (zd - zb))
    if name == "ensemble":
        return softmax(zd + parameters.get("w", 0.5) * (zt - zd))
    if name == "mixture":
        w = parameters.get("w", 0.5)
        return w * softmax(zt) + (1 - w) * softmax(zd)
    raise AssertionError(name)


def transform(
    probs: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> Tensor:
    """Sampling transforms on a distribution without ties, token by token."""
    logits = torch.log(probs.double()) / temperature
    p = softmax(logits)
    order = sorted(range(len(p)), key=lambda i: -float(p[i]))
    keep = set(order[:top_k] if top_k else order)
    p = _renormalised(p, keep)
    if top_p < 1.0:
        mass, kept = 0.0, set()
        for i in order:
            if mass >= top_p:
                break
            kept.add(i)
            mass += float(p[i])
        keep &= kept
        p = _renormalised(p, keep)
    if min_p > 0.0:
        best = float(p.max())
        keep &= {i for i in order if float(p[i]) >= min_p * best}
        p = _renormalised(p, keep)
    return p


def _renormalised(p: Tensor, keep: set[int]) -> Tensor:
    out = torch.tensor([float(p[i]) if i in keep else 0.0 for i in range(len(p))], dtype=torch.float64)
    return out / out.sum()


def logits_of(members: Members, role: str, context: Sequence[int]) -> Tensor:
    """Logits from a fresh session on the whole context: no cache is used."""
    model = getattr(members, role)
    if model is None:
        return torch.zeros(members.vocab_size)
    with torch.inference_mode():
        logits: Tensor = model.session(1).score([list(context)], [1])[0, -1, : members.vocab_size]
    return logits


def greedy(members: Members, fusion: str, prompt: Sequence[int], budget: int, **parameters: float) -> list[int]:
    """Plain argmax decoding of the fused distribution."""
    context: list[int] = list(prompt)
    out: list[int] = []
    while len(out) < budget:
        target, draft, base = (logits_of(members, role, context) for role in ("target", "draft", "base"))
        token = int(fuse(fusion, target, draft, base, **parameters).argmax())
        context.append(token)
        out.append(token)
        if token in members.eos_ids:
            break
    return out


def routed(
    members: Members,
    consult: Callable[[Tensor, int], bool],
    prompt: Sequence[int],
    budget: int,
    fusion: str = "target",
    rollback: float | None = None,
) -> tuple[list[int], list[bool]]:
    """Greedy routing: the draft writes, System 2 decides where `consult(draft distribution, position)` says so.

    Returns:
        the tokens, and at which positions System 2 decided.
    """
    out: list[int] = []
    consulted: list[bool] = []
    since = 0  # the first position trusted since System 2 was last consulted
    while len(out) < budget:
        context = [*prompt, *out]
        z_draft = logits_of(members, "draft", context)
        if consult(softmax(z_draft), len(out)):
            fallen = None
            if rollback is not None:
                for position in range(since, len(out)):
                    probs = softmax(logits_of(members, "target", [*prompt, *out[:position]]))
                    if probs[out[position]] < rollback * probs.max():
                        fallen = position
                        break
            if fallen is not None:
                del out[fallen:], consulted[fallen:]
                out.append(int(logits_of(members, "target", [*prompt, *out]).argmax()))
            else:
                z = [logits_of(members, "target", context), z_draft, logits_of(members, "base", context)]
                out.append(int(fuse(fusion, *z).argmax()))
            consulted.append(True)
            since = len(out)
        else:
            out.append(int(z_draft.argmax()))
            consulted.append(False)
        if out[-1] in members.eos_ids:
            break
    return out, consulted
