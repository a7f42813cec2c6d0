"""Families of `transformers`: exact, row by row, or refused for the true reason; and what the proof at loading sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.families import tried
from benchmarks.tiny_families import FAMILIES, VOCAB, tiny_model
from fsgen import Members, SamplingParams, generate
from fsgen.backends.transformers import proof
from fsgen.backends.transformers.architecture import Architecture
from fsgen.backends.transformers.continuation import Continuation
from fsgen.backends.transformers.forward import RowForward, TransformersForward
from fsgen.backends.transformers.model import TransformersModel
from tests.backends.scripts import alone
from tests.tiny import tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

PAGE = Path(__file__).parent.parent.parent / "docs" / "models.md"

# Those that people use, and one of each kind that is peculiar.
# fmt: off
EXACT = [
    "bert", "cohere2", "deepseek_v3", "deepseek_v32", "ernie4_5_moe", "exaone4", "falcon", "gemma3", "gemma3n_text",
    "gemma4_text", "glm4_moe", "glm_moe_dsa", "gpt_oss", "granite", "gptj", "jamba", "lfm2", "llama4_text",
    "longcat_flash", "mimo_v2_flash", "minicpm3", "ministral3", "mixtral", "modernbert-decoder", "olmo3", "opt",
    "phi", "qwen2_moe", "qwen3_5", "qwen3_moe", "roberta", "smollm3", "stablelm", "starcoder2", "xlm-roberta", "zaya",
]
# fmt: on
ROWS = ["bart", "bloom", "gpt_neo", "gpt_neox_japanese", "mpt", "roformer", "whisper"]
REFUSED = {
    "cpmant": "its attention is not causal",
    "deepseek_v4": "layers of a type whose state cannot be rewound (compressed_sparse_attention",
    "doge": "its attention is not causal",
    "minimax": "MiniMax uses cache of its own",
    "musicgen": "no model can be made of its configuration",
    "nemotron_h": "a continued state does not give the logits of a fresh one",
    "rwkv": "recurrent state, which its forward pass does not take as a cache",
    "xlnet": "does not take past_key_values",
    "zamba2": "a continued state does not give the logits of a fresh one",
}


@pytest.mark.parametrize("family", EXACT)
def test_exact(family: str) -> None:
    result = tried(family)
    assert (result.verdict, result.family) == ("exact", family), result.note


@pytest.mark.parametrize("family", ROWS)
def test_row_by_row_and_it_says_so_once(family: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = tried(family)
    assert (result.verdict, result.family) == ("row by row", family), result.note
    assert capsys.readouterr().err.count(f"{family!r} runs one row a call: only so is it exact") == 1


@pytest.mark.parametrize("family", REFUSED)
def test_refused_for_the_true_reason(family: str) -> None:
    result = tried(family)
    assert result.verdict == "refused"
    assert REFUSED[family] in result.note


# A local window in rows of unlike lengths, shared keys and values, chunks, chosen keys, positions of its own.
@pytest.mark.parametrize("family", ["gpt_neo", "gemma4_text", "llama4_text", "deepseek_v32", "xlm-roberta", "bloom"])
def test_a_batch_is_what_each_text_is_alone(family: str) -> None:
    module = tiny_model(family)
    draft = TransformersModel(tiny_model(family, seed=1), tiny_tokenizer(), "draft")
    target = TransformersModel(module, tiny_tokenizer(), "target")
    prompts = [[3 + (5 * i + row) % 80 for i in range(length)] for row, length in enumerate((5, 30, 12))]
    for text, prompt in zip(
        generate(Members.of(draft, target), prompts, sampling=SamplingParams(16, ignore_eos=True), batch_size=3),
        prompts,
        strict=True,
    ):
        ids = [*prompt, *text.token_ids]
        expected = alone(module, ids[:-1], 16).argmax(-1).tolist()
        assert text.token_ids == expected


@pytest.mark.parametrize("family", ["gemma4_text", "deepseek_v32", "mimo_v2_flash", "bloom", "zaya"])
def test_what_a_token_takes_is_what_is_held(family: str) -> None:
    model = TransformersModel(tiny_model(family))
    session: Any = model.session(2)
    session.score([[5] * 70, [6] * 70], 1)
    layers = session._forward._cache.layers
    layers += [layer.index for layer in layers if getattr(layer, "index", None) is not None]
    held = [layer for layer in layers if getattr(layer, "keys", None) is not None]
    rows = len(held[0].keys)
    assert sum(layer.keys.nbytes + layer.values.nbytes for layer in held) == rows * model.cache_bytes(70)


def test_a_text_holds_no_more_tokens_than_there_are_positions() -> None:
    model = TransformersModel(tiny_model("roberta"))
    assert model.context == 160 - 3  # the padding token is 2, and the first position after it 3
    model.session(1).score([[5] * 157], 1)


def check(family: str, module: Any, way: Continuation, kind: type[TransformersForward]) -> None:
    model = TransformersModel(module, name=family)
    architecture = Architecture.of(module, 160, VOCAB)
    proof.check_exact(family, architecture, way, lambda small, rows: model._session_on(kind(small, rows), way))


@pytest.mark.parametrize("family", ["exaone4", "llama4_text"])
def test_windows_longer_than_the_proof_are_seen(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny_model(family, sliding_window=100) if family == "exaone4" else tiny_model(family)
    if family == "llama4_text":
        module = tiny_model(family, attention_chunk_size=100)
    check(family, module, Continuation.REWOUND, TransformersForward)
    masks = Architecture.masks

    def blind(self: Architecture, windows: Any, slots: torch.Tensor, positions: torch.Tensor) -> Any:
        full = masks(self, {"full_attention": None}, slots, positions)["full_attention"]
        return dict.fromkeys(windows, full)

    monkeypatch.setattr(Architecture, "masks", blind)
    with pytest.raises(ValueError, match="does not give the logits of a fresh one"):
        check(family, module, Continuation.REWOUND, TransformersForward)


def test_the_copy_with_small_windows_shares_the_weights() -> None:
    module = tiny_model("exaone4", sliding_window=100)
    architecture = Architecture.of(module, 160, VOCAB)
    small = proof.with_small_windows(architecture)
    assert (module.config.sliding_window, small.module.config.sliding_window) == (100, proof.WINDOW)
    assert {w.data_ptr() for w in small.module.parameters()} == {w.data_ptr() for w in module.parameters()}
    plain = Architecture.of(tiny_model("llama"), 160, VOCAB)
    assert proof.with_small_windows(plain) is plain


def test_rows_of_unlike_lengths_are_seen() -> None:
    module = tiny_model("gpt_neo")
    check("gpt_neo", module, Continuation.ROWS, RowForward)
    with pytest.raises(ValueError, match="does not give the logits of a fresh one"):
        check("gpt_neo", module, Continuation.REWOUND, TransformersForward)


def test_rounding_is_told_from_errors_in_float64() -> None:
    module = tiny_model("hrm_text")  # whose cycles make much of every rounding
    check("hrm_text", module, Continuation.REWOUND, TransformersForward)


def test_small_errors_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny_model("qwen2_moe")
    run = Architecture.run

    def off(self: Architecture, ids: torch.Tensor, keep: int, **extra: Any) -> torch.Tensor:
        logits = run(self, ids, keep, **extra)
        return logits * (1 + 3e-4 * (ids.shape[1] == 1))

    monkeypatch.setattr(Architecture, "run", off)
    with pytest.raises(ValueError, match="does not give the logits of a fresh one"):
        check("qwen2_moe", module, Continuation.REWOUND, TransformersForward)


def test_the_page_has_all_families() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## All families")[2]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| ")]
    verdicts = {row[1].strip(): row[3].strip() for row in rows[1:]}
    assert list(verdicts) == list(FAMILIES)
    assert set(verdicts.values()) <= {"exact", "row by row", "refused"}
    assert {family for family in ROWS if verdicts[family] != "row by row"} == set()
    assert {family for family in EXACT if verdicts[family] != "exact"} == set()
