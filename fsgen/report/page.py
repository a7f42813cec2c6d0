"""The report: all results on one page that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
import yaml
from markupsafe import Markup

from fsgen.analysis.frequency import read_run, read_study, read_summary
from fsgen.analysis.study import StudyAnalysis, analyze
from fsgen.files import write_text
from fsgen.report import provenance
from fsgen.report.chart import Cell
from fsgen.report.definitions import GLOSSARY, Glossary
from fsgen.report.figure import export, page_spec, panels
from fsgen.report.sections import Group, groups
from fsgen.report.signs import signs
from fsgen.report.table import COLUMNS, entries
from fsgen.report.tokens import Viewer, viewer

_MARKS = ("dot", "line", "dash", "dots", "area", "ramp")


def write(
    out_dir: str | Path,
    out: str | Path | None = None,
    figures_folder: str | Path | None = None,
    analysis: StudyAnalysis | None = None,
) -> Path:
    """Write the report of a finished study, whole or not at all.

    Args:
        out_dir: the folder of the study.
        out: the file; `report.html` in the study's folder if None.
        figures_folder: where the figures are written, too, as SVG, PNG and PDF; nowhere if None.
        analysis: of the study, where it is known already.

    Returns:
        the file.

    Raises:
        ValueError: the folder is not that of a finished study.
    """
    folder = Path(out_dir)
    path = folder / "report.html" if out is None else Path(out)
    study, finished = read_study(folder), read_summary(folder)
    if analysis is None:
        analysis = analyze(folder) if finished else StudyAnalysis(study["name"])
    rows = analysis.summary  # counted again from the tables, which have checksums; the file has none
    records = [read_run(folder, row.run) for row in rows]
    shown = groups(folder, analysis)
    found, told = viewer(folder, rows), signs(analysis)
    sections = {"findings": "In short"} if analysis.short else {}
    sections |= {group.id: group.title for group in shown}
    sections |= {"signs": "Signs of failure"} if told else {}
    sections |= {"tokens": "Token by token"} if found is not None else {}
    page = render(
        "report",
        shown,
        sections | {"details": "Details"},
        found,
        name=study["name"],
        title=provenance.title(rows),
        facts=provenance.facts(rows, records),
        links=provenance.links(),
        short=analysis.short,
        signs=told,
        columns=COLUMNS,
        rows=entries(rows),
        models=provenance.models(records),
        config=yaml.safe_dump(study["config"], sort_keys=False, allow_unicode=True),
        versions=provenance.versions(records),
    )
    write_text(path, page)
    if figures_folder is not None:
        export([figure for group in shown for figure in group.figures], Path(figures_folder))
    return path


def render(
    template: str, shown: Sequence[Group], sections: Mapping[str, str], tokens: Viewer | None = None, **content: Any
) -> str:
    """A page, from what it shows.

    Args:
        template: its name.
        shown: the figures.
        sections: the titles of its sections by their ids, for the list of contents.
        tokens: the token viewer, where there is one.
        content: what the template needs besides.
    """
    drawn = {figure.name: panels(figure) for group in shown for figure in group.figures}
    specs = {
        f"{name}-{number}": page_spec(panel)
        for name, shown_panels in drawn.items()
        for number, panel in enumerate(shown_panels.values())
    }
    data = []
    scripts = [_file("page.js"), _file("table.js")]
    if specs:
        data.append(("specs", json.dumps(specs, separators=(",", ":"), allow_nan=False)))
        scripts += [vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"), _file("charts.js")]
    if tokens is not None:
        data.append(("traces", tokens.content))
        scripts += [_file("viewer.js"), _file("tokens.js")]
    scripts = [_inline(script) for script in scripts]
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    glossary = Glossary()
    environment.filters["defined"] = glossary.defined
    return environment.get_template(f"{template}.html.j2").render(
        **content,
        groups=shown,
        panels=drawn,
        viewer=tokens,
        contents=sections.items(),
        glossary=GLOSSARY,
        marked=glossary.marked,
        marks=_MARKS,
        shown=_shown,
        style=Markup(_file("page.css")),
        data=[(name, Markup(_in_json(text))) for name, text in data],
        scripts=[Markup(script) for script in scripts],
        policy=_policy(scripts),
    )


def _file(name: str) -> str:
    return (resources.files("fsgen.report") / "templates" / name).read_text(encoding="utf-8")


def _inline(script: str) -> str:
    """A script inside a page: no text of it may end the element."""
    return re.sub(r"<(?=/script|!--|script)", r"\\x3c", script, flags=re.IGNORECASE)


def _in_json(text: str) -> str:
    """JSON inside a page: none of its strings holds anything that could be markup."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(scripts: Sequence[str]) -> str:
    """What the browser lets the page do: run exactly these scripts, and request nothing."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'; form-action 'none'"


def _shown(cell: Cell) -> str:
    """A number of a table."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.4g}" if abs(cell) < 1e4 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) else cell
