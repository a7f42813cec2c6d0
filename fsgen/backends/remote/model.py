"""A model that others run: its sessions hold no keys and values, but what was said of their texts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fsgen.backends.protocol import Capabilities, TokenIds
from fsgen.backends.remote.said import Memory, Said
from fsgen.backends.remote.wire import Wanted
from fsgen.backends.session import RowSession
from fsgen.bounds import completed
from fsgen.types import ModelInfo, SamplingParams

Asked = tuple[list[int], int]
Keep = Callable[[int, Said], None]


class Source(Protocol):
    """Where texts and distributions come from: a server, or recorded outputs.

    Attributes:
        rereads: each request for several positions reads the whole context.
    """

    @property
    def rereads(self) -> bool: ...

    def write(self, wanted: Sequence[Wanted], keep: Keep) -> None:
        """Get texts. Raises ValueError where one is refused, after the others have come.

        Args:
            wanted: the texts.
            keep: called with the place of each and what was said, as soon as it comes.
        """
        ...

    def score(self, asked: Sequence[Asked], keep: Keep) -> None:
        """Get distributions: of sequences and how many of their last positions, what is said after the others.

        Arguments and errors as in `write`.
        """
        ...


class RemoteModel:
    """A model behind a `Source` (see `fsgen.backends.protocol.Writer`).

    Args:
        source: of its texts and distributions.
        full: it tells the probability of every token.
        info, tokenizer, vocab_size, context, eos_ids: as in `Model`.
        digest: what identifies it.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        source: Source,
        full: bool,
        info: ModelInfo,
        tokenizer: Any,
        vocab_size: int,
        context: int,
        eos_ids: frozenset[int],
        digest: str,
    ) -> None:
        self.source, self.info, self.tokenizer, self.vocab_size = source, info, tokenizer, vocab_size
        self.context, self.eos_ids, self.digest = context, eos_ids, digest
        self.capabilities = Capabilities(full_logits=full, writes=True)
        self.memory = Memory()
        self._warned = False

    def __repr__(self) -> str:
        return f"RemoteModel({self.info.name!r})"

    def session(self, batch_size: int) -> RemoteSession:
        """An empty session of `batch_size` rows. Raises ValueError for less than one."""
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} is impossible: at least 1")
        return RemoteSession(self, batch_size)

    def cache_bytes(self, tokens: int) -> int:
        """Others hold its keys and values."""
        return 0

    def write(self, prompts: Sequence[TokenIds], sampling: Sequence[SamplingParams]) -> None:
        """Write these texts, all at once; see `Writer.write`. What needs other logits than the server's is left."""
        asked: dict[tuple[int, ...], Wanted] = {}
        for prompt, params in zip(prompts, sampling, strict=True):
            if params.greedy and not params.changes_logits:
                ends = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else self.eos_ids)
                wanted = Wanted(list(prompt), params.max_tokens, tuple(params.stop), ends)
                if not self._has(wanted):
                    asked[tuple(prompt)] = wanted
        each = list(asked.values())
        if each:
            self.source.write(each, lambda i, said: self._remember(each[i].context, said))

    def score(self, asked: Sequence[Asked]) -> None:
        """Get and remember distributions; see `Source.score`."""
        self.source.score(
            asked, lambda i, said: self._remember(asked[i][0][: len(asked[i][0]) - asked[i][1] + 1], said)
        )

    def _remember(self, context: Sequence[int], said: Said) -> None:
        if said.ids.size and (highest := int(said.ids.max())) >= self.vocab_size:
            raise ValueError(
                f"{self.info.name} names the token {highest}, beyond the {self.vocab_size} of its tokenizer"
            )
        self.memory.add(context, said)

    def _has(self, wanted: Wanted) -> bool:
        said = self.memory.find(wanted.context)
        whole = said is not None and (len(said.tokens) >= wanted.max_tokens or said.tokens[-1:] in _each(wanted.ends))
        return whole and said is not None and len(said) >= len(said.tokens)

    def warn_rereads(self) -> None:
        """Says once that round after round reads whole contexts."""
        if self.source.rereads and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.info.name} reads the whole context again in every round: verifying round by round costs far "
                "more than writing or scoring whole texts does",
                RuntimeWarning,
                stacklevel=1,
            )


class RemoteSession(RowSession):
    """The texts of one batch, and what was said of them (see `fsgen.backends.protocol.Session`)."""

    def __init__(self, model: RemoteModel, rows: int) -> None:
        super().__init__(rows, model.info.name, model.vocab_size, model.context, model.device)
        self._model = model
        self._said: list[tuple[list[int], Said] | None] = [None] * rows
        self._asked = [0] * rows  # requests for the text of each row

    def begin(self, row: int, prompt: int, longest: int) -> None:
        """A new text starts in this row; see `Session.begin`."""
        super().begin(row, prompt, longest)
        self._asked[row] = 0

    def score(self, sequences: Sequence[TokenIds | None], last: int | Sequence[int]) -> Tensor:
        """Log-probabilities [rows, max(last), vocab], completed where some are not known; see `Session.score`."""
        work = self._plan(sequences, last)
        if not work:
            return torch.empty(self.rows, 0, self._vocab)
        missing = [item for item in work if self._find(item.row, item.tokens, item.wanted) is None]
        if any(self._asked[item.row] > 1 for item in missing):
            self._model.warn_rereads()
        for item in missing:
            self._asked[item.row] += 1
        if missing:
            self._model.score([(item.tokens, item.wanted) for item in missing])
        result = torch.zeros(self.rows, max(item.wanted for item in work), self._vocab)
        for item in work:
            part = self._find(item.row, item.tokens, item.wanted)
            assert part is not None
            result[item.row, -item.wanted :] = completed(*part, self._vocab)
            usage = self.usage[item.row]
            usage.calls += 1
            usage.tokens += len(item.tokens) - max(item.start, min(self._counted[item.row], len(item.tokens)))
            self._known[item.row] = item.tokens
        return result

    def _find(self, row: int, tokens: list[int], wanted: int) -> tuple[Tensor, Tensor] | None:
        """What was said after the last positions: ids and log-probabilities [wanted, k]; None where that is missing."""
        context = tokens[: len(tokens) - wanted + 1]
        if (held := self._said[row]) is not None and (part := _part(*held, tokens, wanted)) is not None:
            return part
        said = self._model.memory.find(context)
        if said is None or (part := _part(context, said, tokens, wanted)) is None:
            return None
        self._said[row] = (context, said)
        return part


def _part(context: list[int], said: Said, tokens: list[int], wanted: int) -> tuple[Tensor, Tensor] | None:
    """Of what was said after a context, the part that is after the last `wanted` of these tokens, if it has it."""
    stop = len(tokens) - len(context) + 1
    start = stop - wanted
    if start < 0 or stop > len(said) or tokens[: len(context)] != context:
        return None
    if tokens[len(context) :] != said.tokens[: stop - 1]:
        return None
    return torch.from_numpy(said.ids[start:stop]), torch.from_numpy(said.logprobs[start:stop])


def _each(ends: frozenset[int]) -> list[list[int]]:
    return [[token] for token in ends]
