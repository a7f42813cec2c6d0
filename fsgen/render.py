"""How a generation is shown: the colours of the sources, wherever they appear, and a line of figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Protocol

from rich.text import Text

from fsgen.metrics import Counts
from fsgen.types import SOURCES, StopReason, Token


class Generation(Protocol):
    """What is shown of a generation."""

    @property
    def tokens(self) -> Sequence[Token]: ...
    @property
    def stats(self) -> Counts: ...
    @property
    def stop_reason(self) -> StopReason: ...


@dataclass(frozen=True)
class Look:
    """How the tokens of a source look.

    Attributes:
        rgb: visible on white and on black, and distinct for readers with colour vision deficiency.
        line: the kind of line under the token, which shows the source without any colour.
        terminal: the style in a terminal, whose colours are its user's.
        plain: the style in one that shall have no colours (NO_COLOR).
    """

    rgb: tuple[int, int, int]
    line: str
    terminal: str
    plain: str


LOOKS = {
    "trusted": Look((133, 61, 242), "dotted", "magenta", "underline"),
    "accepted": Look((85, 152, 212), "solid", "cyan", "none"),
    "recovered": Look((212, 53, 95), "double", "bold red", "bold"),
    "bonus": Look((196, 137, 20), "dashed", "yellow", "bold underline"),
}


def styles(no_color: bool = False) -> dict[str, str]:
    """The style of each source in a terminal."""
    return {source: look.plain if no_color else look.terminal for source, look in LOOKS.items()}


SHADES = (0.06, 0.46)
"""Opacity of a token's background where the draft is certain, and where it is not at all; text stays readable."""


def shade(uncertainty: float) -> float:
    """The opacity of a token's background, by the draft's uncertainty (0 to 1)."""
    least, most = SHADES
    return least + (most - least) * min(max(uncertainty, 0.0), 1.0)


def legend(no_color: bool = False) -> Text:
    """The sources, each in its style."""
    looks = styles(no_color)
    return Text(" ").join(Text(source, style=looks[source]) for source in SOURCES)


def figures(generation: Generation) -> str:
    """What a text cost, in one line; a figure that was not measured is left out."""
    sources = Counter[str](token.source for token in generation.tokens)
    written = ", ".join(f"{sources[source]} {source}" for source in SOURCES if sources[source])
    return counted(generation.stats, written, f"ended by {generation.stop_reason}")


def counted(stats: Counts, written: str = "", ended: str = "") -> str:
    """What one text or many cost, in one line, with what is said of their sources and of how they ended."""
    speed = f", {stats.tokens / stats.seconds:.0f}/s" if stats.seconds else ""
    shown = [f"{stats.tokens} tokens in {stats.seconds:.2f} s{speed}", written]
    if stats.collaboration_frequency is not None:
        shown.append(f"collaboration frequency {stats.collaboration_frequency:.2f}")
    if stats.consulted_rate is not None:
        shown.append(f"System 2 consulted at {stats.consulted_rate:.0%}")
    if stats.mean_accepted_length is not None:
        shown.append(f"{stats.mean_accepted_length:.2f} tokens a call")
    return "; ".join(filter(None, [*shown, ended]))


def html(generation: Generation) -> str:
    """A generation as HTML that needs no style sheet.

    Each token has the colour of its source, stronger where the draft was uncertain; pointing at it shows what is known
    of it.
    """
    seen = {token.source for token in generation.tokens}
    keys = " ".join(_span(f" {source} ", source, 0.5) for source in SOURCES if source in seen)
    text = "".join(
        _span(token.text, token.source, _uncertainty(token), _known(token)) for token in generation.tokens if token.text
    )
    return (
        '<div style="max-width:60em">'
        f'<div style="font-family:monospace;white-space:pre-wrap;line-height:1.9;text-align:left">{text}</div>'
        f'<div style="font-size:85%;margin-top:.6em">{keys} &nbsp; {escape(figures(generation))}</div>'
        "</div>"
    )


def _span(text: str, source: str, uncertainty: float, title: str = "") -> str:
    look = LOOKS[source]
    red, green, blue = look.rgb
    style = f"background:rgba({red},{green},{blue},{shade(uncertainty):.2f});"
    style += f"border-bottom:{3 if look.line == 'double' else 2}px {look.line} rgb({red},{green},{blue})"
    known = f' title="{escape(title)}"' if title else ""
    return f'<span style="{style}"{known}>{escape(text)}</span>'


def _uncertainty(token: Token) -> float:
    return 0.0 if token.draft_prob is None else 1.0 - token.draft_prob


def _known(token: Token) -> str:
    """What a record says, in a line."""
    shown = [f"position {token.position}", token.source]
    if token.draft_prob is not None:
        shown.append(f"draft's best {token.draft_prob:.2f}")
    if token.draft_entropy is not None:
        shown.append(f"draft's entropy {token.draft_entropy:.2f} nats")
    if token.target_prob is not None:
        shown.append(f"System 2's best {token.target_prob:.2f}")
    if token.differs is not None:
        shown.append("the two differ" if token.differs else "the two agree")
    return ", ".join(shown)
