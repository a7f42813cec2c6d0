"""Chat templates, rendered as `transformers` renders them, without importing it: that takes seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class _Generation(Extension):
    """`{% generation %}` marks what an assistant writes, for training; what is inside is shown as it is."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 has it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render(template: str, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
    """Messages as the text of a prompt; whatever the template raises."""
    return _compiled(template).render(messages=messages, tools=None, documents=None, **variables)


def check_template(template: str) -> None:
    """Raises ValueError for a text that is no Jinja template."""
    try:
        _compiled(template)
    except TemplateError as error:
        raise ValueError(f"it is no chat template in Jinja: {error}") from None


@lru_cache(maxsize=16)
def _compiled(template: str) -> Template:
    def fail(message: str) -> None:
        raise TemplateError(message)

    def as_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)  # jinja2's own is made for HTML

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = as_json
    environment.globals["raise_exception"] = fail
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)  # the user's own clock
    return environment.from_string(template)
