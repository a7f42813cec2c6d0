"""`fsgen generate`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from fsgen.cli.options import (
    Base,
    Device,
    Draft,
    DraftWeights,
    Dtype,
    MaxTokens,
    Target,
    models_by_role,
    silence_libraries,
)
from fsgen.cli.output import console, print_json

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from fsgen.generation import Generation
    from fsgen.types import Token

Method = Annotated[
    str,
    typer.Option(
        help="oracle, speculative, contrastive, proxy, ensemble, mixture, route or plain, with parameters as in "
        "contrastive:alpha=0.1,beta=0.5."
    ),
]
Router = Annotated[
    str | None,
    typer.Option(
        help="Where System 2 is consulted: always, never, max-prob:T, margin:T, entropy:T, random:R, position:A-B or "
        "learned:FILE.  [default: the method's own]"
    ),
]
DraftTokens = Annotated[
    str | None,
    typer.Option(
        help="How many tokens are drafted in a round at most; auto: chosen adaptively.  "
        "[default: the method's own, auto where all is verified]"
    ),
]


def generate(
    prompt: Annotated[str, typer.Argument(help="The text to go on from; - reads it from standard input.")],
    draft: Draft = None,
    target: Target = None,
    base: Base = None,
    method: Method = "speculative",
    router: Router = None,
    draft_tokens: DraftTokens = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Sample from the K most likely tokens; 0 from all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Sample from the most likely tokens that together reach P.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Sample from tokens at least P times as likely as the best one.")] = 0.0,
    seed: Annotated[int, typer.Option(help="The random seed.")] = 0,
    max_tokens: MaxTokens = 128,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be given several times.")] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    draft_weights: DraftWeights = "auto",
    candidates: Annotated[
        int, typer.Option(min=0, help="With --json: how many likely tokens of both systems each record keeps.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with the whole trace.")] = False,
) -> None:
    """Write on from a prompt, and show which system wrote each token."""
    from fsgen.types import SamplingParams

    sampling = SamplingParams(max_tokens, temperature, top_k, top_p, min_p, seed, tuple(stop or ()))
    text = _read_prompt(prompt)

    silence_libraries(draft, target, base)
    from fsgen.api import method_for, stream
    from fsgen.backends import plan
    from fsgen.methods.check import check
    from fsgen.methods.method import parse
    from fsgen.prompts import encode

    chosen = parse(method, router, draft_tokens)
    names = models_by_role(chosen, draft, target, base)
    planned = plan(**names, dtype=dtype, device=device, draft_weights=draft_weights)
    chosen = method_for(planned, chosen)
    check(planned, chosen, [encode(planned, text)], [sampling])
    members = planned.load(chosen.roles)
    tokens = stream(members, text, chosen, sampling=sampling, candidates=candidates)
    if as_json:
        _print_json(_finished(tokens, lambda token: None))
    elif sys.stdout.isatty():
        _print_coloured(tokens)
    else:
        _print_plain(tokens)


def _read_prompt(prompt: str) -> str:
    """The prompt as it is, or, for -, standard input without its last line break."""
    text = sys.stdin.read().removesuffix("\n") if prompt == "-" else prompt
    if not text:
        raise ValueError("the prompt is empty; at least one token is needed")
    return text


def _finished(tokens: Generator[Token, None, Generation], show: Callable[[Token], None]) -> Generation:
    """The finished generation; each token is shown as it comes."""
    while True:
        try:
            token = next(tokens)
        except StopIteration as end:
            generation: Generation = end.value
            return generation
        show(token)


def _print_json(generation: Generation) -> None:
    print_json(
        {
            "text": generation.text,
            "tokens": [asdict(token) for token in generation.tokens],
            "stats": generation.stats.as_dict(),
            "prompt_tokens": generation.prompt_tokens,
            "stop_reason": generation.stop_reason,
        }
    )


def _print_coloured(tokens: Generator[Token, None, Generation]) -> None:
    from fsgen.render import STYLES, figures, legend

    out = console()
    generation = _finished(
        tokens, lambda token: out.out(token.text, style=STYLES[token.source], end="", highlight=False)
    )
    out.print()
    out.print(legend(), figures(generation), sep="  ", soft_wrap=True)


def _print_plain(tokens: Generator[Token, None, Generation]) -> None:
    from fsgen.render import figures

    generation = _finished(tokens, lambda token: print(token.text, end="", flush=True))
    print()
    print(figures(generation), file=sys.stderr)
