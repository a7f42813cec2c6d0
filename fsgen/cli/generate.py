"""`fsgen generate`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fsgen.cli.options import (
    METHOD,
    Base,
    Device,
    Draft,
    Dtype,
    MaxTokens,
    Named,
    PlanFile,
    Target,
    Weights,
    going_on,
    new_file,
    silence_libraries,
)
from fsgen.cli.output import finished, progress_bar, show_stream
from fsgen.cli.sampling import (
    FrequencyPenalty,
    IgnoreEos,
    LogitBias,
    MinP,
    MinTokens,
    Number,
    PresencePenalty,
    RepetitionPenalty,
    Seed,
    Stop,
    StopTokenIds,
    Temperature,
    TopK,
    TopP,
    biases,
    only_one,
    token_ids,
)

if TYPE_CHECKING:
    from fsgen.backends import Plan
    from fsgen.methods import method as methods
    from fsgen.types import SamplingParams

FILES = "Many prompts"
METHODS = ("oracle", "speculative", "contrastive", "proxy", "ensemble", "mixture", "route", "plain")
ROUTERS = ("always", "never", "max-prob:", "margin:", "entropy:", "random:", "position:", "learned:")


def _completed(names: Sequence[str]) -> Callable[[str], list[str]]:
    """What the shell completes a word with, of these names."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


Method = Annotated[
    str,
    typer.Option(
        help="oracle, speculative, contrastive, proxy, ensemble, mixture, route or plain, with parameters as in "
        "contrastive:alpha=0.1,beta=0.5.",
        autocompletion=_completed(METHODS),
        rich_help_panel=METHOD,
    ),
]
Router = Annotated[
    str | None,
    typer.Option(
        help="Where System 2 is consulted: always, never, max-prob:T, margin:T, entropy:T, random:R, position:A-B or "
        "learned:FILE.  [default: the method's own]",
        autocompletion=_completed(ROUTERS),
        rich_help_panel=METHOD,
    ),
]
DraftTokens = Annotated[
    str | None,
    typer.Option(
        help="How many tokens are drafted in a round at most; auto: chosen adaptively.  "
        "[default: the method's own, auto where all is verified]",
        rich_help_panel=METHOD,
    ),
]
Prompt = Annotated[
    str | None, typer.Argument(help="The text to go on from; - reads it from standard input.", show_default=False)
]
Input = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help='Prompts, a JSON line each: "a text", [messages], or {"prompt", "method", "sampling"}; - for a pipe.',
        rich_help_panel=FILES,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        callback=new_file,
        help="Where results go, a JSON line each; goes on where it stopped.  [default: standard output]",
        rich_help_panel=FILES,
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="How many texts are written at a time.", rich_help_panel=FILES)]
Candidates = Annotated[
    int, typer.Option(min=0, help="With --json: how many likely tokens of both systems each record keeps.")
]
Logprobs = Annotated[
    int | None, typer.Option(metavar="K", help="With --json: log-probabilities of each token, and of the K best.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a text, with the record of every token.")]


def generate(
    prompt: Prompt = None,
    draft: Draft = None,
    target: Target = None,
    base: Base = None,
    method: Method = "speculative",
    router: Router = None,
    draft_tokens: DraftTokens = None,
    plan: PlanFile = None,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    presence_penalty: PresencePenalty = 0.0,
    frequency_penalty: FrequencyPenalty = 0.0,
    logit_bias: LogitBias = None,
    seed: Seed = 0,
    n: Number = 1,
    max_tokens: MaxTokens = 128,
    min_tokens: MinTokens = 0,
    stop: Stop = None,
    stop_token_ids: StopTokenIds = None,
    ignore_eos: IgnoreEos = False,
    input: Input = None,
    output: Output = None,
    batch_size: BatchSize = 16,
    dtype: Dtype = "auto",
    device: Device = "auto",
    weights: Weights = "auto",
    candidates: Candidates = 0,
    logprobs: Logprobs = None,
    as_json: AsJson = False,
) -> None:
    """Write on from a prompt, or from each of a file.

    On a terminal each token has the style of the system that wrote it.

    \b
    Examples:
      fsgen generate "Question: 2 + 2?" --draft Qwen/Qwen2.5-0.5B --target Qwen/Qwen2.5-7B
      fsgen generate --input prompts.jsonl --output results.jsonl --temperature 0.8 --n 4
    """
    from fsgen.types import SamplingParams

    only_one([prompt, input], "a prompt, or --input")
    if output is not None and input is None:
        raise ValueError("--output is for the prompts of --input")
    sampling = SamplingParams(
        max_tokens, temperature, top_k, top_p, min_p, seed, tuple(stop or ()),
        token_ids(stop_token_ids, "--stop-token-ids"), ignore_eos, n, min_tokens, logprobs,
        repetition_penalty, presence_penalty, frequency_penalty, biases(logit_bias),
    )  # fmt: skip
    text = _read("the input" if prompt is None else "the prompt", prompt, input)

    named = Named(draft, target, base, method, router, draft_tokens, dtype, weights)
    named = named.by_plan(plan, batch_size if prompt is None else 1)
    silence_libraries(named.draft, named.target, named.base)
    planned, chosen = named.resolve(device)
    if prompt is None:
        settings = [planned.dtype, sorted(planned.weights.items()), candidates, as_json]
        _many(text, output, planned, chosen, sampling, settings, batch_size)
    else:
        _one(text, planned, chosen, sampling, candidates, as_json)


def _read(what: str, prompt: str | None, file: str | None) -> str:
    """A prompt as it is, or what a file holds; for -, standard input without its last line break."""
    if "-" in (prompt, file):
        text = sys.stdin.read().removesuffix("\n")
    elif prompt is not None:
        text = prompt
    else:
        text = Path(str(file)).read_text(encoding="utf-8")
    if not text:
        raise ValueError(f"{what} is empty; at least one token is needed")
    return text


def _one(
    prompt: str, planned: Plan, method: methods.Method, sampling: SamplingParams, candidates: int, as_json: bool
) -> None:
    """Write one text, or several of one prompt, and show them as they come."""
    from fsgen.api import choices, stream
    from fsgen.methods.check import check
    from fsgen.prompts import encode

    each = choices(sampling)
    check(planned, method, [encode(planned, prompt)], each[:1])
    members = planned.load(method.roles)
    with members.keeping():
        for params in each:
            tokens = stream(members, prompt, method, sampling=params, candidates=candidates)
            if as_json:
                print(finished(tokens, lambda token: None).to_json())
            else:
                show_stream(tokens)


def _many(
    text: str,
    output: Path | None,
    planned: Plan,
    method: methods.Method,
    sampling: SamplingParams,
    settings: list[Any],
    batch_size: int,
) -> None:
    """Write the texts that the lines of an input ask for; `settings` decide what is stored of them."""
    from fsgen.jsonl import appending, as_line, read_requests, results

    *_, candidates, whole = settings
    requests = read_requests(text, planned, method, sampling, settings)
    opened = nullcontext((0, lambda line: print(line, flush=True))) if output is None else appending(output, requests)
    with going_on("the same command goes on from there"), opened as (done, add):
        if wanted := requests[done:]:
            members = planned.load({role for request in wanted for role in request.method.roles})
            tokens, seconds = 0, time.perf_counter()
            with progress_bar("writing", len(wanted)) as advance:
                for result in results(members, wanted, batch_size, candidates, whole):
                    add(as_line(result))
                    tokens += result["stats"]["tokens"]
                    advance(1)
            seconds = time.perf_counter() - seconds
            print(f"{len(wanted):,} texts of {tokens:,} tokens in {seconds:.1f} s", end="", file=sys.stderr)
            print(f"; {done:,} were there" if done else "", file=sys.stderr)
        else:
            print(f"all {done:,} texts were there already", file=sys.stderr)
