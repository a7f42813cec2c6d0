"""The README's picture: a generation of the bundled models, each token coloured by what wrote it.

    python examples/picture.py --out docs/generation.svg

The picture needs no fonts or files from elsewhere.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import fsgen
from fsgen.render import LOOKS, figures
from fsgen.types import SOURCES

PROMPT = (
    "Question: A ticket to the museum costs 7 dollars for adults and 6 dollars for children. "
    "How many dollars more do 7 adults pay than 2 children?\nAnswer:"
)

INK, PROMPT_INK = "#1b1f24", "#57606a"
OPACITY = 0.35
COLUMNS = 88
CELL, LINE, MARGIN = 8.4, 24, 20  # pixels: width of a character, height of a line, space around

Piece = tuple[int, int, str, str | None]  # column, line, text, source


def background(source: str) -> str:
    """The colour of a source, on white."""
    return "#" + "".join(f"{round(OPACITY * part + (1 - OPACITY) * 255):02x}" for part in LOOKS[source].rgb)


def laid_out(parts: list[tuple[str, str | None]]) -> Iterator[Piece]:
    """The place of each token: lines break at line breaks, and before a token that would run over the edge."""
    column = line = 0
    for text, source in parts:
        for number, piece in enumerate(text.split("\n")):
            if number:
                column, line = 0, line + 1
            if column + len(piece) > COLUMNS and column:
                column, line = 0, line + 1
            if piece:
                yield column, line, piece, source
            column += len(piece)


def drawn(text: str, column: float, line: float, source: str | None) -> str:
    """A text at its place, in the colours of its source; its width is fixed, whatever font the reader has."""
    ink = PROMPT_INK if source is None else INK
    x, y = MARGIN + column * CELL, MARGIN + line * LINE
    shapes = ""
    if source is not None:
        width = len(text) * CELL - 1
        box = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{LINE - 3}" rx="3"'
        shapes = f'<rect {box} fill="{background(source)}"/>'
    shown = text.strip()
    if shown:
        x += (len(text) - len(text.lstrip())) * CELL
        shapes += (
            f'<text x="{x:.1f}" y="{y + 15:.1f}" fill="{ink}" textLength="{len(shown) * CELL:.1f}" '
            f'lengthAdjust="spacingAndGlyphs">{escape(shown)}</text>'
        )
    return shapes


def picture(prompt: str, generation: fsgen.Generation, title: str) -> str:
    """The SVG of a generation."""
    words = [(word, None) for word in re.findall(r"\s*\S+|\s+$", prompt)]
    pieces = list(laid_out([*words, *((token.text, token.source) for token in generation.tokens)]))
    shapes = [drawn(text, column, line, source) for column, line, text, source in pieces]
    line = pieces[-1][1] + 1.7
    column = 0
    for source in SOURCES:
        if any(token.source == source for token in generation.tokens):
            shapes.append(drawn(f" {source} ", column, line, source))
            column += len(source) + 4
    shapes.append(drawn(title, column, line, None))
    for row in textwrap.wrap(figures(generation), COLUMNS):
        line += 1.1
        shapes.append(drawn(row, 0, line, None))
    width, height = 2 * MARGIN + COLUMNS * CELL, 2 * MARGIN + (line + 1) * LINE
    body = "\n".join(shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="14">\n'
        f"<title>{escape(title)}: each token in the colour of what wrote it</title>\n"
        f'<rect width="100%" height="100%" rx="8" fill="#ffffff" stroke="#d0d7de"/>\n{body}\n</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--draft", default="pocket-0.25m")
    parser.add_argument("--target", default="pocket-4m")
    parser.add_argument("--method", default="speculative")
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--out", type=Path, default=Path("docs/generation.svg"))
    given = parser.parse_args()
    members = fsgen.load(draft=given.draft, target=given.target)
    sampling = fsgen.SamplingParams(max_tokens=given.max_tokens, stop=("\nQuestion:",))
    # Once to warm up, so that the figures are those of a running program.
    for _ in range(2):
        generation = fsgen.generate(members, [given.prompt], given.method, sampling=sampling)[0]
    names = members.names()
    title = f"{given.method}: {names['draft']} drafts, {names['target']} decides"
    given.out.write_text(picture(given.prompt, generation, title), encoding="utf-8")


if __name__ == "__main__":
    main()
