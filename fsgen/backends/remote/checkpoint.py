"""A model behind a server, or of recorded outputs, before it is used."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fsgen.backends.checkpoint import Checkpoint
from fsgen.backends.identity import vocabulary_digest
from fsgen.backends.protocol import LONGEST, Capabilities
from fsgen.backends.remote.address import RECORDED, USAGE, Address, parse, split
from fsgen.backends.remote.tokenizer import Opener, TokenizerOf, tokenizer_of
from fsgen.types import ModelInfo

if TYPE_CHECKING:
    from fsgen.backends.protocol import Model
    from fsgen.backends.remote.model import RemoteModel


@dataclass(frozen=True)
class RemoteCheckpoint(Checkpoint):
    """A model that others run.

    Attributes:
        model: what it becomes; it has no weights to be loaded.
    """

    model: RemoteModel

    own_weights = True
    elsewhere = True

    @property
    def model_type(self) -> str:
        return self.model.info.family

    @property
    def revision(self) -> None:
        return None

    @property
    def vocab_size(self) -> int:
        return self.model.vocab_size

    @property
    def ends(self) -> frozenset[int]:
        return self.model.eos_ids

    @property
    def capabilities(self) -> Capabilities:
        return self.model.capabilities

    @property
    def context(self) -> int:
        return self.model.context

    @property
    def info(self) -> ModelInfo:
        return self.model.info

    @property
    def digest(self) -> str:
        return self.model.digest

    def load(self, dtype: str = "auto", device: str = "auto") -> Model:
        """The model. The server decides about its type and its devices."""
        return self.model


def open_remote(name: str, open_local: Opener) -> RemoteCheckpoint:
    """Connects to a server, or opens recorded outputs.

    Args:
        name: see `fsgen.backends.remote.address`.
        open_local: opens the model whose tokenizer it has.

    Raises:
        ValueError: the name is none, its tokenizer is not said or another one, or it cannot be a member.
        UnavailableError: the server does not answer.
    """
    if name.startswith(f"{RECORDED}:"):
        from fsgen.backends.remote.recorded import open_recorded

        folder, settings = split(name.partition(":")[2])
        if settings:
            raise ValueError(f"{name!r} has settings: recorded outputs have none")
        return _checkpoint(name, open_recorded(Path(folder), lambda of: tokenizer_of(of, open_local)))
    address = parse(name)
    if address.tokenizer is None:
        raise ValueError(f"{name!r} needs the tokenizer of its model: give a draft, or write {USAGE}")
    return _checkpoint(name, _connect(address, tokenizer_of(address.tokenizer, open_local)))


def _checkpoint(name: str, model: RemoteModel) -> RemoteCheckpoint:
    return RemoteCheckpoint(model.info.name, name, None, model.tokenizer, model)


_servers: dict[tuple[Address, str], RemoteModel] = {}
"""Those that are connected to: a study asks for a model more than once."""


def connected_urls() -> list[str]:
    """The servers that this process is connected to."""
    return sorted({address.url for address, _ in _servers})


def _connect(address: Address, own: TokenizerOf) -> RemoteModel:
    from fsgen.backends.remote.model import RemoteModel
    from fsgen.backends.remote.server import Server

    digest = vocabulary_digest(own.known)
    address = replace(address, tokenizer=None)  # that of several drafts is one
    if (address, digest) not in _servers:
        server = Server(address, own.tokenizer, own.vocab_size)
        identity = json.dumps([address.kind, address.model, digest])
        _servers[address, digest] = RemoteModel(
            server,
            server.abilities.top >= own.vocab_size,
            ModelInfo(address.name, address.url, "remote", address.parameters, address.parameters),
            own.tokenizer,
            own.vocab_size,
            server.abilities.context or LONGEST,
            own.eos_ids,
            hashlib.sha256(identity.encode()).hexdigest(),
        )
    return _servers[address, digest]
