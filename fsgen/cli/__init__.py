"""The commands: `fsgen generate`, `fsgen verify`, `fsgen study` and others, a file each.

A command imports what it runs when it runs, so that `--help` and `models` answer without torch. What goes wrong for a
reason that the user can mend is one line, `error: ...`, on stderr, and exit status 2.
"""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer

import fsgen
from fsgen.cli import (
    analyze,
    bench,
    chat,
    experiment,
    export_transformers,
    findings,
    generate,
    import_,
    judge,
    lm_eval,
    merge,
    models,
    pair,
    plan,
    predict,
    probe,
    profile,
    report,
    router,
    scaling,
    serve,
    simulate,
    study,
    verify,
)  # fmt: skip
from fsgen.cli.output import GroupedCommand

app = typer.Typer(
    name="fsgen",
    help="""Collaborative decoding of a small and a large language model: measured, planned, run.

    \b
    Examples:
      fsgen generate "Question: 2 + 2?" --draft pocket-0.6m --target pocket-4m
      fsgen study                       # of the bundled models; prints where its report is""",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (  # in the order in which one meets them
    models.models,
    generate.generate,
    pair.pair,
    probe.probe,
    chat.chat,
    serve.serve,
    verify.verify,
    study.study,
    import_.import_,
    merge.merge,
    judge.judge,
    experiment.experiment,
    findings.findings,
    report.report,
    analyze.analyze,
    scaling.scaling,
    predict.predict,
    bench.bench,
    profile.profile,
    plan.plan,
    simulate.simulate,
    export_transformers.export_transformers,
):
    app.command(command.__name__.rstrip("_").replace("_", "-"), cls=GroupedCommand)(command)
app.command("lm-eval", context_settings=lm_eval.CONTEXT)(lm_eval.lm_eval)
app.add_typer(router.app, name="router")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The entry point. Ends with status 0, or 2 after an error that the user can mend.

    Args:
        argv: the words after `fsgen`; those of the process if None.
    """
    warnings.showwarning = _show_warning
    arguments = list(sys.argv[1:] if argv is None else argv)
    unreadable = [argument for argument in arguments if not _is_text(argument)]
    # Half a million objects of the libraries live to the end; collected as often as usual, they took 5 % of a run.
    gc.set_threshold(50_000, 20, 20)
    try:
        if unreadable:
            raise ValueError(f"the argument {unreadable[0]!r} is not UTF-8")
        status = _commands()(arguments or ["--help"], prog_name="fsgen", standalone_mode=False)
    except (typer.TyperException, ValueError, OSError) as error:
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        if role := getattr(error, "role", None):  # an argument in Python is an option here
            message = message.replace(f"give {role}=", f"give --{role}")
        print("error:", _one_line(message), file=sys.stderr)
        sys.exit(2)
    sys.exit(status if isinstance(status, int) else 0)


@cache  # of what the functions say of themselves, for which typer takes some hundredths of a second
def _commands() -> Any:
    return typer.main.get_command(app)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our own warnings in a line; those of libraries are for whoever develops with them."""
    if Path(filename).is_relative_to(Path(__file__).parent.parent):
        print("warning:", _one_line(str(message)), file=sys.stderr)


def _is_text(argument: str) -> bool:
    """No byte of it stands for itself alone, as one does that the system could not decode."""
    return not any("\ud800" <= character <= "\udfff" for character in argument)


def _one_line(message: str) -> str:
    """A message in one line; a list of faults, one a line, is parted by semicolons."""
    line = " ".join(message.replace(":\n- ", ": ").replace("\n- ", "; ").split())
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in line)


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
