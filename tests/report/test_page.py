"""The report stands alone in one file, and says what the tables say."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from fsgen.analysis.frequency import read_summary
from fsgen.analysis.study import analyze
from fsgen.report import write
from fsgen.report.definitions import DEFINITIONS, Glossary
from fsgen.report.page import _in_json, _inline
from fsgen.report.table import COLUMNS
from fsgen.study import run_study
from tests.markup import Page
from tests.report.conftest import HOSTILE
from tests.study.ladder import questions, save_ladder, small_study, write_study


@pytest.fixture(scope="module")
def page(report: Path) -> tuple[str, Page]:
    content = report.read_text(encoding="utf-8")
    return content, Page(content)


def test_it_is_written_whole(folder: Path, report: Path) -> None:
    assert report == folder / "report.html"
    assert not list(folder.glob(".report*"))
    assert report.stat().st_size < 5_000_000


def test_it_asks_no_host_for_anything(page: tuple[str, Page]) -> None:
    content, parsed = page
    for tag, attributes in parsed.elements:
        for name in ("src", "href", "srcset", "action", "data"):
            link = tag == "a" and (attributes.get(name) or "").startswith("https://")  # leads out, and is not fetched
            assert link or (attributes.get(name) or "#").startswith("#"), f"<{tag} {name}={attributes[name]!r}>"
        assert tag not in ("link", "iframe", "object", "embed", "base", "img", "form")
    style = "".join(re.findall(r"<style>.*?</style>", content, re.DOTALL))
    assert "url(" not in style
    assert "@import" not in style
    policy = next(each["content"] for tag, each in parsed.elements if each.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert policy.count("'sha256-") == len([None for tag, each in parsed.elements if tag == "script" and not each])
    assert "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2]


def test_the_charts_carry_their_data(page: tuple[str, Page]) -> None:
    _, parsed = page
    specs = json.loads(parsed.scripts[0])
    ids = {each["id"] for tag, each in parsed.elements if each.get("class") == "chart"}
    assert set(specs) == ids
    assert len(ids) > 5
    for spec in specs.values():
        assert "url" not in json.dumps(spec).replace(spec["$schema"], "")
        assert spec["width"] == "container"
    for name in ("frequency", "position-pairs", "uncertainty", "routers", "projections"):
        assert f"{name}-0" in ids
    assert "methods-0" not in ids, "these models score at the floor, where nothing is compared"
    assert "nothing is compared" in parsed.text


def test_every_chart_has_a_finding_and_its_numbers(page: tuple[str, Page]) -> None:
    content, _ = page
    figures = re.findall(r"<figure.*?</figure>", content, re.DOTALL)
    assert len(figures) > 5
    for figure in figures:
        finding = re.search(r"<h3>.*?</h3>(?:</summary>)?\s*<p>(.*?)</p>", figure, re.DOTALL)
        assert finding is not None
        assert re.search(r"\d.*\.$", finding[1]), "a sentence with a number in it"
        assert figure.count("<td") > 3


def test_it_says_what_was_run_and_what_the_words_mean(page: tuple[str, Page], folder: Path) -> None:
    _, parsed = page
    rows = read_summary(folder)
    for text in (f"{len(rows)} runs, 1 task, ", "torch", "python", "pocket_math", *(row.method for row in rows)):
        assert text in parsed.text, text
    for column in COLUMNS:
        assert column.meaning in parsed.text
    assert "1 task" in parsed.text
    for word, meaning in DEFINITIONS:
        assert word in parsed.text
        assert meaning in parsed.text
    for row in rows:
        assert f"{row.collaboration_frequency:.3f}" in parsed.text


def test_signs_of_failure_are_told_in_words(page: tuple[str, Page]) -> None:
    content, parsed = page
    for title in ("Too few consultations", "Too many consultations", "Consultations that come too late"):
        assert f"<h3>{title}</h3>" in content
    assert "max-prob:0.05" in content.partition('id="signs"')[2].partition("</section>")[0]
    assert "runs whose traces can tell." in parsed.text


def test_it_fits_a_phone_and_the_dark(page: tuple[str, Page]) -> None:
    content, parsed = page
    viewport = [attributes["content"] for tag, attributes in parsed.elements if attributes.get("name") == "viewport"]
    assert viewport == ["width=device-width, initial-scale=1"]
    assert "prefers-color-scheme: dark" in content


def test_names_are_text_not_markup(page: tuple[str, Page]) -> None:
    _, parsed = page
    assert f"tiny {HOSTILE}" in parsed.text
    assert not any(tag == "img" for tag, _ in parsed.elements)
    kinds = [attributes.get("type") for tag, attributes in parsed.elements if tag == "script"]
    assert kinds == ["application/json"] * 2 + [None] * 6, "no text of a script ends it early"
    traces = json.loads(parsed.scripts[1])
    assert HOSTILE in traces["words"]
    assert any(HOSTILE in example["prompt"] for example in traces["examples"])


@pytest.mark.parametrize("text", ["</script>", "</SCRIPT >", "<!-- <script>", "a < b && c > d"])
def test_nothing_ends_a_script_early(text: str) -> None:
    assert json.loads(_in_json(json.dumps(text))) == text
    assert not set("<>&") & set(_in_json(json.dumps(text)))
    assert len(Page(f"<script>{_inline(text)}</script><p>").elements) == 2


def test_another_file_and_the_figures(folder: Path, tmp_path: Path) -> None:
    path = write(folder, tmp_path / "there" / "page.html", tmp_path / "figures")
    assert path == tmp_path / "there" / "page.html"
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    made = {file.name: file.read_bytes() for file in (tmp_path / "figures").iterdir()}
    names = {name.partition(".")[0] for name in made}
    assert {"frequency", "routers", "uncertainty"} <= names
    assert set(made) == {f"{name}.{kind}" for name in names for kind in ("svg", "png", "pdf")}
    for name, content in made.items():
        starts = {"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF"}
        assert content.startswith(starts[name.rpartition(".")[2]]), name
        assert len(content) > 2000
    assert b"collaboration frequency" in made["frequency.svg"]


def test_a_study_without_comparisons_has_a_report(tmp_path: Path) -> None:
    ladder, data = save_ladder(tmp_path), questions(tmp_path, 2)
    study = small_study(ladder, data)
    study["tasks"] = [{"name": "pocket_math", "max_tokens": 4, "data": data}]
    study["grids"] = [{"pairs": [{"target": ladder["large"]}], "methods": ["plain"]}]
    out = tmp_path / "out"
    run_study(write_study(tmp_path / "study.yaml", study), out, console=Console(file=io.StringIO()))
    parsed = Page(write(out).read_text(encoding="utf-8"))
    assert len(parsed.scripts) == 2, "there is a table to sort, and nothing to draw"
    assert "1 run, 1 task" in parsed.text


def test_a_study_in_which_nothing_finished_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(json.dumps({"name": "none", "config": {}, "rows": []}))
    (tmp_path / "summary.json").write_text("[]")
    assert "0 runs" in Page(write(tmp_path).read_text(encoding="utf-8")).text


def test_it_begins_with_the_five_answers(page: tuple[str, Page], folder: Path) -> None:
    content, parsed = page
    analysis = analyze(folder, projections=False)
    assert len(analysis.short) == 5
    first = content.partition('id="findings"')[2].partition("</section>")[0]
    assert first.count("<dt>") == 5
    for one in analysis.short:
        for text in (one.question, one.answer):
            assert re.sub(r"(?<=\d) %", "\u00a0%", text) in parsed.text


def test_the_title_says_what_was_studied(page: tuple[str, Page]) -> None:
    content, _ = page
    title = re.search(r"<h1>(.*?)</h1>", content)
    assert title is not None
    assert title[1].endswith(" pairs of models on pocket_math")
    assert "https://arxiv.org/abs/2406.12295" in content


def test_words_are_defined_where_they_first_come() -> None:
    glossary = Glossary()
    first = glossary.defined("The AUROC <b> of max-prob, by AUROC")
    assert first.count("popovertarget") == 2
    assert "&lt;b&gt;" in first
    assert first.endswith("by AUROC"), "once"
    assert glossary.defined("AUROC and Max-Prob: 20 %") == "AUROC and Max-Prob: 20\u00a0%"
    (one, two) = glossary.marked()
    assert (one[0], two[0]) == ("term-0", "term-1")
    assert "mismatch and a match" in one[2]


def test_folders_without_a_finished_study(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no study\.json"):
        write(tmp_path)
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(ValueError, match="not finished"):
        write(tmp_path)
