"""What ships: models as `transformers` loads them, written beside the package, and put in place of what was there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ladder import plan, queue, tokenizer
from ladder.files import PACKAGE, TRAINED
from ladder.first_stage import SHIPPED_BEFORE, is_first_stage
from ladder.plan import Job

RECIPE_VERSION = 2  # of the models of the second stage
LIMIT_BYTES = 45_000_000  # of the whole package, code and data too


def write_model(model: Any, folder: Path, facts: dict[str, Any], tokenizer_folder: Path | None = None) -> None:
    """Write a model's config, bfloat16 weights (the tied head is not stored twice), tokenizer and `pocket.json`.

    The tokenizer is the recipe's of so many entries where no folder of another is given.
    """
    tokenizer_folder = tokenizer_folder or tokenizer.home(model.config.vocab_size)
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(temporary)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_folder / name, temporary / name)
    (temporary / "pocket.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)


def ship(job: Job, millions: int) -> None:
    """Write the model of one training that is done, and its trunk, into `ladder/trained/`."""
    state = job.state(millions)
    facts: dict[str, Any] = {
        "name": job.name,
        "family": job.size.family,
        "parameters": job.size.parameters,
        "non_embedding_parameters": job.size.non_embedding_parameters,
        "training_tokens": state["tokens"],
        "training_seconds": round(state["seconds"]),
        # A distilled model is no size of the ladder either: what it continues from says so.
        "tuned_from": job.base.name if job.base else None,
        "seed": job.seed,
        "second_stage_tokens": millions * 1_000_000,
        "recipe_version": RECIPE_VERSION,
    }
    if job.teacher:
        facts["distilled_from"] = job.teacher.name
    TRAINED.mkdir(parents=True, exist_ok=True)
    write_model(job.trained(millions), TRAINED / job.name, facts)
    queue.keep_trunk(job, millions)


def keep(millions: int) -> list[Job]:
    """Write every model that is trained, and its trunk, into the repository; those that were."""
    done = [job for job in plan.jobs() if job.done(millions)]
    for job in done:
        ship(job, millions)
        print(f"keep: {job.name}")
    return done


def _bytes(folder: Path) -> int:
    files = (file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return sum(file.stat().st_size for file in files)


def package_bytes() -> int:
    """The size of the whole package."""
    return _bytes(PACKAGE.parents[1])


def fitting(sizes: Mapping[str, int], others: int, dispensable: Sequence[str]) -> list[str]:
    """The names of what ships beside other files, all in bytes: everything, or all but the first dispensable ones.

    Raises:
        ValueError: it is too large without all of these, too.
    """
    left = dict(sizes)
    for name in (None, *dispensable):
        left.pop(name or "", None)
        if others + sum(left.values()) <= LIMIT_BYTES:
            return list(left)
    listed = ", ".join(f"{name} {size:,}" for name, size in sorted(left.items(), key=lambda item: -item[1]))
    raise ValueError(
        f"the package would take {others + sum(left.values()):,} bytes, more than {LIMIT_BYTES:,}: "
        f"{listed}, all but the models {others:,}"
    )


def switch(millions: int) -> None:
    """Put what is trained into the package, in place of what the first stage left there.

    The latter goes to the work folder, from where trainings can still begin; models of other families stay until their
    own second stage is done.

    Raises:
        ValueError: a size of the ladder is not trained, or the package would be too large.
    """
    trained = {job.name for job in plan.jobs() if job.done(millions)}
    former = {folder.name for folder in PACKAGE.iterdir() if is_first_stage(folder)}
    families = {size.name for size in plan.FAMILIES}
    staying = [
        folder
        for folder in PACKAGE.iterdir()
        if folder.name not in trained | former or folder.name in families - trained
    ]
    there = trained.union(folder.name for folder in staying)
    if missing := [size.name for size in plan.SIZES if size.name not in there]:
        raise ValueError(f"not trained with {millions} million tokens: {', '.join(missing)}")
    folders = {folder.name: folder for folder in staying} | {job.name: TRAINED / job.name for job in keep(millions)}
    sizes = {name: _bytes(folder) for name, folder in folders.items()}
    dispensable = [job.name for job in plan.left_out_first()]
    chosen = fitting(sizes, package_bytes() - _bytes(PACKAGE), dispensable)
    new = PACKAGE.with_name(PACKAGE.name + ".tmp")
    shutil.rmtree(new, ignore_errors=True)
    for name in chosen:
        shutil.copytree(folders[name], new / name)
    for name in former:
        shutil.rmtree(SHIPPED_BEFORE / name, ignore_errors=True)
        shutil.copytree(PACKAGE / name, SHIPPED_BEFORE / name)
    shutil.rmtree(PACKAGE)
    new.replace(PACKAGE)
    for name in sizes.keys() - set(chosen):
        print(f"switch: left out {name}, {sizes[name]:,} bytes")
    for job in plan.jobs():
        if job.name not in there:
            print(f"switch: {job.name} is not trained")
    print(f"switch: {len(chosen)} models, {package_bytes():,} bytes in the package")
