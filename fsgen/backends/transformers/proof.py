"""Checks, once and when a model is loaded, that a session of it gives what plain forward passes give.

What a model does only with longer texts is seen as well: the windows of its layers are made small in a copy that shares
its weights, so that texts of LENGTH tokens leave them far behind.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import initialization

from fsgen.backends.int8 import Int8Linear
from fsgen.backends.protocol import Session, TokenIds
from fsgen.backends.transformers.architecture import Architecture
from fsgen.backends.transformers.continuation import Continuation, text_config
from fsgen.backends.transformers.recurrent import RecurrentSession
from fsgen.backends.transformers.settings import reason
from fsgen.backends.transformers.uncached import can_copy

LENGTH = 48  # tokens of the texts
# After how many tokens layers forget, or choose what they attend to, in the copy.
WINDOW = 7
WINDOWS = (
    "sliding_window",
    "window_size",
    "attention_window_size",
    "keep_window_size",
    "attention_chunk_size",
    "local_attention",
    "index_topk",
)
# How far logits may be off, relative to the largest one.
ROUNDING = 1e-4
# Of a state: relative to its largest number, and to what all earlier tokens do to the logits. A call that forgets a
# part of the state is off by a good part of that, however weak the model's memory is; rounding is far below it.
FORGETTING = 1e-2
# Half precision rounds differently in batches of different shape; a wrong mask or position is far beyond that.
HALF = 0.1
# What float64 leaves of a difference that is rounding; logits are compared in float32.
WIDE = 1e-6
# What is so many times larger than rounding is an error.
LARGE = 100

ERRORS = (TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError, NotImplementedError)

Sessions = Callable[[Architecture, int], Session]
# The sequences of a call, and of how many last positions logits are wanted.
Script = Iterator[tuple[list[TokenIds | None], int]]


def check_exact(name: str, architecture: Architecture, continuation: Continuation, sessions: Sessions) -> None:
    """Compares a session with each text alone: rows of unlike lengths, grown, drafted, rewound and replaced.

    Args:
        name: of the model, for messages.
        architecture: of the model.
        continuation: how its sessions continue.
        sessions: makes one of so many rows.

    Raises:
        ValueError: logits differ, or the forward pass fails; names the model and its architecture.
    """
    refusal = f"{name!r} ({type(architecture.module).__name__}) cannot be used: "
    try:
        small = with_small_windows(architecture)
    except ValueError as error:
        raise ValueError(f"{refusal}{error}") from error
    try:
        difference = _Check(small, continuation, sessions).difference()
    except ERRORS as error:
        raise ValueError(f"{refusal}its forward pass fails on a state it is given ({reason(error)})") from error
    if difference is None or (difference.is_small and _is_only_rounding(small, continuation, sessions)):
        return
    raise ValueError(f"{refusal}{difference.words}")


def _is_only_rounding(architecture: Architecture, continuation: Continuation, sessions: Sessions) -> bool:
    """Whether a difference goes away in float64; False where no such copy has room, or the code takes none."""
    module = architecture.module
    if module.dtype != torch.float32 or not can_copy(module, torch.float64.itemsize):
        return False
    wide = Architecture.of(copy.deepcopy(module).double(), architecture.context, architecture.vocab_size)
    try:
        return _Check(wide, continuation, sessions).difference() is None
    except ERRORS:
        return False


def with_small_windows(architecture: Architecture) -> Architecture:
    """The same model with the same weights, whose layers forget after WINDOW tokens; itself where none ever does.

    Raises:
        ValueError: its weights fit no other windows.
    """
    module = architecture.module
    config, found = copy.deepcopy(module.config), False
    for part in (config, text_config(config)):
        for key in WINDOWS:
            window = getattr(part, key, None)
            if type(window) is int and window > WINDOW:
                setattr(part, key, WINDOW)
                found = True
    if not found:
        return architecture
    try:
        with initialization.no_init_weights():  # memory that nothing touches is not taken
            small = type(module)(config)
        for name, part in module.named_modules():
            if isinstance(part, Int8Linear):
                small.set_submodule(name, part)
        small.load_state_dict(module.state_dict(), assign=True)
    except ERRORS as error:
        raise ValueError(f"what it does beyond its windows cannot be tried: {reason(error)}") from error
    return Architecture.of(small.to(architecture.device).eval(), architecture.context, architecture.vocab_size)


@dataclass(frozen=True)
class _Difference:
    """In what a session differs from plain forward passes, and whether that might be rounding."""

    words: str
    is_small: bool = False


@dataclass(frozen=True)
class _Check:
    architecture: Architecture
    continuation: Continuation
    sessions: Sessions

    def difference(self) -> _Difference | None:
        """What differs first; None where nothing does."""
        length = min(LENGTH, self.architecture.context)
        texts = [self._text(row, length) for row in range(3)]
        alone = _Alone(self._plain, [tokens for rows, _ in _script(texts) for tokens in rows if tokens is not None])
        tolerance = self._tolerance(texts[2])
        half = len(texts[2]) // 2
        later = float((alone.logits(texts[2][:half], half) - self._plain(texts[2][:half])).abs().max())
        if not later <= tolerance:
            words = f"its attention is not causal: what comes later changes logits by {later:.2g}"
            return _Difference(words, is_small=later <= LARGE * tolerance)
        session = self.sessions(self.architecture, len(texts))
        for row in range(len(texts)):
            session.begin(row, 1, length)
        for rows, last in _script(texts):
            got = session.score(rows, last)
            for row, tokens in enumerate(rows):
                if tokens is None:
                    continue
                off = float((got[row] - alone.logits(tokens, last).to(got)).abs().max())
                if not off <= tolerance:
                    words = (
                        "a continued state does not give the logits of a fresh one (off by "
                        f"{off:.2g}, where rounding is below {tolerance:.2g}, in a text of {len(tokens)} tokens)"
                    )
                    return _Difference(words, is_small=off <= LARGE * tolerance)
        if self._is_stateful and (off := self._off_in_the_state(texts[0])) > (HALF if self._is_coarse else FORGETTING):
            return _Difference(f"a continued state is not that of a fresh pass (off by {off:.2g} of its size)")
        return None

    @property
    def _is_stateful(self) -> bool:
        return self.continuation in (Continuation.SEVERAL, Continuation.SINGLE)

    def _text(self, row: int, length: int) -> list[int]:
        vocab = min(self.architecture.vocab_size, 1000)
        padding = getattr(text_config(self.architecture.module.config), "pad_token_id", None)
        usable = [token for token in range(vocab) if token != padding]  # some models do not count it as a position
        return [usable[(7 * i + i * i // 5 + 11 * row + 3) % len(usable)] for i in range(length)]

    def _plain(self, tokens: TokenIds) -> Tensor:
        """Logits [tokens, vocab] of a text alone, without a cache."""
        module = self.architecture.module
        with torch.inference_mode():
            ids = torch.tensor([list(tokens)], device=self.architecture.device)
            logits: Tensor = module(ids, use_cache=False).logits
        return logits[0].float()

    def _tolerance(self, text: list[int]) -> float:
        whole = self._plain(text)[-1]
        largest = float(whole.abs().max().clamp(min=1e-6))
        if self._is_coarse:
            return HALF * largest
        if self.architecture.module.dtype == torch.float64:
            return WIDE * largest
        if not self._is_stateful:
            return ROUNDING * largest
        memory = FORGETTING * float((whole - self._plain(text[-1:])[-1]).abs().max())
        return min(ROUNDING * largest, max(memory, 1e-5 * largest))

    @property
    def _is_coarse(self) -> bool:
        """Whether the model computes in less than float32."""
        module = self.architecture.module
        return module.dtype.itemsize < 4 or any(isinstance(part, Int8Linear) for part in module.modules())

    def _off_in_the_state(self, text: list[int]) -> float:
        """The largest relative distance of a state continued by several tokens and by one, to that of one pass."""
        once, bit_by_bit = self.sessions(self.architecture, 1), self.sessions(self.architecture, 1)
        assert isinstance(once, RecurrentSession)
        assert isinstance(bit_by_bit, RecurrentSession)
        once.score([text[:30]], 1)
        for end in (20, 26, 27, 30):
            bit_by_bit.score([text[:end]], 1)
        pairs = zip(once.state(0), bit_by_bit.state(0), strict=True)
        return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-9)) for a, b in pairs)


class _Alone:
    """Logits of texts alone: each that begins another one is read with it, since nothing depends on what comes later.

    Args:
        plain: reads a text, [tokens, vocab].
        texts: all that will be asked for.
    """

    def __init__(self, plain: Callable[[TokenIds], Tensor], texts: list[TokenIds]) -> None:
        self._found: dict[tuple[int, ...], Tensor] = {}
        for text in sorted(map(tuple, texts), key=len, reverse=True):
            if not any(known[: len(text)] == text for known in self._found):
                self._found[text] = plain(text)

    def logits(self, text: TokenIds, last: int) -> Tensor:
        """[last, vocab] at its last positions."""
        logits = next(z for known, z in self._found.items() if known[: len(text)] == tuple(text))
        return logits[len(text) - last : len(text)]


def _script(texts: list[list[int]]) -> Script:
    """The calls of a draft and of a target, for three rows of unlike lengths.

    Prompts are read, tokens are written one by one, drafts are accepted and rejected, a row is idle, another starts
    again beside one that goes on, one is read on far beyond the others, and one takes over what another held.
    """
    one, two, three = texts
    yield [one[:21], two[:5], three[:12]], 2
    yield [one[:22], two[:6], three[:13]], 1
    yield [one[:26], two[:10], three[:17]], 4
    yield [one[:23] + two[:4], two[:9] + one[:3], three[:21]], 3
    yield [one[:23] + two[:5], None, three[:19] + one[:1]], 1
    yield [one[:23] + two[:9], one[:9], three[:19] + one[:5]], 1
    yield [one[:23] + two[:10], one[:8] + two[:2], three[:19] + one[:6]], 1
    yield [two[:40], one[:8] + two[:5], three[:19] + one[:7]], 3
    yield [two[:41], one[:8] + two[:6], three], 1
    yield [two[:38] + one[:3], three[:30], three[:3]], 2
