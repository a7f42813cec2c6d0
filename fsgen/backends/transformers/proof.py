"""Checks, once and when a model is loaded, that a session of it gives what plain forward passes give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fsgen.backends.int8 import Int8Linear
from fsgen.backends.protocol import Model
from fsgen.backends.transformers.continuation import Continuation
from fsgen.backends.transformers.recurrent import RecurrentSession
from fsgen.backends.transformers.settings import reason

# How far logits may be off. Of keys and values: relative to the largest logit.
ROUNDING = 1e-3
# Of a state: relative to its largest number, and to what all earlier tokens do to the logits. A call that forgets a
# part of the state is off by a good part of that, however weak the model's memory is; rounding is far below it.
FORGETTING = 1e-2
# Half precision rounds differently in batches of different shape; a wrong mask or position is far beyond that.
HALF = 0.1


def check_exact(model: Model, module: Any, continuation: Continuation) -> None:
    """Compares a session with each text alone: rows of several lengths, grown, drafted, rewound and replaced.

    Args:
        model: whose sessions are checked.
        module: the `transformers` model behind it.
        continuation: how its sessions continue.

    Raises:
        ValueError: logits differ, or the forward pass fails; names the model and its architecture.
    """
    refusal = f"{model.info.name!r} ({type(module).__name__}) cannot be used: "
    try:
        difference = _Check(model, module, continuation).difference()
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError) as error:
        raise ValueError(f"{refusal}its forward pass fails on a state it is given ({reason(error)})") from error
    if difference:
        raise ValueError(f"{refusal}{difference}")


@dataclass(frozen=True)
class _Check:
    model: Model
    module: Any
    continuation: Continuation

    def difference(self) -> str | None:
        """In what a session differs from plain forward passes, in words; None where it does not."""
        vocab, length = min(self.model.vocab_size, 1000), min(44, self.model.context)
        texts = [[(7 * i + 11 * row + 3) % vocab for i in range(length)] for row in range(2)]
        stateful = self.continuation is not Continuation.REWOUND
        session = self.model.session(2)
        for row in range(2):
            session.begin(row, 1, length)
        tolerance = self._tolerance(texts[0])
        for rows, last in _drafting(texts) if stateful else _rewinding(texts):
            got = session.score(rows, last)
            for row, tokens in enumerate(rows):
                off = float((got[row] - self._plain(tokens, last).to(got)).abs().max())
                if not off <= tolerance:
                    return f"a continued state does not give the logits of a fresh one (off by {off:.2g})"
        if stateful and (off := self._off_in_the_state(texts[0])) > (HALF if self._is_coarse else FORGETTING):
            return f"a continued state is not that of a fresh pass (off by {off:.2g} of its size)"
        return None

    def _plain(self, tokens: list[int], last: int) -> Tensor:
        """Logits [last, vocab] of a text alone, without a cache."""
        with torch.inference_mode():
            logits: Tensor = self.module(torch.tensor([tokens], device=self.model.device), use_cache=False).logits
        return logits[0, -last:].float()

    def _tolerance(self, text: list[int]) -> float:
        whole = self._plain(text, 1)
        largest = float(whole.abs().max().clamp(min=1e-6))
        if self._is_coarse:
            return HALF * largest
        if self.continuation is Continuation.REWOUND:
            return ROUNDING * largest
        return max(FORGETTING * float((whole - self._plain(text[-1:], 1)).abs().max()), 1e-5 * largest)

    @property
    def _is_coarse(self) -> bool:
        """Whether the model computes in less than float32."""
        int8 = any(isinstance(part, Int8Linear) for part in self.module.modules())
        return int8 or self.module.dtype != torch.float32

    def _off_in_the_state(self, text: list[int]) -> float:
        """The largest relative distance of a state continued by several tokens and by one, to that of one pass."""
        once, bit_by_bit = self.model.session(1), self.model.session(1)
        assert isinstance(once, RecurrentSession)
        assert isinstance(bit_by_bit, RecurrentSession)
        once.score([text[:30]], 1)
        for end in (20, 26, 27, 30):
            bit_by_bit.score([text[:end]], 1)
        pairs = zip(once.state(0), bit_by_bit.state(0), strict=True)
        return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-9)) for a, b in pairs)


def _rewinding(texts: list[list[int]]) -> list[tuple[list[list[int]], int]]:
    one, two = texts[0][:12], texts[1][:13]
    return [([one[:9], two[:5]], 2), ([one[:6], two], 2), ([one, two[:8] + one[:2]], 2)]


def _drafting(texts: list[list[int]]) -> list[tuple[list[list[int]], int]]:
    """The calls of a draft and of a target: a state is continued by one token and by several."""
    one, two = texts
    return [
        ([one[:9], two[:5]], 1),
        ([one[:10], two[:6]], 1),
        ([one[:14], two[:10]], 4),
        ([one[:11] + two[:4], two[:9] + one[:3]], 3),
        ([one[:11] + two[:5], two[:9] + one[:1]], 1),
        ([one[:11] + two[:9], one[:9]], 1),  # the second starts again, in the passes of the first
        ([one[:11] + two[:10], two[:3]], 1),
        ([two, one[:30]], 3),
        ([two[:38] + one[:3], one[:30] + two[:4]], 4),
    ]
