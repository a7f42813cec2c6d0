"""`fsgen chat`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from fsgen.cli.generate import DraftTokens, Method, Router
from fsgen.cli.options import Base, Device, Draft, Dtype, Target, Weights, models_by_role, silence_libraries
from fsgen.cli.output import show_stream
from fsgen.cli.sampling import MinP, Seed, Temperature, TopK, TopP

if TYPE_CHECKING:
    from fsgen.conversation import Conversation

HELP = """\
/method NAME [ROUTER]  write with another method, as in /method route max-prob:0.5
/stats                 what all answers together have cost
/reset                 begin again
/help                  this list
/quit                  leave (also Ctrl-D)"""


def chat(
    draft: Draft = None,
    target: Target = None,
    base: Base = None,
    method: Method = "speculative",
    router: Router = None,
    draft_tokens: DraftTokens = None,
    system: Annotated[str | None, typer.Option(help="What the models are told before the first turn.")] = None,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    seed: Seed = 0,
    max_tokens: Annotated[int, typer.Option(help="The budget of each answer.")] = 512,
    dtype: Dtype = "auto",
    device: Device = "auto",
    weights: Weights = "auto",
) -> None:
    """Talk with two models that were tuned to chat.

    Each token has the style of the system that wrote it. /help lists what can be typed beside what is said.

    \b
    Example:
      fsgen chat --draft Qwen/Qwen2.5-0.5B-Instruct --target Qwen/Qwen2.5-7B-Instruct
    """
    from fsgen.types import SamplingParams

    sampling = SamplingParams(max_tokens, temperature, top_k, top_p, min_p, seed)
    silence_libraries(draft, target, base)
    from fsgen import conversation
    from fsgen.api import method_for
    from fsgen.backends import plan
    from fsgen.methods.method import parse
    from fsgen.prompts import require_template

    chosen = parse(method, router, draft_tokens)
    planned = plan(**models_by_role(chosen, draft, target, base), dtype=dtype, device=device, weights=weights)
    require_template(planned.tokenizer)
    chosen = method_for(planned, chosen)
    chosen.require(role for role in ("draft", "target", "base") if getattr(planned, role) is not None)
    with conversation.chat(planned.load(), system, chosen, sampling=sampling) as talk:
        for said in _lines():
            try:
                if said.startswith("/") and not _command(said, talk):
                    return
                if not said.startswith("/"):
                    with suppress(KeyboardInterrupt):  # which ends the answer alone
                        show_stream(talk.stream(said))
            except ValueError as error:
                print("error:", error, file=sys.stderr)


def _lines() -> Iterator[str]:
    """What is typed, or comes through a pipe, until it ends."""
    if sys.stdin.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401  # arrows, and what was typed before
        print("/help lists the commands; Ctrl-D leaves", file=sys.stderr)
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line:
            yield line


def _command(line: str, talk: Conversation) -> bool:
    """Does what a line that begins with / asks for; False where that is to leave."""
    name, *words = line.split()
    match name, words:
        case "/quit", []:
            return False
        case "/help", []:
            print(HELP)
        case "/reset", []:
            talk.reset()
        case "/stats", []:
            _show_stats(talk)
        case "/method", [method, *router] if len(router) <= 1:
            talk.use(method, *router)
            print(f"method {talk.method.name}, router {talk.method.router}")
        case _:
            raise ValueError(f"{line!r} is no command:\n{HELP}")
    return True


def _show_stats(talk: Conversation) -> None:
    from fsgen.render import counted

    print(f"{len(talk.generations)} answers; {counted(talk.stats)}")
