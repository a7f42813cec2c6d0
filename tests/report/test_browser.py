"""The report in a real browser: Debian's Chromium, without a window, from disk."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.colours import contrast, mixed
from tests.report.conftest import HOSTILE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 740}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        yield chromium
        chromium.close()


class Opened:
    """The page in a tab, what it complained about, and what it asked for."""

    def __init__(self, browser: Browser, report: Path, **options: Any) -> None:
        self.page = browser.new_page(**({"viewport": WIDE} | options))
        self.page.set_default_timeout(10_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(report.as_uri())


@pytest.fixture(scope="module")
def opened(browser: Browser, report: Path) -> Iterator[Opened]:
    tab = Opened(browser, report)
    yield tab
    tab.page.close()


@pytest.fixture
def page(opened: Opened) -> Page:
    """The page as it is first seen."""
    opened.page.reload()
    return opened.page


def open_all(page: Page) -> None:
    """Open what is folded."""
    page.locator("details").evaluate_all("all => all.forEach((each) => { each.open = true; })")


def draw_all(page: Page) -> int:
    """Open what is folded, come near every chart, and wait until it is drawn; how many there are."""
    open_all(page)
    charts = page.locator(".chart").all()
    for chart in charts:
        chart.scroll_into_view_if_needed()
        expect(chart.locator("svg").first).to_be_attached()
    return len(charts)


def test_it_opens_without_a_complaint_or_a_request(opened: Opened, report: Path) -> None:
    opened.page.reload()
    assert draw_all(opened.page) > 5
    assert opened.complaints == []
    assert set(opened.requests) == {report.as_uri()}


def test_the_browser_itself_keeps_it_from_asking_a_host(browser: Browser, report: Path) -> None:
    tab = Opened(browser, report)
    ask = "fetch('http://127.0.0.1:9/').then(() => 'asked', (error) => error.name)"
    assert tab.page.evaluate(ask) == "TypeError"
    assert "Content Security Policy" in tab.complaints[0]
    tab.page.close()


def test_hostile_text_stays_text(page: Page) -> None:
    assert page.evaluate("window.broken") is None
    assert page.locator("main img, main script").count() == 0
    assert page.locator(".name").inner_text() == f"tiny {HOSTILE}"
    page.locator("select[data-choice=example]").select_option(label="pocket_math/2")
    page.get_by_text("The prompt").click()
    assert HOSTILE in page.locator("[data-part=prompt]").inner_text()
    left = page.locator("select[data-choice=left]")
    shown = 0
    for name in left.locator("option").all_inner_texts():
        left.select_option(label=name)
        shown += page.locator(".text .token", has_text=HOSTILE).count()
    assert shown > 0
    assert page.evaluate("window.broken") is None


# ---- the viewer


def here(page: Page, pane: int = 0) -> int:
    """The number of the token that a pane shows."""
    return int(page.locator(".pane").nth(pane).locator(".token.here").get_attribute("data-index") or -1)


def differing(page: Page, pane: int = 0) -> list[int]:
    """The numbers of a pane's tokens where the two systems differ."""
    tokens = page.locator(".pane").nth(pane).locator(".token.differs").all()
    return [int(token.get_attribute("data-index") or -1) for token in tokens]


def choose(page: Page, side: str, word: str) -> None:
    """Choose the first run whose name has a word."""
    select = page.locator(f"select[data-choice={side}]")
    names = select.locator("option").all_inner_texts()
    select.select_option(label=next(name for name in names if word in name))


def test_by_mouse(page: Page) -> None:
    choose(page, "left", "oracle")
    choose(page, "right", "none")
    pane = page.locator(".pane")
    assert pane.count() == 1
    card = pane.locator(".card")
    token = pane.locator(".text .token").nth(5)
    token.hover()
    expect(card).to_contain_text("token 6 of")
    for word in ("draft", "System 2", "nats", "System 2 was consulted"):
        expect(card).to_contain_text(word)
    source = card.locator(".key").inner_text()
    assert source in ("accepted", "recovered")
    assert source in str(token.get_attribute("aria-label"))
    for system in card.locator(".systems > div").all():
        shares = [float(text.removesuffix(" %")) for text in system.locator(".share").all_inner_texts()]
        assert 1 <= len(shares) <= 5
        assert shares == sorted(shares, reverse=True)
        widths = [box["width"] for bar in system.locator(".what").all() if (box := bar.bounding_box())]
        assert len(set(map(round, widths))) == 1, "bars of one length, filled by the share"
    page.locator(".pane .text .token").nth(2).click()
    assert here(page) == 2
    page.locator("[data-jump='1']").click()
    assert here(page) == min(number for number in differing(page) if number > 2)


def test_by_keyboard(page: Page) -> None:
    choose(page, "left", "oracle")
    choose(page, "right", "none")
    places = differing(page)
    assert len(places) > 3
    page.locator(".pane .text .token").first.focus()
    assert here(page) == 0
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert here(page) == 2
    page.keyboard.press("ArrowLeft")
    assert here(page) == 1
    for place in [number for number in places if number > 1][:3]:
        page.keyboard.press("n")
        assert here(page) == place
        assert page.evaluate("document.activeElement.dataset.index") == str(place)
    back = [number for number in places if number < here(page)][-1]
    page.keyboard.press("p")
    assert here(page) == back
    page.keyboard.press("End")
    last = page.locator(".pane .text .token").count() - 1
    assert here(page) == last
    page.keyboard.press("n")
    assert here(page) == last, "there is no further one"
    page.keyboard.press("Home")
    assert here(page) == 0
    page.add_style_tag(content=".text { width: 9em; }")
    page.keyboard.press("ArrowDown")
    below = here(page)
    assert below > 0
    tops = [page.locator(".pane .text .token").nth(number).bounding_box() for number in (0, below)]
    assert tops[0] is not None
    assert tops[1] is not None
    assert tops[1]["y"] > tops[0]["y"]
    page.keyboard.press("ArrowUp")
    above = page.locator(".pane .text .token").nth(here(page)).bounding_box()
    assert above is not None
    assert above["y"] == tops[0]["y"]
    page.locator("select[data-choice=left]").focus()
    before = here(page)
    page.keyboard.press("n")
    assert here(page) == before or page.locator("select[data-choice=left]").input_value(), "a select keeps its keys"


def test_tab_reaches_one_token_of_a_text(page: Page) -> None:
    choose(page, "right", "none")
    page.locator("[data-jump='1']").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className").startswith("token")
    page.keyboard.press("Tab")
    assert not page.evaluate("document.activeElement.className").startswith("token")


def test_side_by_side(page: Page) -> None:
    choose(page, "left", "oracle")
    choose(page, "right", "route")
    assert page.locator(".pane").count() == 2
    left, right = (page.locator(".pane").nth(number).locator(".text .token").all_inner_texts() for number in range(2))
    shared = next((i for i, (one, two) in enumerate(zip(left, right, strict=False)) if one != two), len(left))
    page.locator(".pane").first.locator(".text .token").first.focus()
    assert (here(page, 0), here(page, 1)) == (0, 0)
    beyond = shared + 1
    if beyond < min(len(left), len(right)):
        page.locator(".pane").first.locator(".text .token").nth(beyond).focus()
        assert here(page, 0) == beyond
        assert page.locator(".pane").nth(1).locator(".token.here").count() == 0
    words = (
        page.locator(".pane")
        .nth(1)
        .locator(".text .token")
        .evaluate_all("tokens => tokens.map((token) => token.getAttribute('aria-label'))")
    )
    assert any("trusted" in word for word in words)


def test_what_is_not_known_is_said(page: Page) -> None:
    choose(page, "left", "route")
    choose(page, "right", "none")
    page.locator(".pane .text .token[aria-label*=trusted]").first.hover()
    card = page.locator(".pane .card")
    expect(card).to_contain_text("System 2 was not consulted")
    expect(card).to_contain_text("not known")


# ---- the table


def column(page: Page, number: int) -> list[str]:
    """The texts of a column of the table of runs."""
    return page.locator(f"table.sortable tbody td:nth-child({number + 1})").all_inner_texts()


def test_the_table_sorts_by_mouse_and_keyboard(page: Page) -> None:
    open_all(page)
    headings = page.locator("table.sortable th")
    titles = [title.strip() for title in headings.all_inner_texts()]
    frequency, method = titles.index("frequency"), titles.index("method")
    headings.nth(frequency).locator("button").click()
    values = [float(text) for text in column(page, frequency)]
    assert values == sorted(values)
    assert headings.nth(frequency).get_attribute("aria-sort") == "ascending"
    headings.nth(frequency).locator("button").focus()
    page.keyboard.press("Enter")
    values = [float(text) for text in column(page, frequency)]
    assert values == sorted(values, reverse=True)
    assert headings.nth(frequency).get_attribute("aria-sort") == "descending"
    headings.nth(method).locator("button").focus()
    page.keyboard.press("Space")
    names = column(page, method)
    assert names == sorted(names)
    assert headings.nth(frequency).get_attribute("aria-sort") == "none"
    rows = page.locator("table.sortable tbody tr").count()
    assert rows == len(values)


def test_the_table_is_searched_and_filtered(page: Page) -> None:
    page.locator("#runs > summary").click()
    runs = page.locator("table.sortable tbody tr")
    every = runs.count()
    counted = page.locator("[data-count]")
    expect(counted).to_have_text(f"{every} runs")
    page.locator("[data-search]").fill("ORACLE")
    oracles = page.locator("table.sortable tbody tr:visible")
    assert 0 < oracles.count() < every
    assert all("oracle" in text for text in oracles.all_inner_texts())
    expect(counted).to_have_text(f"{oracles.count()} of {every} runs")
    page.locator("[data-search]").fill("")
    method = page.locator("select[data-column]").nth(3)
    chosen = method.locator("option").nth(1).inner_text()
    method.select_option(label=chosen)
    assert {row.locator("td").nth(3).inner_text() for row in oracles.all()} == {chosen}
    page.locator("[data-search]").fill("no such word")
    expect(counted).to_have_text(f"0 of {every} runs")


# ---- what is folded, and where one is


def test_it_is_short_until_the_details(page: Page) -> None:
    top = page.locator("#details").bounding_box()
    assert top is not None
    assert top["y"] < 6000
    assert page.locator("section details[open]").count() == 0
    assert page.locator(".chart:visible").count() < page.locator(".chart").count()


def test_links_open_what_is_folded_and_the_list_shows_the_place(page: Page) -> None:
    runs = page.locator("#runs")
    assert runs.get_attribute("open") is None
    page.evaluate("location.hash = 'runs'")
    expect(runs).to_have_attribute("open", "")
    page.locator("nav a", has_text="Where in the text").click()
    expect(page.locator("nav a[aria-current]")).to_have_text("Where in the text")
    assert page.locator("nav").bounding_box()["y"] >= 0, "it stays on the screen"  # type: ignore[index]
    page.evaluate("location.hash = ''")


def test_all_opens_at_once_and_for_paper(page: Page) -> None:
    button = page.locator("[data-open]")
    count = page.locator("details").count()
    button.click()
    assert page.locator("details[open]").count() == count
    button.click()
    assert page.locator("details[open]").count() == 0
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details[open]").count() == count
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0


def test_a_word_opens_its_definition_by_mouse_and_keyboard(page: Page) -> None:
    word = page.locator("button.term").first
    definition = page.locator(f"#{word.get_attribute('popovertarget')}")
    assert not definition.is_visible()
    word.click()
    box, near = definition.bounding_box(), word.bounding_box()
    assert box is not None
    assert near is not None
    assert 0 <= box["x"] <= WIDE["width"] - box["width"]
    assert abs(box["y"] - near["y"]) < 300
    page.keyboard.press("Escape")
    assert not definition.is_visible()
    word.focus()
    page.keyboard.press("Enter")
    assert definition.is_visible()
    page.keyboard.press("Escape")


# ---- on a phone, and in the dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_it_fits_and_can_be_read(browser: Browser, report: Path, scheme: Any, viewport: Any) -> None:
    tab = Opened(browser, report, viewport=viewport, color_scheme=scheme)
    draw_all(tab.page)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    paper, ink = colours(tab.page, "body")
    assert (sum(paper[:3]) < 200) == (scheme == "dark")
    assert contrast(ink[:3], paper[:3]) >= 7
    for name in ("figcaption", ".panel h4", "summary", "nav a", ".pane > header", "thead th"):
        behind, front = colours(tab.page, name)
        assert contrast(front[:3], mixed(behind[:3], paper[:3], behind[3])) >= 4.5, name
    for number in range(0, tab.page.locator(".text .token").count(), 7):
        behind, front = colours(tab.page, ".text .token", number)
        assert contrast(front[:3], mixed(behind[:3], paper[:3], behind[3])) >= 4.5
    assert tab.complaints == []
    tab.page.close()


def colours(page: Page, selector: str, number: int = 0) -> tuple[Any, Any]:
    """Background and text of an element, as red, green, blue and opacity."""
    style = (
        page.locator(selector)
        .nth(number)
        .evaluate("element => [getComputedStyle(element).backgroundColor, getComputedStyle(element).color]")
    )
    numbers = [tuple(map(float, re.findall(r"[\d.]+", text))) for text in style]
    return tuple(colour if len(colour) == 4 else (*colour, 1.0) for colour in numbers)  # type: ignore[return-value]


def test_a_touch_shows_a_token(browser: Browser, report: Path) -> None:
    tab = Opened(browser, report, viewport=PHONE, has_touch=True)
    token = tab.page.locator(".pane").first.locator(".text .token").nth(3)
    token.scroll_into_view_if_needed()
    token.tap()
    assert here(tab.page) == 3
    card = tab.page.locator(".pane").first.locator(".card").bounding_box()
    assert card is not None
    assert 0 <= card["y"] < PHONE["height"], "what is known of it is on the screen"
    assert card["width"] <= PHONE["width"]
    tab.page.close()
