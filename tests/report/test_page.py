"""The report stands alone in one file, and says what the tables say."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fsgen.report import write
from fsgen.report.charts import frequency_by_draft, measured
from fsgen.report.page import COLUMNS, findings
from tests.report.rows import ladder_rows, row, write_folder


class Page(HTMLParser):
    """The elements of a page with their attributes, the text outside scripts, and the scripts."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    folder = write_folder(tmp_path_factory.mktemp("study") / "out", ladder_rows())
    path = write(folder)
    assert path == folder / "report.html"
    assert not list(folder.glob(".*"))
    content = path.read_text(encoding="utf-8")
    return content, Page(content)


def test_it_asks_no_host_for_anything(page: tuple[str, Page]) -> None:
    content, parsed = page
    for tag, attributes in parsed.elements:
        for name in ("src", "href", "srcset", "action", "data"):
            assert name not in attributes, f"<{tag} {name}={attributes[name]!r}>"
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
    style = "".join(re.findall(r"<style>.*?</style>", content, re.DOTALL))
    assert "url(" not in style
    assert "@import" not in style


def test_the_charts_carry_their_data(page: tuple[str, Page]) -> None:
    _, parsed = page
    specs = json.loads(re.search(r"const specs = (.*?);\n", parsed.scripts[-1]).group(1))  # type: ignore[union-attr]
    ids = {attributes.get("id") for tag, attributes in parsed.elements if tag == "div"}
    assert set(specs) == {"chart-0", "chart-1"} <= ids
    for spec in specs.values():
        assert "url" not in json.dumps(spec).replace(spec["$schema"], "")
    assert "window.vegaEmbed" in parsed.scripts[0]
    assert len(parsed.scripts) == 2, "no text of a script ends it early"


def test_it_says_what_was_run_and_what_the_words_mean(page: tuple[str, Page]) -> None:
    _, parsed = page
    for text in ("made up", "8 runs, 2 tasks, 3 pairs, 3 models, 3 methods", "A processor", "torch 2.0", "8 M"):
        assert text in parsed.text, text
    for column in COLUMNS:
        assert column.meaning in parsed.text
    cells = [tag for tag, _ in parsed.elements if tag == "td"]
    assert len(cells) == 8 * len(COLUMNS) + 3 * 4


def test_it_fits_a_phone_and_the_dark(page: tuple[str, Page]) -> None:
    content, parsed = page
    viewport = [attributes["content"] for tag, attributes in parsed.elements if attributes.get("name") == "viewport"]
    assert viewport == ["width=device-width, initial-scale=1"]
    assert "prefers-color-scheme: dark" in content


def test_findings_are_the_numbers() -> None:
    said = findings(ladder_rows())
    assert "at 19.0 % of the positions at the least (small drafting for large on gsm8k)" in said[0]
    assert "at 29.0 % at the most (tiny drafting for large on gsm8k)" in said[0]
    assert "from 0.29 with tiny to 0.19 with small on gsm8k; from 0.29 with tiny to 0.19 with small on mbpp" in said[1]
    assert "with the router max-prob:0.5 asked the large model at 53 % of the positions" in said[2]
    assert len(said) == 3
    assert findings([]) == []


def test_a_chart_shows_only_runs_that_compared_every_position() -> None:
    rows = ladder_rows(["gsm8k"])
    assert [item.run for item in rows if item not in measured(rows)] == ["r"]
    spec: dict[str, Any] = frequency_by_draft(rows)["gsm8k"].to_dict()
    points = spec["data"]["values"]
    assert len(points) == 4
    assert {point["method"] for point in points} == {"oracle", "contrastive k=5"}
    assert all(point["low"] < point["frequency"] < point["high"] for point in points if point["method"] == "oracle")


def test_models_of_unknown_size_are_charted_by_name() -> None:
    spec = frequency_by_draft([row(draft_parameters=None), row(draft="other")])["gsm8k"].to_dict()
    assert {layer["encoding"]["x"]["field"] for layer in spec["layer"]} == {"draft"}


def test_names_are_text_not_markup(tmp_path: Path) -> None:
    rows = [row(draft="</script><script>alert(1)</script>", ci_low=None, ci_high=None)]
    parsed = Page(write(write_folder(tmp_path / "out", rows, name="<b>&")).read_text(encoding="utf-8"))
    assert len(parsed.scripts) == 2
    assert not any(tag == "b" for tag, _ in parsed.elements)
    assert "<b>&" in parsed.text


def test_a_study_without_comparisons_has_a_report(tmp_path: Path) -> None:
    rows = [row(draft=None, method="plain", collaboration_frequency=None, ci_low=None, ci_high=None)]
    parsed = Page(write(write_folder(tmp_path / "out", rows)).read_text(encoding="utf-8"))
    assert parsed.scripts == []


def test_a_folder_that_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not the folder of a study"):
        write(tmp_path)
