"""Whether a method writes what its System 2 would write alone: token by token, with every difference explained.

Greedy texts of a lossless method are those of token-by-token decoding. In finite precision two ways of computing the
same sums may differ where two tokens are about equally likely, so a difference alone is no fault. What rounding can do
at a place is measured there: see `verify`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf, isfinite, nan
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fsgen.api import generate, method_for
from fsgen.backends.transformers.uncached import MOST_LOGITS, UncachedModel, rounding
from fsgen.methods.check import check
from fsgen.methods.fusions import Fusion, SharedTokens
from fsgen.methods.method import PRESETS, Method, parse
from fsgen.methods.routers import Always
from fsgen.prompts import Prompts, encode, separate
from fsgen.types import SamplingParams

if TYPE_CHECKING:
    from fsgen.backends import Members
    from fsgen.methods.routers import Router

# So many batches are written at a time: rows are refilled as they are in a long run, and traces do not pile up.
BATCHES = 8
# Where rounding at one position does not explain a difference, it is measured at so many, with plain attention as well:
# it differs from one position to the next, and a pass in other batches has other errors than the one that is measured.
NEARBY_POSITIONS = 16


@dataclass(frozen=True, slots=True)
class Difference:
    """A place where a text has another token than the one that it is compared with.

    Attributes:
        prompt: its number.
        position: of the token in the completion, from 0.
        token: what the method wrote; None where its text had ended.
        expected: what the reference wrote there, or, with `every_token`, what a pass without a cache prefers.
        gap, expected_gap: how far the logit of each token is below the best one, at the place; infinite for a token
            that the fusion rules out, and where a text had ended; NaN where a model gives no finite logits.
        bound: the largest gap that rounding can reverse.
        measured_positions: at how many positions, this one the last, rounding was measured for it.
    """

    prompt: int
    position: int
    token: int | None
    expected: int | None
    gap: float
    expected_gap: float
    bound: float
    measured_positions: int = 1

    @property
    def tie(self) -> bool:
        """Rounding alone can have put either token there."""
        return self.gap <= self.bound and self.expected_gap <= self.bound  # false for NaN


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found.

    Attributes:
        method, reference: the two ways of writing.
        dtype: what the target computes in.
        measured_in: the wider type in which gaps were measured; None where rounding was estimated, or nothing differed.
        texts, tokens: how many were written with the method.
        accepted: how many of the tokens the draft wrote.
        equal: how many of the texts are those of the reference.
        differences: the first one of each other text; with `every_token` also where a pass without a cache prefers
            another token.
        method_seconds, reference_seconds, check_seconds: writing both ways, and explaining.
    """

    method: str
    reference: str
    dtype: str
    measured_in: str | None
    texts: int
    tokens: int
    accepted: int
    equal: int
    differences: tuple[Difference, ...]
    method_seconds: float
    reference_seconds: float
    check_seconds: float

    @property
    def ties(self) -> list[Difference]:
        return [difference for difference in self.differences if difference.tie]

    @property
    def faults(self) -> list[Difference]:
        return [difference for difference in self.differences if not difference.tie]

    @property
    def seconds(self) -> float:
        return self.method_seconds + self.reference_seconds + self.check_seconds

    def as_dict(self) -> dict[str, Any]:
        """For JSON: all of it, with ties and faults apart; a number that is not finite is None."""
        record = asdict(self) | {"seconds": self.seconds}
        del record["differences"]
        for name, found in (("ties", self.ties), ("faults", self.faults)):
            record[name] = [
                {k: None if isinstance(v, float) and not isfinite(v) else v for k, v in asdict(one).items()}
                for one in found
            ]
        return record


def ways(
    method: str | Method, router: str | Router | None = None, draft_tokens: int | str | None = None
) -> tuple[Method, Method]:
    """The method that is verified, and the token-by-token way of writing the same; arguments as in `verify`.

    Raises:
        ValueError: as `methods.parse`; a method that trusts tokens unverified, or that is token by token already.
    """
    chosen = parse(method, router, draft_tokens)
    if draft_tokens is None:
        chosen = chosen.fixed()
    if chosen.skips_verification:
        raise ValueError(f"method {chosen.name!r} trusts tokens that System 2 never sees: it has no exact reference")
    if isinstance(chosen.fusion, SharedTokens):
        raise ValueError(f"method {chosen.name!r} reads a draft with another tokenizer, which only runs in sessions")
    if chosen.fusion.reads_draft:
        shown = f"{chosen.name}, token by token"
        reference = replace(chosen, name=shown, router=Always(), draft_tokens=1, adaptive=False)
    else:
        reference = replace(PRESETS["plain"], fusion=chosen.fusion)
    if replace(reference, name=chosen.name) == chosen:
        raise ValueError(
            f"method {chosen.name!r} with draft_tokens={chosen.draft_tokens} is token by token already: others are "
            "compared with it"
        )
    return chosen, reference


def verify(
    members: Members,
    prompts: Prompts,
    method: str | Method = "speculative",
    router: str | Router | None = None,
    draft_tokens: int | str | None = None,
    max_tokens: int = 64,
    batch_size: int = 16,
    every_token: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Verdict:
    """Write texts with a method and token by token, greedily, and explain every first difference.

    At a difference all members compute the common prefix again, without any cache: once as they are, and once with the
    same weights in the next wider type (float32 for half precision, float64 for float32). E, the largest distance
    between the two over the fused logits of the vocabulary, is what rounding does at this very place. A pass whose
    logits are off by up to E can prefer a token only if its logit lies within 2 E of the best one. Where that holds
    for both tokens, the difference is a tie; else it is a fault. What follows a difference has another context and is
    not compared. Where no wider copy is possible, E is estimated (`backends.transformers.uncached.rounding`).

    Args:
        members: the models (`fsgen.load`).
        prompts: texts, sequences of token ids, or conversations (`fsgen.prompts`).
        method, router, draft_tokens: as in `fsgen.generate`; but where no number is given, a method that would choose
            draft lengths by measured times drafts its usual number, so that a verdict can be repeated.
        max_tokens: the budget of each text.
        batch_size: texts written at a time.
        every_token: also score every text once without a cache, and compare each of its tokens with what that pass
            prefers: this finds an error that both ways of writing have in common.
        progress: called with the number of texts that were finished since the last call.

    Raises:
        ValueError: as in `fsgen.generate`; a method that trusts tokens unverified; one that is its own reference.
    """
    chosen, reference = ways(method_for(members, method, router), draft_tokens=draft_tokens)
    ids = [encode(members, prompt) for prompt in separate(prompts)]
    if not ids:
        raise ValueError("there is no prompt")
    sampling = SamplingParams(max_tokens)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} is impossible: at least 1")
    check(members, chosen, ids, [sampling] * len(ids))
    judge = _Judge(members, chosen.fusion)
    differences: list[Difference] = []
    tokens, accepted, equal, seconds = 0, 0, 0, [0.0, 0.0, 0.0]

    # Prompts of like length are written together.
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for start in range(0, len(order), batch_size * BATCHES):
        batch = order[start : start + batch_size * BATCHES]
        inputs, times = [ids[i] for i in batch], [time.perf_counter()]
        ours = generate(members, inputs, chosen, sampling=sampling, batch_size=batch_size)
        times.append(time.perf_counter())
        expected = generate(members, inputs, reference, sampling=sampling, batch_size=batch_size)
        times.append(time.perf_counter())
        written = [_Text(i, ids[i], text.token_ids) for i, text in zip(batch, ours, strict=True)]
        tokens += sum(len(text.ids) for text in written)
        accepted += sum(text.stats.accepted for text in ours)
        places = _first_differences(written, [text.token_ids for text in expected])
        equal += len(batch) - len(places)
        if every_token:
            known = {(place.text.prompt, place.position) for place in places}
            places += [place for place in judge.unexpected(written) if (place.text.prompt, place.position) not in known]
        differences += judge.explain(places)
        times.append(time.perf_counter())
        seconds = [total + after - before for total, before, after in zip(seconds, times, times[1:], strict=False)]
        if progress is not None:
            progress(len(batch))

    return Verdict(
        method=chosen.name,
        reference=reference.name,
        dtype=judge.precision,
        measured_in=_name(judge.wider_dtype),
        texts=len(ids),
        tokens=tokens,
        accepted=accepted,
        equal=equal,
        differences=tuple(sorted(differences, key=lambda one: (one.prompt, one.position))),
        method_seconds=seconds[0],
        reference_seconds=seconds[1],
        check_seconds=seconds[2],
    )


@dataclass(frozen=True, slots=True)
class _Text:
    """What the method wrote, in token ids, for the prompt of this number."""

    prompt: int
    prompt_ids: list[int]
    ids: list[int]


@dataclass(frozen=True, slots=True)
class _Place:
    """A difference that is still to be explained; a token is None where a text had ended."""

    text: _Text
    position: int
    token: int | None
    expected: int | None

    @property
    def prefix(self) -> list[int]:
        return self.text.prompt_ids + self.text.ids[: self.position]

    def explained(self, gap: float, expected_gap: float, bound: float, positions: int) -> Difference:
        return Difference(
            self.text.prompt, self.position, self.token, self.expected, gap, expected_gap, bound, positions
        )


def _first_differences(written: Sequence[_Text], expected: Sequence[list[int]]) -> list[_Place]:
    """Where the texts first differ from what was expected, one place a text that does."""
    places = []
    for text, other in zip(written, expected, strict=True):
        a, b = text.ids, other
        if a != b:
            pairs = enumerate(zip(a, b, strict=False))
            at = next((at for at, (x, y) in pairs if x != y), min(len(a), len(b)))
            places.append(_Place(text, at, a[at] if at < len(a) else None, b[at] if at < len(b) else None))
    return places


def _name(dtype: torch.dtype | None) -> Any:
    return None if dtype is None else str(dtype).removeprefix("torch.")


class _Judge:
    """Computes places without a cache, and separates ties from faults."""

    def __init__(self, members: Members, fusion: Fusion) -> None:
        roles = ["target"] + ["draft"] * fusion.reads_draft + ["base"] * fusion.reads_base
        self._fusion, self._vocab = fusion, members.vocab_size
        self._models = {role: UncachedModel(getattr(members, role)) for role in roles}
        self._wider: dict[str, UncachedModel | None] | None = None  # made when first needed: it takes memory
        self._eager: dict[str, UncachedModel] | None = None

    @property
    def precision(self) -> str:
        return self._models["target"].precision

    @property
    def wider_dtype(self) -> torch.dtype | None:
        """What gaps are measured in; None while nothing was, and where rounding is estimated."""
        wider = (self._wider or {}).get("target")
        return wider.dtype if wider is not None else None

    def unexpected(self, texts: Sequence[_Text]) -> list[_Place]:
        """Where a pass over the whole text prefers another token."""
        longest = max(len(text.ids) for text in texts)
        step = max(1, MOST_LOGITS // (longest * self._vocab))
        found = []
        for start in range(0, len(texts), step):
            some = texts[start : start + step]
            sequences = [[*text.prompt_ids, *text.ids[:-1]] for text in some]
            logits = self._score(self._models, sequences, [len(text.ids) for text in some])
            for row, text in enumerate(some):
                highest, best = self._fuse(self._fusion, {role: z[row] for role, z in logits.items()}).max(-1)
                checked = zip(text.ids, best.tolist(), highest.isfinite().tolist(), strict=True)
                found += [
                    _Place(text, at, token, other)
                    for at, (token, other, finite) in enumerate(checked)
                    if token != other or not finite
                ]
        return found

    def explain(self, places: Iterable[_Place]) -> list[Difference]:
        """Each place with its gaps and with what rounding can do there; measured more widely where that is needed."""
        places = list(places)
        if not places:
            return []
        if self._wider is None:
            self._wider = {role: model.wider() for role, model in self._models.items()}
        found = self._measure(places, 1, [self._models])
        unexplained = [i for i, difference in enumerate(found) if not difference.tie and isfinite(difference.gap)]
        if unexplained:
            if self._eager is None:
                self._eager = {role: model.eager() or model for role, model in self._models.items()}
            again = self._measure([places[i] for i in unexplained], NEARBY_POSITIONS, [self._models, self._eager])
            for i, difference in zip(unexplained, again, strict=True):
                found[i] = difference
        return found

    def _measure(
        self, places: Sequence[_Place], positions: int, readings: Sequence[dict[str, UncachedModel]]
    ) -> list[Difference]:
        """Each place, with the rounding of these models at so many positions up to it."""
        assert self._wider is not None
        prefixes = [place.prefix for place in places]
        last = [min(positions, len(prefix)) for prefix in prefixes]
        rounded = [self._score(models, prefixes, last) for models in readings]
        exact = dict(rounded[0])
        for role, wider in self._wider.items():
            if wider is not None:
                exact |= self._score({role: wider}, prefixes, last)
            else:
                for logits in rounded:
                    logits[role] = [_with_rounding(self._models[role], z) for z in logits[role]]
        return [
            self._difference(
                place,
                [{role: z[row] for role, z in logits.items()} for logits in rounded],
                {role: z[row].double() for role, z in exact.items()},
            )
            for row, place in enumerate(places)
        ]

    def _difference(self, place: _Place, rounded: list[dict[str, Tensor]], exact: dict[str, Tensor]) -> Difference:
        """One place, from logits [positions, vocab] by role, as the members compute them and exact ones."""
        positions = len(exact["target"])
        error = {role: max(float((z[role] - exact[role]).abs().amax()) for z in rounded) for role in exact}
        if not all(map(isfinite, error.values())):
            return place.explained(nan, nan, nan, positions)
        # A threshold of the fusion is itself subject to rounding: a token may be in or out within so much of it.
        slack = 2.0 * error["target"]
        loose, strict = self._fusion.shifted(slack), self._fusion.shifted(-slack)
        q = self._fuse(loose, exact)
        bound = 0.0
        for z in rounded:
            q_rounded = self._fuse(loose, z)
            off = (q_rounded - q)[q_rounded.isfinite() & q.isfinite()].abs()
            bound = max(bound, 2.0 * float(off.max()))
        best = self._fuse(strict, exact)[-1].max()
        gap, expected_gap = (
            inf if token is None else float((best - q[-1, token]).clamp(min=0.0))
            for token in (place.token, place.expected)
        )
        return place.explained(gap, expected_gap, bound, positions)

    def _score(
        self, models: dict[str, UncachedModel], sequences: Sequence[list[int]], last: Sequence[int]
    ) -> dict[str, list[Tensor]]:
        # float32 at least: what the loop fuses.
        return {
            role: [
                (z if z.dtype == torch.float64 else z.float())[:, : self._vocab] for z in model.score(sequences, last)
            ]
            for role, model in models.items()
        }

    def _fuse(self, fusion: Fusion, logits: dict[str, Tensor]) -> Tensor:
        return fusion(logits["target"], logits.get("draft"), logits.get("base"))


def _with_rounding(model: UncachedModel, logits: Tensor) -> Tensor:
    """Logits with the rounding that one has to expect, up or down at random, the same each time."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, logits.shape, generator=generator) * 2 - 1
    return logits.double() + rounding(model, logits) * signs
