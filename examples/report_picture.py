"""The README's picture of the report: its heading, a chart and the token viewer, as a browser shows them.

    python examples/report_picture.py runs/bundled/report.html --out docs/report.png

Chromium must be installed; no request leaves the machine.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

VIEW = {"width": 1120, "height": 900}
SHOWN = ("frequency-sizes", "tokens")
ONLY = """names => {
  const kept = names.map((name) => document.getElementById(name));
  window.dispatchEvent(new Event("beforeprint"));  // all charts are drawn, and all is open
  for (const nav of document.querySelectorAll("nav")) nav.parentElement.style.display = "block";
  for (const each of document.querySelectorAll("main section, main figure, nav, details:not(.question)")) {
    if (!kept.some((one) => each.contains(one) || one.contains(each))) each.remove();
  }
  for (const each of document.querySelectorAll("details")) {
    each.open = each.querySelector(".chart") !== null;
  }
}"""
DRAWN = "() => [...document.querySelectorAll('.chart')].every((chart) => chart.querySelector('svg'))"


def screenshot(report: Path, names: tuple[str, ...]) -> bytes:
    """A PNG of the page with its heading and these sections or figures alone."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("there is no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        page = browser.new_page(viewport=VIEW, color_scheme="light")  # type: ignore[arg-type]  # it is a ViewportSize
        page.goto(report.resolve().as_uri())
        page.evaluate(ONLY, list(names))
        page.wait_for_function(DRAWN)
        # As high as all of it: what stays at the bottom of a window would else lie over the texts.
        height = page.evaluate("() => document.documentElement.scrollHeight")
        page.set_viewport_size({"width": VIEW["width"], "height": height})
        picture = page.screenshot(full_page=True, animations="disabled")
        browser.close()
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, nargs="?", default=Path("runs/bundled/report.html"))
    parser.add_argument("--out", type=Path, default=Path("docs/report.png"))
    given = parser.parse_args()
    given.out.write_bytes(screenshot(given.report, SHOWN))


if __name__ == "__main__":
    main()
