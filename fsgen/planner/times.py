"""Seconds of a model's calls on this machine: measured once (`fsgen profile`), kept in a file, read in between.

A call of `rows` texts with `tokens` new tokens each, after `context` tokens, is measured on a small grid. Between its
points a line is drawn; the context costs the same for each row and token of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fsgen.backends.identity import identity
from fsgen.backends.protocol import Model
from fsgen.bench.speed import call_seconds
from fsgen.files import write_text
from fsgen.study.machine import hardware

VERSION = 1
TOKENS = (1, 2, 4, 7, 13)  # of a call
PROMPT, LONGER = 64, 384  # tokens before it
READ = 128  # tokens of a prompt that is read at once
SWEEPS = 3  # over the grid, so that what holds up the machine for a moment meets no point alone
TIMES = 5  # calls of a point in a sweep, at most
POINT_SECONDS = 0.25  # in a sweep, or one call
ERROR = 0.03  # of measured seconds: from run to run, and of the line between two points


class Times(Protocol):
    """How long a model's calls take, and how much memory it needs.

    Attributes:
        model: its name.
        weight_bytes, token_bytes: of its weights; of the keys and values of one token.
        error: by how much a time may be off, as a part of it (standard deviation).
        packed: texts with fewer new tokens than others cost less in the same call.
    """

    @property
    def model(self) -> str: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def token_bytes(self) -> float: ...
    @property
    def error(self) -> float: ...
    @property
    def packed(self) -> bool: ...

    def call(self, rows: float, tokens: float, context: float) -> float:
        """Seconds of a call of `rows` texts with `tokens` new tokens each, after `context` tokens."""
        ...

    def reading(self, tokens: int) -> float:
        """Seconds to read so many tokens of prompts."""
        ...


@dataclass(frozen=True)
class Profile:
    """Measured calls of one model on one machine.

    Attributes:
        model, digest, machine, dtype: what was measured where.
        rows, tokens: the grid; `seconds[i][j]` are those at rows[i] and tokens[j], after `PROMPT` tokens.
        context_seconds: that each further token of context costs for each row.
        read_seconds: of a prompt's token.
        overhead: seconds of a round of plain decoding beside the call, at one row.
        spread: of a call's seconds from time to time, as a part of them.
    """

    model: str
    digest: str | None
    machine: str
    dtype: str
    rows: tuple[int, ...]
    tokens: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]
    context_seconds: float
    read_seconds: float
    overhead: float
    spread: float
    weight_bytes: int
    token_bytes: float
    packed: bool = True
    version: int = field(default=VERSION)

    @property
    def error(self) -> float:
        return float(np.hypot(ERROR, self.spread / np.sqrt(SWEEPS * TIMES)))

    def call(self, rows: float, tokens: float, context: float) -> float:
        by_rows = [_line(tokens, self.tokens, line) for line in self.seconds]
        found = _line(rows, self.rows, by_rows)
        least = min(self.seconds[0])
        return max(0.5 * least, found + self.context_seconds * rows * (context - PROMPT))

    def reading(self, tokens: int) -> float:
        return self.read_seconds * tokens

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def _line(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """A value between points, and beyond the last one by the slope of the last two."""
    if len(xs) == 1:
        return ys[0] * (1 if x <= xs[0] else x / xs[0])
    if x > xs[-1]:
        return ys[-1] + max(0.0, (ys[-1] - ys[-2]) / (xs[-1] - xs[-2])) * (x - xs[-1])
    return float(np.interp(x, xs, ys))


def grid_rows(largest: int) -> tuple[int, ...]:
    """Numbers of rows to measure: powers of two up to the largest batch."""
    found = [1]
    while found[-1] < largest:
        found.append(min(largest, 2 * found[-1]))
    return tuple(found)


def measure(
    model: Model, batch: int = 16, seconds: float = 60.0, progress: Callable[[str], None] | None = None
) -> Profile:
    """Measures the calls of a model.

    Args:
        model: loaded.
        batch: the largest number of rows.
        seconds: about so many at most; the largest batch and a single row come first, those between them last.
        progress: called with what is measured next.

    Raises:
        ValueError: an impossible number of rows or of seconds; a window of less than 32 tokens.
    """
    if batch < 1 or not seconds > 0:
        raise ValueError(f"a profile needs at least one row and some seconds, not {batch} and {seconds:g}")
    if model.context < 32:
        raise ValueError(f"the context window of {model.info.name} has {model.context} tokens, too few to measure")
    started, prompt = time.monotonic(), min(PROMPT, model.context // 4)
    tokens = [count for count in TOKENS if prompt + 4 * count <= model.context]
    lines: dict[int, list[list[float]]] = {}
    for sweep in range(SWEEPS):
        for rows in sorted(grid_rows(batch), key=lambda rows: (rows not in (1, batch), rows)):
            late = time.monotonic() - started > 0.7 * seconds
            if (late and lines.keys() >= {1, batch}) or (sweep and rows not in lines):
                continue
            if progress is not None:
                progress(f"{model.info.name}: {rows} rows, {sweep + 1} of {SWEEPS}")
            line = lines.setdefault(rows, [[] for _ in tokens])
            for found, count in zip(line, tokens, strict=True):
                found += _calls(model, rows, prompt, count)
    # The fastest call counts: whatever else a machine does only adds.
    grid = {rows: [min(found) for found in lines[rows]] for rows in sorted(lines)}
    spread = statistics.median(_spread(found) for line in lines.values() for found in line)
    longer, context = min(LONGER, model.context - 4 * TIMES - 4), 0.0
    if longer > 2 * prompt:
        extra = min(_calls(model, batch, longer, 1)) - grid[batch][0]
        context = max(0.0, extra / (longer - prompt) / batch)
    kept = model.cache_bytes(model.context) / model.context
    return Profile(
        model.info.name, identity(model).digest, machine_name(str(model.device.type)), dtype_of(model),
        tuple(grid), tuple(tokens), _rising(list(grid.values())), context, _read_seconds(model),
        _overhead(model, prompt), spread, weight_bytes(model), kept, model.device.type == "cpu",
    )  # fmt: skip


def _calls(model: Model, rows: int, prompt: int, tokens: int) -> list[float]:
    """Seconds of some calls: as many as there is time and room for."""
    first = call_seconds(model, rows, prompt, tokens, 1)
    count = min(TIMES, int(POINT_SECONDS / max(first[0], 1e-6)), (model.context - prompt) // tokens - 2)
    return call_seconds(model, rows, prompt, tokens, count) if count > 1 else first


def _spread(found: Sequence[float]) -> float:
    """How far half of the calls are off, as a part of what they take."""
    usual = statistics.median(found)
    return statistics.median(abs(one - usual) for one in found) / usual


def _rising(grid: list[list[float]]) -> tuple[tuple[float, ...], ...]:
    """No call takes longer than one of more tokens or rows: where it seems so, something held it up."""
    found = np.array(grid)
    for axis in (0, 1):
        found = np.flip(np.minimum.accumulate(np.flip(found, axis), axis), axis)
    return tuple(tuple(line) for line in found.tolist())


def _read_seconds(model: Model) -> float:
    """Seconds of a prompt's token that is read among many."""
    count = min(READ, model.context // 2)
    return min(call_seconds(model, 1, 1, count, 1)[0] for _ in range(3)) / count


def _overhead(model: Model, prompt: int) -> float:
    """Seconds that a round of plain decoding takes beside the call."""
    from fsgen.api import generate  # here: a circle of packages it is not, but few need it
    from fsgen.backends.members import Members
    from fsgen.types import SamplingParams

    tokens = min(24, model.context - prompt)
    sampling = SamplingParams(tokens, ignore_eos=True)
    ids = [1 + i % (model.vocab_size - 1) for i in range(prompt)]
    members = Members.of(target=model)
    found = [generate(members, ids, "plain", sampling=sampling)[0].stats for _ in range(3)]
    return min((one.seconds - one.system2_seconds) / one.tokens for one in found)


def weight_bytes(model: Any) -> int:
    """Bytes of a model's weights: as they are held, or by its parameters in the type of its logits."""
    held = getattr(model, "weight_bytes", None)
    if held:
        return int(held)
    module = getattr(model, "module", None)
    if module is not None and hasattr(module, "parameters"):
        return sum(each.numel() * each.element_size() for each in module.parameters())
    return 4 * int(model.info.parameters)


def dtype_of(model: Any) -> str:
    """The type of a model's weights, in a word."""
    kind = getattr(model, "kind", None)
    if kind is not None:
        return str(kind)
    module = getattr(model, "module", None)
    return str(getattr(module, "dtype", "")).removeprefix("torch.")


def machine_name(device: str = "cpu") -> str:
    """What computes here: the GPU, or the processor with its threads."""
    found = hardware()
    if device == "cuda" and found["gpus"]:
        return str(found["gpus"][0])
    return f"{found['processor']}, {found['threads']} threads"


# ---- where profiles are kept


def cache_folder() -> Path:
    """Where profiles are kept: `$XDG_CACHE_HOME/fsgen/profiles`, or below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "fsgen" / "profiles"


def kept_at(model: str, digest: str | None, dtype: str, machine: str) -> Path:
    """The file of a model's profile on a machine."""
    key = hashlib.sha256(json.dumps([VERSION, model, digest, dtype, machine]).encode()).hexdigest()[:16]
    name = "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in model)[-60:]
    return cache_folder() / f"{name}-{key}.json"


def keep(profile: Profile) -> Path:
    """Writes a profile where `kept` finds it."""
    path = kept_at(profile.model, profile.digest, profile.dtype, profile.machine)
    write_text(path, json.dumps(profile.as_dict(), indent=1) + "\n")
    return path


def read_profile(path: Path) -> Profile:
    """A profile from its file. Raises ValueError for a file that is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for name in ("rows", "tokens"):
            content[name] = tuple(content[name])
        content["seconds"] = tuple(tuple(line) for line in content["seconds"])
        found = Profile(**content)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{str(path)!r} is no profile of fsgen ({error}): measure it with fsgen profile") from None
    if found.version != VERSION or len(found.seconds) != len(found.rows) or not found.rows:
        raise ValueError(f"{str(path)!r} is a profile of another version of fsgen: measure it with fsgen profile")
    return found


def kept_profile(model: str) -> Profile:
    """The profile of a model on this machine that was kept last. Raises ValueError where there is none."""
    known = []
    for path in sorted(cache_folder().glob("*.json"), key=lambda path: path.stat().st_mtime):
        try:
            found = read_profile(path)
        except ValueError:
            continue
        if found.model == model and found.machine in (machine_name(), machine_name("cuda")):
            known.append(found)
    if not known:
        raise ValueError(f"{model!r} was not measured on this machine: fsgen profile {model}")
    return known[-1]


def profile_of(model: Model, batch: int, fresh: bool = False, **options: Any) -> Profile:
    """The profile of a model on this machine: as it was kept, or measured now and kept.

    Args:
        batch: the largest number of rows that is wanted.
        fresh: measure it again.
        options: of `measure`.
    """
    path = kept_at(model.info.name, identity(model).digest, dtype_of(model), machine_name(str(model.device.type)))
    if path.is_file() and not fresh:
        try:
            found = read_profile(path)
        except ValueError:
            found = None
        if found is not None and found.rows[-1] >= batch:
            return found
    made = measure(model, batch, **options)
    keep(made)
    return made
