"""Export of the former ladder into the package."""

from __future__ import annotations

from typing import Any

import torch

from ladder import families, package
from ladder.files import PACKAGE, WORK
from ladder.first_stage import RECIPE_VERSION
from ladder.former import distill, tune
from ladder.sizes import SIZES, Size, size_named


def trained(name: str) -> tuple[Any, dict[str, Any]]:
    """The trained model of a run in float32, and its facts."""
    other = next((size for size in families.SIZES if size.name == name), None)
    size: Size | families.FamilySize
    size = other or size_named(name.removesuffix(tune.SUFFIX).removesuffix(distill.SUFFIX))
    model = families.new_model(size, attention="sdpa")
    state = torch.load(WORK / "runs" / name / "final.pt", weights_only=True)
    model.load_state_dict(state["model"])
    facts: dict[str, Any] = {
        "name": name,
        "family": size.family,
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
        package.write_model(model, folder, facts)
        print(f"export {name}: {sum(file.stat().st_size for file in folder.iterdir()):,} bytes")
    total = sum(file.stat().st_size for file in PACKAGE.rglob("*") if file.is_file())
    print(f"export: {total:,} bytes in the package")
    if total > package.LIMIT_BYTES:
        raise ValueError(f"the weights take {total:,} bytes, more than {package.LIMIT_BYTES:,}")
