"""How a model behind a server is named: `vllm:http://host:8000#model?tokenizer=NAME`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

KINDS = ("vllm", "sglang", "openai")
RECORDED = "recorded"
USAGE = "KIND:URL#MODEL?tokenizer=NAME, where KIND is one of " + ", ".join(KINDS)


@dataclass(frozen=True)
class Address:
    """A model behind a server, and how it is asked.

    Attributes:
        kind: which requests the server understands: vllm, sglang or openai.
        url: of the server, without `/v1`.
        model: as the server calls it.
        tokenizer: a model, folder or name whose tokenizer it has; None where nothing is said.
        top: how many of the most likely tokens are asked for at each position.
        concurrency: requests that are under way at a time, at most.
        timeout: seconds that one request may take.
        patience: seconds for which a server may be away before a run fails.
        parameters: of the model; 0 where nothing is said.
    """

    kind: str
    url: str
    model: str
    tokenizer: str | None = None
    top: int = 20
    concurrency: int = 32
    timeout: float = 600.0
    patience: float = 600.0
    parameters: int = 0

    @property
    def name(self) -> str:
        """The model without the address of its server, which may move."""
        return f"{self.kind}:{self.model}"


def is_remote(name: str) -> bool:
    """Whether a name is one of a model behind a server, or of recorded outputs."""
    kind, colon, _ = name.partition(":")
    return bool(colon) and kind in (*KINDS, RECORDED)


def require_here(*names: str | None) -> None:
    """Raises ValueError for a name of a model that runs on no device of this machine, which cannot be timed here."""
    for name in names:
        if name is not None and is_remote(name):
            raise ValueError(f"{name!r} does not run on this machine, so its calls cannot be timed here")


def split(name: str) -> tuple[str, dict[str, str]]:
    """A name without its settings, and these. Raises ValueError for one that is there twice."""
    base, _, query = name.partition("?") if "#" not in name else _after_fragment(name)
    pairs = parse_qsl(query, keep_blank_values=True)
    if len(dict(pairs)) < len(pairs):
        raise ValueError(f"{name!r} has a setting twice")
    return base, dict(pairs)


def _after_fragment(name: str) -> tuple[str, str, str]:
    url, _, rest = name.partition("#")
    model, mark, query = rest.partition("?")
    return f"{url}#{model}", mark, query


def with_tokenizer(name: str, of: object) -> str:
    """A remote name that says whose tokenizer the model has: that of its draft where it names none itself."""
    if not is_remote(name) or not isinstance(of, str) or is_remote(of) or of.partition(":")[0] == "ngram":
        return name
    if name.startswith(f"{RECORDED}:") or "tokenizer" in split(name)[1]:
        return name
    return f"{name}{'&' if '?' in name.partition('#')[2] else '?'}tokenizer={quote(of, safe='/:@')}"


def parse(name: str) -> Address:
    """The address behind a name.

    Raises:
        ValueError: it is none, or one of its settings is unknown or impossible.
    """
    base, settings = split(name)
    kind, _, rest = base.partition(":")
    url, _, model = rest.partition("#")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not model:
        raise ValueError(f"{name!r} names no model behind a server: write {USAGE}")
    url = url.rstrip("/").removesuffix("/v1")
    return Address(kind, url, model, settings.pop("tokenizer", None), **_numbers(name, settings))


def _numbers(name: str, settings: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    kinds: dict[str, type[int] | type[float]] = {
        "top": int, "concurrency": int, "timeout": float, "patience": float, "parameters": int
    }  # fmt: skip
    for setting, text in settings.items():
        if setting not in kinds:
            raise ValueError(f"{name!r} has an unknown setting {setting!r}; there are tokenizer, {', '.join(kinds)}")
        try:
            value = kinds[setting](float(text))
        except (ValueError, OverflowError):
            raise ValueError(f"{setting}={text!r} of {name!r} is no number") from None
        if not (value >= 1 or (value >= 0 and setting in ("patience", "parameters"))):
            raise ValueError(f"{setting}={text!r} of {name!r} is impossible: at least 1")
        found[setting] = value
    return found
