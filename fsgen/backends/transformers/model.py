"""`transformers` causal language models behind sessions: loaded, checked, and run by whichever forward pass fits."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from fsgen.backends.protocol import Capabilities
from fsgen.backends.session import CachedSession
from fsgen.backends.transformers.architecture import Architecture
from fsgen.backends.transformers.context import context_of
from fsgen.backends.transformers.continuation import Continuation, text_config, ways_to_continue
from fsgen.backends.transformers.forward import RowForward, TransformersForward
from fsgen.backends.transformers.proof import check_exact
from fsgen.backends.transformers.recurrent import RecurrentSession
from fsgen.backends.transformers.slots import room
from fsgen.backends.transformers.states import StateForward
from fsgen.backends.transformers.weights import check_finite
from fsgen.types import ModelInfo

if TYPE_CHECKING:
    from fsgen.backends.cpu.model import CpuModel

# The tests show these to be exact, whatever their configuration, and so what runs compiled; any other architecture is
# checked once, when it is loaded.
PROVEN = frozenset(
    {"llama", "qwen2", "qwen3", "mistral", "gpt_neox", "gpt2", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2"}
)


class TransformersModel:
    """A `transformers` causal language model (see `fsgen.backends.protocol.Model`).

    Args:
        model: the loaded model; it is put into eval mode.
        tokenizer: its tokenizer.
        name, path: how lists and records call it.
        info: all of that, where it is known already.
        compiled: it may run on the compiled forward pass, where that computes it.

    Raises:
        ValueError: a model whose state no session can keep, or that turns out not to continue it exactly.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        name: str = "",
        path: str = "",
        info: ModelInfo | None = None,
        *,
        compiled: bool = True,
    ) -> None:
        config = model.config
        name = name or getattr(config, "name_or_path", "") or type(model).__name__
        ways = ways_to_continue(config, name, type(model))
        check_finite(name, model)
        self.module = model.eval()
        self.tokenizer = tokenizer
        self.digest: str | None = getattr(config, "_commit_hash", None)
        self.info = info or model_facts(model, name, path)
        self.vocab_size = int(text_config(config).vocab_size)
        self.context = context_of(config, tokenizer)
        self.eos_ids = _eos_ids(model, tokenizer)
        self.architecture = Architecture.of(model, self.context, self.vocab_size)
        self.device = self.architecture.device
        self._cpu = self._on_cpu_backend() if compiled else None
        self._slot_bytes: int | None = None
        proven = self._cpu is not None or config.model_type in PROVEN
        self.continuation = ways[0] if proven else self._proven(ways)

    def _proven(self, ways: tuple[Continuation, ...]) -> Continuation:
        """The first way to continue that turns out to be exact."""
        faults = []
        for way in ways:
            try:
                check_exact(self.info.name, self.architecture, way, partial(self._session, way))
            except ValueError as error:
                faults.append(error)
                continue
            if way is Continuation.ROWS:
                said = f"fsgen: {self.info.name!r} runs one row a call: only so is it exact"
                print(said, file=sys.stderr, flush=True)
            return way
        raise faults[0]

    def __repr__(self) -> str:
        return f"TransformersModel({self.info.name!r})"

    @property
    def capabilities(self) -> Capabilities:
        """What the forward pass that runs it can do; see `Capabilities`."""
        several = self.continuation is not Continuation.SINGLE
        return Capabilities(bit_exact=self.compiled, several_tokens=several)

    def session(self, batch_size: int) -> CachedSession | RecurrentSession:
        """An empty session of `batch_size` rows."""
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} is impossible: a session has at least one row")
        if self._cpu is not None:
            return self._cpu.session(batch_size)
        return self._session(self.continuation, self.architecture, batch_size)

    def _session(self, way: Continuation, architecture: Architecture, rows: int) -> CachedSession | RecurrentSession:
        return self._session_on(_forward(architecture, way, rows), way)

    def _session_on(
        self, forward: TransformersForward | StateForward, way: Continuation
    ) -> CachedSession | RecurrentSession:
        about = (self.info.name, self.vocab_size, self.context, self.device)
        if isinstance(forward, StateForward):
            return RecurrentSession(forward, way, forward.rows, *about)
        return CachedSession(forward, *about)

    @property
    def compiled(self) -> bool:
        """Whether it runs on the compiled forward pass."""
        return self._cpu is not None

    def _on_cpu_backend(self) -> CpuModel | None:
        """The model on the compiled forward pass, None where that cannot compute it."""
        if self.device.type != "cpu":
            return None
        from fsgen.backends.cpu.model import CpuModel  # here, for it imports numba
        from fsgen.backends.cpu.modules import weights_of

        weights = weights_of(self.module)
        return None if weights is None else CpuModel(weights, self.info, self.tokenizer, self.context, self.eos_ids)

    def cache_bytes(self, tokens: int) -> int:
        """Bytes of keys and values that a session holds for a row of so many tokens.

        Snapshots of recurrent states have a budget of their own (`fsgen.backends.transformers.recurrent`).
        """
        if self._cpu is not None:
            return self._cpu.cache_bytes(tokens)
        if self._slot_bytes is None:  # heads differ in number and width, from family to family and layer to layer
            forward = _forward(self.architecture, self.continuation, 1)
            self._session_on(forward, self.continuation).score([[0]], 1)
            self._slot_bytes = forward.slot_bytes
        return self._slot_bytes * room(tokens, self.context)


def _forward(architecture: Architecture, way: Continuation, rows: int) -> TransformersForward | StateForward:
    if way is Continuation.ROWS:
        return RowForward(architecture, rows)
    return TransformersForward(architecture, rows) if way is Continuation.REWOUND else StateForward(architecture, rows)


def model_facts(model: Any, name: str, path: str) -> ModelInfo:
    """A loaded model as lists show it."""
    parameters = sum(tensor.numel() for tensor in model.parameters())  # a tied head counts once
    inputs, head = model.get_input_embeddings(), model.get_output_embeddings()
    embedding = inputs.weight.numel()
    if head is not None and head.weight is not inputs.weight:
        embedding += head.weight.numel()
    return ModelInfo(name, path, model.config.model_type, parameters, parameters - embedding)


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    found: set[int] = set()
    for holder in (getattr(model, "generation_config", None), tokenizer):
        ids = getattr(holder, "eos_token_id", None)
        if ids is not None:
            found.update(ids if isinstance(ids, (list, tuple)) else [ids])
    return frozenset(found)
