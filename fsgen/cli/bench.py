"""`fsgen bench`: how fast a pair decodes on this machine."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fsgen.cli.options import DRAFT, TARGET, Device, Dtype, Weights, from_plan, silence_libraries
from fsgen.cli.output import console, numbers, print_json

if TYPE_CHECKING:
    from fsgen.backends import Plan
    from fsgen.bench.shapes import RandomPair
    from fsgen.bench.speed import Calls, Speed
    from fsgen.planner.file import Chosen

_MODELS = (
    "bundled, a folder, a GGUF file, a name on the hub, or random:0.5B, random:7B, ...: a shape of Qwen2.5 with random "
    "weights"
)
BATCHES, PROMPT_TOKENS = "1,8", 128


def bench(
    draft: Annotated[str | None, typer.Option(help=f"The small model: {_MODELS}.")] = None,
    target: Annotated[str | None, typer.Option(help="The large model, likewise.")] = None,
    batch_size: Annotated[str, typer.Option(help="How many texts are written at a time: 1, or 1,8,32.")] = BATCHES,
    acceptance: Annotated[
        str, typer.Option(help="Acceptance rates that the draft is made to have: 0.7,0.85. As it is where none is set.")
    ] = "",
    draft_tokens: Annotated[str, typer.Option(help="How many tokens to draft: a number, or auto.")] = "auto",
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each prompt.")] = PROMPT_TOKENS,
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens that are written of each text.")] = 64,
    turns: Annotated[int, typer.Option(min=1, help="How often all is repeated.")] = 3,
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Measure what fsgen plan chose, on prompts of --task: predicted beside measured.",
        ),
    ] = None,
    task: Annotated[str, typer.Option(help="With --plan: whose prompts are written from.")] = "gsm8k",
    dtype: Dtype = "auto",
    device: Device = "auto",
    weights: Weights = "auto",
    compare: Annotated[bool, typer.Option("--transformers", help="Compare with transformers' generate.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure how fast a pair decodes on this machine.

    Prompts are made of random tokens, and all texts have the same length, so only the speed says something. A ratio
    compares with plain decoding in the same turns. What a random draft's texts are worth is set by --acceptance.

    \b
    Example:
      fsgen bench --draft pocket-0.6m --target pocket-4m --batch-size 1,8
    """
    if plan is not None:
        usual = {"batch-size": BATCHES, "draft-tokens": "auto", "prompt-tokens": PROMPT_TOKENS}
        usual |= {"acceptance": "", "dtype": "auto", "weights": "auto"}
        own = {"batch-size": batch_size, "draft-tokens": draft_tokens, "prompt-tokens": prompt_tokens}
        own |= {"acceptance": acceptance, "dtype": dtype, "weights": weights}
        given = {name: None if value == usual[name] else value for name, value in own.items()}
        chosen = from_plan(plan, None, draft=draft, target=target, **given)
        _of_plan(chosen, task, max_tokens, turns, device, compare, as_json)
        return
    sizes = numbers("--batch-size", batch_size, int, 1, 4096)
    rates = numbers("--acceptance", acceptance, float, 0, 1) if acceptance else []
    silence_libraries(draft, target)
    from fsgen.bench.speed import bandwidth, calls, measure, ways
    from fsgen.methods.method import parse

    length = parse("speculative", None, draft_tokens)
    planned = _planned(draft, target, dtype, device, weights)
    _check(planned, draft, rates, compare)
    _fit(planned, prompt_tokens + max_tokens)
    members = planned.load()
    assert members.target is not None
    where = members.target.device
    rate = bandwidth(where)
    record: dict[str, Any] = {"device": _name(where), "bandwidth": rate, "members": members.names()}
    record |= {"calls": {}, "speeds": []}
    for size in sizes:
        prompts = _prompts(members.vocab_size, size, prompt_tokens)
        found = calls(members, size, prompt_tokens, rate)
        record["calls"][size] = found
        lengths = "auto" if length.adaptive else length.draft_tokens
        list_ = list(ways(members, prompts, max_tokens, size, lengths, rates, compare))
        record["speeds"] += measure(list_, size, turns, where)
    _print(record, as_json)


def _of_plan(chosen: Chosen, task: str, max_tokens: int, turns: int, device: str, compare: bool, as_json: bool) -> None:
    """What a plan chose, plain decoding and transformers, on prompts of a task."""
    silence_libraries(chosen.draft, chosen.target)
    from fsgen.backends import plan
    from fsgen.backends.remote.address import require_here
    from fsgen.planner import compare as comparison
    from fsgen.planner.sources import task_prompts

    require_here(chosen.draft, chosen.target)
    planned = plan(chosen.draft, chosen.target, dtype=chosen.dtype, device=device, weights=chosen.weights)
    _check(replace(planned, ngram=0), None, [], compare)
    prompts = task_prompts(task, planned, max(8, 2 * chosen.batch_size), max_tokens)
    found = comparison.compare(planned.load(), chosen, prompts, max_tokens, turns, compare)
    if as_json:
        print_json({"plan": asdict(chosen), "speeds": [one.as_dict() for one in found]})
        return
    from rich.table import Table

    table = Table("batch", "", "tokens/s", "x plain", "predicted", box=None, pad_edge=False)
    for one in found:
        said = "" if one.predicted is None else f"{one.predicted:.2f} [{one.low:.2f}, {one.high:.2f}]"
        table.add_row(str(one.batch_size), one.way, f"{one.tokens_per_second:.1f}", f"{one.ratio:.2f}", said)
    console().print(table)


def _planned(draft: str | None, target: str | None, dtype: str, device: str, weights: str) -> Plan | RandomPair:
    from fsgen.backends import plan
    from fsgen.backends.remote.address import require_here
    from fsgen.bench.shapes import PREFIX, RandomPair

    names = {"draft": draft, "target": target}
    if draft is None and target is None:
        names = {"draft": DRAFT, "target": TARGET}
    if names["target"] is None:
        raise ValueError("the target is missing, which all is compared with: name it by --target")
    require_here(*names.values())
    shapes = {role: name for role, name in names.items() if name is not None and name.startswith(PREFIX)}
    if not shapes:
        return plan(**names, dtype=dtype, device=device, weights=weights)
    if len(shapes) < sum(name is not None for name in names.values()):
        raise ValueError(f"{next(iter(shapes.values()))!r} has random weights: so must the other model")
    return RandomPair.plan(shapes, dtype, device, weights)


def _check(planned: Plan | RandomPair, draft: str | None, rates: list[float], compare: bool) -> None:
    if planned.ngram:
        raise ValueError(f"--draft {draft!r} is no model, whose calls could be measured")
    if rates and planned.draft is None:
        raise ValueError("--acceptance is for a draft: name it by --draft")
    if compare and (roles := planned.beyond_transformers()):
        names = ", ".join(f"the {role} {name!r}" for role, name in roles.items())
        raise ValueError(f"--transformers needs models that it can run, which these are not: {names}")


def _fit(planned: Plan | RandomPair, tokens: int) -> None:
    if tokens > planned.context:
        raise ValueError(f"--prompt-tokens and --max-tokens are {tokens} tokens, and the window is {planned.context}")


def _prompts(vocab: int, count: int, length: int) -> list[list[int]]:
    import numpy as np

    return [list(map(int, row)) for row in np.random.default_rng(0).integers(1, min(vocab, 2000), (count, length))]


def _name(device: Any) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def _print(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        shown = record | {"calls": {size: asdict(found) for size, found in record["calls"].items()}}
        print_json(shown | {"speeds": [speed.as_dict() for speed in record["speeds"]]})
        return
    from rich.table import Table

    out = console()
    out.print(f"{record['device']}; reads {record['bandwidth'] / 1e9:.1f} GB/s")
    table = Table("batch", "target, ms", "six tokens, ms", "draft, ms", "of bandwidth", box=None, pad_edge=False)
    for size, found in record["calls"].items():
        table.add_row(*_call_cells(size, found))
    out.print(table)
    table = Table("batch", "", "tokens/s", "x plain", "accepted", "tokens a call", box=None, pad_edge=False)
    for speed in record["speeds"]:
        table.add_row(*_speed_cells(speed))
    out.print(table)


def _call_cells(size: int, found: Calls) -> list[str]:
    draft = "" if found.draft is None else f"{found.draft:.2f}"
    share = "" if found.share is None or size > 1 else f"{found.share:.2f}"
    return [str(size), f"{found.target:.2f}", f"{found.verify:.2f}", draft, share]


def _speed_cells(speed: Speed) -> list[str]:
    accepted = "" if speed.acceptance is None else f"{speed.acceptance:.2f}"
    tokens = "" if speed.tokens_per_call is None else f"{speed.tokens_per_call:.2f}"
    return [str(speed.batch_size), speed.way, f"{speed.tokens_per_second:.1f}", f"{speed.ratio:.2f}", accepted, tokens]
