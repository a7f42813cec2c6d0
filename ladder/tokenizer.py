"""The byte-level BPE tokenizers: every digit is a token of its own, decoding is exact."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ladder.corpus import read_documents
from ladder.files import PACKAGE, TRAINED, WORK
from ladder.sizes import CONTEXT, VOCAB_SIZE

END_OF_TEXT = "<|endoftext|>"
FOLDER = WORK / "tokenizer"
_SAMPLE = 2_500_000  # characters of each domain
_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": END_OF_TEXT,
    "eos_token": END_OF_TEXT,
    "pad_token": END_OF_TEXT,
    "clean_up_tokenization_spaces": False,
    "model_max_length": CONTEXT,
    "padding_side": "left",
}


def train_tokenizer(texts: list[str], vocab_size: int = VOCAB_SIZE) -> Any:
    """Train on texts; id 0 is the end of text, ids 1 to 256 are the bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save(tokenizer: Any, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, for AutoTokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(_CONFIG, indent=2) + "\n", encoding="utf-8")
    temporary = folder / f"tokenizer.tmp{os.getpid()}"
    tokenizer.save(str(temporary), pretty=False)
    temporary.replace(folder / "tokenizer.json")


def made_folder(vocab_size: int = VOCAB_SIZE) -> Path:
    """Where the tokenizer of so many entries is trained."""
    return FOLDER if vocab_size == VOCAB_SIZE else FOLDER.with_name(f"tokenizer-{vocab_size}")


def home(vocab_size: int = VOCAB_SIZE) -> Path:
    """The folder of the tokenizer of so many entries: as it was trained here, as it ships, or as a model was kept.

    Raises:
        ValueError: there is none.
    """
    model = "pocket-0.6m" if vocab_size == VOCAB_SIZE else f"pocket-0.6m-vocab{vocab_size}"
    for folder in (made_folder(vocab_size), PACKAGE / model, TRAINED / model):
        if (folder / "tokenizer.json").exists():
            return folder
    raise ValueError(f"there is no tokenizer of {vocab_size} entries yet")


def load(vocab_size: int = VOCAB_SIZE) -> Any:
    """The trained tokenizer of so many entries."""
    return Tokenizer.from_file(str(home(vocab_size) / "tokenizer.json"))


def build() -> None:
    """Train on a sample of every domain of the corpus."""
    if (FOLDER / "tokenizer.json").exists():
        print("tokenizer: done already")
        return
    documents = read_documents("train")
    random.Random(0).shuffle(documents)
    taken: dict[str, int] = {}
    texts: list[str] = []
    for document in documents:
        if taken.get(document.domain, 0) < _SAMPLE:
            taken[document.domain] = taken.get(document.domain, 0) + len(document.text)
            texts.append(document.text)
    tokenizer = train_tokenizer(texts)
    save(tokenizer, FOLDER)
    print(f"tokenizer: {tokenizer.get_vocab_size()} entries from {sum(taken.values()):,} characters")
