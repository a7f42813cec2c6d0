"""Models of two sizes of the made language (`fsgen/experiments/made_language.py`), two seeds each, and their tokenizer.

All of them read the same texts in the same order; the seeds change nothing but the first weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from fsgen.experiments.made_language import END, LANGUAGE_SEED, VOCAB_SIZE, Language, words
from fsgen.models.bundled import MADE
from ladder import package, tokenizer
from ladder.files import WORK
from ladder.sizes import Size
from ladder.train import Schedule, fit, new_model

CONTEXT = 256
STATEMENTS = 51  # as many as fit the context
STEPS = 800
STEP_TEXTS = 32
TEXTS_SEED = 1
FOLDER = WORK / "made_language"
_SPACE = "▁"


@dataclass(frozen=True)
class MadeSize(Size):
    """Shape of one model, and the seed of its first weights."""

    vocab_size: int = VOCAB_SIZE
    context: int = CONTEXT
    family: str = "made"
    seed: int = 0


SIZES: tuple[MadeSize, ...] = (
    MadeSize("made-0.1m", hidden=64, layers=2, heads=2, ffn=192),
    MadeSize("made-0.1m-seed1", hidden=64, layers=2, heads=2, ffn=192, seed=1),
    MadeSize("made-0.7m", hidden=128, layers=3, heads=4, ffn=384),
    MadeSize("made-0.7m-seed1", hidden=128, layers=3, heads=4, ffn=384, seed=1),
)


def new_tokenizer() -> Any:
    """A tokenizer that cuts at spaces; decoding is exact."""
    vocabulary = {word if i == END else _SPACE + word: i for i, word in enumerate(words())}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=words()[END]))
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="first")
    made.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="first")
    made.add_special_tokens([words()[END]])
    return made


def batches(steps: int = STEPS) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(ids, labels) of every step, [texts, tokens] both; every token counts."""
    texts = Language().training_texts(steps * STEP_TEXTS, STATEMENTS, TEXTS_SEED)
    rows = torch.from_numpy(texts.ids).to(torch.int16)
    return [(part, part) for part in torch.split(rows, STEP_TEXTS)]


def train(size: MadeSize) -> None:
    """Train one size."""
    fit(new_model(size, size.seed), batches(), WORK / "runs" / size.name, Schedule())


def ship(size: MadeSize) -> None:
    """Write one trained model into the package."""
    folder = MADE / size.name
    if (folder / "pocket.json").exists():
        print(f"export {size.name}: done already")
        return
    tokenizer.save(new_tokenizer(), FOLDER)
    state = torch.load(WORK / "runs" / size.name / "final.pt", weights_only=True)
    model = new_model(size, size.seed, attention="sdpa")
    model.load_state_dict(state["model"])
    facts: dict[str, Any] = {
        "name": size.name,
        "family": size.family,
        "parameters": size.parameters,
        "non_embedding_parameters": size.non_embedding_parameters,
        "training_tokens": state["tokens"],
        "training_seconds": round(state["seconds"]),
        "tuned_from": None,
        "language_seed": LANGUAGE_SEED,
        "recipe_version": 1,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    package.write_model(model, folder, facts, FOLDER)
    print(f"export {size.name}: {sum(file.stat().st_size for file in folder.iterdir()):,} bytes")


def build(size: MadeSize) -> None:
    """Train one size and write it into the package."""
    train(size)
    ship(size)
