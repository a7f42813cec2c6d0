"""`fsgen predict`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fsgen.cli.options import Device, Dtype, new_file, silence_libraries
from fsgen.cli.output import console, print_json, progress_bar

if TYPE_CHECKING:
    from fsgen.predict import OwnTexts, Prediction

SHOWN = (1, 2, 4, 8)  # drafted tokens, in the table


def predict(
    target: Annotated[
        str | None, typer.Option(help="The large model: bundled, a folder, or a name on the hub.")
    ] = None,
    draft: Annotated[
        list[str] | None, typer.Option(help="A small model, named likewise; may be given several times.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts of your own: one a line, as plain text or as a JSON string.")
    ] = None,
    task: Annotated[str, typer.Option(help="Whose prompts are written to otherwise.")] = "gsm8k",
    count: Annotated[int, typer.Option(min=1, help="How many prompts, at most.")] = 32,
    max_tokens: Annotated[int, typer.Option(min=1, help="The budget of each text.")] = 96,
    batch_size: Annotated[int, typer.Option(min=1, help="How many texts are written at a time.")] = 16,
    dtype: Dtype = "auto",
    device: Device = "auto",
    predictor: Annotated[Path | None, typer.Option(help="Another predictor than the one that ships.")] = None,
    fit: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Fit a predictor to the pairs of a study instead.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file of a predictor that is fitted.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Predict how well pairs agree, without running them.

    The target and each draft write alone. What they say of their own texts, and their sizes, predict how often the
    target would overrule the draft, and how many drafted tokens would stand. It was fitted on the former ladder of
    bundled models (0.1 M to 8 M parameters): of others, those of today too, it is an extrapolation.

    \b
    Example:
      fsgen predict --target pocket-4m --draft pocket-0.25m --draft pocket-0.6m
    """
    from fsgen.analysis.prediction import fit_for_use, open_predictor, read_pairs, shipped

    if (fit is None) != (out is None):
        raise ValueError("--fit DIR and --out FILE go together: the study, and the file of its predictor")
    if fit is not None and out is not None:
        if target is not None or draft:
            raise ValueError("--fit reads a study, and no --target or --draft")
        new_file(out)
        found = fit_for_use(read_pairs(fit))
        found.write(out)
        console().print(f"{out}: fitted to {found.record['pairs']} pairs{_error(found.record['error'])}")
        return
    if target is None or not draft:
        raise ValueError("name a --target, and at least one --draft")
    used = shipped() if predictor is None else open_predictor(predictor)
    each = _own_texts([target, *draft], prompts, task, count, max_tokens, batch_size, dtype, device)

    from fsgen.predict import predict as predict_pair

    predictions = [predict_pair(own, each[0], used, max(SHOWN)) for own in each[1:]]
    if as_json:
        print_json({"predictions": [one.as_dict() for one in predictions], "fitted_on": dict(used.record)})
    else:
        _show(predictions)


def _own_texts(
    names: list[str], prompts: Path | None, task: str, count: int, max_tokens: int, batch_size: int, dtype: str,
    device: str,
) -> list[OwnTexts]:  # fmt: skip
    """What each model says alone; all are found, and the prompts checked, before the first one loads."""
    from fsgen.tasks.prompts import from_file, from_tasks

    silence_libraries(*names)
    from fsgen.backends import plan
    from fsgen.backends.remote.address import is_remote, with_tokenizer
    from fsgen.predict import own_texts, require_readable
    from fsgen.prompts import fits

    here = next((name for name in names if not is_remote(name)), None)  # servers' models have its tokenizer
    names = [with_tokenizer(name, here) for name in names]
    for name in names[1:]:
        pair = plan(name, names[0], dtype=dtype, device=device)
        if pair.draft is None:
            raise ValueError(f"{name!r} is no model: n-grams are counted by fsgen plan, not predicted")
        if pair.difference is not None:
            raise ValueError(f"{name!r} has another tokenizer than {names[0]!r}: {pair.difference}")
    planned = [plan(target=name, dtype=dtype, device=device) for name in names]
    for one in planned:
        assert one.target is not None
        require_readable(one.target)
    able = [partial(fits, one, more=max_tokens) for one in planned]

    def fit_all(text: str) -> bool:
        return all(one(text) for one in able)

    texts = (from_file(prompts, None, fit_all) if prompts else from_tasks(task, count, fit_all)).texts[:count]
    with progress_bar("writing alone", len(texts) * len(names)) as advance:
        return [own_texts(one.load(), texts, max_tokens, batch_size, advance) for one in planned]


def _show(predictions: list[Prediction]) -> None:
    from rich.table import Table

    out = console()
    first = predictions[0]
    out.print(f"{first.target}, {first.tokens:,} tokens of its own texts")
    table = Table("draft", "frequency", *(f"k={k}" for k in SHOWN), box=None, pad_edge=False)
    for one in sorted(predictions, key=lambda one: one.frequency):
        lengths = (f"{one.mean_accepted_length[k - 1]:.2f}" for k in SHOWN)
        table.add_row(one.draft, f"{one.frequency:.3f}", *lengths)
    out.print(table)
    out.print("frequency: how often the target would overrule the draft; k: tokens a call of the target, k drafted")
    if any(not one.known for one in predictions):
        out.print(f"an extrapolation to models that were not fitted{_error(first.error)}")
    else:
        out.print(f"the predictor was fitted on pairs of these models{_error(first.error)}")


def _error(error: dict[str, float] | None) -> str:
    if error is None:
        return ""
    return (
        f"; on models and tasks left out the frequency was off by {error['mean']:.3f} on average, nine in ten within "
        f"{error['nine in ten']:.3f}"
    )
