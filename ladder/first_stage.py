"""The first stage: every size of every family learns the stream of the corpus; the second stage goes on from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from ladder import families, stream
from ladder.families import FamilySize
from ladder.files import PACKAGE, WORK
from ladder.scan import fast_scan
from ladder.sizes import Size
from ladder.train import Schedule, fit

RECIPE_VERSION = 1  # of the models that ship as this stage leaves them
SHIPPED_BEFORE = WORK / "first_stage"  # what shipped before the models of the second stage


def run_name(size: Size | FamilySize, seed: int = 0) -> str:
    """The name of a size with a seed."""
    return f"{size.name}-s{seed}" if seed else size.name


def train(size: Size | FamilySize, seed: int = 0, compiled: bool = True) -> None:
    """Train one size on the whole stream."""
    stream.build()
    folder, model = WORK / "runs" / run_name(size, seed), families.new_model(size, seed)
    with fast_scan():
        fit(model, stream.batches(stream.STREAM), folder, Schedule(), compiled=compiled)


def load(size: Size | FamilySize, seed: int = 0, compiled: bool = True) -> Any:
    """The model in float32 as it was trained here, as it ships or shipped, or trained now."""
    model, name = families.new_model(size, seed), run_name(size, seed)
    final = WORK / "runs" / name / "final.pt"
    shipped = [folder / name for folder in (PACKAGE, SHIPPED_BEFORE) if is_first_stage(folder / name)]
    if not final.exists() and shipped:
        model.load_state_dict(AutoModelForCausalLM.from_pretrained(shipped[0], dtype=torch.float32).state_dict())
        return model
    if not final.exists():
        train(size, seed, compiled)
    model.load_state_dict(torch.load(final, weights_only=True, map_location="cpu")["model"])
    return model


def is_first_stage(folder: Path) -> bool:
    """Whether a folder holds a model as this stage leaves it."""
    facts = folder / "pocket.json"
    return facts.exists() and json.loads(facts.read_text(encoding="utf-8"))["recipe_version"] == RECIPE_VERSION
