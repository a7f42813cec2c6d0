"""Rotary position encodings whose tables do not depend on how long a text is."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rope:
    """A rotary position encoding (Su 2104.09864).

    Attributes:
        inverse_frequencies: float32 [head_dim / 2]; angles are positions times these.
        scale: of cosine and sine.
    """

    inverse_frequencies: Tensor
    scale: float = 1.0

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        head_dim: int,
        context: int,
        layers: str = "full_attention",
        kinds: Collection[str] | None = None,
        partial: bool = False,
    ) -> Rope | None:
        """The encoding that a configuration tells, in either of its spellings; None for one of another kind.

        Args:
            head_dim, context: of the model.
            layers: the kind of layers, where each has an encoding of its own.
            kinds: those that its family has, None for all.
            partial: its family turns the part of a head that the configuration tells.
        """
        given = _given(config, layers)
        if given is None:
            return None
        kind = given.pop("rope_type", given.pop("type", "default"))
        theta = given.pop("rope_theta", config.get("rope_theta"))
        share = given.pop("partial_rotary_factor", config.get("partial_rotary_factor"))
        share = 1.0 if share is None else share
        if kind not in _KINDS or not (kinds is None or kind in kinds):
            return None
        if not isinstance(theta, (int, float)) or not isinstance(share, (int, float)):
            return None
        turned = int(head_dim * share) if share == 1 or (partial and 0 < share < 1) else 0
        if not math.isfinite(theta) or theta <= 1 or turned % 2 or not turned:
            return None
        try:
            found = _KINDS[kind](cls._plain(float(theta), turned), float(theta), context, **given)
        except (TypeError, ValueError, ArithmeticError):  # a parameter that is missing, odd, or unknown
            return None
        if not bool(torch.isfinite(found.inverse_frequencies).all()) or (turned < head_dim and found.scale != 1):
            return None
        rest = torch.zeros((head_dim - turned) // 2)
        return cls(torch.cat([found.inverse_frequencies, rest]), found.scale)

    @classmethod
    def none(cls, head_dim: int) -> Rope:
        """That of layers without one."""
        return cls(torch.zeros(head_dim // 2))

    @staticmethod
    def _plain(theta: float, head_dim: int) -> Tensor:
        even = torch.arange(0, head_dim, 2, dtype=torch.int64).float()
        return 1.0 / (theta ** (even / head_dim))

    @property
    def turned(self) -> int:
        """How many numbers of a head it turns, the first ones."""
        return 2 * int(self.inverse_frequencies.count_nonzero())

    def tables(self, positions: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the first positions, float32 [positions, head_dim / 2]."""
        angles = torch.arange(positions).float()[:, None] * self.inverse_frequencies
        return angles.cos() * self.scale, angles.sin() * self.scale


def _given(config: Mapping[str, Any], layers: str) -> dict[str, Any] | None:
    """What a configuration says of the encoding of a kind of layers; None where it is not clear."""
    new, old = config.get("rope_parameters"), config.get("rope_scaling")
    if new and old and new != old:  # each family takes another one
        return None
    given = new or old or {}
    apart = "rope_local_base_freq" in config
    if isinstance(given, Mapping) and "full_attention" in given:
        given = given.get(layers) if apart else None
    elif layers == "sliding_attention" and apart:
        given = {"rope_theta": config["rope_local_base_freq"]}
    return dict(given) if isinstance(given, Mapping) else None


def head_order(head_dim: int, turned: int, interleaved: bool) -> Tensor | None:
    """The order of the numbers of a head in which the first half turns against the second; None where it is that.

    Args:
        turned: how many are turned, the first ones.
        interleaved: neighbours turn against each other, not the first half of these against the second.
    """
    first = torch.arange(turned).view(-1, 2).t() if interleaved else torch.arange(turned).view(2, -1)
    order = torch.cat([first, torch.arange(turned, head_dim).view(2, -1)], 1).flatten()
    return None if torch.equal(order, torch.arange(head_dim)) else order


def _default(plain: Tensor, theta: float, context: int, /) -> Rope:
    return Rope(plain)


def _linear(plain: Tensor, theta: float, context: int, /, *, factor: float) -> Rope:
    return Rope(plain / factor)


def _llama3(
    plain: Tensor, theta: float, context: int, /, *,
    factor: float, low_freq_factor: float, high_freq_factor: float, original_max_position_embeddings: int,
) -> Rope:  # fmt: skip
    """Llama 3.1: low frequencies are divided by the factor, high ones kept, those between are mixed."""
    original = original_max_position_embeddings
    wavelength = 2 * math.pi / plain
    mix = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor)
    mixed = (1 - mix) * plain / factor + mix * plain
    divided = torch.where(wavelength > original / low_freq_factor, plain / factor, plain)
    between = (wavelength <= original / low_freq_factor) & (wavelength >= original / high_freq_factor)
    return Rope(torch.where(between, mixed, divided))


def _yarn(
    plain: Tensor, theta: float, context: int, /, *,
    factor: float, original_max_position_embeddings: int | None = None, attention_factor: float | None = None,
    beta_fast: float = 32, beta_slow: float = 1, mscale: float | None = None, mscale_all_dim: float | None = None,
    truncate: bool = True,
) -> Rope:  # fmt: skip
    """YaRN (Peng 2309.00071): a ramp between frequencies that are divided and those that are kept."""
    dim, original = 2 * len(plain), original_max_position_embeddings or context

    def at(rotations: float) -> float:
        """The dimension that turns so many times within the original context."""
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = at(beta_fast), at(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = (torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low if high != low else 0.001)
    kept = 1 - ramp.clamp(0, 1)
    frequencies = plain / factor * (1 - kept) + plain * kept
    if attention_factor is None and mscale and mscale_all_dim:
        attention_factor = _mscale(factor, mscale) / _mscale(factor, mscale_all_dim)
    return Rope(frequencies, _mscale(factor, 1.0) if attention_factor is None else attention_factor)


def _mscale(factor: float, by: float) -> float:
    return 0.1 * by * math.log(factor) + 1.0 if factor > 1 else 1.0


_KINDS: dict[str, Callable[..., Rope]] = {"default": _default, "linear": _linear, "llama3": _llama3, "yarn": _yarn}
