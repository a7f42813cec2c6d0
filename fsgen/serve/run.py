"""Runs a server until it is told to end."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import uvicorn

from fsgen.backends import Members
from fsgen.backends.chat_template import check_template
from fsgen.engine import Engine
from fsgen.engine import Sequence as Text
from fsgen.methods.method import Method
from fsgen.serve.app import make_app
from fsgen.serve.guard import LOOPBACK
from fsgen.serve.limits import Limits
from fsgen.serve.meters import Meters
from fsgen.serve.scheduler import Scheduler
from fsgen.serve.service import Service
from fsgen.types import SamplingParams

if TYPE_CHECKING:
    from fsgen.serve.tracing import Spans

KEYS = "FSGEN_API_KEYS"
# Bundled models have no chat template, and were trained on questions and answers.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'user' %}Question: {{ message.content }}\n"
    "{% elif message.role == 'assistant' %}Answer: {{ message.content }}\n\n"
    "{% else %}{{ message.content }}\n\n{% endif %}"
    "{% endfor %}Answer:"
)


def read_keys(file: Path | None) -> list[str]:
    """API keys from a file, one a line, or else from the environment, separated by commas.

    Raises:
        ValueError: a file without keys, or a key with spaces or of fewer than 8 characters.
    """
    given = os.environ.get(KEYS, "").split(",") if file is None else file.read_text(encoding="utf-8").splitlines()
    keys = [key.strip() for key in given if key.strip() and not key.startswith("#")]
    if file is not None and not keys:
        raise ValueError(f"the file {str(file)!r} has no key: write one a line")
    if any(len(key) < 8 or len(key.split()) > 1 for key in keys):
        raise ValueError("an API key has at least 8 characters, and no spaces")
    return keys


def read_template(file: Path) -> str:
    """The chat template of a file. Raises ValueError for one that is none."""
    try:
        text = file.read_text(encoding="utf-8")
        if not text.strip():
            raise ValueError("it is empty")
        check_template(text)
    except ValueError as error:  # no UTF-8 among them
        raise ValueError(f"the file {str(file)!r} cannot be used: {error}") from None
    return text


def usual_template(members: Members) -> str | None:
    """The models' own chat template, or for bundled ones questions and answers; None where there is none."""
    own = getattr(members.tokenizer, "chat_template", None)
    bundled = all(name.startswith("pocket-") for name in members.names().values())
    return own or (PLAIN_TEMPLATE if bundled else None)


def make_service(
    members: Members,
    method: Method,
    limits: Limits,
    name: str | None = None,
    choosing: bool = True,
    template: str | None = None,
) -> tuple[Service, Meters]:
    """What a server is made of; nothing runs yet.

    Args:
        members, method, limits, choosing: see `Service`.
        name: of the model; by its members if None.
        template: the chat template.
    """
    if template is not None:
        members.tokenizer.chat_template = template
    shown = name or "+".join(dict.fromkeys(members.names().values()))
    meters = Meters(shown)
    limits = replace(limits, context=min(limits.context, members.context))
    return Service(members, method, limits, Scheduler(members, limits, meters), shown, choosing), meters


def warm_up(members: Members, method: Method) -> None:
    """Writes a few tokens, so that the first request does not wait for what is compiled or read once."""
    engine = Engine(members, 1)
    engine.add(Text([1] * 8, method, SamplingParams(max_tokens=8, ignore_eos=True)))
    while not engine.idle:
        engine.step()
    engine.close()


class Server(uvicorn.Server):
    """A server that takes no new work once it is told to end, and finishes what it has."""

    scheduler: Scheduler

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.scheduler.drain()
        self.force_exit = self.should_exit and sig == signal.SIGINT  # asked twice
        self.should_exit = True


def check_origins(origins: Collection[str]) -> None:
    """Raises ValueError for what no browser calls a site (in its header `Origin`), which would never be allowed."""
    for origin in origins:
        parts = urlsplit(origin)
        if origin != "*" and not (parts.scheme and parts.netloc and origin == f"{parts.scheme}://{parts.netloc}"):
            raise ValueError(f"the site {origin!r} cannot be allowed: write it as in https://example.com, with no path")


def spans_to(endpoint: str | None) -> Spans | None:
    """What traces requests; None where that is not wanted. Raises ValueError for an address that is none."""
    if endpoint is None:
        return None
    try:
        from fsgen.serve.tracing import Spans, otlp  # here: an extra of its own

        return Spans(otlp(endpoint))
    except ImportError as error:
        raise ValueError(f"tracing needs {error.name}: pip install 'fsgen[otel]'") from None


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """The address of a server, taken before its models are loaded. Raises ValueError where it cannot be had."""
    if not host or "\0" in host:  # an empty one would be all addresses of this machine
        raise ValueError(f"the host {host!r} is no address: 127.0.0.1 is this machine alone, 0.0.0.0 all that reach it")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((host, port))
        except OSError as error:
            raise ValueError(f"the address {host}:{port} cannot be used: {error.strerror}") from None
        yield made


def serve(
    service: Service,
    meters: Meters,
    address: socket.socket,
    keys: Sequence[str] = (),
    origins: Collection[str] = (),
    log_prompts: bool = False,
    spans: Spans | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT."""
    host, port = address.getsockname()[:2]
    hosts = LOOPBACK if ipaddress.ip_address(host).is_loopback else ()
    app = make_app(service, meters, keys, hosts, origins, log_prompts, spans)
    limits = service.limits
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        ws="none",
        server_header=False,
        limit_concurrency=4 * (limits.queue + limits.rows) + 100,
        timeout_graceful_shutdown=int(limits.drain) + 5,
    )
    server = Server(config)
    server.scheduler = service.scheduler
    _log_to_stderr()
    shown = f"[{host}]" if ":" in host else host
    print(f"serving {service.name} on http://{shown}:{port}", file=sys.stderr, flush=True)
    if not hosts and not keys:
        print("warning: other machines can reach this server, and it asks for no API key", file=sys.stderr)
    server.run(sockets=[address])


def _log_to_stderr() -> None:
    """Requests as JSON lines, and what goes wrong."""
    for name, level, form in (
        ("fsgen", logging.WARNING, "%(levelname)s: %(message)s"),
        ("uvicorn", logging.WARNING, None),
    ):
        logger, handler = logging.getLogger(name), logging.StreamHandler()
        handler.setFormatter(logging.Formatter(form or "%(levelname)s: %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(level)
    requests, handler = logging.getLogger("fsgen.serve.requests"), logging.StreamHandler()
    requests.propagate = False
    requests.addHandler(handler)
    requests.setLevel(logging.INFO)
