"""Decoding strategies: what one pass reads is what the loop counts, and beams are those of `transformers`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import fsgen
from fsgen.beams import beam_search
from fsgen.models import Members
from fsgen.strategies import grid_variations, variations
from fsgen.types import SamplingParams
from tests.doubles import trio
from tests.study.ladder import save_ladder

PROMPTS = [[5, 9, 33], [7, 7, 20, 41, 12, 60], [100, 3, 17, 55], [80, 81]]
GRID = [
    SamplingParams(),
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.6),
    SamplingParams(temperature=1.0, top_k=3),
    SamplingParams(temperature=1.2, top_p=0.7),
    SamplingParams(temperature=1.0, min_p=0.2),
]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Members]:
    """Two drafts with one target."""
    ladder = save_ladder(tmp_path_factory.mktemp("ladder"))
    target = fsgen.load(target=ladder["large"]).target
    return [fsgen.load(draft=ladder[name], target=target) for name in ("small", "middle")]


# ---- one pass


@pytest.mark.parametrize("strategy", GRID[1:], ids=str)
def test_one_pass_gives_the_loops_total_variation(pairs: list[Members], strategy: SamplingParams) -> None:
    drawn = replace(strategy, max_tokens=20, seed=3)
    written = [fsgen.generate(group, PROMPTS, "oracle", sampling=drawn, batch_size=3) for group in pairs]
    for number, texts in enumerate(written):
        pieces = [(prompt, text.token_ids) for prompt, text in zip(PROMPTS, texts, strict=True)]
        found = variations(pairs, pieces, GRID, batch_size=3)[number]
        for text, mine in zip(texts, found, strict=True):
            loop = np.array([token.total_variation for token in text.tokens], dtype=float)
            np.testing.assert_allclose(mine[GRID.index(strategy)], loop, atol=1e-5)


def test_of_greedy_texts_it_gives_the_mismatches(pairs: list[Members]) -> None:
    texts = fsgen.generate(pairs[0], PROMPTS, "oracle", sampling=SamplingParams(max_tokens=24))
    assert 0 < sum(text.stats.differing for text in texts) < sum(text.stats.known for text in texts)
    pieces = [(prompt, text.token_ids) for prompt, text in zip(PROMPTS, texts, strict=True)]
    found = variations(pairs[:1], pieces, GRID[:1])[0]
    for text, mine in zip(texts, found, strict=True):
        assert mine[0].tolist() == [float(bool(token.differs)) for token in text.tokens]


def test_the_loop_rejects_as_often_as_it_says() -> None:
    # So many draws that the rate is known to half a point.
    members = trio(vocab=8, seed=4, noise=1.0)
    strategy = SamplingParams(max_tokens=200, temperature=0.8, top_p=0.9, ignore_eos=True)
    sampling = [replace(strategy, seed=seed) for seed in range(40)]
    texts = fsgen.generate(members, [[1, 2, 3]] * 40, "oracle", sampling=sampling, batch_size=40)
    pieces = [([1, 2, 3], text.token_ids) for text in texts]
    expected = np.concatenate([one[0] for one in variations([members], pieces, [strategy], batch_size=40)[0]])
    counted = np.array([token.source == "recovered" for text in texts for token in text.tokens])
    error = np.sqrt((expected * (1 - expected)).sum()) / len(expected)
    assert expected.mean() > 0.1
    assert abs(counted.mean() - expected.mean()) < 3.5 * error < 0.03


def test_large_vocabularies_are_cut_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = torch.randn(2, 30, 50, generator=torch.Generator().manual_seed(0))
    whole = grid_variations(p, q, GRID)
    assert whole.shape == (len(GRID), 30)
    monkeypatch.setattr("fsgen.strategies.CHUNK", 7 * 50)
    np.testing.assert_array_equal(grid_variations(p, q, GRID), whole)


def test_faults_of_a_pass(pairs: list[Members]) -> None:
    with pytest.raises(ValueError, match="no strategy"):
        variations(pairs, [([1], [2])], [])
    with pytest.raises(ValueError, match="text 1 has an empty"):
        variations(pairs, [([1], [2]), ([1], [])], GRID)
    with pytest.raises(ValueError, match="several"):
        variations([trio(), trio()], [([1], [2])], GRID)


# ---- beams


@pytest.mark.parametrize("early", [False, True], ids=["heuristic", "early"])
@pytest.mark.parametrize("width", [2, 3, 8])
def test_beams_are_those_of_transformers(pairs: list[Members], width: int, early: bool) -> None:
    # Random models end texts rarely, unless many tokens are ends.
    lengths = set()
    for eos in ([1], [4, 8], [*range(4, 258, 12)]):
        group = [replace(members, eos_ids=frozenset(eos)) for members in pairs]
        found = beam_search(group, PROMPTS, width, 15, early_stopping=early, batch_size=3)
        for prompt, text in zip(PROMPTS, found, strict=True):
            theirs = pairs[0].target.module.generate(  # type: ignore[union-attr]
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                num_beams=width, max_new_tokens=15, do_sample=False, early_stopping=early, eos_token_id=eos,
                pad_token_id=0, return_dict_in_generate=True, output_scores=True,
            )  # fmt: skip
            assert text.token_ids == theirs.sequences[0, len(prompt) :].tolist()
            assert text.score == pytest.approx(float(theirs.sequences_scores[0]), abs=1e-4)
            lengths.add(len(text.token_ids))
    assert 15 in lengths
    assert min(lengths) < 10


def test_one_beam_is_greedy_decoding(pairs: list[Members]) -> None:
    found = beam_search(pairs, PROMPTS, 1, 20)
    for number, members in enumerate(pairs):
        greedy = fsgen.generate(members, PROMPTS, "oracle", sampling=SamplingParams(max_tokens=20))
        for one, other in zip(found, greedy, strict=True):
            assert one.token_ids == other.token_ids
            differs = [float(bool(token.differs)) for token in other.tokens]
            for score in (0, 1):
                assert one.replaced[number, score].tolist() == one.lost[number, score].tolist() == differs


def test_a_draft_that_is_the_target_keeps_the_same_beams(pairs: list[Members]) -> None:
    twins = replace(pairs[0], draft=pairs[0].target)
    for text in beam_search([twins, pairs[0]], PROMPTS, 4, 12):
        assert not text.replaced[0].any()
        assert not text.lost[0].any()
        assert text.replaced[1].any()
        assert text.replaced.shape == (2, 2, len(text.replaced[0, 0]))
        assert text.lost.shape == (2, 2, len(text.token_ids))


def test_the_kept_sets_by_hand() -> None:
    """One step of two beams, scored with nothing but the tables' logits."""
    members = trio(vocab=8, seed=1, noise=2.0)
    (text,) = beam_search([members], [[1, 2, 3]], 2, 2)

    def log_probs(model: Any, context: list[int]) -> list[float]:
        found: list[float] = model.logits(context).log_softmax(-1).tolist()
        return found

    context = [1, 2, 3]
    q0, p0 = (log_probs(model, context) for model in (members.target, members.draft))
    kept = {int(i) for i in np.argsort(np.negative(q0))[:2]}
    assert text.replaced[0, 0, 0] == len(kept - {int(i) for i in np.argsort(np.negative(p0))[:2]}) / 2
    running = [int(i) for i in np.argsort(np.negative(q0)) if i != 0][:2]
    best: list[set[tuple[int, int]]] = []
    for first, model in ((q0, members.target), (q0, members.draft), (p0, members.draft)):
        scores = {
            (token, after): first[token] + value
            for token in running
            for after, value in enumerate(log_probs(model, [*context, token]))
        }
        best.append(set(sorted(scores, key=lambda pair: -scores[pair])[:2]))
    assert text.replaced[0, :, 1].tolist() == [len(best[0] - best[1]) / 2, len(best[0] - best[2]) / 2]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"width": 0}, "width=0"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"width": 5}, "exceed the vocabulary of 8"),
        ({"prompts": [[1], []]}, "prompt 1 has 0 tokens"),
        ({"prompts": [[1] * 512]}, "prompt 0 has 512 tokens"),
    ],
)
def test_faults_of_a_search(settings: dict[str, object], fault: str) -> None:
    given: dict[str, object] = {"prompts": [[1]], "width": 2, "max_tokens": 3} | settings
    with pytest.raises(ValueError, match=fault):
        beam_search([trio()], **given)  # type: ignore[arg-type]


def test_a_search_needs_one_target_and_drafts(pairs: list[Members]) -> None:
    with pytest.raises(ValueError, match="several"):
        beam_search([trio(), trio()], [[1]], 2, 3)
    with pytest.raises(ValueError, match="a draft in each"):
        beam_search([replace(pairs[0], draft=None)], [[1]], 2, 3)
