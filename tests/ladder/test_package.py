"""What is trained takes the place of what ships: which models, which do not fit, and what the registry then lists."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from fsgen.models import bundled
from ladder import __main__ as steps
from ladder import package, plan, queue, tokenizer
from ladder.families import NeoXSize
from ladder.first_stage import is_first_stage
from ladder.plan import Job
from ladder.sizes import VOCAB_SIZE, Size
from ladder.train import new_model

_SMALL = Size("pocket-1m", hidden=32, layers=1, heads=2, ffn=32, vocab_size=300)
_LARGE = Size("pocket-2m", hidden=32, layers=1, heads=2, ffn=48, vocab_size=300)
_OTHER = Size("pocket-1m-vocab260", hidden=32, layers=1, heads=2, ffn=32, vocab_size=260, family="pocket-vocab260")
_NEOX = NeoXSize("pocket-neox-1m", hidden=32, layers=1, heads=2, ffn=32)


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of models of the first stage, and a plan of two sizes of which nothing is trained."""
    root = tmp_path / "package" / "models" / "pocket"
    for module, name, value in (
        (plan, "FOLDER", tmp_path / "graded"), (plan, "SIZES", (_SMALL, _LARGE)), (plan, "DRAFTS", (_SMALL,)),
        (plan, "TUNED", (_SMALL, _LARGE)), (plan, "SECOND", (_OTHER,)), (plan, "FAMILIES", (_NEOX,)),
        (queue, "TRAINED", tmp_path / "trained"), (package, "TRAINED", tmp_path / "trained"),
        (package, "PACKAGE", root), (package, "SHIPPED_BEFORE", tmp_path / "first_stage"),
        (tokenizer, "FOLDER", tmp_path / "tokenizer"), (bundled, "ROOT", root),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    for vocab_size in (260, 300, VOCAB_SIZE):
        made = tokenizer.train_tokenizer(["1 + 2 = 3"], min(vocab_size, 300))
        tokenizer.save(made, tokenizer.made_folder(vocab_size))
    for name in ("pocket-1m", "pocket-9m"):
        package.write_model(new_model(_SMALL, seed=5), _folder(root, name), {"name": name, "recipe_version": 1})
    return root


def _folder(root: Path, name: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    return root / name


def _finish(*jobs: Job) -> None:
    for job in jobs:
        job.folder(2).mkdir(parents=True)
        model = job.new_model()
        state = {"model": model.state_dict(), "step": 9, "tokens": 8, "seconds": 7.0}
        torch.save(state, job.folder(2) / "final.pt")
        if not job.kind:
            torch.save(state, job.folder(2) / "trunk.pt")


def _names(root: Path) -> list[str]:
    return sorted(folder.name for folder in root.iterdir())


def test_nothing_changes_while_a_size_is_missing(shipped: Path) -> None:
    _finish(Job(_SMALL), Job(_SMALL, 1))
    with pytest.raises(ValueError, match="not trained with 2 million tokens: pocket-2m"):
        package.switch(2)
    assert _names(shipped) == ["pocket-1m", "pocket-9m"]
    assert bundled.ladder() == ["pocket-1m", "pocket-9m"]
    assert bundled.seeds_of("pocket-1m") == ["pocket-1m"]


def test_what_is_trained_takes_the_place_of_what_ships(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = [job for job in plan.jobs() if job.name != "pocket-1m-s2"]
    _finish(*trained)
    steps.main(["switch", "--tokens", "2"])
    assert _names(shipped) == sorted(job.name for job in trained)
    assert "pocket-1m-s2 is not trained" in capsys.readouterr().out
    assert bundled.ladder() == ["pocket-1m", "pocket-2m"]
    assert bundled.seeds_of("pocket-1m") == ["pocket-1m", "pocket-1m-s1"]
    assert bundled.seeds_of("pocket-2m") == ["pocket-2m", "pocket-2m-s1"]
    listed = {info.name: info for info in bundled.bundled()}
    assert listed["pocket-1m-vocab260"].family == "pocket-vocab260"
    assert listed["pocket-neox-1m"].family == "pocket-neox"
    assert listed["pocket-2m-tuned"].tuned_from == "pocket-2m"
    facts = json.loads((shipped / "pocket-1m-distilled" / "pocket.json").read_text(encoding="utf-8"))
    assert (facts["tuned_from"], facts["distilled_from"], facts["seed"]) == ("pocket-1m", "pocket-2m", 0)
    assert _names(shipped.parents[2] / "first_stage") == ["pocket-1m", "pocket-9m"]
    # What ships already stays where it was trained elsewhere.
    shutil.rmtree(Job(_LARGE).folder(2))
    _finish(Job(_SMALL, 2))
    package.switch(2)
    assert bundled.ladder() == ["pocket-1m", "pocket-2m"]
    assert bundled.seeds_of("pocket-1m") == ["pocket-1m", "pocket-1m-s1", "pocket-1m-s2"]
    assert _names(shipped.parents[2] / "first_stage") == ["pocket-1m", "pocket-9m"]


@pytest.mark.parametrize("name", ["pocket-7b", "pocket-1m-s1", "pocket-1m-tuned"])
def test_seeds_are_of_sizes_of_the_ladder(shipped: Path, name: str) -> None:
    _finish(*plan.jobs())
    package.switch(2)
    with pytest.raises(ValueError, match=f"no size '{name}' of the bundled ladder: pocket-1m, pocket-2m"):
        bundled.seeds_of(name)


def test_another_family_stays_until_its_own_second_stage(shipped: Path) -> None:
    (shipped / "pocket-9m").rename(shipped / "pocket-neox-1m")
    _finish(*(job for job in plan.jobs() if job.name != "pocket-neox-1m"))
    package.switch(2)
    assert is_first_stage(shipped / "pocket-neox-1m")
    assert not is_first_stage(shipped / "pocket-1m")
    _finish(Job(_NEOX))
    package.switch(2)
    assert not is_first_stage(shipped / "pocket-neox-1m")


def test_the_largest_ones_are_left_out_first(
    shipped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _finish(*plan.jobs())
    package.keep(2)
    before = _names(shipped)

    def weight(name: str) -> int:
        return package._bytes(shipped.parents[2] / "trained" / name)

    whole = sum(weight(job.name) for job in plan.jobs())
    others = shipped.parents[1] / "code.py"
    others.write_text("#" * 1000, encoding="utf-8")
    monkeypatch.setattr(package, "LIMIT_BYTES", 1000 + whole - weight("pocket-2m-s1") - 1)
    package.switch(2)
    assert set(_names(shipped)) == {job.name for job in plan.jobs()} - {"pocket-2m-s1", "pocket-2m-tuned"}
    assert "left out pocket-2m-tuned" in capsys.readouterr().out
    assert package.package_bytes() <= package.LIMIT_BYTES
    monkeypatch.setattr(package, "LIMIT_BYTES", 5000)
    kept = _names(shipped)
    with pytest.raises(ValueError, match=r"more than 5,000: pocket-neox-1m \d.*, all but the models 1,000"):
        package.switch(2)
    assert _names(shipped) == kept != before
