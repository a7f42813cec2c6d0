"""The commands: `fsgen models`, `fsgen generate`, `fsgen verify`, `fsgen study`, `fsgen experiment` and others.

A command imports what it runs when it runs, so that `--help` and `models` answer without torch. What goes wrong for a
reason that the user can mend is one line, `error: ...`, on stderr, and exit status 2.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

import fsgen

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from fsgen.engine.generation import Generation
    from fsgen.methods.method import Method
    from fsgen.tasks.prompts import Prompts
    from fsgen.types import Token
    from fsgen.verify import Verdict

# The bundled pair that writes where no model is named; proxy tuning drafts with a tuned model, against its own base.
DRAFT, TUNED, TARGET = "pocket-0.6m", "pocket-0.6m-tuned", "pocket-8m"

PROMPTS = 200  # that are verified with where no number is given
MOST_FAULTS = 50  # that are listed on a screen

app = typer.Typer(
    name="fsgen",
    help="Collaborative decoding of a small and a large language model: measured, planned, run.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


router_app = typer.Typer(help="Routers that are learned from the traces of a study: train, show.")
app.add_typer(router_app, name="router")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The entry point. Ends with status 0, or 2 after an error that the user can mend."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Half a million objects of the libraries stay to the end; looked through as often as usual, they took 5 % of a run.
    gc.set_threshold(50_000, 20, 20)
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
            help="Where System 2 is asked: always, never, max-prob:T, margin:T, entropy:T, random:R, position:A-B or "
            "learned:FILE.  [default: the method's own]"
        ),
    ] = None,
    draft_tokens: Annotated[
        str | None,
        typer.Option(
            help="How many tokens are drafted in a round at most; auto: as many as prove best.  "
            "[default: the method's own, auto where all is verified]"
        ),
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
    draft_weights: Annotated[
        str, typer.Option(help="Of the draft alone: auto (as --dtype), float32, bfloat16, float16, or int8 on a CPU.")
    ] = "auto",
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
    from fsgen.api import stream
    from fsgen.backends import plan
    from fsgen.engine.engine import check
    from fsgen.engine.generation import encode
    from fsgen.methods.method import parse

    chosen = parse(method, router, draft_tokens)
    planned = plan(**_members(chosen, draft, target, base), dtype=dtype, device=device, draft_weights=draft_weights)
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
def verify(
    draft: Annotated[
        str | None,
        typer.Option(help=f"The small model: bundled, a folder, or a name on the hub.  [default: {DRAFT}]"),
    ] = None,
    target: Annotated[str | None, typer.Option(help=f"The large model.  [default: {TARGET}]")] = None,
    base: Annotated[
        str | None, typer.Option(help="The small model before it was tuned, for the proxy method alone.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="speculative, oracle, contrastive, proxy, ensemble or mixture, with parameters.")
    ] = "speculative",
    router: Annotated[str | None, typer.Option(help="Where a draft ends early.  [default: the method's own]")] = None,
    draft_tokens: Annotated[
        str | None,
        typer.Option(
            help="How many tokens are drafted in a round at most; auto: as many as prove best, which another run may "
            "see otherwise.  [default: the method's own number]"
        ),
    ] = None,
    prompts: Annotated[
        int | None,
        typer.Option(
            help="How many, all different. Where the task has fewer: those of the other tasks, then all of them cut "
            f"off earlier.  [default: {PROMPTS}, or the whole file]"
        ),
    ] = None,
    task: Annotated[str, typer.Option(help="Whose prompts come first.")] = "gsm8k",
    prompts_file: Annotated[
        Path | None, typer.Option(help="Prompts of your own instead: one a line, as it stands or as a JSON string.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="The budget of written tokens.")] = 64,
    batch_size: Annotated[int, typer.Option(min=1, help="How many texts are written at a time.")] = 16,
    every_token: Annotated[
        bool,
        typer.Option(
            "--every-token",
            help="Also read each text once without a cache and check all of its tokens: this finds what both ways of "
            "writing have wrong alike.",
        ),
    ] = False,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    draft_weights: Annotated[
        str, typer.Option(help="Of the draft alone: auto (as --dtype), float32, bfloat16, float16, or int8 on a CPU.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check that a pair writes what its System 2 writes token by token.

    Greedy texts are compared token by token, and each first difference is explained: a tie within rounding, or a fault.
    The exit status is 1 where there are faults. Sampled texts cannot be compared like this; that they have the right
    distribution is what the tests in tests/engine show.
    """
    from fsgen.types import SamplingParams

    sampling = SamplingParams(max_tokens)

    _quieten(draft, target, base)
    from fsgen.backends import plan
    from fsgen.engine.engine import check
    from fsgen.engine.generation import encode
    from fsgen.tasks.prompts import from_file, from_tasks
    from fsgen.verify import verify as verify_texts
    from fsgen.verify import ways

    chosen, _ = ways(method, router, draft_tokens)
    planned = plan(**_members(chosen, draft, target, base), dtype=dtype, device=device, draft_weights=draft_weights)

    def fits(text: str) -> bool:
        return 0 < len(encode(planned, text)) <= planned.context - max_tokens

    if prompts_file is None:
        found = from_tasks(task, PROMPTS if prompts is None else prompts, fits)
    else:
        found = from_file(prompts_file, prompts, fits)
    check(planned, chosen, [encode(planned, found.texts[0])], [sampling])
    members = planned.load(chosen.roles)
    with _bar("verifying", len(found.texts)) as advance:
        verdict = verify_texts(
            members,
            found.texts,
            method,
            router,
            draft_tokens,
            max_tokens=max_tokens,
            batch_size=batch_size,
            every_token=every_token,
            progress=advance,
        )
    if as_json:
        record = {"members": members.names(), "prompts": found.sources, "left_out": found.left_out}
        print(json.dumps(record | verdict.as_dict(), allow_nan=False))
    else:
        _show_verdict(verdict, found, members.tokenizer)
    if verdict.faults:
        raise typer.Exit(1)


@contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where that is a terminal; gives what advances it."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(title, total=total)
        yield lambda count: progress.advance(bar, count)


def _show_verdict(verdict: Verdict, prompts: Prompts, tokenizer: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    ties, faults = verdict.ties, verdict.faults
    rows = [
        ("compared", f"{verdict.method} with {verdict.reference}, in {verdict.dtype}"),
        ("prompts", ", ".join(f"{count:,} {name}" for name, count in prompts.sources.items())),
        ("texts", f"{verdict.texts:,}, of {verdict.tokens:,} tokens, {verdict.accepted:,} of them drafted"),
        ("equal", f"{verdict.equal:,}"),
        ("ties within rounding", f"{len(ties):,}"),
        ("faults", f"{len(faults):,}"),
        (
            "seconds",
            f"{verdict.seconds:.1f}: {verdict.method_seconds:.1f} {verdict.method}, {verdict.reference_seconds:.1f} "
            f"{verdict.reference}, {verdict.check_seconds:.1f} explaining",
        ),
    ]
    if prompts.left_out:
        rows.insert(2, ("left out", ", ".join(f"{count:,} {reason}" for reason, count in prompts.left_out.items())))
    if ties:
        widest = max(ties, key=lambda tie: tie.gap)
        how = f"measured in {verdict.measured_in}" if verdict.measured_in else "rounding estimated"
        rows.insert(
            -2, ("largest gap of a tie", f"{widest.gap:.2g}, of {widest.bound:.2g} that rounding allows; {how}")
        )
        if nearby := sum(tie.looks > 1 for tie in ties):
            rows.insert(-2, ("by rounding nearby", f"{nearby:,} of the ties, measured at several positions"))
    table = Table(box=None, pad_edge=False, show_header=False)
    for row in rows:
        table.add_row(*row, style="bold red" if row[0] == "faults" and faults else None)
    console.print(table)
    if not faults:
        return

    def shown(token: int | None) -> str:
        return "(the text had ended)" if token is None else repr(tokenizer.decode([token]))

    table = Table(title="faults", title_justify="left")
    for name in ("prompt", "position", "written", "expected", "gap", "expected gap", "bound"):
        table.add_column(name, justify="left" if name in ("written", "expected") else "right")
    for fault in faults[:MOST_FAULTS]:
        gaps = [f"{value:.3g}" for value in (fault.gap, fault.expected_gap, fault.bound)]
        table.add_row(str(fault.prompt), str(fault.position), shown(fault.token), shown(fault.expected), *gaps)
    console.print(table)
    if len(faults) > MOST_FAULTS:
        console.print(f"and {len(faults) - MOST_FAULTS:,} more; --json lists all")


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


@app.command()
def experiment(
    name: Annotated[str | None, typer.Argument(help="Which; --list names them.")] = None,
    config: Annotated[Path | None, typer.Option(help="What to run, as YAML.  [default: on the bundled models]")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where results are kept; experiments may share a folder.  [default: runs/experiments/NAME]"),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The most examples of each task.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove all that is in the folder, and run it again.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Name the experiments and their questions.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the configuration that NAME has by default.")] = False,
) -> None:
    """Answer one of the field's open questions for some models, and write the report.

    An experiment that was interrupted goes on where it stopped.
    """
    from fsgen.experiments.config import configured, default_text, names

    if listed:
        for known in names():
            print(f"{known:<15} {configured(known).question}")
        return
    if name is None:
        raise ValueError(f"name an experiment: {', '.join(names())}; --list tells their questions")
    if show:
        print(default_text(name), end="")
        return
    asked = configured(name, config)
    _quieten()
    from rich.console import Console

    from fsgen.experiments import run_experiment
    from fsgen.report import write

    folder = out or Path("runs") / "experiments" / name
    try:
        answer = run_experiment(name, asked, folder, limit=limit, fresh=fresh, console=Console(stderr=True))
    except RuntimeError as error:
        print("error:", error, file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"{answer.statement}\n\nWhat would overturn it: {answer.overturn}\n")
    print(f"report: {write(folder)}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a finished study.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The page.  [default: DIR/report.html]")] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the figures there, too, as SVG, PNG and PDF.")
    ] = None,
) -> None:
    """Write the report of a study: one HTML file that needs nothing else."""
    from fsgen.report import write

    print(f"report: {write(folder, out, figures)}")
    if figures is not None:
        print(f"figures: {figures}")


@app.command()
def analyze(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a study.")],
    run: Annotated[
        list[str] | None,
        typer.Option(help="Say all about this run instead of a line about each: its key, or the beginning of it."),
    ] = None,
    calls: Annotated[
        list[float] | None,
        typer.Option(help="A budget of consultations, as a share of the positions, for the thresholds of routers."),
    ] = None,
    misses: Annotated[
        list[float] | None, typer.Option(help="A budget of missed mismatches, as a share of the positions.")
    ] = None,
    pictures: Annotated[bool, typer.Option(help="Project the draft's probabilities; this takes some seconds.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with everything.")] = False,
) -> None:
    """Say what the traces of a study tell of frequency, positions, uncertainty, routers and signs of failure."""
    from fsgen.analysis.study import analyze as analyze_study

    budgets = {"calls": calls, "misses": misses}
    given = {name: tuple(budget) for name, budget in budgets.items() if budget is not None}
    result = analyze_study(folder, runs=run, projections=pictures, **given)
    if as_json:
        print(json.dumps(asdict(result), allow_nan=False))
        return
    from rich.console import Console

    from fsgen.analysis.tables import show

    show(result, Console(highlight=False, markup=False), details=run is not None)


@router_app.command("train")
def train_router(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a study.")],
    kind: Annotated[str, typer.Option(help="svm, logistic or trees.")] = "logistic",
    run: Annotated[
        list[str] | None,
        typer.Option(
            help="Train on this run alone: its key, or the beginning of it; may be given several times.  "
            "[default: all that asked System 2 everywhere]"
        ),
    ] = None,
    calls: Annotated[
        float | None, typer.Option(help="Ask at no more than this share of the positions.  [default: 0.2]")
    ] = None,
    misses: Annotated[
        float | None, typer.Option(help="Instead: miss no more mismatches than this share of the positions.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn in training.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="[default: DIR/routers/DRAFT-KIND.npz]")] = None,
) -> None:
    """Train a router on the traces of a study, and judge it on examples that it has not seen."""
    from fsgen.analysis.labels import short_name
    from fsgen.analysis.learning import train
    from fsgen.analysis.tables import show_training

    trained = train(folder, kind, run, calls, misses, seed)
    file = out or folder / "routers" / f"{short_name(trained.model.draft['name'])}-{kind}.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    trained.model.write(file)
    from rich.console import Console

    show_training(trained, Console(highlight=False, markup=False))
    print(f"router: learned:{file}")


@router_app.command("show")
def show_router(file: Annotated[Path, typer.Argument(metavar="FILE", help="As `train` wrote it.")]) -> None:
    """Print what a learned router is, and how it was trained, as JSON."""
    from fsgen.methods.learned.file import read

    print(json.dumps(read(file).header, indent=2, allow_nan=False))


@app.command()
def scaling(
    source: Annotated[
        str, typer.Argument(help="The folder of a study, a CSV file, or `published`: the values of arXiv 2406.12295.")
    ],
    predict: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TARGET:DRAFT",
            help="Foretell a pair by sizes (70B:7B, 70e9:7e9) or by names of models; may be given several times.",
        ),
    ] = None,
    sizes: Annotated[
        str, typer.Option(help="What a size counts: total, or non-embedding (without the embeddings).")
    ] = "total",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, one object a method and task.")] = False,
) -> None:
    """Compare the laws by which the collaboration frequency may depend on the sizes of draft and target."""
    from fsgen.analysis.scaling import compare_laws, parse_pair, read_points, show, too_small
    from fsgen.models.bundled import bundled

    def sizes_of_bundled() -> dict[str, float]:
        whole = sizes == "total"
        return {info.name: info.parameters if whole else info.non_embedding_parameters for info in bundled()}

    points = read_points(source, sizes)
    pairs = [parse_pair(text, points.frame, sizes_of_bundled) for text in predict or []]
    compared = compare_laws(points.frame, pairs)
    notes = [*points.notes, *(f"left out, too few pairs: {m} on {t} ({n})" for m, t, n in too_small(points.frame))]
    if as_json:
        print(json.dumps([one.as_dict() for one in compared], indent=2, allow_nan=False))
        return
    from rich.console import Console

    show(compared, notes, Console(highlight=False, markup=False))
