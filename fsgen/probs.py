"""From logits to probabilities, and what is measured and drawn from them.

Turning logits into probabilities (`Transforms`) is apart from drawing (`sample`), so that verification sees exactly
the distributions that drawing saw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fsgen.types import Candidates, SamplingParams


@dataclass(frozen=True, slots=True)
class Lines:
    """Positions' logits that lie in several tensors: the i-th are `tensors[i][places[i]]`, [vocab].

    A tensor for each would be an object for each, and what waits long enough, Python's collector looks through.
    """

    tensors: list[Tensor] = field(default_factory=list)
    places: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, part: slice) -> Lines:
        return Lines(self.tensors[part], self.places[part])

    def parts(self, logits: int) -> Iterator[slice]:
        """Cuts them into parts of at most so many logits, or one position."""
        size = max(1, logits // self.shape[1]) if len(self) else 1
        return (slice(start, start + size) for start in range(0, len(self), size))

    @property
    def shape(self) -> tuple[int, int]:
        """(positions, vocab), where there is a position."""
        return len(self.places), self.tensors[0].shape[-1]

    def add(self, tensor: Tensor, place: int) -> None:
        self.tensors.append(tensor)
        self.places.append(place)

    def together(self) -> Tensor:
        """[positions, vocab]."""
        return torch.stack([tensor[place] for tensor, place in zip(self.tensors, self.places, strict=True)])


class Summary(NamedTuple):
    """What a trace keeps of a distribution; every field has the shape of the positions, the last two [..., top]."""

    token: Tensor
    prob: Tensor
    margin: Tensor
    entropy: Tensor
    top_ids: Tensor
    top_probs: Tensor


@dataclass(frozen=True, slots=True)
class Compiled:
    """Faster versions of functions of this module, for [n, vocab] float32 in the memory of a CPU (`in_memory`).

    Attributes:
        summarize: of logits, and how many candidates; as `summarize`.
        variation: of p's and q's logits, and their temperatures if these are not 1; as `variation`.
        race: of probabilities, and their keys [n]; or of logits, their keys, and 1 / temperature [n], 0 for the most
            likely token. Gives [n] ids; as `race`.
    """

    summarize: Callable[[Tensor | Lines, int], Summary]
    variation: Callable[[Tensor | Lines, Tensor | Lines, Sequence[float] | None], Tensor]
    race: Callable[[Tensor, NDArray[np.uint64], NDArray[np.float32] | None], Tensor]


_compiled: Compiled | None = None


def use_compiled(functions: Compiled | None) -> None:
    """From now on these are used where they can be; None: torch computes everything."""
    global _compiled
    _compiled = functions


def _compiled_for(*given: Tensor | Lines) -> Compiled | None:
    return _compiled if all(map(in_memory, given)) else None


class Transforms:
    """The sampling transforms of a batch: temperature, then top-k, top-p and min-p, each row its own.

    The order, and that ties at the k-th logit all stay, are those of `transformers`' logits processors.
    """

    def __init__(self, rows: Sequence[SamplingParams], device: torch.device) -> None:
        def column(values: list[float], off: float) -> Tensor | None:
            if all(value == off for value in values):
                return None
            return torch.tensor(values, device=device, dtype=torch.float32)[:, None, None]

        self.greedy_rows = torch.tensor([row.greedy for row in rows], device=device)[:, None, None]
        self.all_greedy = all(row.greedy for row in rows)
        self.any_greedy = any(row.greedy for row in rows)
        self._temperature = column([row.temperature or 1.0 for row in rows], 1.0)
        self._top_k = column([float(row.top_k) for row in rows], 0.0)
        self._top_p = column([row.top_p for row in rows], 1.0)
        self._min_p = column([row.min_p for row in rows], 0.0)
        # [rows] of those that are transformed by a temperature alone, or by nothing; else None. 0 for greedy rows.
        self.temperatures: NDArray[np.float32] | None = None
        if self._top_k is None and self._top_p is None and self._min_p is None:
            self.temperatures = np.array([row.temperature for row in rows], np.float32)

    def measured(self, logits: Tensor) -> Tensor:
        """Probabilities as they are compared: [rows, n, vocab] logits, transformed; greedy rows at temperature 1."""
        if self.all_greedy:
            return logits.softmax(-1)
        transformed = self._transform(logits)
        return torch.where(self.greedy_rows, logits.softmax(-1), transformed) if self.any_greedy else transformed

    def drawn(self, logits: Tensor) -> Tensor:
        """Probabilities as they are drawn from: [rows, n, vocab] logits, transformed; greedy rows one-hot."""
        if not self.any_greedy:
            return self._transform(logits)
        one_hot = torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
        return one_hot if self.all_greedy else torch.where(self.greedy_rows, one_hot, self._transform(logits))

    @property
    def temperature_only(self) -> bool:
        """Whether what is measured is what one temperature a row makes of logits, and can be measured later."""
        return self.temperatures is not None

    @property
    def scales(self) -> NDArray[np.float32]:
        """[rows] 1 / temperature, and 0 for greedy rows, where a temperature is all there is."""
        assert self.temperatures is not None
        return np.divide(1, self.temperatures, out=np.zeros_like(self.temperatures), where=self.temperatures > 0)

    def race(self, logits: Tensor, seeds: NDArray[np.uint64], positions: NDArray[np.int64]) -> Tensor:
        """`race` of the probabilities that are drawn from: [rows, n, vocab] logits give [rows, n] ids."""
        flat = logits.reshape(-1, logits.shape[-1])
        compiled = _compiled_for(flat)
        if self.temperatures is None or compiled is None:
            return race(self.drawn(logits), seeds, positions)
        scales = np.repeat(self.scales, logits.shape[1])
        return compiled.race(flat, _race_keys(seeds, positions).ravel(), scales).view(logits.shape[:-1])

    def _transform(self, logits: Tensor) -> Tensor:
        if self._temperature is not None:
            logits = logits / self._temperature
        if self._top_k is not None:
            keep = self._top_k.long()
            keep = torch.where(keep == 0, logits.shape[-1], keep).clamp(max=logits.shape[-1])
            ordered = logits.topk(int(keep.max()), dim=-1).values
            floor = ordered.gather(-1, (keep - 1).expand(*logits.shape[:-1], 1))
            logits = logits.masked_fill(logits < floor, -torch.inf)
        if self._top_p is not None:
            ordered, order = logits.sort(dim=-1, descending=True)
            probs = ordered.softmax(-1)
            # A token stays while the mass before it has not reached top_p, so the first one always does.
            surplus = (probs.cumsum(-1) - probs >= self._top_p) & (self._top_p < 1.0)
            surplus[..., 0] = False
            logits = logits.masked_fill(surplus.scatter(-1, order, surplus), -torch.inf)
        if self._min_p is not None:
            probs = logits.softmax(-1)
            logits = logits.masked_fill(probs < self._min_p * probs.amax(-1, keepdim=True), -torch.inf)
        return logits.softmax(-1)


_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * _MIX[0]
    x = (x ^ (x >> np.uint64(27))) * _MIX[1]
    return x ^ (x >> np.uint64(31))


def uniforms(seeds: NDArray[np.uint64], positions: NDArray[np.int64], stream: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1 - 2**-32], one for each (seed, position, stream), by two rounds of SplitMix64.

    Numbers that depend on nothing but a row's seed, a position and what they are drawn for make a row's output
    independent of its batch, and of how its text was cut into rounds.

    Args:
        seeds, positions: arrays that broadcast.
        stream: what the numbers are for (`DRAFT`, `ACCEPT`, `DECIDE`, `ROUTE`).
    """
    return (_bits(seeds, positions, stream) >> np.uint64(32)).astype(np.float64) * 2.0**-32


def _bits(seeds: NDArray[np.uint64], positions: NDArray[np.int64], stream: int) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        return _mix(stream_keys(seeds, stream) + _GOLDEN * (positions.astype(np.uint64) + np.uint64(1)))


def stream_keys(seeds: NDArray[np.uint64], stream: int) -> NDArray[np.uint64]:
    """What the bits of all positions are made of, for each seed."""
    with np.errstate(over="ignore"):
        return _mix(seeds + _GOLDEN * np.uint64(stream + 1))


# What a number is for: a draft token, its acceptance, System 2's own token, a random router, draft and System 2 both.
_STREAMS = DRAFT, ACCEPT, DECIDE, ROUTE, SHARED = range(5)


def choice_seed(seed: int, choice: int) -> int:
    """The random seed of one of several texts of a prompt (`SamplingParams.n`); the first one has the seed itself."""
    return int(stream_keys(np.array([seed], np.uint64), len(_STREAMS) + choice)[0]) if choice else seed


def sample(probs: Tensor, uniform: Tensor) -> Tensor:
    """Draw by inverting the distribution function: [..., vocab] probabilities and [...] uniforms give [...] ids.

    A token of probability 0 is never drawn. In float64, since float32 sums over a large vocabulary drift.
    """
    cumulative = probs.double().cumsum(-1)
    threshold = uniform.double() * cumulative[..., -1]
    return torch.searchsorted(cumulative, threshold[..., None], right=True)[..., 0]


def race(probs: Tensor, seeds: NDArray[np.uint64], positions: NDArray[np.int64]) -> Tensor:
    """Draw by shared noise: [rows, n, vocab] probabilities give [rows, n] ids, each distributed as its probabilities.

    Every token has a time, exponentially distributed, that depends on nothing but the seed, the position and the
    token; the one with the least time / probability is drawn. So two distributions that are drawn from at one place
    mostly give one token: with a chance of at least (1 - d) / (1 + d) at a total variation d, and what is drawn from
    the one does not depend on the other ("drafter-invariant", Daliri et al. 2408.07978).

    Args:
        probs: of which some may be 0; these are never drawn.
        seeds: [rows]; positions: [rows, n].
    """
    keys = _race_keys(seeds, positions)
    flat = probs.reshape(-1, probs.shape[-1])
    if (compiled := _compiled_for(flat)) is not None:
        return compiled.race(flat, keys.ravel(), None).view(probs.shape[:-1])
    return (race_times(keys, probs.shape[-1], probs.device) / probs).argmin(-1)


def _race_keys(seeds: NDArray[np.uint64], positions: NDArray[np.int64]) -> NDArray[np.uint64]:
    return _bits(seeds[:, None], positions, SHARED)


def race_times(keys: NDArray[np.uint64], vocab: int, device: torch.device) -> Tensor:
    """Each token's time in a race, float64 [*keys.shape, vocab], made on the device: the same numbers on each.

    The token, and both halves of its key, are hashed by MurmurHash3's last step. Words of 32 bits lie in int32, which
    wraps as unsigned ones do.
    """
    halves = np.stack([keys.astype(np.uint32), (keys >> np.uint64(32)).astype(np.uint32)]).view(np.int32)
    first, second = torch.from_numpy(halves).to(device)[..., None]
    words = torch.arange(vocab, dtype=torch.int32, device=device).mul_(_signed(0x9E3779B9))
    words = _hashed(_hashed(words + first).add_(second))
    uniform = words.double().add_(0.5).mul_(2.0**-32).add_(words < 0)
    return uniform.neg_().log1p_().neg_()


def _signed(word: int) -> int:
    return word - 2**32


def _hashed(words: Tensor) -> Tensor:
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, None)):
        words.bitwise_xor_((words >> shift).bitwise_and_(2 ** (32 - shift) - 1))  # whatever the sign
        if factor:
            words.mul_(_signed(factor))
    return words


def residual(p: Tensor, q: Tensor) -> Tensor:
    """max(0, q - p) renormalised, over the last axis; q itself where the two are equal (Leviathan 2211.17192)."""
    left = (q - p).clamp_(min=0.0)
    mass = left.sum(-1, keepdim=True)
    return torch.where(mass > 0, left / mass.clamp(min=torch.finfo(left.dtype).tiny), q)


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """Half the L1 distance of two distributions over the last axis: the chance that a draw from p is rejected."""
    return 0.5 * (p - q).abs().sum(-1)


def variation(p: Tensor | Lines, q: Tensor | Lines, temperatures: Sequence[float] | None = None) -> Tensor:
    """The total variation [n] of n positions' logits, given as for `summarize`, at temperature 1 or each at its own."""
    if (compiled := _compiled_for(p, q)) is not None:
        return compiled.variation(p, q, temperatures)
    p, q = (x if isinstance(x, Tensor) else x.together() for x in (p, q))
    if temperatures is not None:
        each = torch.tensor(temperatures, device=p.device)[:, None]
        p, q = p / each, q / each
    return total_variation(p.softmax(-1), q.softmax(-1))


def in_memory(logits: Tensor | Lines) -> bool:
    """Whether these are some that compiled code reads: float32, on a CPU, each position in one piece."""
    if not len(logits):
        return False
    one = logits if isinstance(logits, Tensor) else logits.tensors[0]
    return one.device.type == "cpu" and one.dtype == torch.float32 and one.stride(-1) == 1


def entropy(log_probs: Tensor) -> Tensor:
    """Entropy in nats over the last axis; a token of probability 0 adds nothing."""
    return _entropy(log_probs.exp(), log_probs)


def _entropy(probs: Tensor, log_probs: Tensor) -> Tensor:
    return -(probs * log_probs.clamp(min=torch.finfo(log_probs.dtype).min)).sum(-1)


def summarize(logits: Tensor | Lines, top: int = 0) -> Summary:
    """Greedy token, its probability, its lead, the entropy (nats), and the `top` candidates of [..., vocab] logits.

    Logits of n positions may come as `Lines`.
    """
    if isinstance(logits, Tensor) and logits.ndim != 2:
        flat = summarize(logits.reshape(-1, logits.shape[-1]), top)
        return Summary(*(x.view(logits.shape[:-1] + x.shape[1:]) for x in flat))
    if (compiled := _compiled_for(logits)) is not None:
        return compiled.summarize(logits, top)
    return _summarize(logits if isinstance(logits, Tensor) else logits.together(), top)


def _summarize(logits: Tensor, top: int) -> Summary:
    log_probs = logits.log_softmax(-1)
    probs = log_probs.exp()
    best = probs.topk(min(max(2, top), probs.shape[-1]), dim=-1)
    # argmax, not best.indices: at ties the greedy token must be the one that the loop takes.
    return Summary(
        token=logits.argmax(-1),
        prob=best.values[..., 0],
        margin=best.values[..., 0] - best.values[..., 1],
        entropy=_entropy(probs, log_probs),
        top_ids=best.indices[..., :top],
        top_probs=best.values[..., :top],
    )


def log_probs(lines: Lines, tokens: Sequence[int], most: int) -> list[Candidates]:
    """The log-probability of a token at each position, and those of the `most` most likely ones: (id, value) each."""
    found = lines.together().log_softmax(-1)
    own = found.gather(-1, torch.tensor(tokens, device=found.device)[:, None])[:, 0].tolist()
    best = found.topk(min(most, found.shape[-1]), dim=-1)
    tops = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [((t, z), *zip(*top, strict=True)) for t, z, top in zip(tokens, own, tops, strict=True)]


def left_aligned(logits: Tensor, last: list[int]) -> Tensor:
    """Right-aligned logits, of which each row has its `last` positions, as left-aligned [rows, max(last), vocab]."""
    longest = max(last)
    if min(last) == longest:
        return logits[:, logits.shape[1] - longest :]
    return window(logits, [logits.shape[1] - n for n in last], longest)


def window(x: Tensor, starts: list[int], length: int) -> Tensor:
    """x[i, starts[i] : starts[i] + length] of each row of [rows, n, vocab]; past the end, filling."""
    if not any(starts):
        return x[:, :length]
    index = torch.tensor(starts, device=x.device)[:, None] + torch.arange(length, device=x.device)
    rows = torch.arange(len(x), device=x.device)[:, None]
    return x[rows, index.clamp(max=x.shape[1] - 1)]
