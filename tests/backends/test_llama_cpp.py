"""GGUF files run by llama.cpp: the same tokens, logits and texts as the same weights in the safetensors format."""

from __future__ import annotations

import gc
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("llama_cpp", reason="the extra llama-cpp is not installed")
pytest.importorskip("gguf", reason="the package gguf, which writes the files, is not installed")

from benchmarks.gguf_files import TYPES, write_gguf
from benchmarks.scripted import by_llama_calls, rounds
from fsgen import Members, SamplingParams, generate, load
from fsgen.backends.identity import identity
from fsgen.backends.llama_cpp import checkpoint as checkpoints
from fsgen.backends.llama_cpp import forward as forwards
from fsgen.backends.llama_cpp.checkpoint import GgufCheckpoint
from fsgen.backends.opening import open_checkpoint
from fsgen.backends.session import CachedSession
from fsgen.cli import main
from fsgen.generation import Generation
from fsgen.models.bundled import ROOT
from fsgen.replay import replay
from fsgen.study.config import parse_config
from fsgen.study.models import open_model
from fsgen.tasks.prompts import from_tasks
from fsgen.verify import verify

DRAFT, TARGET = "pocket-0.25m", "pocket-0.6m"
TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
PROMPTS = (
    "Question: Tom has 12 apples and buys 7 more. How many apples does he have?\nAnswer:",
    "Question: A train goes 60 km in an hour. How far does it go in 3 hours?\nAnswer: In",
    "def add(a, b):\n",
    "The capital of France",
    "Q",
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files by the names of their models and, of the target, by types."""
    folder = tmp_path_factory.mktemp("gguf")
    made = {kind: write_gguf(ROOT / TARGET, folder / f"{kind}.gguf", kind, TEMPLATE) for kind in TYPES}
    made |= {DRAFT: write_gguf(ROOT / DRAFT, folder / "draft.gguf"), TARGET: made["float32"]}
    return {name: str(file) for name, file in made.items()}


@pytest.fixture(scope="module")
def same(files: dict[str, str]) -> Members:
    """The same weights twice: in a GGUF file as the draft, in safetensors as the target."""
    return load(draft=files["float32"], target=TARGET)


def texts() -> list[str]:
    letters, marks = ["a", "é", "漢", "🙂", "\u0301", "½", "THE ", "'s"], ["<|", "|>", "1", "23"]
    pieces = [*letters, *marks, " ", "  ", "\n", "\t", "\r", "\u00a0"]
    rng = random.Random(0)
    made = ["".join(rng.choices(pieces, k=rng.randint(1, 30))) for _ in range(300)]
    special = ["", "a <|endoftext|> b<|endoftext|><|endoftext|>", "\x00\x01\ufeff", "x" * 3000]
    return [*from_tasks("gsm8k", 60, lambda _: True).texts, *made, *special]


def test_texts_become_the_same_tokens(same: Members) -> None:
    assert same.draft is not None
    assert same.target is not None
    ours, theirs = same.draft.tokenizer, same.target.tokenizer
    for text in texts():
        ids = theirs.encode(text)
        assert ours.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids)
        assert ours.decode(ids[1:-1], skip_special_tokens=True) == theirs.decode(ids[1:-1], skip_special_tokens=True)
    assert same.draft.eos_ids == same.target.eos_ids
    assert same.identity("draft").vocabulary == same.identity("target").vocabulary
    assert same.identity("draft").digest != same.identity("target").digest


def ragged(rng: random.Random, texts: list[list[int]]) -> None:
    """Rows go on, are rewound and drafted again, begin anew, or with what another row holds."""
    for i, held in enumerate(texts):
        new = [rng.randrange(2048) for _ in range(rng.randint(1, 6))]
        chance = rng.random()
        if chance < 0.1:
            texts[i] = new * 20
        elif chance < 0.2:
            texts[i] = [*texts[i - 1], *new]
        elif chance < 0.6:
            texts[i] = [*held[: max(1, len(held) - rng.randint(0, 5))], *new]
        else:
            texts[i] = [*held, new[0]]
        texts[i] = texts[i][-700:]


def farthest(sessions: list[Any], rng: random.Random, steps: int) -> float:
    """The largest difference between the logits of two sessions, over calls with ragged rows."""
    held = [[rng.randrange(2048)] for _ in sessions[0].usage]
    worst = 0.0
    for _ in range(steps):
        ragged(rng, held)
        asked = [text if rng.random() < 0.8 or row == 0 else None for row, text in enumerate(held)]
        last = [min(len(text), rng.randint(1, 5)) for text in held]
        one, two = (session.score(asked, last) for session in sessions)
        assert one.isfinite().all()
        for row, text in enumerate(asked):
            if text is not None:
                worst = max(worst, float((one[row, -last[row] :] - two[row, -last[row] :]).abs().max()))
    return worst


@pytest.mark.parametrize(("kind", "dtype", "off"), [
    ("float32", "float32", 1e-4), ("float32", "float16", 0.2), ("float16", "float16", 0.2),
    ("bfloat16", "bfloat16", 1.0), ("int8", "float32", 3.0),
])  # fmt: skip
def test_ragged_rows_have_the_logits_of_the_same_weights(
    files: dict[str, str], same: Members, kind: str, dtype: str, off: float
) -> None:
    """Of about 25 for the largest logit; with float32 throughout they are those of the other format."""
    assert same.target is not None
    model = open_checkpoint(files[kind]).load(dtype)
    sessions = [model.session(4), same.target.session(4)]
    assert farthest(sessions, random.Random(1), 40) < off
    # What is computed again, copied from other rows or kept is the same: tokens are those that a call has to run.
    assert [u.calls for u in sessions[0].usage] == [u.calls for u in sessions[1].usage]


def test_room_grows_and_nothing_is_computed_again(same: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    assert same.draft is not None
    assert same.target is not None
    ours, theirs = same.draft.session(2), same.target.session(2)
    made: list[int] = []
    build = forwards.Context.__init__

    def counted(self: Any, file: Any, dtype: str, rows: int, cells: int) -> None:
        made.append(cells)
        build(self, file, dtype, rows, cells)

    monkeypatch.setattr(forwards.Context, "__init__", counted)
    rng = random.Random(2)
    long, short = ([rng.randrange(2048) for _ in range(n)] for n in (900, 5))
    for length in (100, 250, 500, 501, 900):
        one, two = (session.score([long[:length], short], 1) for session in (ours, theirs))
        assert float((one - two).abs().max()) < 1e-4
        short.append(length)
    assert ours.usage == theirs.usage
    assert made == [512, 1024, 2048]


def test_a_refusal_to_rewind_is_seen(files: dict[str, str], same: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row from which nothing can be taken back is read again as a whole."""
    import llama_cpp

    assert same.target is not None
    session = open_checkpoint(files["float32"]).load().session(2)
    whole = llama_cpp.llama_memory_seq_rm
    refused: list[int] = []

    def refuse(memory: int, row: int, start: int, end: int) -> bool:
        if start > 0:
            refused.append(start)
            return False
        return bool(whole(memory, row, start, end))

    monkeypatch.setattr(llama_cpp, "llama_memory_seq_rm", refuse)
    assert farthest([session, same.target.session(2)], random.Random(3), 20) < 1e-4
    assert refused


def test_a_window_that_left_tokens_behind_is_read_again(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    import llama_cpp

    session = open_checkpoint(files["float32"]).load().session(1)
    ids = list(range(1, 40))
    before = session.score([ids], 1)
    monkeypatch.setattr(llama_cpp, "llama_memory_seq_pos_min", lambda memory, row: 38)
    assert torch.equal(session.score([ids[:20]], 1), session.score([ids[:20]], 1))
    assert session.usage[0].tokens > len(ids) + 20 - 1
    assert float((session.score([ids], 1) - before).abs().max()) < 1e-4


# --- texts


def differs_at_near_ties_alone(
    one: Generation, two: Generation, prompt: list[int], members: Members, off: float
) -> int:
    """Texts are equal up to a place where two tokens are equally likely within `off`; 1 where there is one."""
    assert members.target is not None
    for at, (a, b) in enumerate(zip(one.token_ids, two.token_ids, strict=False)):
        if a != b:
            logits = members.target.session(1).score([[*prompt, *one.token_ids[:at]]], 1)[0, 0]
            assert float(logits.max() - logits[[a, b]].min()) < off
            return 1
    assert len(one.token_ids) == len(two.token_ids)
    return 0


@pytest.mark.parametrize("method", ["plain", "speculative", "oracle", "route", "contrastive", "ensemble", "mixture"])
@pytest.mark.parametrize("roles", [("draft",), ("target",), ("draft", "target")], ids="+".join)
def test_greedy_texts_are_those_of_the_other_format(files: dict[str, str], roles: tuple[str, ...], method: str) -> None:
    bundled = {"draft": DRAFT, "target": TARGET}
    members = load(**bundled | {role: files[bundled[role]] for role in roles})
    wanted = load(**bundled)
    sampling = SamplingParams(max_tokens=24)
    fixed = None if method in ("plain", "oracle") else 4  # else their lengths would be chosen by measured times
    ours, theirs = (generate(each, PROMPTS, method, None, fixed, sampling) for each in (members, wanted))
    assert [text.token_ids for text in ours] == [text.token_ids for text in theirs]
    for one, two in zip(ours, theirs, strict=True):
        for a, b in zip(one.tokens, two.tokens, strict=True):
            assert (a.source, a.draft_token, a.target_token) == (b.source, b.draft_token, b.target_token)
            for name in ("draft_prob", "target_prob", "total_variation"):
                assert getattr(a, name) == pytest.approx(getattr(b, name), abs=1e-4)


def test_proxy_tuning_with_files_for_all(files: dict[str, str]) -> None:
    names = {"draft": DRAFT, "target": TARGET, "base": DRAFT}
    members, wanted = load(**{role: files[name] for role, name in names.items()}), load(**names)
    ours, theirs = (generate(each, PROMPTS, "proxy", sampling=SamplingParams(16)) for each in (members, wanted))
    assert [text.token_ids for text in ours] == [text.token_ids for text in theirs]


@pytest.mark.parametrize(("kind", "off"), [("float16", 0.05), ("bfloat16", 0.5), ("int8", 3.0)])
def test_coarser_types_differ_at_near_ties_alone(files: dict[str, str], kind: str, off: float) -> None:
    members, wanted = load(DRAFT, files[kind], dtype="float16" if kind != "int8" else "auto"), load(DRAFT, TARGET)
    sampling = SamplingParams(max_tokens=24)
    ours, theirs = (generate(each, PROMPTS, "speculative", sampling=sampling) for each in (members, wanted))
    assert wanted.target is not None
    ids = [wanted.target.tokenizer.encode(prompt) for prompt in PROMPTS]
    found = [differs_at_near_ties_alone(*each, wanted, off) for each in zip(ours, theirs, ids, strict=True)]
    assert sum(found) < len(PROMPTS)


def test_sampled_texts_are_those_of_the_other_format(files: dict[str, str]) -> None:
    members, wanted = load(DRAFT, files[TARGET]), load(DRAFT, TARGET)
    for method in ("speculative", "speculative:verifier=coupled"):
        sampling = [SamplingParams(20, temperature=0.8, top_p=0.9, seed=seed) for seed in range(len(PROMPTS))]
        ours, theirs = (
            generate(each, PROMPTS, method, draft_tokens=4, sampling=sampling) for each in (members, wanted)
        )
        assert [text.token_ids for text in ours] == [text.token_ids for text in theirs]


def test_replay_gives_the_records_of_the_loop(files: dict[str, str]) -> None:
    members, sampling = load(files[DRAFT], files[TARGET]), SamplingParams(max_tokens=16)
    written = generate(members, PROMPTS, "plain", sampling=sampling)
    looped = generate(members, PROMPTS, "oracle", sampling=sampling)
    (replayed,) = replay([members], PROMPTS, written)
    for one, two in zip(replayed, looped, strict=True):
        assert one.token_ids == two.token_ids
        assert [(t.source, t.draft_token, t.target_token) for t in one.tokens] == [
            (t.source, t.draft_token, t.target_token) for t in two.tokens
        ]
        counted = [replace(text.stats, draft_seconds=0, system2_seconds=0, seconds=0) for text in (one, two)]
        assert counted[0].as_dict() == pytest.approx(counted[1].as_dict(), abs=1e-4)


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_verify_explains_every_difference(files: dict[str, str], kind: str) -> None:
    verdict = verify(load(DRAFT, files[kind]), PROMPTS, max_tokens=24, every_token=True)
    assert verdict.faults == []
    assert verdict.dtype == {"float32": "all F32", "int8": "Q8_0"}[kind] + " with keys and values in float32"
    if kind == "float32":
        assert verdict.equal == len(PROMPTS)


def test_scripted_drafts_are_accepted_as_often_as_told(files: dict[str, str]) -> None:
    """What `benchmarks.real` measures rounds with; the calls are those of the rounds, made again."""
    draft, target = load(draft=DRAFT).draft, load(target=TARGET).target
    assert draft is not None
    assert target is not None
    counts = []
    for acceptance in (0.0, 0.8, 1.0):
        plain, drafted, calls = rounds(draft, target, acceptance, list(range(1, 20)), 60)
        assert min(plain, drafted, by_llama_calls(Path(files[DRAFT]), Path(files[TARGET]), calls, 120)) > 0
        counts.append(sum(role == "target" for role, _, _ in calls))
    assert counts[0] == 60
    assert counts[0] > counts[1] > counts[2]


# --- what is said, refused and given back


def test_a_model_says_what_it_is(files: dict[str, str]) -> None:
    model, bundled = load(target=files["float32"]).target, load(target=TARGET).target
    assert model is not None
    assert bundled is not None
    assert (model.info.parameters, model.info.non_embedding_parameters) == (
        bundled.info.parameters,
        bundled.info.non_embedding_parameters,
    )
    assert (model.context, model.vocab_size) == (bundled.context, bundled.vocab_size)
    assert model.cache_bytes(100) == bundled.cache_bytes(256)
    assert 2 * open_checkpoint(files["float32"]).load("float16").cache_bytes(300) == model.cache_bytes(300)
    config = parse_config(
        "tasks: [pocket_math]\npairs: [{draft: pocket-0.25m, target: pocket-0.6m}]\nmethods: [oracle]\n"
    )
    studied = open_model(files["float32"], config)
    assert studied.info == model.info
    assert studied.digest == identity(model).digest


def test_a_chat(files: dict[str, str]) -> None:
    tokenizer = open_checkpoint(files["float32"]).tokenizer
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "Hi\nHo\n"
    assert tokenizer.apply_chat_template(messages) == tokenizer.encode("Hi\nHo\n")


def test_the_command_writes_and_says_nothing_else(files: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["generate", PROMPTS[0], "--draft", DRAFT, "--target", files["int8"], "--max-tokens", "8", "--json"])
    assert not end.value.code
    answer = capfd.readouterr()
    assert answer.out.startswith("{")
    assert answer.err == ""


def test_other_tokenizers_are_refused_before_weights(tmp_path: Path, files: dict[str, str]) -> None:
    import json
    import shutil

    folder = Path(shutil.copytree(ROOT / DRAFT, tmp_path / "other"))
    rules = json.loads((folder / "tokenizer.json").read_text())
    merges = rules["model"]["merges"]
    merges[3], merges[4] = merges[4], merges[3]
    (folder / "tokenizer.json").write_text(json.dumps(rules))
    other = write_gguf(folder, tmp_path / "other.gguf")
    for draft, target in ((str(other), TARGET), (DRAFT, str(other)), (str(other), files[TARGET])):
        with pytest.raises(ValueError, match="have different tokenizers: merges 3 is"):
            load(draft, target)


def test_files_that_are_cut_in_their_weights_are_refused(tmp_path: Path, files: dict[str, str]) -> None:
    content, file = Path(files["int8"]).read_bytes(), tmp_path / "cut.gguf"
    for share in (0.3, 0.6, 0.9, 0.999):
        file.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match="cut") as refused:
            open_checkpoint(str(file))
        assert "\n" not in str(refused.value)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, files: dict[str, str]) -> None:
    content = bytearray(Path(files["float32"]).read_bytes())
    content[-8:] = b"\x00\x00\xc0\x7f" * 2  # NaN
    file = tmp_path / "nan.gguf"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"nan\.gguf' cannot be loaded: .*invalid"):
        open_checkpoint(str(file)).load()


@pytest.mark.parametrize(("question", "said"), [
    ("llama_model_is_recurrent", "recurrent state"), ("llama_model_is_hybrid", "recurrent state"),
    ("llama_model_has_encoder", "token after token"), ("llama_model_is_diffusion", "token after token"),
])  # fmt: skip
def test_models_that_no_session_can_serve(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch, question: str, said: str
) -> None:
    import llama_cpp

    monkeypatch.setattr(llama_cpp, question, lambda model: True)
    with pytest.raises(ValueError, match=said):
        open_checkpoint(files["float32"])


def test_gpus_and_too_many_rows(files: dict[str, str], same: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    assert same.draft is not None
    for rows in (0, 100_000):
        with pytest.raises(ValueError, match=f"batch_size={rows} is impossible"):
            same.draft.session(rows)
    monkeypatch.setattr(checkpoints, "on_cpu", lambda device: False)
    with pytest.raises(ValueError, match="choose device='cpu'"):
        open_checkpoint(files["float32"])


def test_memory_is_given_back(files: dict[str, str]) -> None:
    opened = open_checkpoint(files["int8"])
    assert isinstance(opened, GgufCheckpoint)
    model: Any = opened.load()
    session: CachedSession | None = model.session(2)
    assert session is not None
    session.score([[1, 2], [3]], 1)
    context: Any = session._forward._context  # type: ignore[attr-defined]
    freed, file = context._free, model._file
    assert freed.alive
    del context
    session = None
    gc.collect()
    assert not freed.alive
    del model, file
    gc.collect()
    pages = Path("/proc/self/maps")
    if pages.exists():
        assert os.path.basename(files["int8"]) not in pages.read_text()  # noqa: PTH119 - a name in a table
