"""The loop on the bundled models and real prompts, against argmax decoding without caches and transformers' own."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import fsgen
from fsgen import SamplingParams, generate, tasks
from fsgen.backends import Members
from fsgen.methods.fusions import FUSIONS
from fsgen.replay import replay
from tests.engine import reference

DRAFT, TUNED, TARGET, LARGEST = "pocket-0.25m", "pocket-0.25m-tuned", "pocket-1.5m", "pocket-4m"
BUDGET = 16
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


def logits_without_cache(model: Any, sequences: list[list[int]], counts: list[int]) -> list[Tensor]:
    """Logits [counts[i], vocab] at the last positions of each sequence, by one forward pass, padded on the right."""
    longest = max(map(len, sequences))
    ids = torch.tensor([s + [0] * (longest - len(s)) for s in sequences])
    with torch.inference_mode():
        hidden = model.module.model(input_ids=ids, use_cache=False).last_hidden_state
        return [
            model.module.lm_head(hidden[row, len(s) - n : len(s)])
            for row, (s, n) in enumerate(zip(sequences, counts, strict=True))
        ]


# Texts of each fusion and target that were found to be argmax decodings, by the number of their prompt.
proven: dict[tuple[str, str], dict[int, set[tuple[int, ...]]]] = defaultdict(lambda: defaultdict(set))


def assert_argmax_decoding(written: list[list[int]], fusion: str, target: str = TARGET) -> None:
    """Every token is the argmax of the fused distribution after the prompt and the tokens before it.

    A text of which that holds for each token, up to the end of text or the budget, is the plain argmax decoding. At
    a tie within rounding either token is right, and hardly any text may have one.
    """
    group, known, ties = members(fusion, target), proven[fusion, target], 0
    new = [i for i, ids in enumerate(written) if tuple(ids) not in known[i]]
    if not new:
        return
    sequences = [prompts()[i] + written[i][:-1] for i in new]
    counts = [len(written[i]) for i in new]
    z_target = logits_without_cache(group.target, sequences, counts)
    z_draft = logits_without_cache(group.draft, sequences, counts) if fusion != "target" else z_target
    z_base = logits_without_cache(group.base, sequences, counts) if fusion == "proxy" else z_target
    for row, i in enumerate(new):
        ids = written[i]
        assert len(ids) == BUDGET or ids[-1] in group.eos_ids
        assert not set(ids[:-1]) & group.eos_ids
        for place, token in enumerate(ids):
            q = reference.fuse(fusion, z_target[row][place], z_draft[row][place], z_base[row][place]).log()
            if token != int(q.argmax()):
                assert float(q.max() - q[token]) < ROUNDING, f"prompt {i}, token {place}: {token}, not {q.argmax()}"
                ties += 1
        known[i].add(tuple(ids))
    assert ties <= 2
    # Two different texts of one prompt can both be right only by a tie.
    assert sum(len(texts) > 1 for texts in known.values()) <= 2


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("k", [1, 2, 5, 8])
@pytest.mark.parametrize("fusion", list(FUSIONS))
def test_greedy_output_is_the_argmax_of_the_fused_distribution(fusion: str, k: int, batch: int) -> None:
    method = "speculative" if fusion == "target" else fusion
    texts = generate(
        members(fusion), prompts(), method, draft_tokens=k, sampling=SamplingParams(max_tokens=BUDGET), batch_size=batch
    )
    assert_argmax_decoding([text.token_ids for text in texts], fusion)


@pytest.mark.parametrize("method", ["plain", "oracle"])
@pytest.mark.parametrize("batch", [1, 16])
def test_the_other_presets_of_the_target(method: str, batch: int) -> None:
    texts = generate(members(), prompts(), method, sampling=SamplingParams(max_tokens=BUDGET), batch_size=batch)
    assert_argmax_decoding([text.token_ids for text in texts], "target")


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
            z = logits_without_cache(group.target, [prompt + theirs[:place]], [1])[0][0].topk(2).values
            assert float(z[0] - z[1]) < ROUNDING
            ties += 1
    assert ties <= 1


@pytest.mark.parametrize("draft", ["pocket-0.25m", "pocket-0.6m"])
def test_replay_equals_the_loop(draft: str) -> None:
    pair = fsgen.load(draft=draft, target=members().target)
    some, sampling = prompts()[::3], SamplingParams(max_tokens=40, stop=("\n\n",))
    loop = generate(pair, some, "oracle", sampling=sampling, candidates=5)
    plain = generate(pair, some, "plain", sampling=sampling, keep_logits=draft == "pocket-0.6m")
    (again,) = replay([pair], some, plain, candidates=5)
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
