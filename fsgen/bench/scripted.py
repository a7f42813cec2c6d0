"""A draft whose acceptance is set: it computes all that it would, and then says what a script says.

So the speed of a pair is measured at an acceptance rate that a better draft of its size would have; vLLM calls this
synthetic acceptance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fsgen.backends.protocol import Capabilities, Model, Session, TokenIds, Usage
from fsgen.probs import uniforms

if TYPE_CHECKING:
    from fsgen.types import ModelInfo

_WHETHER = 77  # the purpose of the random numbers: whether a token is accepted
_CERTAIN = 1e4  # a logit

# Whole texts, prompts included, by the ids of their prompts.
Scripts = Mapping[tuple[int, ...], Sequence[int]]


class ScriptedModel:
    """A model that prefers the next token of a known text at a share of the positions, and another one elsewhere.

    Args:
        model: which computes, and whose logits are then changed.
        scripts: the texts.
        rate: the share of the positions where a drafted token is to be accepted, 0 to 1, drawn for each by itself.
    """

    def __init__(self, model: Model, scripts: Scripts, rate: float) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"an acceptance of {rate} is impossible: choose 0 to 1")
        self._model, self._scripts, self._rate = model, scripts, rate
        self.info: ModelInfo = model.info
        self.tokenizer: Any = model.tokenizer
        self.vocab_size, self.context, self.eos_ids = model.vocab_size, model.context, model.eos_ids
        self.device = model.device

    @property
    def capabilities(self) -> Capabilities:
        return self._model.capabilities

    def cache_bytes(self, tokens: int) -> int:
        """Bytes of keys and values that a session holds for a row of so many tokens."""
        return self._model.cache_bytes(tokens)

    def session(self, batch_size: int) -> Session:
        """An empty session of `batch_size` rows."""
        return _ScriptedSession(self._model.session(batch_size), batch_size, self.preferred)

    def preferred(self, prompt: tuple[int, ...], position: int) -> int | None:
        """The token to prefer at a position of a text; None beyond its end."""
        script = self._scripts.get(prompt, ())
        if position >= len(script):
            return None
        seed = np.array([sum(prompt) % 2**32], np.uint64)
        accepted = float(uniforms(seed, np.array([position]), _WHETHER)[0]) < self._rate
        return script[position] if accepted else (script[position] + 1) % self.vocab_size


class _ScriptedSession:
    """The session of the model, with logits changed (see `fsgen.backends.protocol.Session`)."""

    def __init__(self, session: Session, rows: int, preferred: Any) -> None:
        self._session, self._preferred = session, preferred
        self.usage: list[Usage] = session.usage
        self._prompts = [0] * rows

    def begin(self, row: int, prompt: int, longest: int) -> None:
        self._prompts[row] = prompt
        self._session.begin(row, prompt, longest)

    @torch.inference_mode()
    def score(self, sequences: Sequence[TokenIds | None], last: int | Sequence[int]) -> torch.Tensor:
        logits = self._session.score(sequences, last)
        for row, tokens in enumerate(sequences):
            if tokens is None:
                continue
            prompt = tuple(tokens[: self._prompts[row]])
            for back in range(1, (last if isinstance(last, int) else last[row]) + 1):
                token = self._preferred(prompt, len(tokens) - back + 1)
                if token is not None:
                    logits[row, -back, token] = _CERTAIN
        return logits
