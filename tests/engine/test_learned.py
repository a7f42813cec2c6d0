"""Learned routers in the loop: they decide as their traces say, are for one draft, and come from plain files."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fsgen
from fsgen.backends import Members, plan
from fsgen.backends.cpu.checkpoint import CpuCheckpoint
from fsgen.backends.identity import folder_digest, identity
from fsgen.methods.check import check
from fsgen.methods.learned.features import features, rounded
from fsgen.methods.learned.file import LearnedModel, located, read
from fsgen.methods.learned.scorers import SCORERS
from fsgen.methods.method import parse, parse_router
from fsgen.types import SamplingParams
from tests.learned import random_router
from tests.tiny import tiny_model, tiny_tokenizer

PROMPTS = ["the fox", "in a hat", "another thing"]
GREEDY = SamplingParams(max_tokens=16)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved models: a draft, its target, another draft, and the draft with a tokenizer that writes otherwise."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in ((0, "target"), (1, "draft"), (2, "other"), (1, "foreign")):
        tiny_model("llama", seed, initializer_range=0.2).save_pretrained(root / name)
        tiny_tokenizer(special=("<s>", "</t>" if name == "foreign" else "</s>")).save_pretrained(root / name)
    return {folder.name: folder for folder in root.iterdir()}


@pytest.fixture(scope="module")
def members(folders: dict[str, Path]) -> Members:
    return fsgen.load(draft=folders["draft"], target=folders["target"])


@pytest.fixture(params=list(SCORERS))
def file(request: pytest.FixtureRequest, members: Members, tmp_path: Path) -> Path:
    """A random router of each kind, with a threshold that parts the positions of some texts in the middle."""
    written = fsgen.generate(members, PROMPTS, "oracle", sampling=GREEDY, candidates=10)
    x = np.concatenate([features(probs[:, :4], *scalars) for probs, scalars in map(read_off, written)])
    model = random_router(request.param, members.identity("draft"), mean=np.median(x, axis=0))
    seen = np.unique(np.concatenate([scores(model, text) for text in written]))  # trees have few scores
    middle = float(seen[len(seen) // 2 - 1 : len(seen) // 2 + 1].mean())
    assert len(seen) > 1
    replace(model, threshold=middle).write(tmp_path / "router.npz")
    return tmp_path / "router.npz"


def read_off(text: fsgen.Generation) -> Any:
    """What a study's trace of a text keeps: the candidates' probabilities, and the scalars."""
    probs = rounded(np.array([[p for _, p in token.draft_top] for token in text.tokens], dtype=np.float32))
    return probs, np.array([[t.draft_prob, t.draft_margin, t.draft_entropy, t.position] for t in text.tokens]).T


def scores(model: LearnedModel, text: fsgen.Generation) -> Any:
    """The scores of the positions of a text by its trace."""
    probs, scalars = read_off(text)
    return model.score(probs, *scalars)


def test_the_loop_asks_where_the_trace_says(members: Members, file: Path) -> None:
    """What `route` wrote and consulted is what the scores of its own trace ask for, in any batch."""
    model = read(file)
    consulted = 0
    for batch in (1, 3):
        for text in fsgen.generate(
            members, PROMPTS, "route", f"learned:{file}", sampling=GREEDY, candidates=10, batch_size=batch
        ):
            flags = scores(model, text) > model.threshold
            assert [token.consulted for token in text.tokens] == flags.tolist()
            consulted += int(flags.sum())
    assert 0 < consulted < 2 * 3 * 16


def test_it_ends_drafts_early_and_changes_no_text(members: Members, file: Path) -> None:
    plain = fsgen.generate(members, PROMPTS, "plain", sampling=GREEDY)
    early = fsgen.generate(members, PROMPTS, "speculative", f"learned:{file}", draft_tokens=6, sampling=GREEDY)
    free = fsgen.generate(members, PROMPTS, "speculative", draft_tokens=6, sampling=GREEDY)
    assert [text.token_ids for text in early] == [text.token_ids for text in plain]
    assert sum(t.stats.draft_tokens for t in early) < sum(t.stats.draft_tokens for t in free)


def test_the_file_holds_all_of_it(file: Path) -> None:
    model = read(file)
    x = np.random.default_rng(3).normal(size=(50, len(model.scorer.mean)))
    model.write(file.with_name("again.npz"))
    again = read(file.with_name("again.npz"))
    assert again.scorer.score(x).tolist() == model.scorer.score(x).tolist()
    assert (again.header, again.digest) == (model.header, model.digest)
    assert json.loads(json.dumps(model.header))["record"] == {"kind": model.scorer.kind}


def test_another_threshold_stands_behind_an_at(members: Members, file: Path) -> None:
    own = parse_router(f"learned:{file}")
    router = parse_router(f"learned:{file}@-1e9")
    assert str(router) == f"learned:{file}@-1e9"
    assert router.identity != own.identity == parse_router(f"learned:{file}@{read(file).threshold!r}").identity
    everywhere = fsgen.generate(members, PROMPTS[:1], "route", router, sampling=GREEDY)[0]
    assert everywhere.stats.consulted_rate == 1.0
    odd = file.with_name("odd@2.npz")
    file.rename(odd)
    assert located(str(odd))[1] == located(f"{odd}@{read(odd).threshold!r}")[1]
    for wrong in ("much", "inf", ""):
        with pytest.raises(ValueError, match="threshold"):
            parse_router(f"learned:{odd}@{wrong}")


def test_its_identity_is_its_content(members: Members, tmp_path: Path) -> None:
    draft = members.identity("draft")
    made = [random_router("svm", draft, seed=seed, threshold=t) for seed, t in ((0, 0.0), (0, 1.0), (1, 0.0))]
    for name, model in zip("abc", made, strict=True):
        model.write(tmp_path / f"{name}.npz")
    made[0].write(tmp_path / "copy.npz")
    a, b, c, copy = (parse_router(f"learned:{tmp_path / name}.npz").identity for name in ("a", "b", "c", "copy"))
    assert len({a, b, c}) == 3
    assert a == copy
    assert str(tmp_path) not in a


# ---- refused


def test_another_draft_is_refused_before_weights_load(
    folders: dict[str, Path], members: Members, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CpuCheckpoint, "load", lambda *_: pytest.fail("weights are loaded"))
    method = parse("route", f"learned:{file}")
    check(plan(draft=folders["draft"], target=folders["target"]), method, [[5]], [GREEDY])
    with pytest.raises(ValueError, match=r"learned on the draft .*draft \(weights .*this draft is .*other"):
        check(plan(draft=folders["other"], target=folders["target"]), method, [[5]], [GREEDY])
    with pytest.raises(ValueError, match=r"learned on the draft .*draft \(tokenizer .*this draft is .*foreign"):
        check(plan(draft=folders["foreign"], target=folders["foreign"]), method, [[5]], [GREEDY])


def test_another_draft_is_refused_by_the_loop(folders: dict[str, Path], file: Path) -> None:
    other = fsgen.load(draft=folders["other"], target=folders["target"])
    for method in ("route", "speculative"):
        with pytest.raises(ValueError, match=r"this draft is .*other"):
            fsgen.generate(other, PROMPTS, method, f"learned:{file}", sampling=GREEDY)


def test_a_draft_without_files_is_refused(members: Members, file: Path) -> None:
    from fsgen.backends.transformers.model import TransformersModel

    assert members.target is not None
    unknown = TransformersModel(tiny_model("llama", 1), tiny_tokenizer(), "in memory")
    with pytest.raises(ValueError, match=r"this draft is in memory \(weights unknown\)"):
        fsgen.generate(Members.of(unknown, members.target), PROMPTS, "route", f"learned:{file}", sampling=GREEDY)


def test_a_model_is_known_by_its_files(folders: dict[str, Path], members: Members) -> None:
    planned = plan(draft=folders["draft"], target=folders["target"])
    assert planned.identity("draft") == members.identity("draft")
    assert members.identity("draft").digest == folder_digest(folders["draft"])
    assert members.identity("draft").vocabulary == members.identity("target").vocabulary
    assert members.identity("draft").digest != members.identity("target").digest
    assert identity(planned.draft).vocabulary != identity(plan(draft=folders["foreign"]).draft).vocabulary


def damaged(good: bytes) -> dict[str, bytes]:
    """Files that are none: name and content."""

    def changed(**header: Any) -> bytes:
        with np.load(io.BytesIO(good)) as content:
            arrays = {name: content[name] for name in content.files}
        said = json.loads(arrays["header"].tobytes()) | header
        arrays["header"] = np.frombuffer(json.dumps(said).encode(), dtype=np.uint8)
        return packed(arrays)

    def packed(arrays: dict[str, Any]) -> bytes:
        stream = io.BytesIO()
        np.savez(stream, **arrays)
        return stream.getvalue()

    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "hello")
    middle = len(good) // 2
    with np.load(io.BytesIO(good)) as content:
        parts = {name: content[name] for name in content.files}
    infinite = parts | {"mean": parts["mean"] * np.inf}
    return {
        "empty": b"",
        "cut": good[:middle],
        "flipped": good[:middle] + bytes([good[middle] ^ 255]) + good[middle + 1 :],
        "text": b"learned",
        "pickle": pickle.dumps({"header": 1}),
        "pickled array": packed({"header": np.array([{"a": 1}], dtype=object)}),
        "another archive": other.getvalue(),
        "another format": changed(format="something else"),
        "another kind": changed(kind="oracle"),
        "another count": changed(top=5, features=[]),
        "no threshold": changed(threshold=None),
        "no draft": changed(draft="pocket"),
        "no arrays": packed({"header": parts["header"]}),
        "short": packed(parts | {"mean": parts["mean"][:-1]}),
        "infinite": packed(infinite),
    }


def test_what_is_no_router_is_refused(members: Members, tmp_path: Path) -> None:
    good = tmp_path / "good.npz"
    random_router("svm", members.identity("draft")).write(good)
    for name, content in damaged(good.read_bytes()).items():
        bad = tmp_path / f"{name}.npz"
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.npz' is no learned router, or is damaged"):
            parse_router(f"learned:{bad}")
    with pytest.raises(ValueError, match=r"there is no learned router 'nowhere.npz'"):
        parse_router("learned:nowhere.npz")
    with pytest.raises(ValueError, match="needs a file, as in learned:FILE"):
        parse_router("learned:")


def test_trees_that_lead_nowhere_are_refused() -> None:
    model = random_router("trees", fsgen_identity(), top=4)
    arrays = model.scorer.arrays()
    for name, value in (("left", 99), ("right", -1), ("feature", 99), ("roots", 8), ("depth", 10**6)):
        broken = arrays | {name: np.full_like(arrays[name], value)}
        with pytest.raises(ValueError, match="trees"):
            SCORERS["trees"](**broken)


def fsgen_identity() -> Any:
    from fsgen.backends.identity import Identity

    return Identity("draft", "d" * 64, "v" * 16)


# ---- features


def test_features_by_hand() -> None:
    x = features([[0.5, 0.25], [1.0, 0.0]], [0.5, 1.0], [0.25, 1.0], [1.0, 0.0], [0, 3])
    log = np.log
    assert x[0].tolist() == pytest.approx([0.0, 0.25, 1.0, 0.0, log(0.5), log(0.25)])
    assert x[1, 1:].tolist() == pytest.approx([1.0, 0.0, 2.0, 0.0, log(1e-7)])
    assert x[1, 0] == pytest.approx(-log(1e-7), rel=1e-6)


def test_a_wide_vocabulary_is_read_on_its_device_and_only_in_part(members: Members) -> None:
    """The decisions do not depend on other rows, nor on a constant added to the logits."""
    model = random_router("logistic", members.identity("draft"), top=4)
    from fsgen.methods.routers import Learned

    router = Learned("x", 0.0, model.digest, model)
    z = torch.randn(64, 500, generator=torch.Generator().manual_seed(0)) * 3
    where, seeds = np.arange(64), np.zeros(64, dtype=np.uint64)
    flags = router.consult(z, where, seeds)
    assert 0 < sum(flags) < 64
    assert router.consult(z + 7.0, where, seeds) == flags
    assert [router.consult(z[i : i + 1], where[i : i + 1], seeds[:1])[0] for i in range(64)] == flags
