"""The loop on the bundled models and real prompts, against argmax decoding without caches and transformers' own."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import fsgen
from fsgen import SamplingParams, generate, tasks
from fsgen.fusions import FUSIONS
from fsgen.models import Members
from fsgen.replay import replay
from tests.engine import reference

DRAFT, TUNED, TARGET, LARGEST = "pocket-0.25m", "pocket-0.25m-tuned", "pocket-1.5m", "pocket-8m"
BUDGET = 24
# Two orders of the same float32 sums differ by about so much; where the two best tokens are closer, either is right.
ROUNDING = 2e-4


@cache
def members(fusion: str = "target", target: str = TARGET) -> Members:
    if fusion == "proxy":
        return fsgen.load(draft=TUNED, target=target, base=DRAFT)
    return fsgen.load(draft=DRAFT, target=target)


@cache
def prompts() -> list[list[int]]:
    """100 real ones: 40 of GSM8K, 30 of MMLU-STEM, 30 of MBPP; none of over 300 tokens, for the reference's sake."""
    encode = members().tokenizer.encode
    found: list[list[int]] = []
    for name, count in (("gsm8k", 40), ("mmlu_stem", 30), ("mbpp", 30)):
        ids = [encode(example.prompt) for example in tasks.get(name).load(limit=3 * count)]
        found += [i for i in ids if len(i) <= 300][:count]
    assert len(found) == 100
    return found


def whole_logits(model: Any, sequences: list[list[int]]) -> Tensor:
    """Logits after each sequence [rows, vocab], by one forward pass without a cache, padded on the right."""
    longest = max(map(len, sequences))
    ids = torch.tensor([s + [0] * (longest - len(s)) for s in sequences])
    ends = torch.tensor([len(s) - 1 for s in sequences])
    with torch.inference_mode():
        hidden = model.module.model(input_ids=ids, use_cache=False).last_hidden_state
        logits: Tensor = model.module.lm_head(hidden[torch.arange(len(ids)), ends])
    return logits


@cache
def argmax_decoding(fusion: str, target: str = TARGET, budget: int = BUDGET) -> list[tuple[list[int], list[float]]]:
    """Of each prompt the argmax tokens of the fused distribution, and each one's lead over the next (in logits)."""
    group = members(fusion, target)
    texts: list[tuple[list[int], list[float]]] = [([], []) for _ in prompts()]
    for _ in range(budget):
        open_rows = [i for i, (ids, _) in enumerate(texts) if not ids or ids[-1] not in group.eos_ids]
        sequences = [prompts()[i] + texts[i][0] for i in open_rows]
        z_target = whole_logits(group.target, sequences)
        z_draft = whole_logits(group.draft, sequences) if fusion != "target" else z_target
        z_base = whole_logits(group.base, sequences) if fusion == "proxy" else z_target
        for row, i in enumerate(open_rows):
            q = reference.fuse(fusion, z_target[row], z_draft[row], z_base[row])
            best = q.log().topk(2)
            texts[i][0].append(int(best.indices[0]))
            texts[i][1].append(float(best.values[0] - best.values[1]))
    return texts


def assert_equal(written: list[list[int]], fusion: str, target: str = TARGET) -> None:
    """Token for token; past a tie within rounding a text may go on otherwise, and hardly any may have one."""
    ties = 0
    for ours, (expected, leads) in zip(written, argmax_decoding(fusion, target), strict=True):
        if ours != expected:
            place = next(j for j, (a, b) in enumerate(zip(ours, expected, strict=False)) if a != b)
            assert leads[place] < ROUNDING, f"token {place}: {ours[place]} instead of {expected[place]}"
            ties += 1
    assert ties <= 2


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("k", [1, 2, 5, 8])
@pytest.mark.parametrize("fusion", list(FUSIONS))
def test_greedy_output_is_the_argmax_of_the_fused_distribution(fusion: str, k: int, batch: int) -> None:
    method = "speculative" if fusion == "target" else fusion
    texts = generate(
        members(fusion), prompts(), method, draft_tokens=k, sampling=SamplingParams(max_tokens=BUDGET), batch_size=batch
    )
    assert_equal([text.token_ids for text in texts], fusion)


@pytest.mark.parametrize("method", ["plain", "oracle"])
@pytest.mark.parametrize("batch", [1, 16])
def test_the_other_presets_of_the_target(method: str, batch: int) -> None:
    texts = generate(members(), prompts(), method, sampling=SamplingParams(max_tokens=BUDGET), batch_size=batch)
    assert_equal([text.token_ids for text in texts], "target")


@pytest.mark.parametrize("target", [TARGET, LARGEST])
def test_target_decoding_equals_transformers_generate(target: str) -> None:
    group = members(target=target)
    chosen = prompts()[::4] if target == LARGEST else prompts()
    texts = generate(group, chosen, "speculative", sampling=SamplingParams(max_tokens=BUDGET))
    ties = 0
    for prompt, text in zip(chosen, texts, strict=True):
        ids = torch.tensor([prompt])
        out = group.target.module.generate(  # type: ignore[union-attr]
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=BUDGET, do_sample=False
        )
        theirs = out[0, len(prompt) :].tolist()
        if theirs != text.token_ids:
            place = next(j for j, (a, b) in enumerate(zip(theirs, text.token_ids, strict=False)) if a != b)
            z = whole_logits(group.target, [prompt + theirs[:place]])[0].topk(2).values
            assert float(z[0] - z[1]) < ROUNDING
            ties += 1
    assert ties <= 1


@pytest.mark.parametrize("draft", ["pocket-0.1m", "pocket-0.6m"])
def test_replay_equals_the_loop(draft: str) -> None:
    pair = fsgen.load(draft=draft, target=members().target)
    some, sampling = prompts()[::3], SamplingParams(max_tokens=40, stop=("\n\n",))
    loop = generate(pair, some, "oracle", sampling=sampling, candidates=5)
    (again,) = replay([pair], some, generate(pair, some, "plain", sampling=sampling), candidates=5)
    counts = ("tokens", "known", "differing", "consulted", "accepted", "recovered",
              "draft_calls", "draft_tokens", "target_calls", "target_tokens")  # fmt: skip
    for a, b in zip(loop, again, strict=True):
        assert a.token_ids == b.token_ids
        assert [getattr(a.stats, name) for name in counts] == [getattr(b.stats, name) for name in counts]
        for x, y in zip(a.tokens, b.tokens, strict=True):
            assert (x.source, x.round, x.text, x.draft_token, x.target_token) == (
                y.source, y.round, y.text, y.draft_token, y.target_token,
            )  # fmt: skip
            for name in ("draft_prob", "draft_margin", "draft_entropy", "target_prob", "target_entropy",
                         "total_variation"):  # fmt: skip
                assert getattr(x, name) == pytest.approx(getattr(y, name), abs=1e-4)


def test_the_frequency_does_not_depend_on_the_draft_length() -> None:
    sampling = SamplingParams(max_tokens=BUDGET)
    some = prompts()[::5]
    seen = set()
    for k in (1, 3, 8):
        texts = generate(members(), some, "speculative", draft_tokens=k, sampling=sampling)
        total = texts[0].stats.total(text.stats for text in texts)
        assert total.known == total.tokens
        seen.add((total.differing, total.known))
    assert len(seen) == 1
