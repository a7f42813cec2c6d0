"""How well colours are seen: contrast as in WCAG 2, and distances as those who see colours differently see them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Rgb = tuple[float, float, float]

# Full lack of one kind of cones (protan, deutan, tritan), on linear RGB: Machado, Oliveira & Fernandes 2009.
VISIONS = {
    "usual": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def mixed(colour: Rgb, paper: Rgb, opacity: float) -> Rgb:
    """A colour laid over a paper."""
    red, green, blue = (opacity * a + (1 - opacity) * b for a, b in zip(colour, paper, strict=True))
    return red, green, blue


def contrast(one: Rgb, two: Rgb) -> float:
    """1 (none) to 21; WCAG AA asks 4.5 for text and 3 for graphics."""
    low, high = sorted(float(_linear(colour) @ np.array([0.2126, 0.7152, 0.0722])) for colour in (one, two))
    return (high + 0.05) / (low + 0.05)


def distance(one: Rgb, two: Rgb, vision: str) -> float:
    """Distance in CIELAB of two colours as somebody sees them; about 2 is just seen side by side."""
    return float(np.linalg.norm(_lab(one, vision) - _lab(two, vision)))


def _linear(colour: Rgb) -> NDArray[Any]:
    c = np.array(colour) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def _lab(colour: Rgb, vision: str) -> NDArray[Any]:
    seen = np.clip(np.array(VISIONS[vision]) @ _linear(colour), 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ seen / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
