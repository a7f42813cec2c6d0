"""Sessions of `transformers` models give the logits of plain forward passes, whatever was scored before."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import transformers

from fsgen.backends.forward import Work
from fsgen.backends.protocol import Capabilities, Model
from fsgen.backends.session import CachedSession, common_prefix
from fsgen.backends.transformers.context import context_of
from fsgen.backends.transformers.continuation import ways_to_continue
from fsgen.backends.transformers.forward import TransformersForward
from fsgen.backends.transformers.model import PROVEN, TransformersModel
from fsgen.backends.transformers.padded import Call
from fsgen.backends.transformers.proof import check_exact
from tests.backends.scripts import alone, edited
from tests.tiny import ARCHITECTURES, tiny_config, tiny_model

TOLERANCE = 1e-4


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_session_equals_plain_forward_passes(architecture: str, batch: int, compiled: bool) -> None:
    module = tiny_model(architecture)
    session = TransformersModel(module, compiled=compiled).session(batch)
    rng = random.Random(batch)
    texts: list[list[int]] = [[rng.randrange(96) for _ in range(rng.randint(1, 60))] for _ in range(batch)]
    longest = 0
    for step in range(16):
        given = [None if batch > 1 and rng.random() < 0.25 else text for text in texts]
        last = [rng.randint(1, min(6, len(text))) for text in texts]
        logits = session.score(given, last)
        assert logits.dtype == torch.float32
        active = [i for i in range(batch) if given[i] is not None]
        assert logits.shape == (batch, max((last[i] for i in active), default=0), 96)
        if step == 8:  # from here on long enough for the buffers to have grown
            texts = [text + [rng.randrange(96) for _ in range(75)] for text in texts]
            continue
        for i in active:
            assert (logits[i, -last[i] :] - alone(module, texts[i], last[i])).abs().max() < TOLERANCE
            longest = max(longest, len(texts[i]))
            texts[i] = edited(texts[i], rng)
    assert longest > 64  # the buffers grew, far beyond the sliding windows of five tokens


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])  # the compiled forward pass, and that of transformers
def test_a_shared_beginning_is_computed_once(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny_model(architecture)
    session = TransformersModel(module).session(3)
    assert isinstance(session, CachedSession)
    shots = [(7 * i) % 96 for i in range(50)]
    texts = [[*shots, 5, 6], [*shots, 9], [*shots, *range(30)]]
    runs: list[list[int]] = []
    run = session._forward.run

    def watched(work: list[Work], keep: int) -> torch.Tensor:
        runs.append([item.new for item in work])
        return run(work, keep)

    monkeypatch.setattr(session._forward, "run", watched)
    logits = session.score(texts, 1)
    assert runs == [[50], [2, 1, 30]]
    for i, text in enumerate(texts):
        assert (logits[i] - alone(module, text, 1)).abs().max() < TOLERANCE
    # A row that takes up another text finds the beginning in a neighbour, and in what it held itself.
    longer = [*shots, *range(30), 8]
    session.begin(1, len(longer), 100)
    logits = session.score([None, longer, None], 1)
    assert runs[2:] == [[1]]
    assert (logits[1] - alone(module, longer, 1)).abs().max() < TOLERANCE
    assert (session.usage[1].calls, session.usage[1].tokens) == (1, 1)


def test_a_long_row_does_not_widen_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny_model("gpt-neox")
    session = TransformersModel(module, compiled=False).session(4)
    assert isinstance(session, CachedSession)
    assert isinstance(session._forward, TransformersForward)
    texts = [[i + 1, 2, 3] for i in range(4)]
    session.score(texts, 1)
    texts = [[*texts[0], 4], [90 - i for i in range(60)], [*texts[2], 4, 5], [i % 7 for i in range(40)]]
    widths: list[tuple[int, ...]] = []
    one_pass = session._forward.one_pass

    def watched(call: Call) -> torch.Tensor:
        widths.append(tuple(call.ids.shape))
        return one_pass(call)

    monkeypatch.setattr(session._forward, "one_pass", watched)
    logits = session.score(texts, [1, 2, 2, 1])
    assert widths == [(3, 2), (1, 60), (1, 40)]
    for i, n in enumerate([1, 2, 2, 1]):
        assert (logits[i, -n:] - alone(module, texts[i], n)).abs().max() < TOLERANCE


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("architecture", ["mistral-sliding", "gemma3", "gemma2", "phi3"])
def test_long_texts_leave_the_window_behind(architecture: str, compiled: bool) -> None:
    module = tiny_model(architecture)
    session = TransformersModel(module, compiled=compiled).session(2)
    rng = random.Random(3)
    texts = [[rng.randrange(96) for _ in range(n)] for n in (100, 118)]
    for cut in (40, 41, 47, 100, 60):
        rows = [text[:cut] for text in texts]
        logits = session.score(rows, 1)
        for i in range(2):
            assert (logits[i] - alone(module, rows[i], 1)).abs().max() < TOLERANCE
    logits = session.score(texts, 30)
    for i in range(2):
        assert (logits[i] - alone(module, texts[i], 30)).abs().max() < TOLERANCE


def test_a_window_that_the_code_does_not_read_masks_nothing() -> None:
    module = tiny_model("llama", sliding_window=3)
    text = list(range(2, 40))
    session = TransformersModel(module).session(1)
    session.score([text[:20]], 1)
    assert (session.score([text], 5)[0] - alone(module, text, 5)).abs().max() < TOLERANCE


def test_one_token_at_a_time_and_tuples_and_tensors() -> None:
    module = tiny_model("qwen3")
    session = TransformersModel(module).session(1)
    text = list(range(3, 80))
    for end in range(1, len(text) + 1):
        given: Any = (tuple, list, torch.tensor)[end % 3](text[:end])
        got = session.score([given], 1)
    assert (got[0] - alone(module, text, 1)).abs().max() < TOLERANCE
    assert (session.usage[0].calls, session.usage[0].tokens) == (len(text), len(text))


def test_usage_counts_calls_and_real_tokens() -> None:
    session = TransformersModel(tiny_model("llama")).session(3)
    session.score([[2, 3, 4, 5], [2, 3], None], 1)
    assert [(u.calls, u.tokens) for u in session.usage] == [(1, 4), (1, 2), (0, 0)]
    session.score([[2, 3, 4, 9, 9, 9], None, [7]], 1)  # one token taken back, three new
    assert [(u.calls, u.tokens) for u in session.usage] == [(2, 7), (1, 2), (1, 1)]
    session.score([[2, 3, 4, 9, 9, 9], [2, 3], None], [3, 1, 1])  # nothing new: what is wanted runs again
    assert [(u.calls, u.tokens) for u in session.usage] == [(3, 10), (2, 3), (1, 1)]


def test_the_caller_may_change_its_lists() -> None:
    module = tiny_model("llama")
    session = TransformersModel(module).session(1)
    text = [2, 3, 4, 5]
    session.score([text], 1)
    text[1] = 50
    text.append(6)
    assert (session.score([text], 1)[0] - alone(module, text, 1)).abs().max() < TOLERANCE


def test_no_active_row() -> None:
    session = TransformersModel(tiny_model("llama")).session(2)
    assert session.score([None, None], 3).shape == (2, 0, 96)
    assert session.usage[0].calls == 0


# The compiled forward pass, that of transformers, and one with a recurrent state.
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "falcon-h1"])
def test_a_failed_call_leaves_a_valid_session(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny_model(architecture)
    session = TransformersModel(module).session(2)
    first = [[2, 3, 4, 5, 6], [7, 8, 9]]
    session.score(first, 1)
    run = session._forward.run

    def fail(*arguments: Any) -> None:
        run(*arguments)
        raise RuntimeError("out of memory")

    for second in ([7, 8, 60, 61], [7, 8, 9, 60, 61]):
        with monkeypatch.context() as patch:
            patch.setattr(session._forward, "run", fail)
            with pytest.raises(RuntimeError):
                session.score([[2, 3, 50, 51, 52], second], 1)
        for texts in (first, [[*first[0], 11], [*first[1], 12, 13]]):
            logits = session.score(texts, 2)
            for i in range(2):
                assert (logits[i] - alone(module, texts[i], 2)).abs().max() < TOLERANCE


@pytest.mark.parametrize(
    ("sequences", "last", "words"),
    [
        ([[2]], 1, "1 sequences for a session of 2 rows"),
        ([[2], [3]], [1], "1 values of last"),
        ([[2], []], 1, "row 1 is empty"),
        ([[2], [3]], 0, "last=0"),
        ([[2, 3], [3]], 2, "last=2 is impossible for row 1"),
        ([[2], [3] * 129], 1, "129 tokens, and tiny takes 128"),
        ([[2, 96], None], 1, "token 96 of row 0"),
        ([[-1], None], 1, "token -1 of row 0"),
    ],
)
def test_impossible_calls_are_refused(sequences: Any, last: Any, words: str) -> None:
    session = TransformersModel(tiny_model("llama"), name="tiny").session(2)
    with pytest.raises(ValueError, match=words):
        session.score(sequences, last)
    assert session.usage[0].calls == session.usage[1].calls == 0
    session.score([[2] * 128, [3]], 1)  # the whole context is usable


def test_no_session_without_rows() -> None:
    with pytest.raises(ValueError, match="batch_size=0"):
        TransformersModel(tiny_model("llama")).session(0)


def test_bfloat16() -> None:
    module = tiny_model("llama").to(torch.bfloat16)
    session = TransformersModel(module).session(2)
    rows = [[2, 3, 4, 5, 6, 7], [9, 10, 11]]
    session.score([row[:2] for row in rows], 1)
    logits = session.score(rows, 2)
    assert logits.dtype == torch.float32
    for i in range(2):
        reference = alone(module, rows[i], 2).float()
        assert (logits[i] - reference).abs().max() < 0.05 * reference.abs().max()


def test_what_a_model_says_of_itself() -> None:
    module = tiny_model("gpt-neox")
    model = TransformersModel(module, name="tiny", compiled=False)
    assert TransformersModel(module, name="tiny").capabilities == Capabilities(bit_exact=True)
    spoken_of: Model = model
    assert spoken_of is model
    assert (model.vocab_size, model.context, model.eos_ids) == (96, 128, frozenset({1}))
    assert model.capabilities == Capabilities()
    assert model.info.family == "gpt_neox"
    assert model.info.parameters - model.info.non_embedding_parameters == 2 * 96 * 32  # the head is not tied
    tied = TransformersModel(tiny_model("gemma")).info
    assert tied.parameters - tied.non_embedding_parameters == 96 * 32


def test_positions_that_depend_on_the_length_bound_the_context() -> None:
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "rope_theta": 1e4}
    config = transformers.Phi3Config(
        max_position_embeddings=4096,
        original_max_position_embeddings=64,
        rope_parameters={**rope, "original_max_position_embeddings": 64},
        hidden_size=32,
        num_attention_heads=4,
    )
    assert context_of(config) == 64


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("DeepseekV4Config", "compressed_sparse_attention"),
        ("XLNetConfig", "past_key_values"),
        ("BartConfig", "encoder-decoder"),
        ("XLMConfig", "past_key_values"),
    ],
)
def test_models_that_no_session_can_serve(kind: str, words: str) -> None:
    with pytest.raises(ValueError, match=rf"'some/model' .*cannot be used: .*{words}") as caught:
        ways_to_continue(getattr(transformers, kind)(), "some/model")
    architecture = transformers.AutoModelForCausalLM._model_mapping[type(getattr(transformers, kind)())]
    assert architecture.__name__ in str(caught.value)


def test_what_counts_as_proven_is_what_is_tested() -> None:
    assert {tiny_config(architecture).model_type for architecture in ARCHITECTURES} == PROVEN


def test_an_unknown_architecture_has_to_prove_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsgen.backends.transformers.model.PROVEN", frozenset())
    TransformersModel(tiny_model("gemma3"), compiled=False)
    torch.manual_seed(0)
    bert = transformers.BertLMHeadModel(  # reads in both directions
        transformers.BertConfig(
            vocab_size=96, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        )
    )
    with pytest.raises(ValueError, match=r"BertLMHeadModel.*its attention is not causal"):
        TransformersModel(bert)
    wrong = TransformersModel(tiny_model("gemma3"), compiled=False)
    monkeypatch.setattr(TransformersForward, "_masks", lambda self, call: torch.ones(1, 1, 1, call.longest).bool())
    with pytest.raises(ValueError, match="does not give the logits"):
        check_exact("wrong", wrong.architecture, wrong.continuation, lambda _, rows: wrong.session(rows))


def test_common_prefix() -> None:
    rng = random.Random(0)
    for _ in range(300):
        one = [rng.randrange(3) for _ in range(rng.randrange(20))]
        two = one[: rng.randrange(20)] + [rng.randrange(3) for _ in range(rng.randrange(4))]
        expected = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
        assert common_prefix(one, two) == common_prefix(two, one) == expected
