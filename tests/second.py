"""A bundled model with another tokenizer, made in the test."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer

from fsgen import tasks
from fsgen.models.bundled import bundled_path
from ladder.second_tokenizer import translate
from ladder.tokenizer import END_OF_TEXT, train_tokenizer


def texts(count: int = 400) -> list[str]:
    """Texts to train a tokenizer on."""
    return [example.prompt for example in tasks.get("gsm8k").load(count)]


def second_draft(folder: Path, model: str = "pocket-0.6m", size: int = 1024) -> Path:
    """A bundled model in a folder, with a tokenizer of `size` entries that is trained here.

    The embedding of each entry is the mean of those of the tokens that the first tokenizer has for its bytes.
    """
    source = bundled_path(model)
    assert source is not None
    first = Tokenizer.from_file(str(source / "tokenizer.json"))
    second = train_tokenizer(texts(), size)
    started = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    weights = started.state_dict()
    config = started.config
    config.vocab_size = second.get_vocab_size()
    made = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    started.load_state_dict(weights)
    translate(started, made, first, second)
    made.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=second,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
    return folder
