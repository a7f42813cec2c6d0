"""How generations look: text that stays text, and colours that everybody can read and tell apart."""

from __future__ import annotations

from itertools import combinations

import pytest

from fsgen.generation import Generation
from fsgen.metrics import count
from fsgen.render import LOOKS, SHADES, shade
from fsgen.types import SOURCES, Token
from tests.colours import VISIONS, contrast, distance, mixed
from tests.markup import Page

# Paper and ink of the report, of Jupyter and of Visual Studio Code, light and dark.
PAGES = {
    "report": ((255, 255, 255), (27, 31, 36)),
    "report, dark": ((20, 23, 26), (230, 233, 236)),
    "Jupyter, dark": ((17, 17, 17), (255, 255, 255)),
    "Code, dark": ((31, 31, 31), (204, 204, 204)),
}


def generation(*texts: str) -> Generation:
    tokens = [
        Token(
            position=i,
            id=i,
            text=text,
            source=SOURCES[i % 4],  # type: ignore[arg-type]
            round=i,
            draft_token=i,
            target_token=i + i % 2,
            draft_prob=1 - i / 8,
            draft_entropy=0.25,
            target_prob=0.5,
        )
        for i, text in enumerate(texts)
    ]
    return Generation("".join(texts), [1] * len(texts), tokens, count(tokens, sampled=False), "eos", 3)


def test_a_notebook_shows_the_text_by_source() -> None:
    shown = Page(generation("One ", "two", "\n", "three")._repr_html_())
    assert shown.text.startswith("One two\nthree")
    assert all(source in shown.text for source in SOURCES)
    assert "4 tokens" in shown.text
    titles = [attributes["title"] for _, attributes in shown.elements if "title" in attributes]
    assert titles[1] == (
        "position 1, accepted, draft's best 0.88, draft's entropy 0.25 nats, System 2's best 0.50, the two differ"
    )
    backgrounds = [str(attributes["style"]) for tag, attributes in shown.elements if tag == "span"][:4]
    assert [look.line in style for look, style in zip(LOOKS.values(), backgrounds, strict=True)] == [True] * 4


def test_text_of_a_model_is_no_markup() -> None:
    hostile = '</span></div><img src=x onerror="alert(1)"><script>alert(2)</script>&amp;'
    shown = Page(generation(hostile)._repr_html_())
    assert {tag for tag, _ in shown.elements} == {"div", "span"}
    assert shown.text.startswith(hostile)


def test_an_empty_text_has_a_picture_too() -> None:
    assert "0 tokens" in Page(generation()._repr_html_()).text


@pytest.mark.parametrize("page", PAGES)
def test_text_is_readable_on_every_shade(page: str) -> None:
    paper, ink = PAGES[page]
    for look in LOOKS.values():
        for uncertainty in (0.0, 0.5, 1.0):
            assert contrast(ink, mixed(look.rgb, paper, shade(uncertainty))) >= 4.5
        if page.startswith("report"):
            assert contrast(look.rgb, paper) >= 3, "the line under a token is seen"


@pytest.mark.parametrize("vision", VISIONS)
def test_sources_look_different(vision: str) -> None:
    assert set(LOOKS) == set(SOURCES)
    assert len({look.line for look in LOOKS.values()}) == len(SOURCES), "without any colour, too"
    for one, two in combinations(LOOKS.values(), 2):
        assert distance(one.rgb, two.rgb, vision) >= 40
        for paper, _ in PAGES.values():
            shades = [mixed(look.rgb, paper, SHADES[1]) for look in (one, two)]
            assert distance(shades[0], shades[1], vision) >= 15
