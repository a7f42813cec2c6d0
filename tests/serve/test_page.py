"""The page of a server in a real browser: Debian's Chromium, without a window."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from fsgen import generate
from fsgen.backends import Members
from fsgen.serve.page import static
from fsgen.types import SamplingParams
from tests.report.test_browser import CHROMIUM, browser
from tests.serve.conftest import Running, until
from tests.serve.test_api import PROMPT, ask

__all__ = ["browser"]  # the fixture

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")


class Tab:
    """The page in a tab, what it complained about, and what it asked for."""

    def __init__(self, browser: Browser, url: str, **options: object) -> None:
        self.page = browser.new_page(**({"viewport": {"width": 1200, "height": 900}} | options))  # type: ignore[arg-type]
        self.page.set_default_timeout(20_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)
        expect(self.page.locator("#legend li")).to_have_count(4)


@pytest.fixture
def tab(browser: Browser, running: Running) -> Iterator[Tab]:
    found = Tab(browser, running.url)
    yield found
    found.page.close()


def write(page: Page, prompt: str = PROMPT, tokens: int = 24) -> None:
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_label("tokens", exact=True).fill(str(tokens))
    page.get_by_role("button", name="Write").click()


def text(page: Page, pane: int = 0) -> str:
    """What stands in a pane, without the marks of line breaks."""
    spans = page.locator(".pane").nth(pane).locator(".text .token").all()
    whole = "".join(re.sub("[↵·]", "", span.inner_text()) for span in spans)
    return whole.replace("\xa0", " ")


def finished(page: Page) -> None:
    expect(page.locator("#said")).to_have_text("finished")


def test_a_text_streams_in_coloured_by_source(tab: Tab, pair: Members) -> None:
    page = tab.page
    page.get_by_label("draft tokens, left").select_option("3")
    write(page)
    finished(page)
    expected = generate(pair, PROMPT, draft_tokens=3, sampling=SamplingParams(max_tokens=24))[0]
    assert text(page) == expected.text
    spans = page.locator(".pane .text .token")
    assert spans.count() == len(expected.tokens)
    labels = [str(span.get_attribute("aria-label")) for span in spans.all()]
    assert {label.split(", ")[1] for label in labels} <= {"accepted", "recovered", "bonus"}
    assert len({span.evaluate("each => getComputedStyle(each).borderBottomColor") for span in spans.all()}) >= 2
    counters = page.locator(".pane > header").inner_text()
    assert re.search(
        r"24 tokens; \d+ tokens/s; \d+ target calls, \d+ saved; frequency [01]\.\d\d; ended by length", counters
    )
    spans.nth(2).hover()
    card = page.locator(".card")
    for words in ("token 3 of 24", "System 2", "nats"):
        expect(card).to_contain_text(words)
    assert card.locator(".share").count() >= 5
    spans.nth(2).click()
    page.keyboard.press("ArrowRight")
    expect(card).to_contain_text("token 4 of 24")
    assert tab.complaints == []
    assert all(request.startswith(page.url.split("#")[0]) for request in tab.requests), tab.requests


def test_two_settings_side_by_side_and_a_link_that_restores_them(tab: Tab, pair: Members, browser: Browser) -> None:
    page = tab.page
    page.get_by_text("two settings side by side").click()
    page.get_by_label("method, right").select_option("route")
    page.get_by_label("router, right").select_option("max-prob")
    page.get_by_label("threshold, right").fill("0.8")
    write(page)
    finished(page)
    sampling = SamplingParams(max_tokens=24)
    assert text(page, 0) == generate(pair, PROMPT, sampling=sampling)[0].text
    assert text(page, 1) == generate(pair, PROMPT, "route", "max-prob:0.8", sampling=sampling)[0].text
    assert "route, max-prob:0.8" in page.locator(".pane > header").nth(1).inner_text()
    other = Tab(browser, page.url)
    assert other.page.get_by_label("Prompt").input_value() == PROMPT
    assert other.page.get_by_label("method, right").input_value() == "route"
    assert other.page.get_by_label("threshold, right").input_value() == "0.8"
    assert other.page.get_by_label("two settings side by side").is_checked()
    assert other.complaints == []
    other.page.close()
    broken = Tab(browser, page.url.split("#")[0] + "#%7Bnonsense")
    assert broken.complaints == []
    broken.page.close()


def test_it_can_be_stopped(tab: Tab, running: Running) -> None:
    page = tab.page
    page.get_by_label("temperature").fill("1.5")
    page.get_by_label("method, left").select_option("plain")
    write(page, tokens=900)
    expect(page.locator(".pane .text .token").first).to_be_attached()
    page.keyboard.press("Escape")
    expect(page.locator("#said")).to_have_text(re.compile("stopped|finished"))
    expect(page.get_by_role("button", name="Stop")).to_be_disabled()
    until(running.idle, 10)


def test_errors_are_words(tab: Tab) -> None:
    page = tab.page
    write(page, tokens=1023)
    expect(page.get_by_role("alert")).to_contain_text("maximum context length is 1024 tokens")
    write(page)
    finished(page)
    expect(page.locator("#error")).to_be_hidden()


def test_text_of_models_stays_text(tab: Tab) -> None:
    page = tab.page
    page.locator("#mode").select_option("chat")
    page.get_by_label("What you say").fill("<img src=x onerror=window.broken=1>")
    for _ in range(2):  # the second time it is shown as an earlier turn
        page.keyboard.press("Control+Enter")
        finished(page)
        page.wait_for_timeout(100)
    assert "<img" in page.locator(".turn").first.inner_text()
    assert page.locator("main img").count() == 0
    assert page.evaluate("() => window.broken === undefined")


def test_copies_do_what_the_page_did(tab: Tab, pair: Members) -> None:
    page = tab.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    prompt = PROMPT + ' It\'s "quoted" $HOME `x`'
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_label("tokens", exact=True).fill("12")
    page.get_by_label("method, left").select_option("contrastive")
    expected = generate(pair, prompt, "contrastive", sampling=SamplingParams(max_tokens=12))[0].text
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.locator("#said")).to_have_text("copied: curl")
    command = shlex.split(page.evaluate("() => navigator.clipboard.readText()"))
    assert command[0] == "curl"
    _, found, _ = ask(command[1].split("/v1")[0], "/v1/completions", command[command.index("-d") + 1].encode())
    assert found["choices"][0]["text"] == expected
    page.get_by_role("button", name="Copy as Python").click()
    expect(page.locator("#said")).to_have_text("copied: python")
    program = page.evaluate("() => navigator.clipboard.readText()")
    assert "stream" not in program
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == expected + "\n"


def test_the_state_of_the_server(tab: Tab, running: Running) -> None:
    page = tab.page
    write(page)
    finished(page)
    page.get_by_text("The server: rows, queue").click()
    expect(page.locator("#numbers")).to_contain_text("of 8 in use")
    expect(page.locator("#charts svg")).to_have_count(4)
    assert page.locator("#charts polyline").first.get_attribute("points")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phones(browser: Browser, running: Running, scheme: str) -> None:
    found = Tab(browser, running.url, viewport={"width": 375, "height": 740}, color_scheme=scheme)
    write(found.page)
    finished(found.page)
    assert found.page.evaluate("() => document.documentElement.scrollWidth") <= 375
    for button in found.page.get_by_role("button").all():
        if button.is_visible() and (box := button.bounding_box()) and "token" not in str(button.get_attribute("class")):
            assert box["height"] >= 30
    assert found.complaints == []
    found.page.close()


def test_every_control_has_a_name(tab: Tab) -> None:
    names = tab.page.evaluate(
        "() => [...document.querySelectorAll('input, select, textarea, button')].map("
        "e => (e.labels?.length ? e.labels[0].innerText : '') || e.getAttribute('aria-label') || e.innerText)"
    )
    assert len(names) > 15
    assert all(names)


def test_its_files_are_all_here() -> None:
    for name in ("index.html", "play.css", "play.js", "state.js", "viewer.js", "page.css"):
        found = static(name)
        assert found is not None
        addresses = re.findall(rb"https?://[^\s\"'`$]+", found[0])
        assert [each for each in addresses if b"w3.org" not in each] == []
    assert static("../app.py") is None
    assert static("app.py") is None


def test_every_parameter_is_described(browser: Browser, running: Running) -> None:
    page = browser.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(f"{running.url}/docs")
    shown = page.locator("body").inner_text()
    _, description, _ = ask(running.url, "/openapi.json")
    for schema in ("CompletionRequest", "ChatRequest", "FsgenOptions", "TokenizeRequest"):
        for name in description["components"]["schemas"][schema]["properties"]:
            assert name in shown
    assert "number, at least 0, at most 2" in shown
    assert all(path in shown for path in description["paths"])
    assert [text for text in complaints if "favicon" not in text and "404" not in text] == []
    page.close()


def test_settings_name_what_can_be_chosen(running: Running) -> None:
    status, found, headers = ask(running.url, "/static/settings.json")
    assert status == 200
    assert "proxy" not in found["methods"], "there is no base model"
    assert {"speculative", "route", "plain"} <= set(found["methods"])
    assert "default-src 'self'" in headers["content-security-policy"]
    assert json.dumps(found["looks"])
