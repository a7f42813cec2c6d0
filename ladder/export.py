"""Export: bfloat16 safetensors with their tokenizer, as `transformers` loads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from ladder import distill, families, tokenizer, tune
from ladder.files import PACKAGE, WORK
from ladder.sizes import FAMILY, SIZES, Size, size_named
from ladder.train import new_model

RECIPE_VERSION = 1
LIMIT_BYTES = 45_000_000


def write_model(model: Any, folder: Path, facts: dict[str, Any], tokenizer_folder: Path | None = None) -> None:
    """Write a model's config, bfloat16 weights (the tied head is not stored twice), tokenizer and `pocket.json`.

    The tokenizer is the ladder's where no folder of another is given.
    """
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(temporary)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy((tokenizer_folder or tokenizer.FOLDER) / name, temporary / name)
    (temporary / "pocket.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)


def trained(name: str) -> tuple[Any, dict[str, Any]]:
    """The trained model of a run in float32, and its facts."""
    other = next((size for size in families.SIZES if size.name == name), None)
    size: Size | families.FamilySize
    if other is not None:
        size, model, family = other, other.new_model(attention="sdpa"), other.family
    else:
        size, family = size_named(name.removesuffix(tune.SUFFIX).removesuffix(distill.SUFFIX)), FAMILY
        model = new_model(size, attention="sdpa")
    state = torch.load(WORK / "runs" / name / "final.pt", weights_only=True)
    model.load_state_dict(state["model"])
    facts: dict[str, Any] = {
        "name": name,
        "family": family,
        "parameters": size.parameters,
        "non_embedding_parameters": size.non_embedding_parameters,
        "training_tokens": state["tokens"],
        "training_seconds": round(state["seconds"]),
        # A distilled model is no size of the ladder either: what it continues from says so.
        "tuned_from": None if name == size.name else size.name,
        "recipe_version": RECIPE_VERSION,
    }
    if name.endswith(distill.SUFFIX):
        facts["distilled_from"] = distill.TEACHER.name
    return model.eval(), facts


def names(sizes: tuple[Size, ...] = SIZES) -> list[str]:
    """All models of the recipe, the smallest first, then the distilled ones, the other families and the tuned ones."""
    distilled = [size.name + distill.SUFFIX for size in distill.DISTILLED]
    others = [size.name for size in families.SIZES]
    return [size.name for size in sizes] + distilled + others + [size.name + tune.SUFFIX for size in tune.TUNED]


def export(only: str = "all") -> None:
    """Write one model, or all, into the package; the largest tuned one stays in the work folder."""
    if only not in ("all", *names()):
        raise ValueError(f"unknown model {only!r}; choose one of {', '.join(names())}")
    for name in names() if only == "all" else (only,):
        if not (WORK / "runs" / name / "final.pt").exists():
            raise ValueError(f"{name} is not trained yet; run its step of `python -m ladder` first")
        outside = name == tune.TUNED[-1].name + tune.SUFFIX
        folder = (WORK / "exported" if outside else PACKAGE) / name
        if (folder / "pocket.json").exists():
            print(f"export {name}: done already")
            continue
        folder.parent.mkdir(parents=True, exist_ok=True)
        model, facts = trained(name)
        write_model(model, folder, facts)
        print(f"export {name}: {sum(file.stat().st_size for file in folder.iterdir()):,} bytes")
    total = sum(file.stat().st_size for file in PACKAGE.rglob("*") if file.is_file())
    print(f"export: {total:,} bytes in the package")
    if total > LIMIT_BYTES:
        raise ValueError(f"the weights take {total:,} bytes, more than {LIMIT_BYTES:,}")
