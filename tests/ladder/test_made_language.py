"""The made language is what it says: entropies and gaps as set, texts drawn from them, models that learned it."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from fsgen.backends import load
from fsgen.experiments import made_language as made
from fsgen.experiments.made_language import Language, distribution, entropy_bits
from fsgen.experiments.uncertainty import read_made
from fsgen.models.bundled import MADE, bundled, bundled_path
from ladder import made_language as recipe
from ladder.train import new_model


@pytest.mark.parametrize(("bits", "gap"), made.GRID)
def test_distributions_have_the_entropy_and_the_gap_that_were_set(bits: float, gap: float) -> None:
    made_here = distribution(bits, gap)
    assert made_here.sum() == pytest.approx(1.0, abs=1e-9)
    assert (np.diff(made_here) <= 1e-12).all()
    assert (made_here >= 0).all()
    assert float(entropy_bits(made_here)) == pytest.approx(bits, abs=1e-6)
    assert made_here[0] - made_here[1] == pytest.approx(gap, abs=1e-6)


def test_impossible_distributions_are_refused_with_what_is_possible() -> None:
    with pytest.raises(ValueError, match=r"choose 0\.881 to 3\.186"):
        distribution(3.5, 0.4)
    with pytest.raises(ValueError, match=r"choose 0\.881"):
        distribution(0.5, 0.4)
    with pytest.raises(ValueError, match=r"gap=0\.0"):
        distribution(1.0, 0.0)


def test_causes_are_set_apart() -> None:
    language = Language()
    assert np.allclose(entropy_bits(language.probabilities), language.bits, atol=1e-6)
    assert np.allclose(language.probabilities[:, 0] - language.probabilities[:, 1], language.gap, atol=1e-6)
    assert len({bits for bits, gap in made.GRID if gap == 0.05}) >= 4  # equal gaps, several entropies
    assert len({gap for bits, gap in made.GRID if bits == 1.0}) >= 4  # equal entropies, several gaps
    crossed = np.isin(language.cell, [made.GRID.index(cell) for cell in made.CROSSED])
    causes = np.stack([language.bits, np.log(language.gap), np.log(language.exposure)])[:, crossed]
    assert np.abs(np.corrcoef(causes) - np.eye(3)).max() < 0.01
    assert all(len(set(row)) == made.CANDIDATES for row in language.candidates.tolist())


def test_sampled_outcomes_have_the_entropy_of_their_slots() -> None:
    language = Language()
    texts = language.training_texts(1200, 51, seed=3)
    pairs, outcomes = texts.pairs.ravel(), texts.ids[:, texts.slots].ravel()
    place = (language.candidates[pairs] == outcomes[:, None]).argmax(1)
    assert (language.candidates[pairs, place] == outcomes).all()
    chances = language.probabilities[pairs, place]
    for cell, (bits, gap) in enumerate(made.GRID):
        here = language.cell[pairs] == cell
        surprise = -np.log2(chances[here])
        error = surprise.std() / np.sqrt(here.sum()) + 1e-9
        assert abs(surprise.mean() - bits) < 4 * error, (bits, gap)
        lead = (place[here] == 0).mean() - (place[here] == 1).mean()
        assert abs(lead - gap) < 4 / np.sqrt(here.sum())


def test_pairs_are_met_as_often_as_was_set_and_endings_follow() -> None:
    language = Language()
    texts = language.training_texts(1200, 51, seed=3)
    met = np.array([(language.exposure[texts.pairs] == often).mean() for often in made.EXPOSURES])
    assert np.allclose(met, np.array(made.EXPOSURES) / sum(made.EXPOSURES), atol=0.01)
    endings = np.stack([texts.ids[:, texts.slots + 1], texts.ids[:, texts.slots + 2]], -1)
    assert (endings == language.endings[texts.pairs // made.PLACES]).all()
    assert texts.ids.max() < made.VOCAB_SIZE == len(set(made.words()))
    shares = np.bincount(texts.ids[:, 1::5].ravel(), minlength=65)[1:65] / texts.pairs.size
    bits, _ = language.truth("name", texts.pairs)
    assert float(entropy_bits(shares)) == pytest.approx(bits.mean(), abs=0.01)
    assert (language.truth("place", texts.pairs)[0] < 6).all()
    with pytest.raises(ValueError, match="verb"):
        language.truth("verb", texts.pairs)


def test_test_texts_share_no_pair() -> None:
    texts = Language().test_texts(16, seed=9)
    assert texts.ids.shape == (256, 81)
    assert sorted(texts.pairs.ravel()) == list(range(made.PAIRS))
    with pytest.raises(ValueError, match="statements=17"):
        Language().test_texts(17, seed=9)


def test_seeds_reproduce_the_language_that_the_models_read() -> None:
    again = [Language(7).training_texts(2, 5, seed=1).ids.tolist() for _ in range(2)]
    assert again[0] == again[1]
    others = Language(7).training_texts(2, 5, seed=2), Language(8).training_texts(2, 5, seed=1)
    assert again[0] not in [other.ids.tolist() for other in others]
    language = Language()
    tables = (language.candidates, language.cell, language.endings, language.training_texts(3, 51, 1).ids)
    digest = hashlib.sha256(b"".join(table.astype("<i4").tobytes() for table in tables)).hexdigest()[:16]
    assert digest == "1939aec4ee81c3ff", "the shipped models were trained on another language"


def test_the_tokenizer_is_exact() -> None:
    ids = Language().training_texts(1, 51, 1).ids[0, 1:].tolist()
    tokenizer = recipe.new_tokenizer()
    assert tokenizer.encode(tokenizer.decode(ids)).ids == ids
    assert tokenizer.get_vocab_size() == made.VOCAB_SIZE


def test_the_recipe_reads_whole_texts() -> None:
    steps = recipe.batches(steps=2)
    assert [tuple(ids.shape) for ids, _ in steps] == [(32, 256), (32, 256)]
    for size in recipe.SIZES:
        assert sum(weights.numel() for weights in new_model(size).parameters()) == size.parameters


def test_the_models_ship_and_are_no_sizes_of_the_ladder() -> None:
    for size in recipe.SIZES:
        facts = json.loads((MADE / size.name / "pocket.json").read_text(encoding="utf-8"))
        assert (facts["language_seed"], facts["parameters"]) == (made.LANGUAGE_SEED, size.parameters)
        assert bundled_path(size.name) == MADE / size.name
    assert not {size.name for size in recipe.SIZES} & {info.name for info in bundled()}
    with pytest.raises(ValueError, match="made-9m"):
        bundled_path("made-9m")


def test_the_models_know_the_language_and_the_larger_one_knows_it_better() -> None:
    slots = read_made(load(draft="made-0.1m", target="made-0.7m"), limit=48)
    slots = slots.filter(slots["kind"] == "outcome")
    draft, target = ((slots[f"{role}_token"] == slots["first"]).mean() for role in ("draft", "target"))
    assert isinstance(draft, float)
    assert isinstance(target, float)
    assert 0.6 < draft < target
