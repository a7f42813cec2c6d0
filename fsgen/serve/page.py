"""The page at `/`: its files, which are all of this server, and what they have to know of it."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from html import escape
from importlib import resources
from typing import Any

from fsgen.api import method_for
from fsgen.methods.check import check
from fsgen.methods.method import PRESETS, Method
from fsgen.render import LOOKS, SHADES
from fsgen.serve.service import Service

# Of the report: what shows texts is one piece of code.
_HOMES = {
    "page.css": "fsgen.report",
    "viewer.js": "fsgen.report",
    "index.html": "fsgen.serve",
    "play.css": "fsgen.serve",
    "play.js": "fsgen.serve",
    "state.js": "fsgen.serve",
}


def static(name: str) -> tuple[bytes, str] | None:
    """A file of the page and its type; None where there is none of this name."""
    if name not in _HOMES:
        return None
    content = (resources.files(_HOMES[name]) / "templates" / name).read_bytes()
    return content, mimetypes.guess_type(name)[0] or "text/plain"


def settings(service: Service) -> dict[str, Any]:
    """What can be chosen on the page."""
    return {
        "model": service.name,
        "members": service.members.names(),
        "method": service.method.name,
        "methods": [name for name, method in PRESETS.items() if _possible(service, method)] if service.choosing else [],
        "chat": bool(getattr(service.tokenizer, "chat_template", None)),
        "context": service.limits.context,
        "output": service.limits.output,
        "looks": {source: {"rgb": look.rgb, "line": look.line} for source, look in LOOKS.items()},
        "shades": SHADES,
    }


def _possible(service: Service, method: Method) -> bool:
    try:
        check(service.members, method_for(service.members, method), [], [])
    except ValueError:  # a member is missing, or tokenizers differ where probabilities are mixed
        return False
    return True


def description(openapi: Mapping[str, Any]) -> str:
    """The OpenAPI description as a page that asks no other host."""
    schemas, parts = openapi["components"]["schemas"], list[str]()
    for path, methods in openapi["paths"].items():
        for method, about in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(about['description'])}</p>")
            content = about.get("requestBody", {}).get("content", {}).get("application/json", {})
            if content:
                parts.append(_table(schemas, _name(content["schema"])))
    for name, schema in schemas.items():
        if "properties" in schema and not name.endswith("Request") and not name.startswith("Error"):
            parts.append(f'<h2 id="{name}">{name}</h2>{_table(schemas, name)}')
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    style = '<title>fsgen serve: what can be asked</title><link rel="stylesheet" href="/static/page.css">'
    lead = '<p>The same for programs: <a href="/openapi.json">openapi.json</a>; <a href="/">try it</a>.</p>'
    body = f"<h1>What can be asked</h1>{lead}{''.join(parts)}"
    return f'<!DOCTYPE html><html lang="en"><head>{head}{style}</head><body>{body}</body></html>'


def _table(schemas: Mapping[str, Any], name: str) -> str:
    """The parameters of a schema."""
    schema, rows = schemas[name], list[str]()
    for key, about in schema.get("properties", {}).items():
        usual = "required" if key in schema.get("required", ()) else str(about.get("default", "-"))
        cells = (f"<code>{escape(key)}</code>", _shape(about), escape(usual))
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    heads = "".join(f'<th scope="col">{each}</th>' for each in ("parameter", "what it is", "if it is not given"))
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _name(schema: Mapping[str, Any]) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _shape(about: Mapping[str, Any]) -> str:
    """What a parameter may be, in words."""
    if "$ref" in about:
        return f'<a href="#{_name(about)}">{_name(about)}</a>'
    if "anyOf" in about:
        return " or ".join(_shape(each) for each in about["anyOf"] if each.get("type") != "null")
    if "enum" in about or "const" in about:
        return escape(", ".join(map(str, about.get("enum", [about.get("const")]))))
    bounds = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    said = "".join(f", {word} {about[key]:g}" for key, word in bounds.items() if key in about)
    inner = f" of {_shape(about['items'])}" if "items" in about else ""
    return escape(str(about.get("type", "any"))) + inner + said
