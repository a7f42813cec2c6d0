"""The page at `/`: its files, which are all of this server, and what they have to know of it."""

from __future__ import annotations

import mimetypes
from importlib import resources
from typing import Any

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
    return set(method.roles) <= service.members.names().keys()
