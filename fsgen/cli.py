"""The commands: `fsgen models`, `fsgen generate`, `fsgen study`.

A command imports what it runs when it runs, so that `--help` and `models` answer without torch. What goes wrong for a
reason that the user can mend is one line, `error: ...`, on stderr, and exit status 2.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

import fsgen

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from fsgen.generation import Generation
    from fsgen.methods import Method
    from fsgen.types import Token

# The bundled pair that writes where no model is named; proxy tuning drafts with a tuned model, against its own base.
DRAFT, TUNED, TARGET = "pocket-0.6m", "pocket-0.6m-tuned", "pocket-8m"

app = typer.Typer(
    name="fsgen",
    help="Collaborative decoding of a small and a large language model: measured, planned, run.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The entry point. Ends with status 0, or 2 after an error that the user can mend."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = app(arguments or ["--help"], prog_name="fsgen", standalone_mode=False)
    except (typer.TyperException, ValueError, OSError) as error:
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        print("error:", message.strip(), file=sys.stderr)
        sys.exit(2)
    sys.exit(status if isinstance(status, int) else 0)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"fsgen {fsgen.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the bundled models, the smallest first."""
    from fsgen.models.bundled import bundled

    listed = [asdict(info) for info in bundled()]
    if as_json:
        print(json.dumps(listed, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("name", "family", "parameters", "non_embedding_parameters", "tuned_from", "path"):
        numeric = name.endswith("parameters")
        table.add_column(name.removesuffix("_parameters"), justify="right" if numeric else "left", no_wrap=True)
    for row in listed:
        table.add_row(
            row["name"],
            row["family"],
            f"{row['parameters']:,}",
            f"{row['non_embedding_parameters']:,}",
            row["tuned_from"] or "-",
            row["path"],
        )
    # A path is copied, never read: it may run over the terminal's edge, but not be cut.
    width = max((len(row["path"]) for row in listed), default=0) + 120
    Console(width=width, highlight=False, markup=False).print(table, crop=False)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The text to go on from; - reads it from standard input.")],
    draft: Annotated[
        str | None,
        typer.Option(help=f"The small model: bundled, a folder, or a name on the hub.  [default: {DRAFT}]"),
    ] = None,
    target: Annotated[str | None, typer.Option(help=f"The large model.  [default: {TARGET}]")] = None,
    base: Annotated[
        str | None, typer.Option(help="The small model before it was tuned, for the proxy method alone.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="oracle, speculative, contrastive, proxy, ensemble, mixture, route or plain, with parameters as in "
            "contrastive:alpha=0.1,beta=0.5."
        ),
    ] = "speculative",
    router: Annotated[
        str | None,
        typer.Option(
            help="Where System 2 is asked: always, never, max-prob:T, margin:T, entropy:T, random:R or position:A-B.  "
            "[default: the method's own]"
        ),
    ] = None,
    draft_tokens: Annotated[
        int | None, typer.Option(help="The most tokens that are drafted in a round.  [default: the method's own]")
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Draw from the K most likely tokens; 0 from all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the most likely tokens that together reach P.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Draw from tokens at least P times as likely as the best one.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of all randomness.")] = 0,
    max_tokens: Annotated[int, typer.Option(help="The budget of written tokens.")] = 128,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be given several times.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    candidates: Annotated[
        int, typer.Option(min=0, help="With --json: how many likely tokens of both systems each record keeps.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with the whole trace.")] = False,
) -> None:
    """Write on from a prompt, and show which system wrote each token."""
    from fsgen.types import SamplingParams

    sampling = SamplingParams(max_tokens, temperature, top_k, top_p, min_p, seed, tuple(stop or ()))
    text = _read_prompt(prompt)

    _quieten(draft, target, base)
    from fsgen.decode import check
    from fsgen.generation import encode, stream
    from fsgen.methods import parse
    from fsgen.models import plan

    chosen = parse(method, router, draft_tokens)
    planned = plan(**_members(chosen, draft, target, base), dtype=dtype, device=device)
    check(planned, chosen, [encode(planned, text)], [sampling])
    members = planned.load(chosen.roles)
    tokens = stream(members, text, chosen, sampling=sampling, candidates=candidates)
    if as_json:
        _print_json(_written(tokens, lambda token: None))
    elif sys.stdout.isatty():
        _show_coloured(tokens)
    else:
        _show_plain(tokens)


def _quieten(*names: str | None) -> None:
    """Leaves stderr to our own words; to be called before transformers is imported.

    No warnings (a prompt that is too long is our error to tell), and no progress bars but of a download on a terminal.
    """
    from fsgen.models.bundled import PREFIX

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    local = all(name is None or name.startswith(PREFIX) or Path(name).is_dir() for name in names)
    if local or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _read_prompt(prompt: str) -> str:
    """The prompt as it stands, or, for -, standard input without its last line break."""
    text = sys.stdin.read().removesuffix("\n") if prompt == "-" else prompt
    if not text:
        raise ValueError("the prompt is empty; at least one token is needed")
    return text


def _members(method: Method, draft: str | None, target: str | None, base: str | None) -> dict[str, str | None]:
    """The model names by role, with the bundled pair where nothing else was named."""
    from fsgen.models.bundled import PREFIX, bundled

    if base is not None and not method.fusion.reads_base:
        raise ValueError(f"method {method.name!r} reads no base model; --base is for the proxy method")
    # A bundled model is no partner of a model of another kind: then the missing one has to be named.
    if all(name is None or name.startswith(PREFIX) for name in (draft, target, base)):
        if target is None and "target" in method.roles:
            target = TARGET
        if draft is None and "draft" in method.roles:
            draft = DRAFT
            if method.fusion.reads_base and base is None:
                draft = TUNED
                base = next((info.tuned_from for info in bundled() if info.name == TUNED), None)
    return {"draft": draft, "target": target, "base": base}


def _written(tokens: Generator[Token, None, Generation], show: Callable[[Token], None]) -> Generation:
    """The finished generation, each token shown as it comes."""
    while True:
        try:
            token = next(tokens)
        except StopIteration as end:
            generation: Generation = end.value
            return generation
        show(token)


def _print_json(generation: Generation) -> None:
    record = {
        "text": generation.text,
        "tokens": [asdict(token) for token in generation.tokens],
        "stats": generation.stats.as_dict(),
        "prompt_tokens": generation.prompt_tokens,
        "stop_reason": generation.stop_reason,
    }
    print(json.dumps(record, allow_nan=False))


def _show_coloured(tokens: Generator[Token, None, Generation]) -> None:
    from rich.console import Console

    from fsgen.render import STYLES, figures, legend

    console = Console(highlight=False, markup=False)
    generation = _written(
        tokens, lambda token: console.out(token.text, style=STYLES[token.source], end="", highlight=False)
    )
    console.print()
    console.print(legend(), figures(generation), sep="  ", soft_wrap=True)


def _show_plain(tokens: Generator[Token, None, Generation]) -> None:
    from fsgen.render import figures

    generation = _written(tokens, lambda token: print(token.text, end="", flush=True))
    print()
    print(figures(generation), file=sys.stderr)


@app.command()
def study(
    config: Annotated[
        Path | None, typer.Argument(help="What to run, as YAML.  [default: the study of the bundled models]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where results are kept.  [default: runs/NAME]")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The most examples of each task.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again what has been run before.")] = False,
) -> None:
    """Measure how much of the large model a text needs, and write the report.

    A study that was interrupted goes on where it stopped. The exit status is 1 where runs of it failed.
    """
    _quieten()
    from rich.console import Console

    from fsgen.report import write
    from fsgen.study import run_study

    folder = out or Path("runs") / (config.stem if config else "bundled")
    result = run_study(config, folder, limit=limit, fresh=fresh, console=Console(stderr=True))
    print(f"report: {write(folder)}")
    if result.failed:
        raise typer.Exit(1)
