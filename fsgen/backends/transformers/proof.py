"""Shows, once and when a model is loaded, that a session of it gives what plain forward passes give."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fsgen.backends.int8 import Int8Linear
from fsgen.backends.transformers.checkpoint import first_line
from fsgen.backends.transformers.continuation import Continuation
from fsgen.backends.transformers.recurrent import RecurrentSession

if TYPE_CHECKING:
    from fsgen.backends.transformers.model import TransformersModel

# How far logits may be off. Of keys and values: relative to the largest logit.
ROUNDING = 1e-3
# Of a state: relative to its largest number, and to what all earlier tokens do to the logits. A call that forgets a
# part of the state is off by a good part of that, however weak the model's memory is; rounding is far below it.
FORGETTING = 1e-2
# Half precision rounds differently in batches of different shape; a wrong mask or position is far beyond that.
HALF = 0.1


def check_exact(model: TransformersModel) -> None:
    """Holds a session against each text alone: rows of several lengths, grown, drafted, taken back and replaced.

    Raises:
        ValueError: logits differ, or the forward pass fails; names the model and its architecture.
    """
    _check(model, f"{model.info.name!r} ({type(model.module).__name__}) cannot be used: ")


def _check(model: TransformersModel, refusal: str) -> None:
    vocab, length = min(model.vocab_size, 1000), min(44, model.context)
    texts = [[(7 * i + 11 * row + 3) % vocab for i in range(length)] for row in range(2)]
    stateful = model.continuation is not Continuation.REWOUND
    session = model.session(2)
    for row in range(2):
        session.begin(row, 1, length)
    read = _reader(model)
    try:
        tolerance = _tolerance(model, read, texts[0])
        for rows, last in _drafting(texts) if stateful else _rewinding(texts):
            got = session.score(rows, last)
            for row, tokens in enumerate(rows):
                off = float((got[row] - read(tokens, last).to(got)).abs().max())
                if not off <= tolerance:
                    raise _WrongError(f"a continued state does not give the logits of a fresh one (off by {off:.2g})")
        if stateful and (off := _off_in_the_state(model, texts[0])) > (HALF if _rounds(model) else FORGETTING):
            raise _WrongError(f"a continued state is not that of a fresh pass (off by {off:.2g} of its size)")
    except _WrongError as error:
        raise ValueError(f"{refusal}{error}") from None
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError) as error:
        raise ValueError(f"{refusal}its forward pass fails on a state it is given ({first_line(error)})") from error


class _WrongError(Exception):
    """What the proof found."""


def _off_in_the_state(model: TransformersModel, text: list[int]) -> float:
    """The largest relative distance of a state that was continued by several tokens and by one, to that of one pass."""
    once, bit_by_bit = model.session(1), model.session(1)
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
    """What a decode loop asks of a draft and of a target: a state is continued by one token and by several."""
    one, two = texts
    return [
        ([one[:9], two[:5]], 1),
        ([one[:10], two[:6]], 1),
        ([one[:14], two[:10]], 4),
        ([one[:11] + two[:4], two[:9] + one[:3]], 3),
        ([one[:11] + two[:5], two[:9] + one[:1]], 1),
        ([one[:11] + two[:9], one[:9]], 1),  # the second starts anew, in the passes of the first
        ([one[:11] + two[:10], two[:3]], 1),
        ([two, one[:30]], 3),
        ([two[:38] + one[:3], one[:30] + two[:4]], 4),
    ]


def _reader(model: TransformersModel) -> Callable[[list[int], int], Tensor]:
    def read(tokens: list[int], last: int) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = model.module(torch.tensor([tokens], device=model.device), use_cache=False).logits[
                0, -last:
            ]
        return logits.float()

    return read


def _tolerance(model: TransformersModel, read: Callable[[list[int], int], Tensor], text: list[int]) -> float:
    whole = read(text, 1)
    largest = float(whole.abs().max().clamp(min=1e-6))
    if _rounds(model):
        return HALF * largest
    if model.continuation is Continuation.REWOUND:
        return ROUNDING * largest
    return max(FORGETTING * float((whole - read(text[-1:], 1)).abs().max()), 1e-5 * largest)


def _rounds(model: TransformersModel) -> bool:
    """Whether the model computes in less than float32."""
    return model.module.dtype != torch.float32 or any(isinstance(part, Int8Linear) for part in model.module.modules())
