"""How fast a pair decodes: its calls, plain decoding, drafting, and `transformers`, in one run, turn by turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch

from fsgen.api import generate
from fsgen.backends.members import Members
from fsgen.backends.protocol import Model
from fsgen.bench.scripted import ScriptedModel
from fsgen.metrics import Counts
from fsgen.types import SamplingParams

Ids = list[list[int]]
VERIFIED = 6  # tokens of a call that verifies five drafted ones


@dataclass(slots=True)
class Way:
    """One way of writing the same texts.

    Attributes:
        name: what it is.
        write: writes all of them: how many tokens, and the counts of our own ways.
        seconds: of each turn.
        tokens: of one turn.
        acceptance, tokens_per_call: of the drafted tokens; of the target's calls.
    """

    name: str
    write: Callable[[], tuple[int, Counts | None]]
    seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    acceptance: float | None = None
    tokens_per_call: float | None = None


@dataclass(frozen=True, slots=True)
class Calls:
    """Milliseconds of forward calls at a batch size (medians), and the share of the memory's bandwidth at batch 1.

    Attributes:
        target, verify, draft: one token a row of the target, `VERIFIED` of them, one token of the draft.
        share: bytes of the target's weights over the seconds of its call, of what can be read in them.
    """

    target: float
    verify: float
    draft: float | None
    share: float | None


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second of one way at one batch size; `ratio` over plain decoding: the median over the turns."""

    batch_size: int
    way: str
    tokens_per_second: float
    ratio: float
    acceptance: float | None
    tokens_per_call: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def bandwidth(device: torch.device) -> float:
    """Bytes a second that a device reads from its memory; of a GPU the best of six copies of a gibibyte."""
    if device.type == "cpu":
        from fsgen.backends.cpu.bandwidth import bandwidth as of_the_cpu  # here: it imports numba

        return of_the_cpu()
    numbers = torch.ones(2**28, device=device)
    other = torch.empty_like(numbers)
    return 2 * numbers.nbytes / min(_seconds(lambda: other.copy_(numbers), device) for _ in range(6))


def calls(members: Members, batch_size: int, prompt: int, rate: float | None = None) -> Calls:
    """What calls cost after prompts of so many tokens.

    Args:
        members: with a target; and a draft, or not.
        rate: the bandwidth, in bytes a second.
    """
    assert members.target is not None
    one, six = (_call(members.target, batch_size, prompt, count) for count in (1, VERIFIED))
    draft = None if members.draft is None else _call(members.draft, batch_size, prompt, 1)
    size = getattr(members.target, "weight_bytes", None)
    share = size / rate / one if rate and size else None
    return Calls(1e3 * one, 1e3 * six, None if draft is None else 1e3 * draft, share)


def _call(model: Model, rows: int, prompt: int, tokens: int) -> float:
    """Seconds of a call of so many tokens a row, the median."""
    return statistics.median(call_seconds(model, rows, prompt, tokens))


def call_seconds(model: Model, rows: int, prompt: int, tokens: int, times: int = 12) -> list[float]:
    """Seconds of so many calls of so many tokens a row, after prompts of so many tokens; one before is left out."""
    session = model.session(rows)
    texts = [[(7 * i + row) % (model.vocab_size - 1) + 1 for i in range(prompt)] for row in range(rows)]
    for row in range(rows):
        session.begin(row, prompt, prompt + (times + 1) * tokens)
    session.score(texts, 1)
    found = []
    for _ in range(times + 1):
        texts = [[*text, *range(11, 11 + tokens)] for text in texts]
        found.append(_seconds(lambda: session.score(texts, tokens), model.device))  # noqa: B023 - called at once
    return found[1:]


def ways(
    members: Members, prompts: Ids, max_tokens: int, batch_size: int, draft_tokens: int | str,
    acceptances: Sequence[float], compare: bool,
) -> Iterator[Way]:  # fmt: skip
    """Plain decoding, drafting as it is or at each set acceptance, and `transformers`.

    Args:
        acceptances: rates that the draft is made to have (`ScriptedModel`); as it is where there are none.
        compare: with `transformers`' `generate`, plain, and with its assistant at batch 1.
    """
    sampling = SamplingParams(max_tokens, ignore_eos=True)

    def ours(members: Members, method: str, length: int | str | None) -> tuple[int, Counts]:
        texts = generate(members, prompts, method, None, length, sampling, batch_size)
        return sum(len(text.token_ids) for text in texts), Counts.total(text.stats for text in texts)

    yield Way("plain", partial(ours, members, "plain", None))
    if members.draft is not None and not acceptances:
        yield Way("speculative", partial(ours, members, "speculative", draft_tokens))
    if members.draft is not None and acceptances:
        texts = generate(members, prompts, "plain", sampling=sampling, batch_size=batch_size)
        scripts = {tuple(ids): [*ids, *text.token_ids] for ids, text in zip(prompts, texts, strict=True)}
        for rate in acceptances:
            scripted = Members.of(draft=ScriptedModel(members.draft, scripts, rate), target=members.target)
            write = partial(ours, scripted, "speculative", draft_tokens)
            yield Way(f"speculative, {rate:g} accepted", write)
    if compare:
        yield Way("transformers", lambda: (by_transformers(members.target, prompts, max_tokens, batch_size), None))
        if batch_size == 1 and members.draft is not None:
            draft = members.draft
            yield Way(
                "transformers, assisted", lambda: (by_transformers(members.target, prompts, max_tokens, 1, draft), None)
            )


def by_transformers(target: Any, prompts: Ids, max_tokens: int, batch_size: int, draft: Any = None) -> int:
    """Writes the same texts with `transformers`' `generate`: how many tokens."""
    done = 0
    for start in range(0, len(prompts), batch_size):
        part = prompts[start : start + batch_size]
        longest = max(map(len, part))
        ids = torch.tensor([[0] * (longest - len(text)) + text for text in part], device=target.device)
        mask = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in part], device=target.device)
        assisted = {} if draft is None else {"assistant_model": draft.module}
        written = target.module.generate(
            ids, attention_mask=mask, max_new_tokens=max_tokens, min_new_tokens=max_tokens, do_sample=False,
            pad_token_id=0, **assisted,
        )  # fmt: skip
        done += written[:, longest:].numel()
    return done


def measure(found: Sequence[Way], batch_size: int, turns: int, device: torch.device) -> list[Speed]:
    """Runs the ways alternately, once to warm up and then so many turns; the others are compared with the first."""
    for way in found:
        way.write()
    for _ in range(turns):
        for way in found:
            way.seconds.append(_seconds(lambda: _note(way), device))  # noqa: B023 - called at once
    first = found[0]
    speeds = []
    for way in found:
        pairs = zip(first.seconds, way.seconds, strict=True)
        ratio = statistics.median(way.tokens / first.tokens * a / b for a, b in pairs)
        rate = way.tokens / statistics.median(way.seconds)
        speeds.append(Speed(batch_size, way.name, rate, ratio, way.acceptance, way.tokens_per_call))
    return speeds


def _note(way: Way) -> None:
    way.tokens, counts = way.write()
    if counts is not None and counts.draft_calls:
        way.acceptance, way.tokens_per_call = counts.acceptance_rate, counts.mean_accepted_length


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of some work, until the device has done all of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
