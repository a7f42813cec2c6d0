"""A GGUF file before its weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fsgen.backends.checkpoint import Checkpoint
from fsgen.backends.identity import files_digest
from fsgen.backends.llama_cpp.header import Header, parameters, read_header
from fsgen.backends.llama_cpp.library import LoadedFile, library
from fsgen.backends.llama_cpp.tokenizer import GgufTokenizer
from fsgen.backends.places import BITS, check_choice, check_dtype, on_cpu
from fsgen.backends.protocol import LONGEST
from fsgen.types import ModelInfo

if TYPE_CHECKING:
    from fsgen.backends.protocol import Model

SUFFIX = ".gguf"
MOST_LAYERS = 512  # more end the process


@dataclass(frozen=True)
class GgufCheckpoint(Checkpoint):
    """A GGUF file of which only the header and the tokenizer have been read.

    Attributes:
        header: what it says of itself.
        eos_ids: the tokens that end a text.
    """

    header: Header
    eos_ids: frozenset[int]

    own_weights = True

    @property
    def model_type(self) -> str:
        return self.header.architecture

    @property
    def revision(self) -> None:
        return None

    @property
    def digest(self) -> str:
        return files_digest(self.header.parts)

    @property
    def vocab_size(self) -> int:
        return len(self.tokenizer)

    @property
    def ends(self) -> frozenset[int]:
        return self.eos_ids

    @property
    def context(self) -> int:
        return min(self.header.size("context_length"), LONGEST)

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(self.name, self.path, self.model_type, *parameters(self.header))

    def load(self, dtype: str = "auto", device: str = "auto") -> Model:
        """The model with its weights, which stay in the types that they have in the file.

        Args:
            dtype: of keys and values: auto (float32), float32, float16 or bfloat16.
            device: auto or cpu.

        Raises:
            ValueError: another type, or weights that are broken or not finite.
        """
        check_choice(self, dtype) if dtype in BITS else check_dtype(dtype)
        from fsgen.backends.llama_cpp.model import LlamaCppModel

        about = (self.info, self.tokenizer, self.context, self.eos_ids, self.digest)
        return LlamaCppModel(self.header, dtype, *about)


def open_gguf(name: str, device: str) -> GgufCheckpoint:
    """Reads the header and the tokenizer of a GGUF file.

    Args:
        name: a path, as the user gave it.
        device: for which it is going to be loaded.

    Raises:
        ValueError: there is no such file, it is broken, holds a model that cannot be used, or llama-cpp-python is
            missing.
    """
    found = os.path.expanduser(name)  # noqa: PTH111  # Path's own raises RuntimeError for an unknown user
    if not os.path.isfile(found):  # noqa: PTH113  # Path's own raises OSError for a name that is too long
        raise ValueError(f"there is no file {name!r}")
    path = Path(found)
    try:
        header = read_header(path)
        _check(header)
        tokenizer = GgufTokenizer(header)  # before llama.cpp sees it, which ends the process for some faults
    except ValueError as error:
        raise ValueError(f"the GGUF file {name!r} cannot be used: {error}") from error
    if not on_cpu(device):
        raise ValueError(f"GGUF files run on the CPU here: choose device='cpu' for {name!r}")
    calls, file = library(), LoadedFile(path, name, weights=False)
    _check_kind(file, name, header)
    tokenizer = GgufTokenizer(header, file, name)
    ends = frozenset(i for i in range(len(tokenizer)) if calls.llama_vocab_is_eog(file.vocab, i))
    return GgufCheckpoint(name, str(path), path, tokenizer, header, ends)


def _check(header: Header) -> None:
    """Raises ValueError for a header that is none of a language model."""
    kind = header.metadata.get("general.type", "model")
    if kind != "model":
        raise ValueError(f"it holds no model, but: {kind}")
    if not header.architecture:
        raise ValueError("it names no architecture")
    if not header.get("attention.causal", True):
        raise ValueError(f"its attention ({header.architecture}) is not causal")
    for name in ("context_length", "embedding_length", "block_count"):
        header.size(name)
    if header.size("block_count") > MOST_LAYERS:
        raise ValueError(f"its block_count is {header.size('block_count')}, and llama.cpp takes {MOST_LAYERS} at most")
    if "token_embd.weight" not in header.shapes:
        raise ValueError("it has no embedding (token_embd.weight)")


def _check_kind(file: LoadedFile, name: str, header: Header) -> None:
    """Refuses what no session can serve, by name."""
    calls = library()
    if calls.llama_model_is_recurrent(file.model) or calls.llama_model_is_hybrid(file.model):
        raise ValueError(
            f"{name!r} cannot be used: {header.architecture} carries a recurrent state, from which llama.cpp cannot "
            "take rejected tokens back; the same model in the safetensors format may be used"
        )
    if calls.llama_model_has_encoder(file.model) or calls.llama_model_is_diffusion(file.model):
        raise ValueError(f"{name!r} cannot be used: {header.architecture} does not write token after token alone")
