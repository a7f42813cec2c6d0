"""What ships: small enough, measured, and as good as the gates ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from fsgen.backends.transformers.context import context_of
from fsgen.models.bundled import ladder, seeds_of
from ladder import gates, mix, package, plan
from ladder.files import PACKAGE, RESULTS
from ladder.first_stage import is_first_stage
from ladder.sizes import CONTEXT, SIZES

_FOLDERS = sorted(folder for folder in PACKAGE.iterdir())
_each = pytest.mark.parametrize("folder", _FOLDERS, ids=lambda folder: folder.name)
_MEASURED = {model["name"]: model for model in json.loads(RESULTS.read_text(encoding="utf-8"))["models"]}
_DOMAINS = list(_MEASURED[plan.SIZES[0].name]["held_out_loss"])
# Gates that what ships does not meet, each with its number in docs/ladder.md: of the losses, and of the tasks.
_UNMET = {"tiny_python", "lookup"}
_UNMET_BY_TASK = {
    "chains": set(), "facts": {"open"}, "lookup": {"rises", "apart", "open"}, "tiny_python": {"rises", "open"},
}  # fmt: skip


def _facts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "pocket.json").read_text(encoding="utf-8"))
    return found


def test_the_package_is_small_enough() -> None:
    assert package.package_bytes() <= package.LIMIT_BYTES


@_each
def test_tokenizers_are_exact_and_shared(folder: Path) -> None:
    config, loaded = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert context_of(config, loaded) == CONTEXT
    assert len(loaded) == config.vocab_size
    files = {
        (other / "tokenizer.json").read_bytes()
        for other in _FOLDERS
        if AutoConfig.from_pretrained(other).vocab_size == config.vocab_size
    }
    assert len(files) == 1
    text = "Question: Zoë pays 1,250 €.\n\tAnswer:  12 + 7 = 19 ?\n"
    assert loaded.decode(loaded(text)["input_ids"]) == text


@_each
def test_what_ships_is_what_was_measured(folder: Path) -> None:
    facts = _facts(folder)
    if is_first_stage(folder):  # of another family, until its second stage is done
        size = {size.name: size for size in plan.FAMILIES}[folder.name]
        assert facts["family"] == size.family
        assert facts["parameters"] == size.parameters
        assert facts["non_embedding_parameters"] == size.non_embedding_parameters
        return
    measured = _MEASURED[folder.name]
    counted = ("name", "family", "parameters", "non_embedding_parameters", "tuned_from", "seed")
    assert {key: measured[key] for key in counted} == {key: facts[key] for key in counted}
    assert facts["recipe_version"] == package.RECIPE_VERSION
    assert measured["tokens"] == facts["second_stage_tokens"]
    assert measured["predicted_tokens"] == facts["training_tokens"]


def test_the_ladder_is_its_sizes() -> None:
    names = ladder()
    assert names == [size.name for size in SIZES]
    for name in names:
        seeds = [_facts(PACKAGE / seed).get("seed", 0) for seed in seeds_of(name)]
        assert seeds == list(range(len(seeds)))


@pytest.mark.parametrize("domain", _DOMAINS)
def test_loss_falls_strictly_with_size(domain: str) -> None:
    sizes = gates.by_size(list(_MEASURED.values()))
    assert [group[0]["size"] for group in sizes] == ladder()
    assert gates.loss_gate(sizes)[domain] == (domain not in _UNMET)


@pytest.mark.parametrize("task", mix.GRADED)
def test_graded_tasks_meet_the_gates_that_the_page_says(task: str) -> None:
    sizes = gates.by_size(list(_MEASURED.values()))
    assert [group[0]["size"] for group in sizes] == [size.name for size in plan.SIZES]
    found = gates.task_gate(sizes, task)
    assert {word for word in gates.GATES if not found[word]} == _UNMET_BY_TASK[task]
