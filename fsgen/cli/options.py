"""Options that several commands share, and which models they name."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fsgen.models.bundled import DEFAULT_DRAFT, DEFAULT_TARGET, DEFAULT_TUNED, PREFIX, bundled

if TYPE_CHECKING:
    from fsgen.backends import Plan
    from fsgen.methods.method import Method
    from fsgen.planner.file import Chosen
    from fsgen.study.cluster import Cluster

DRAFT, TUNED, TARGET = DEFAULT_DRAFT, DEFAULT_TUNED, DEFAULT_TARGET

MODELS, METHOD, ENDING, WHERE = "Models", "The method", "Where a text ends", "Where it runs"


def _models(incomplete: str) -> list[str]:
    """What the shell completes names of models with."""
    return [info.name for info in bundled() if info.name.startswith(incomplete)]


Draft = Annotated[
    str | None,
    typer.Option(
        help=f"The small model: bundled, a folder, a GGUF file, or a name on the hub; or ngram:N, look-up in the text "
        f"so far.  [default: {DRAFT}]",
        autocompletion=_models,
        rich_help_panel=MODELS,
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        help=f"The large model, named likewise.  [default: {TARGET}]", autocompletion=_models, rich_help_panel=MODELS
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        help="The small model before it was tuned, for the proxy method alone.",
        autocompletion=_models,
        rich_help_panel=MODELS,
    ),
]
MaxTokens = Annotated[int, typer.Option(help="The budget of written tokens.", rich_help_panel=ENDING)]
Dtype = Annotated[
    str,
    typer.Option(
        help="auto, float32, bfloat16 or float16; of a GGUF file this is the type of keys and values.",
        rich_help_panel=MODELS,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=MODELS)]
Weights = Annotated[
    str,
    typer.Option(
        help="Instead of --dtype: float32, bfloat16, float16, or on a CPU int8 or int4, for all models, or for each: "
        "draft=int8,target=bfloat16.",
        rich_help_panel=MODELS,
    ),
]
PlanFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", exists=True, dir_okay=False, help="The models and the method that fsgen plan chose.",
        rich_help_panel=METHOD,
    ),
]  # fmt: skip
Limit = Annotated[int | None, typer.Option(min=1, help="The most examples of each task.")]
Engine = Annotated[
    str, typer.Option(help="local: in this process; ray: by the workers of a Ray cluster.", rich_help_panel=WHERE)
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="A Ray cluster that runs, or auto for this machine's.  [default: RAY_ADDRESS, or processes of this "
        "machine]",
        rich_help_panel=WHERE,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="The most workers at a time.  [default: one a machine, or one for each GPU]", rich_help_panel=WHERE
    ),
]
Gpus = Annotated[
    int | None,
    typer.Option(help="GPUs of each worker.  [default: as many as its models need]", rich_help_panel=WHERE),
]
StudyFolder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a study.")]


def models_by_role(method: Method, draft: str | None, target: str | None, base: str | None) -> dict[str, str | None]:
    """The model names by role, with the bundled pair where no other model is named.

    Raises:
        ValueError: a base model for a method that reads none.
    """
    if base is not None and not method.fusion.reads_base:
        raise ValueError(f"method {method.name!r} reads no base model; --base is for the proxy method")
    # A bundled model is no partner of a model of another kind: then the missing one has to be named.
    if all(name is None or name.startswith((PREFIX, "ngram")) for name in (draft, target, base)):
        if target is None and "target" in method.roles:
            target = TARGET
        if draft is None and "draft" in method.roles:
            draft = DRAFT
            if method.fusion.reads_base and base is None:
                draft = TUNED
                base = next((info.tuned_from for info in bundled() if info.name == TUNED), None)
    return {"draft": draft, "target": target, "base": base}


def cluster(engine: str, address: str | None, workers: int | None, gpus: int | None) -> Cluster | None:
    """Where units are run; None for this process. Raises ValueError for an engine or options that there are not."""
    from fsgen.study.cluster import Cluster

    if engine == "ray":
        return Cluster(address, workers, gpus)
    if engine != "local":
        raise ValueError(f"the engine {engine!r} is unknown: choose local or ray")
    given = {"address": address, "workers": workers, "gpus": gpus}
    if said := [name for name, value in given.items() if value is not None]:
        raise ValueError(f"--{said[0]} is for --engine ray")
    return None


def from_plan(path: Path, batch_size: int | None, **given: Any) -> Chosen:
    """What a plan says. Raises ValueError for a file that is none, or where an option says it too."""
    from fsgen.planner.file import read_plan

    if said := [name for name, value in given.items() if value is not None]:
        raise ValueError(f"--plan has the models, the method and their settings: leave out --{said[0]}, or --plan")
    return read_plan(path, batch_size)


@dataclass(frozen=True)
class Named:
    """The models, the method and the types of weights that the options of a command name; each with its default."""

    draft: str | None = None
    target: str | None = None
    base: str | None = None
    method: str = "speculative"
    router: str | None = None
    draft_tokens: str | None = None
    dtype: str = "auto"
    weights: str = "auto"

    def by_plan(self, path: Path | None, batch_size: int | None) -> Named:
        """What a plan says instead, where there is one. Raises ValueError as `from_plan`."""
        if path is None:
            return self
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        usual = dict(zip(own, astuple(Named()), strict=True))
        given = {name.replace("_", "-"): None if own[name] == usual[name] else own[name] for name in own}
        found = from_plan(path, batch_size, **given)
        return Named(**{name: getattr(found, name) for name in own})

    def resolve(self, device: str) -> tuple[Plan, Method]:
        """The models, checked and not loaded, and the method for them. Raises ValueError for what there is not."""
        from fsgen.api import method_for
        from fsgen.backends import plan
        from fsgen.methods.method import parse

        chosen = parse(self.method, self.router, self.draft_tokens)
        names = models_by_role(chosen, self.draft, self.target, self.base)
        planned = plan(**names, dtype=self.dtype, device=device, weights=self.weights)
        return planned, method_for(planned, chosen)


def new_folder(path: Path | None) -> Path | None:
    """A folder that a command will write, checked before its work.

    Raises:
        ValueError: it is a file, or lies in one, or in a folder that cannot be written.
    """
    if path is not None:
        there = next(each for each in (path, *path.absolute().parents) if each.exists())
        if not there.is_dir():
            raise ValueError(f"the folder {str(path)!r} cannot be written: {str(there)!r} is a file")
        if not os.access(there, os.W_OK | os.X_OK):
            raise ValueError(f"the folder {str(path)!r} cannot be written: no right to write {str(there)!r}")
    return path


def new_file(path: Path | None) -> Path | None:
    """A file that a command will write, checked before its work. Raises ValueError as `new_folder`, or for a folder."""
    if path is not None:
        if path.is_dir():
            raise ValueError(f"the file {str(path)!r} cannot be written: it is a folder")
        new_folder(path.absolute().parent)
    return path


@contextmanager
def going_on(how: str = "the same command, without --fresh, goes on from there") -> Iterator[None]:
    """Work that the same command takes up again: where it is interrupted, that is said, and the exit status is 130."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\ninterrupted: what is finished is kept; {how}", file=sys.stderr)
        raise typer.Exit(130) from None


def silence_libraries(*names: str | None) -> None:
    """Leaves stderr to our own words; to be called before `transformers` is imported.

    No warnings (a prompt that is too long is our error to report), and no progress bars but of a download on a
    terminal.

    Args:
        names: of the models that are about to be loaded.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    local = all(name is None or name.startswith(PREFIX) or Path(name).is_dir() for name in names)
    if local or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
