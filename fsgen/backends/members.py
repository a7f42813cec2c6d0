"""The models that decode together: found, checked against each other, and only then loaded."""

from __future__ import annotations

import logging
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from threading import RLock
from typing import Any

from fsgen.backends.alignment import first_difference
from fsgen.backends.budget import rows_within
from fsgen.backends.checkpoint import Checkpoint, locate
from fsgen.backends.codec import readable
from fsgen.backends.identity import Identity, identity
from fsgen.backends.protocol import Model, Session, TokenIds, Writer
from fsgen.backends.remote.address import is_remote, with_tokenizer
from fsgen.types import SamplingParams

_log = logging.getLogger(__name__)

ROLES = ("draft", "target", "base")
Given = Any  # a name, a folder, a `Model`, or a model of `transformers`; None for a role without a model
USUAL_NGRAM = 3  # tokens of a match, at most


@dataclass(frozen=True)
class Members:
    """Models that take the same token ids, by role.

    Attributes:
        draft, target, base: the models; None for a role without a model. A draft with another tokenizer than the
            target's is a `TranslatedModel`, which takes the target's ids.
        tokenizer: the one they share, the target's copy where there is a target.
        vocab_size: ids that all of them know; logits beyond are padding, to be cropped.
        context: the longest sequence that all of them can score.
        eos_ids: the tokens that end a text, as the target has them.
        ngram: where there is no draft model, matches of at most so many tokens draft (prompt lookup); 0: none do.
        draft_lengths: what decoding has learned of their speed and agreement, by method and batch size.
        difference: of the draft's tokenizer from the target's, in words; None where they map texts alike.
        mixed: the probabilities of a draft with another tokenizer can be mixed with the target's (see `overlap`).
        lock: held for each round, so that engines in several threads take turns.
    """

    draft: Model | None
    target: Model | None
    base: Model | None
    tokenizer: Any
    vocab_size: int
    context: int
    eos_ids: frozenset[int]
    ngram: int = 0
    draft_lengths: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    difference: str | None = None
    mixed: bool = False
    lock: RLock = field(default_factory=RLock, init=False, repr=False, compare=False)
    _kept: dict[tuple[str, int], Session] = field(default_factory=dict, init=False, repr=False, compare=False)
    _keeps: list[bool] = field(default_factory=list, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, draft: Model | None = None, target: Model | None = None, base: Model | None = None) -> Members:
        """Members from models at hand.

        Raises:
            ValueError: no model at all, or different tokenizers where only one will do.
        """
        given = zip(ROLES, (draft, target, base), strict=True)
        difference = _compare({role: (m.info.name, m.tokenizer, m.vocab_size) for role, m in given if m is not None})
        if difference is not None and draft is not None and target is not None:
            from fsgen.backends.translated import TranslatedModel  # here, for it imports torch

            draft = TranslatedModel(draft, target)
            base = base and TranslatedModel(base, target, look_ahead=0)
        present = {role: model for role, model in zip(ROLES, (draft, target, base), strict=True) if model is not None}
        if not present:
            raise ValueError("no model is given: name a draft or a target")
        lead = target or draft or base
        assert lead is not None
        return cls(
            draft,
            target,
            base,
            tokenizer=lead.tokenizer,
            vocab_size=min(model.vocab_size for model in present.values()),
            context=min(model.context for model in present.values()),
            eos_ids=lead.eos_ids,
            difference=difference,
        )

    def identity(self, role: str) -> Identity:
        """What tells the model of a role from others."""
        return identity(getattr(self, role))

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Within it, sessions outlive a generation, and the earlier turns of a chat are not computed again.

        A generation takes up the sessions of the last one that wrote as many texts at a time, row by row; their keys
        and values are held until the end of the block.
        """
        outermost = not self._keeps
        self._keeps.append(True)
        try:
            yield
        finally:
            self._keeps.pop()
            if outermost:
                self._kept.clear()

    def session(self, role: str, rows: int) -> Session:
        """A session of the model of a role: one that was kept, or a new one. It has one user at a time."""
        kept = self._kept.pop((role, rows), None)
        return getattr(self, role).session(rows) if kept is None else kept

    def give_back(self, role: str, rows: int, session: Session) -> None:
        """A session that is no longer used, to be kept where sessions are."""
        if self._keeps:
            self._kept[role, rows] = session

    @property
    def partial(self) -> frozenset[str]:
        """The roles whose models tell the probabilities of their most likely tokens only (`fsgen.bounds`)."""
        return frozenset(role for role, model in self if not model.capabilities.full_logits)

    def write_ahead(self, prompts: Sequence[TokenIds], sampling: Sequence[SamplingParams]) -> None:
        """Where the target writes alone, and its backend can do that by itself, it writes these texts now, at once."""
        if self.target is not None and self.target.capabilities.writes:
            writer: Writer = self.target  # type: ignore[assignment]  # it says so
            writer.write(prompts, sampling)

    def rows_within(self, roles: Container[str], tokens: int, wanted: int, budget: int | None = None) -> int:
        """How many texts of up to `tokens` tokens these roles can hold at a time; see `fsgen.backends.budget`."""
        return rows_within((model for role, model in self if role in roles), tokens, wanted, budget)

    def __iter__(self) -> Iterator[tuple[str, Model]]:
        """The roles that are played, with their models: draft, target, base."""
        for role in ROLES:
            model: Model | None = getattr(self, role)
            if model is not None:
                yield role, model

    def names(self) -> dict[str, str]:
        """The name of each member, by role."""
        return {role: model.info.name for role, model in self}


@dataclass(frozen=True)
class Plan:
    """Members that are found and checked against each other, with no weights loaded.

    It knows what a request can be checked with: who is there, the tokenizer, the vocabulary and the context window.

    Attributes:
        draft, target, base: a checkpoint whose weights are still to be loaded, or a model that is loaded already; None
            for a role without a model.
        dtype, device: as given to `plan`.
        weights: of a role, the type of its weights where it is another one than `dtype` says.
        ngram, difference: as in `Members`.
    """

    draft: Checkpoint | Model | None
    target: Checkpoint | Model | None
    base: Checkpoint | Model | None
    dtype: str
    device: str
    weights: Mapping[str, str] = field(default_factory=dict)
    ngram: int = 0
    difference: str | None = None

    @property
    def _present(self) -> list[Checkpoint | Model]:
        """Those that take the token ids as they are, the target first."""
        members = (self.target, self.draft, self.base) if self.difference is None else (self.target,)
        return [member for member in members if member is not None]

    @property
    def mixed(self) -> bool:
        """As in `Members`; not known before weights are loaded."""
        return True

    @property
    def tokenizer(self) -> Any:
        return self._present[0].tokenizer

    @property
    def vocab_size(self) -> int:
        return min(member.vocab_size for member in self._present)

    @property
    def context(self) -> int:
        return min(member.context for member in self._present)

    def identity(self, role: str) -> Identity:
        """What tells the model of a role from others."""
        found = identity(getattr(self, role))
        if role == "draft" and self.difference is not None:
            found = replace(found, vocabulary=identity(self.target).vocabulary)  # the ids that it will take
        return found

    def beyond_transformers(self) -> dict[str, str]:
        """The checkpoints that `transformers` cannot run as they are going to be loaded, by role, with their names."""
        found = {role: getattr(self, role) for role in ROLES}
        return {
            role: member.name
            for role, member in found.items()
            if isinstance(member, Checkpoint)
            and (
                member.own_weights
                or self.weights.get(role) == "int4"
                or (role == "draft" and self.difference is not None)  # its assisted generation wants one tokenizer
            )
        }

    def load(self, roles: Container[str] = ROLES) -> Members:
        """Loads the weights of these roles; a checkpoint that plays two of them in one type is loaded once."""
        loaded: dict[tuple[str, str], Model] = {}
        models: dict[str, Model | None] = {}
        if self.difference is not None and "draft" in roles:  # it takes the ids of the target
            roles = {"target", *(role for role in ROLES if role in roles)}
        for role in ROLES:
            member = getattr(self, role)
            if role not in roles or not isinstance(member, Checkpoint):
                models[role] = member if role in roles else None
                continue
            where = str(member.local.resolve()) if member.local else member.path
            dtype = self.weights.get(role, self.dtype)
            if (where, dtype) not in loaded:
                started = time.perf_counter()
                loaded[where, dtype] = member.load(dtype, self.device)
                _log.info("loaded the %s %s in %.1f s", role, member.name, time.perf_counter() - started)
            models[role] = loaded[where, dtype]
        return replace(Members.of(**models), ngram=self.ngram)


def plan(
    draft: Given = None,
    target: Given = None,
    base: Given = None,
    dtype: str = "auto",
    device: str = "auto",
    weights: str = "auto",
    tokenizer: Any = None,
    revision: str | None = None,
) -> Plan:
    """`load` without the weights: finds the models and refuses what can be refused; arguments and errors as there."""
    from fsgen.backends import places  # here, for they import torch
    from fsgen.backends.opening import open_checkpoint, open_loaded

    ngram = ngram_length(draft)
    named = [_at(None if ngram else draft, revision), _at(target, revision), _at(base, revision)]
    others = (target, draft, draft)  # whose tokenizer a model behind a server has, where it names none
    named = [with_tokenizer(m, o) if isinstance(m, str) else m for m, o in zip(named, others, strict=True)]
    memory = {id(m): open_loaded(m, tokenizer) for m in named if m is not None and not isinstance(m, (str, Path))}
    if tokenizer is not None and not memory:
        raise ValueError("tokenizer= is for models that are loaded already: a name has its own")
    draft, target, base = (memory.get(id(member), member) for member in named)
    places.check_dtype(dtype)
    places.check_device(device)
    given = dict(zip(ROLES, (draft, target, base), strict=True))
    if all(member is None for member in given.values()):
        raise ValueError("no model is given: name a draft or a target")
    by_role = places.weights_by_role(weights, [role for role in ROLES if isinstance(given[role], (str, Path))])
    opened: dict[str, Checkpoint] = {}
    for member in given.values():
        if isinstance(member, (str, Path)) and str(member) not in opened:
            opened[str(member)] = open_checkpoint(member, dtype, device)

    members = {role: opened[str(m)] if isinstance(m, (str, Path)) else m for role, m in given.items()}
    difference = _compare(
        {
            role: (m.name if isinstance(m, Checkpoint) else m.info.name, m.tokenizer, m.vocab_size)
            for role, m in members.items()
            if m is not None
        }
    )
    for checkpoint in opened.values():
        places.place(checkpoint, device, dtype)
    for role, kind in by_role.items():
        places.check_choice(opened[str(given[role])], kind)
        if kind in places.BITS:
            places.check_rounded(opened[str(given[role])], kind, device)
    return Plan(**members, dtype=dtype, device=device, weights=by_role, ngram=ngram, difference=difference)


def load(
    draft: Given = None,
    target: Given = None,
    base: Given = None,
    dtype: str = "auto",
    device: str = "auto",
    weights: str = "auto",
    tokenizer: Any = None,
    revision: str | None = None,
) -> Members:
    """Loads the models of a collaboration. Whatever can be refused is refused before any weights load.

    Args:
        draft, target, base: each a bundled model (`pocket-...`), a local folder, a GGUF file (run by llama.cpp on the
            CPU), a name on the Hugging Face hub (with a branch, tag or commit behind an @), a model behind a server
            (`vllm:http://host:8000#model`, see `fsgen.backends.remote`), or a model that is loaded already, by this
            function or by `transformers`. The same name twice is one model. A draft `ngram`, or `ngram:N`, is no model:
            what followed an earlier occurrence of the last 3 (or N) tokens, or fewer (prompt lookup). A draft may have
            another tokenizer than the target (`fsgen.backends.translated`); a base has that of its draft.
        dtype: auto (float32 on a CPU, the checkpoint's own type on a GPU), float32, bfloat16 or float16; of a GGUF
            file it is the type of keys and values alone.
        device: auto (the GPUs at hand, a large model spread over them; else the CPU), cpu, cuda or cuda:N.
        weights: auto (as `dtype` says), float32, bfloat16, float16, or on a CPU int8 or int4 (eight or four bits a
            weight, see `fsgen.backends.int8` and `int4`) for all models, or for each by its role: `draft=int8`,
            `draft=int8,target=bfloat16`. A rounded target is another model; of a rounded draft, greedy texts stay the
            target's.
        tokenizer: of models that `transformers` has loaded; their own, by their names, if None.
        revision: the branch, tag or commit of all models of the hub that have none behind an @.

    Raises:
        ValueError: a name, dtype or device that does not exist, a base with another tokenizer, or a model whose state
            no session can keep.
    """
    return plan(draft, target, base, dtype, device, weights, tokenizer, revision).load()


def _at(member: Given, revision: str | None) -> Given:
    """A name on the hub with the revision, where it has none; anything else as it is."""
    if revision is None or not isinstance(member, str) or "@" in member or is_remote(member):
        return member
    if locate(member) is not None:
        return member
    return f"{member}@{revision}"


def ngram_length(draft: Given) -> int:
    """The tokens of a match where n-grams draft, 0 where a model does. Raises ValueError for an impossible number."""
    if not isinstance(draft, str) or draft.partition(":")[0] != "ngram":
        return 0
    size = draft.partition(":")[2] or str(USUAL_NGRAM)
    if not size.isdecimal() or int(size) < 1:
        raise ValueError(f"draft={draft!r} is impossible: write 'ngram', or 'ngram:3' for matches of at most 3 tokens")
    return int(size)


def _compare(members: dict[str, tuple[str, Any, int]]) -> str | None:
    """How the draft's token ids differ from the target's, in words; None where they mean the same.

    Args:
        members: name, tokenizer and rows of the logits, by role.

    Raises:
        ValueError: other members differ, or a tokenizer cannot be translated.
    """
    found = None
    for (role, one), (other, two) in combinations(members.items(), 2):
        if one[1] is None or two[1] is None:
            continue  # a model without a tokenizer takes the ids as they come
        if difference := first_difference(one[1], two[1], (one[0], two[0])):
            difference = f"{one[0]} and {two[0]} have different tokenizers: {difference}"
        else:
            difference = _beyond(*one, two[2], two[0]) or _beyond(*two, one[2], one[0])
        if difference is None:
            continue
        if {role, other} == {"draft", "base"} or ("base" in (role, other) and "draft" not in members):
            raise ValueError(f"{difference}; a base needs the tokenizer of its draft")
        for name, tokenizer, _ in (one, two):
            if not readable(tokenizer):
                raise ValueError(f"{difference}; and that of {name} does not say where in a text its tokens lie")
        found = found or difference
    return found


def _beyond(name: str, tokenizer: Any, rows: int, shared: int, narrow: str) -> str | None:
    """What of a vocabulary another model of the same tokenizer has no logits for, in words."""
    if rows <= shared:
        return None
    # Rows beyond the shared ones may only be padding.
    token, index = max(tokenizer.get_vocab().items(), key=lambda entry: int(entry[1]))
    if index < shared:
        return None
    return (
        f"{name} and {narrow} have different vocabularies: the token {token!r} ({index}) of {name} is beyond the "
        f"{shared} ids of {narrow}"
    )
