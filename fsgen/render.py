"""How a generation looks in words and colours: one style a source, a legend, one line of figures."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.text import Text

from fsgen.types import SOURCES

if TYPE_CHECKING:
    from fsgen.generation import Generation

STYLES = {"trusted": "cyan", "accepted": "green", "recovered": "bold red", "bonus": "yellow"}


def legend() -> Text:
    """The sources, each in its style."""
    return Text(" ").join(Text(source, style=STYLES[source]) for source in SOURCES)


def figures(generation: Generation) -> str:
    """What a text has cost, in one line; a figure that was not measured is left out."""
    stats = generation.stats
    sources = Counter[str](token.source for token in generation.tokens)
    speed = f", {stats.tokens / stats.seconds:.0f}/s" if stats.seconds else ""
    shown = [
        f"{stats.tokens} tokens in {stats.seconds:.2f} s{speed}",
        ", ".join(f"{sources[source]} {source}" for source in SOURCES if sources[source]),
    ]
    if stats.collaboration_frequency is not None:
        shown.append(f"collaboration frequency {stats.collaboration_frequency:.2f}")
    if stats.consulted_rate is not None:
        shown.append(f"System 2 consulted at {stats.consulted_rate:.0%}")
    if stats.mean_accepted_length is not None:
        shown.append(f"{stats.mean_accepted_length:.2f} tokens a call")
    return "; ".join([*shown, f"ended by {generation.stop_reason}"])
