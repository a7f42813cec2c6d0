"""Sessions of models that carry a recurrent state: exact by snapshots, bounded, honestly counted, or refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from fsgen import Members, SamplingParams, generate, load
from fsgen.backends.transformers import continuation, recurrent
from fsgen.backends.transformers.continuation import KNOWN, Continuation, ways_to_continue
from fsgen.backends.transformers.model import TransformersModel
from fsgen.backends.transformers.recurrent import LEAST, SNAPSHOTS, RecurrentSession
from fsgen.backends.transformers.slots import Slots
from fsgen.backends.transformers.states import EMPTY, Step
from fsgen.replay import replay
from fsgen.verify import verify
from tests.backends.scripts import LONG, alone, edited
from tests.tiny import RECURRENT, save_tiny, tiny_config, tiny_member, tiny_model

TOLERANCE = 2e-4
PROMPTS = [[2, 30, 41, 7, 19], [5, 9], [60, 61, 62, 63, 64, 65, 66, 67, 12], [8, 77, 3]]


pytestmark = pytest.mark.usefixtures("one_thread")


def session_of(model: TransformersModel, rows: int) -> RecurrentSession:
    session = model.session(rows)
    assert isinstance(session, RecurrentSession)
    return session


def pair(draft: str, target: str, noise: float = 0.1) -> Members:
    """A target and a draft that often agrees with it, where both are of one kind."""
    return Members.of(draft=tiny_member(draft, noise=noise), target=tiny_member(target))


def greedy(model: TransformersModel, prompt: list[int], budget: int) -> list[int]:
    """The argmax of plain forward passes, each over the whole text."""
    text = list(prompt)
    for _ in range(budget):
        text.append(int(alone(model.module, text, 1)[0].argmax()))
        if text[-1] in model.eos_ids:
            break
    return text[len(prompt) :]


def test_what_counts_as_known_is_what_is_tested() -> None:
    assert {tiny_config(architecture).model_type for architecture in RECURRENT} == KNOWN.keys()


@pytest.mark.parametrize(
    ("kind", "ways"),
    [
        ("LlamaConfig", [Continuation.REWOUND, Continuation.ROWS]),
        ("BloomConfig", [Continuation.ROWS]),
        ("Mamba2Config", [Continuation.SEVERAL]),
        ("FalconH1Config", [Continuation.SEVERAL]),
        ("MambaConfig", [Continuation.SINGLE]),
        ("OlmoHybridConfig", [Continuation.SEVERAL, Continuation.SINGLE]),
        ("Qwen3_5TextConfig", [Continuation.SEVERAL, Continuation.SINGLE]),
    ],
)
def test_how_a_model_is_continued_follows_from_its_configuration(kind: str, ways: list[Continuation]) -> None:
    assert list(ways_to_continue(getattr(transformers, kind)(), "some/model")) == ways


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("architecture", RECURRENT)
def test_a_session_equals_plain_forward_passes(architecture: str, batch: int) -> None:
    model = tiny_member(architecture)
    session = session_of(model, batch)
    rng = random.Random(batch)
    texts: list[list[int]] = [[rng.randrange(96) for _ in range(rng.randint(1, 40))] for _ in range(batch)]
    for row in range(0, batch, 2):  # the others are not announced to grow
        session.begin(row, len(texts[row]), LONG)
    for _ in range(14):
        sequences = [None if batch > 1 and rng.random() < 0.25 else text for text in texts]
        last = [rng.choice((1, 1, min(6, len(text)), rng.randint(1, len(text)))) for text in texts]
        logits = session.score(sequences, last)
        active = [i for i in range(batch) if sequences[i] is not None]
        assert logits.dtype == torch.float32
        assert logits.shape == (batch, max((last[i] for i in active), default=0), 96)
        for i in active:
            assert (logits[i, -last[i] :] - alone(model.module, texts[i], last[i])).abs().max() < TOLERANCE
            texts[i] = edited(texts[i], rng)


@pytest.mark.parametrize("architecture", RECURRENT)
def test_greedy_texts_are_the_models_own(architecture: str) -> None:
    members = pair(architecture, architecture, 0.2 if "mamba" in architecture else 0.1)
    target: Any = members.target
    expected = [greedy(target, prompt, 16) for prompt in PROMPTS]
    assert len({len(text) for text in expected}) > 1 or len(expected[0]) == 16
    sampling = SamplingParams(16)
    ids = torch.tensor(PROMPTS[:1])
    own = target.module.generate(ids, max_new_tokens=16, do_sample=False, pad_token_id=0)[0, ids.shape[1] :].tolist()
    if architecture != "bamba":  # whose own generate loses the positions of its cache
        assert own == expected[0]
    for method, batch in (("speculative", 1), ("speculative", 4), ("oracle", 1), ("oracle", 4), ("plain", 3)):
        k = 4 if method == "speculative" else None
        texts = generate(members, PROMPTS, method, draft_tokens=k, sampling=sampling, batch_size=batch)
        assert [text.token_ids for text in texts] == expected
        if method == "speculative":
            assert sum(text.stats.accepted for text in texts) > 0
            assert any(token.source == "recovered" for text in texts for token in text.tokens)


@pytest.mark.parametrize("kinds", [("llama", "mamba2"), ("mamba2", "llama"), ("jamba", "falcon-h1")])
def test_pairs_across_kinds(kinds: tuple[str, str]) -> None:
    members = pair(*kinds)
    target: Any = members.target
    expected = [greedy(target, prompt, 12) for prompt in PROMPTS]
    for method, k in (("speculative", 3), ("contrastive", 3), ("route", None)):
        texts = generate(members, PROMPTS, method, draft_tokens=k, sampling=SamplingParams(12), batch_size=2)
        if method == "speculative":
            assert [text.token_ids for text in texts] == expected
        else:  # a row's text does not depend on its neighbours
            single = generate(members, PROMPTS, method, draft_tokens=k, sampling=SamplingParams(12), batch_size=1)
            assert [text.token_ids for text in texts] == [text.token_ids for text in single]


def test_sampled_texts_do_not_depend_on_the_batch() -> None:
    members = pair("mamba2", "mamba2")
    sampling = [SamplingParams(14, temperature=1.0, seed=seed) for seed in range(4)]
    wide, narrow = (generate(members, PROMPTS, "speculative", sampling=sampling, batch_size=n) for n in (4, 1))
    assert [text.token_ids for text in wide] == [text.token_ids for text in narrow]
    assert any(token.source == "accepted" for text in wide for token in text.tokens)


def test_verify_and_replay() -> None:
    members = pair("mamba2", "mamba2")
    verdict = verify(members, PROMPTS, max_tokens=12, batch_size=3, every_token=True)
    assert (verdict.texts, verdict.faults) == (4, [])
    sampling = SamplingParams(12)
    loop = generate(members, PROMPTS, "oracle", sampling=sampling, batch_size=4)
    plain = generate(members, PROMPTS, "plain", sampling=sampling, batch_size=4)
    (again,) = replay([members], PROMPTS, plain, candidates=0)
    for one, other in zip(loop, again, strict=True):
        assert one.token_ids == other.token_ids
        assert one.stats.collaboration_frequency == other.stats.collaboration_frequency
        assert (one.stats.draft_calls, one.stats.draft_tokens) == (other.stats.draft_calls, other.stats.draft_tokens)
        assert (one.stats.target_calls, one.stats.target_tokens) == (len(one.tokens), len(one.tokens))


class Reading:
    """A forward pass whose state is the tokens it has read, and whose logit is a hash of them: any mistake is seen."""

    state_bytes = 1

    def __init__(self) -> None:
        self.slots = Slots(1, LONG, lambda capacity: None)
        self.held: dict[int, list[int]] = {EMPTY: []}

    @staticmethod
    def hash_of(tokens: list[int]) -> int:
        return hash(tuple(tokens)) % 2**24

    def reserve(self, longest: int) -> None: ...

    def copy(self, source: int, destination: int, length: int) -> None: ...

    def run(self, step: Step) -> torch.Tensor:
        read = [list(self.held[source]) for source in step.sources]
        columns = []
        for tokens in step.ids.T.tolist():
            read = [[*old, token] for old, token in zip(read, tokens, strict=True)]
            columns.append([self.hash_of(text) for text in read])
        self.held |= {place: read[row] for row, place in zip(step.ends, step.places, strict=True)}
        return torch.tensor(columns[len(columns) - step.keep :]).T[..., None].float()


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 5),
    k=st.integers(1, 20),
    way=st.sampled_from([Continuation.SEVERAL, Continuation.SINGLE]),
    announced=st.booleans(),
)
def test_every_state_is_of_the_tokens_it_should_have_read(
    seed: int, rows: int, k: int, way: Continuation, announced: bool
) -> None:
    rng = random.Random(seed)
    forward: Any = Reading()
    session = RecurrentSession(forward, way, rows, "reading", 40, LONG, torch.device("cpu"))

    def some(least: int, most: int) -> list[int]:
        return [rng.randrange(40) for _ in range(rng.randint(least, most))]

    shots = some(0, 30)
    texts: list[list[int]] = [[] for _ in range(rows)]
    for _ in range(25):
        for row in range(rows):
            if not texts[row] or len(texts[row]) > LONG - 30 or rng.random() < 0.05:
                texts[row] = [*shots, *some(1, 20)]
                if announced:
                    session.begin(row, len(texts[row]), LONG)
        drafted = [[*text, *some(k, k)] if rng.random() < 0.8 else text for text in texts]
        last = [1 + len(whole) - len(text) for whole, text in zip(drafted, texts, strict=True)]
        active = [rng.random() < 0.8 for _ in range(rows)]
        logits = session.score([whole if on else None for whole, on in zip(drafted, active, strict=True)], last)
        for row in range(rows):
            if active[row]:
                whole = drafted[row]
                expected = [Reading.hash_of(whole[: len(whole) - last[row] + 1 + j]) for j in range(last[row])]
                assert logits[row, -last[row] :, 0].tolist() == expected
                texts[row] = [*whole[: len(texts[row]) + rng.randint(0, last[row] - 1)], *some(1, 1)]


# ---- what it costs


def test_usage_of_a_hand_worked_text() -> None:
    """A target's calls: prompt 2 3 4 5 and draft 6 7 8, of which 7 is rejected; draft 21 22 23, accepted; and so on."""
    rewound = TransformersModel(tiny_model("llama")).session(1)
    several, single = (session_of(tiny_member(kind), 1) for kind in ("falcon-h1", "jamba"))
    for session in (rewound, several, single):
        session.begin(0, 4, 60)
    script = [
        # Of the prompt its last token counts alone. One token at a time, that token and the draft are four calls.
        ([2, 3, 4, 5, 6, 7, 8], 4, (1, 4), (1, 4), (4, 4)),
        # 6 was accepted, 20 is new. The one pass kept no state but the one after 8: it reads 5 and 6 again (and 2 3 4).
        ([2, 3, 4, 5, 6, 20, 21, 22, 23], 4, (2, 8), (2, 10), (8, 8)),
        # All were accepted, and the state after 23 is there.
        ([2, 3, 4, 5, 6, 20, 21, 22, 23, 24, 25, 26], 3, (3, 11), (3, 13), (11, 11)),
        ([2, 3, 4, 5, 6, 20, 21, 22, 23, 24, 25, 26, 27], 1, (4, 12), (4, 14), (12, 12)),
    ]
    for sequence, last, *expected in script:
        for session, (calls, tokens) in zip((rewound, several, single), expected, strict=True):
            session.score([sequence], last)
            assert (session.usage[0].calls, session.usage[0].tokens) == (calls, tokens)


def test_a_snapshot_that_is_far_behind_is_moved_on_in_a_pass_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent, "PATIENCE", 16)
    session = session_of(tiny_member("lfm2"), 1)
    session.begin(0, 4, 100)
    text = [2, 3, 4, 5]
    session.score([text], 1)
    widths = watched(session)
    for _ in range(11):  # every draft is rejected, at its second token
        session.score([[*text, 90, 91, 92]], 4)
        text += [90, 7]
    # The first call wants more than what is after the snapshot, and starts anew; the others go on from it, until 17
    # tokens lie between it and the draft.
    assert widths == [7, 5, 7, 9, 11, 13, 15, 17, 19, 17, 4, 6]


def test_a_draft_is_taken_back_at_no_cost() -> None:
    session = session_of(tiny_member("mamba2"), 2)
    texts = [[2, 3, 4, 5], [9, 8]]
    for row in range(2):
        session.begin(row, len(texts[row]), 60)
    session.score(texts, 1)
    for accepted in ((5, 2), (0, 3), (4, 1)):
        drafts = [list(text) for text in texts]
        for step in range(5):
            drafts = [[*draft, 30 + step] for draft in drafts]
            session.score(drafts, 1)
        texts = [[*draft[: len(text) + n], 7] for draft, text, n in zip(drafts, texts, accepted, strict=True)]
        session.score(texts, 1)
    for row, text in enumerate(texts):
        # Each round runs five drafted tokens and the one that took their place, each once.
        assert (session.usage[row].calls, session.usage[row].tokens) == (19, 19)
        assert len(text) < 19


def test_rows_of_unequal_prompts_share_their_passes() -> None:
    session = session_of(tiny_member("mamba2"), 3)
    widths = watched(session)
    session.score([[1] * 20, [2] * 23, [3] * 20], 1)
    assert widths == [20, 3]
    assert [usage.calls for usage in session.usage] == [1, 2, 1]


def test_a_text_that_is_only_read_takes_one_pass() -> None:
    for kind in ("mamba2", "jamba"):
        model = tiny_member(kind)
        session = session_of(model, 3)
        widths = watched(session)
        texts = [[(7 * i + row) % 96 for i in range(60 + 5 * row)] for row in range(3)]
        logits = session.score(texts, [40, 30, 50])
        assert widths == [70]
        for row, n in enumerate([40, 30, 50]):
            assert (logits[row, -n:] - alone(model.module, texts[row], n)).abs().max() < TOLERANCE


def watched(session: RecurrentSession) -> list[int]:
    """The widths of all passes from now on."""
    widths: list[int] = []
    run = session._forward.run

    def noted(step: Any) -> torch.Tensor:
        widths.append(step.ids.shape[1])
        return run(step)

    session._forward.run = noted  # type: ignore[method-assign]
    return widths


@pytest.mark.parametrize("architecture", ["mamba2", "falcon-h1", "lfm2"])
def test_a_shared_beginning_is_read_once(architecture: str) -> None:
    model = tiny_member(architecture)
    session = session_of(model, 3)
    shots = [(7 * i) % 96 for i in range(50)]
    texts = [[*shots, 5, 6], [*shots, 9], [*shots, *range(30)]]
    for row, text in enumerate(texts):
        session.begin(row, len(text), LONG)
    widths = watched(session)
    logits = session.score(texts, 1)
    assert widths == [50, 1, 1, 28]
    # A row that takes up another text finds the beginning again, long after the others have left it.
    longer = [*shots, 8, 9]
    session.begin(1, len(longer), LONG)
    again = session.score([None, longer, None], 1)
    assert widths[4:] == [2]
    for i, (got, text) in enumerate(((logits, texts[0]), (again, longer), (logits, texts[2]))):
        assert (got[i] - alone(model.module, text, 1)).abs().max() < TOLERANCE
    assert (session.usage[1].calls, session.usage[1].tokens) == (1, 1)


def test_a_beginning_that_comes_again_in_one_row_is_kept() -> None:
    model = tiny_member("qwen3-next")
    session = session_of(model, 1)
    shots = [(7 * i) % 96 for i in range(40)]
    widths = watched(session)
    for turn in range(3):
        text = [*shots, 50 + turn, *range(5)]
        logits = session.score([text], 1)
        assert (logits[0] - alone(model.module, text, 1)).abs().max() < TOLERANCE
    assert widths == [46, 40, 6, 6]
    assert (session.usage[0].calls, session.usage[0].tokens) == (4, 98)  # no begin() said what of it is a prompt


# ---- what it holds


@pytest.mark.parametrize(("budget", "bound"), [(recurrent.BUDGET, SNAPSHOTS), (0, LEAST)])
def test_snapshots_are_bounded(budget: int, bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent, "BUDGET", budget)
    model = tiny_member("mamba2")
    session = session_of(model, 2)
    rng = random.Random(1)
    texts = [[rng.randrange(96) for _ in range(9)] for _ in range(2)]
    for row in range(2):
        session.begin(row, 9, LONG)
    most = 0
    for _ in range(80):
        texts = [edited(text, rng) if rng.random() < 0.3 else [*text, 3][:LONG] for text in texts]
        logits = session.score(texts, 1)
        for row, text in enumerate(texts):
            held = session._snapshots[row]
            most = max(most, len(held.after))
            assert sorted([*held.free, *(place for _, place in held.after)]) == [2 + row + 2 * i for i in range(8)]
            assert (logits[row] - alone(model.module, text, 1)).abs().max() < TOLERANCE
    assert most == bound
    states = [layer.banks.values() for layer in session._forward._states]
    assert {len(bank) for banks in states for bank in banks} == {2 + 2 * bound}


def test_the_newest_snapshots_stay_and_the_older_thin_out() -> None:
    session = session_of(tiny_member("mamba2"), 1)
    text = [5]
    session.begin(0, 1, LONG)
    for _ in range(100):
        session.score([text], 1)
        text.append(6)
    back = [100 - tokens for tokens, _ in session._snapshots[0].after]
    assert back[2:] == [5, 4, 3, 2, 1, 0]
    assert 20 < back[0] < 60
    assert 5 < back[1] < 20


def test_impossible_calls_and_no_active_row() -> None:
    session = session_of(tiny_member("mamba2"), 2)
    with pytest.raises(ValueError, match="129 tokens, and mamba2 takes 128"):
        session.score([[2], [3] * 129], 1)
    with pytest.raises(ValueError, match="token 96 of row 1"):
        session.score([[2], [96]], 1)
    assert session.usage[0].calls == session.usage[1].calls == 0
    assert session.score([None, None], 3).shape == (2, 0, 96)
    session.score([[2] * 128, [3]], 1)


# ---- what is refused


def test_a_model_that_keeps_its_state_to_itself_is_refused_by_name() -> None:
    config = transformers.RwkvConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2, attention_hidden_size=16)
    with pytest.raises(ValueError, match=r"'tiny' \(RwkvForCausalLM\) cannot be used: it carries a recurrent state"):
        TransformersModel(transformers.RwkvForCausalLM(config), name="tiny")


def test_a_state_that_is_not_continued_exactly_is_refused_at_loading(tmp_path: Path) -> None:
    # A limit of the step size, which the code applies to several tokens and forgets for one.
    save_tiny(tmp_path, "mamba2", time_step_limit=(0.0, 0.05))
    with pytest.raises(
        ValueError, match=rf"{tmp_path}.*Mamba2ForCausalLM.*cannot be used: a continued state"
    ) as caught:
        load(target=tmp_path)
    assert caught.value.__cause__ is None


def test_a_model_of_the_library_that_is_not_exact_is_refused() -> None:
    config = transformers.RecurrentGemmaConfig(
        vocab_size=96,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
    )
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="RecurrentGemmaForCausalLM"):
        TransformersModel(transformers.RecurrentGemmaForCausalLM(config))


@pytest.mark.parametrize("scale", [0.3, 0.02])
@pytest.mark.parametrize("architecture", ["mamba", "jamba"])
def test_a_false_claim_is_found_out(architecture: str, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their several-token call forgets the state, which with small random weights hardly shows in the logits."""
    module = tiny_model(architecture, initializer_range=scale)
    model_type = module.config.model_type
    monkeypatch.setattr(continuation, "KNOWN", {model_type: Continuation.SEVERAL})
    with pytest.raises(ValueError, match=f"{type(module).__name__}.*a continued state"):
        TransformersModel(module)
    monkeypatch.setattr(continuation, "KNOWN", {})  # what nothing is known of is tried both ways
    assert TransformersModel(module).continuation is Continuation.SINGLE
    assert TransformersModel(tiny_model("mamba2")).continuation is Continuation.SEVERAL


def test_half_precision() -> None:
    module = tiny_model("mamba2").to(torch.bfloat16)
    model = TransformersModel(module)
    session = session_of(model, 2)
    rows = [[2, 3, 4, 5, 6, 7], [9, 10, 11]]
    session.score([row[:2] for row in rows], 1)
    logits = session.score(rows, [3, 1])
    for i, n in enumerate((3, 1)):
        reference = alone(module, rows[i], n).float()
        assert (logits[i, -n:] - reference).abs().max() < 0.1 * reference.abs().max()
