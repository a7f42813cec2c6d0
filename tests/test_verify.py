"""The exactness check finds what is wrong, and nothing else: on models that are wrong on purpose, and on ties."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fsgen.api import generate
from fsgen.backends import Members, load
from fsgen.backends.cpu.model import CpuModel
from fsgen.backends.transformers.model import TransformersModel
from fsgen.backends.transformers.uncached import UncachedModel
from fsgen.methods.fusions import FUSIONS, Contrastive
from fsgen.verify import NEARBY_POSITIONS, Verdict, _Judge, _Place, _Text, verify, ways
from tests.doubles import Table, TableSession, group, trio
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer

PROMPTS = [[1 + i % 7, 1 + i % 5, 1 + i % 3, 1 + i // 4] for i in range(12)]
Change = Callable[[Tensor, int], None]  # logits [vocab] of the place after so many tokens, in a call of one or many


class Changed:
    """A session whose cached state is wrong: from its second call on, logits are changed.

    The loop verifies several positions in a call (`many`) and the reference steps by one, so that only one of them goes
    wrong, or with None both.
    """

    def __init__(self, session: Any, change: Change, many: bool | None) -> None:
        self._session, self._change, self._many = session, change, many
        self._holds = False

    def __getattr__(self, name: str) -> Any:
        if name == "rounds":  # which would not come by here
            raise AttributeError(name)
        return getattr(self._session, name)

    def score(self, sequences: Sequence[Any], last: int | Sequence[int]) -> Tensor:
        logits: Tensor = self._session.score(sequences, last).clone()
        wanted = [last] * len(sequences) if isinstance(last, int) else list(last)
        if self._holds and self._many in (None, max(wanted) > 1):
            for row, sequence in enumerate(sequences):
                for j in range(wanted[row] if sequence is not None else 0):
                    self._change(logits[row, -1 - j], len(sequence) - j)
        self._holds = True
        return logits


class Wrong(Table):
    """A table whose sessions answer as `Changed` does."""

    change: Change
    many: bool | None = True

    def session(self, batch_size: int) -> TableSession:
        return Changed(super().session(batch_size), self.change, self.many)  # type: ignore[return-value]


def members_with(change: Change, many: bool | None = True, vocab: int = 8, **options: Any) -> Members:
    """A draft that agrees often, and a target whose sessions are changed; its own table stays as it is."""
    target = Wrong(vocab, seed=3, **options)
    target.change, target.many = change, many
    return group(Table(vocab, seed=9, near=Table(vocab, seed=3, **options), noise=0.3), target)


def at(length: int, token: int, height: float = 50.0) -> Change:
    """Lifts a token where the text has so many tokens."""

    def change(logits: Tensor, tokens: int) -> None:
        if tokens == length:
            logits[token] += height

    return change


@pytest.mark.parametrize("method", ["speculative", "oracle", "contrastive", "proxy", "ensemble", "mixture"])
@pytest.mark.parametrize("every_token", [False, True])
def test_a_right_system_passes(method: str, every_token: bool) -> None:
    seen: list[int] = []
    verdict = verify(
        trio(), PROMPTS, method, max_tokens=20, batch_size=1, every_token=every_token, progress=seen.append
    )
    assert verdict.faults == verdict.ties == []
    assert verdict.equal == verdict.texts == 12
    assert 0 < verdict.accepted < verdict.tokens <= 240
    assert sum(seen) == 12
    assert len(seen) == 2  # eight batches of one, then four
    assert verdict.seconds > 0.0


def test_without_a_difference_no_second_copy_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    members = load("pocket-0.25m", "pocket-0.6m")
    monkeypatch.setattr(CpuModel, "module", property(lambda self: pytest.fail("a copy was loaded")))
    verdict = verify(members, ["1 + 1 =", "The"], draft_tokens=3, max_tokens=8)
    assert (verdict.equal, verdict.dtype, verdict.measured_in) == (2, "float32", None)


@pytest.mark.parametrize("router", ["always", "entropy:0.5"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_right_models_pass(architecture: str, router: str) -> None:
    target, draft = tiny_model(architecture), tiny_model(architecture, 1)
    for here, there in zip(draft.parameters(), target.parameters(), strict=True):
        here.data = there.data + 0.02 * here.data
    verdict = verify(
        group(TransformersModel(draft, tiny_tokenizer()), TransformersModel(target, tiny_tokenizer())),
        PROMPTS,
        router=router,
        max_tokens=20,
        batch_size=5,
        every_token=True,
    )
    assert verdict.faults == []
    assert verdict.equal + len(verdict.ties) >= 12
    assert verdict.accepted > 0
    assert verdict.dtype == "float32"


@pytest.mark.parametrize("many", [True, False], ids=["the method is wrong", "the reference is wrong"])
def test_a_wrong_answer_is_a_fault(many: bool) -> None:
    verdict = verify(members_with(at(9, token=6), many), PROMPTS, max_tokens=12, draft_tokens=3)
    assert verdict.faults
    assert not verdict.ties
    assert verdict.equal == 12 - len(verdict.faults)
    for fault in verdict.faults:
        assert fault.position == 9 - 4
        wrong, right = (fault.token, fault.expected) if many else (fault.expected, fault.token)
        wrong_gap, right_gap = (fault.gap, fault.expected_gap) if many else (fault.expected_gap, fault.gap)
        assert wrong == 6 != right
        assert wrong_gap > fault.bound > right_gap == 0.0


def test_an_error_of_both_ways_is_found_by_checking_every_token() -> None:
    pair = members_with(at(9, token=6), many=None)
    assert verify(pair, PROMPTS, max_tokens=12, draft_tokens=3).equal == 12
    verdict = verify(pair, PROMPTS, max_tokens=12, draft_tokens=3, every_token=True)
    assert verdict.equal == 12
    assert verdict.faults
    assert all(fault.position == 9 - 4 and fault.token == 6 for fault in verdict.faults)


def nearly_tied(distance: float) -> Members:
    """A target whose tokens 2 and 3 lead everywhere, 3 by `distance`, which verifying calls do not see."""
    logits = torch.full((8,), -5.0)
    logits[2] = 4.0
    logits[3] = 4.0 + distance

    def change(z: Tensor, tokens: int) -> None:
        z[2 if distance else 3] += 2 * distance + 1e-5

    target = Wrong(logits=logits)
    target.change = change
    return group(Table(logits=logits), target)


@pytest.mark.parametrize(("distance", "tie"), [(0.0, True), (2.0**-21, True), (2.0**-12, False), (0.1, False)])
def test_ties_are_separated_from_faults_by_what_rounding_can_do(distance: float, tie: bool) -> None:
    verdict = verify(nearly_tied(distance), PROMPTS[:2], max_tokens=8, draft_tokens=2)
    assert len(verdict.differences) == 2  # the first of each text, and no later one
    for difference in verdict.differences:
        assert difference.tie is tie
        assert {difference.token, difference.expected} == {2, 3}
        assert max(difference.gap, difference.expected_gap) == pytest.approx(distance, rel=1e-5, abs=1e-9)
        # eps times the largest logit is what a logit in float32 may be off, twice that what two may differ.
        assert difference.bound == pytest.approx(2 * 2.0**-23 * 5.0, rel=1e-6)
    assert len(verdict.ties if tie else verdict.faults) == 2
    assert verdict.measured_in is None


@pytest.mark.parametrize(("dtype", "wider"), [("bfloat16", "float32"), ("float32", "float64")])
@pytest.mark.parametrize("tie", [True, False])
def test_rounding_is_measured_with_the_same_weights_in_a_wider_type(
    dtype: str, wider: str, tie: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tiny_model("llama", tie_word_embeddings=False)
    with torch.no_grad():
        module.lm_head.weight[7] = module.lm_head.weight[5]  # 5 and 7 are equally likely everywhere
        module.lm_head.weight[[5, 7]] *= 8.0
    model = TransformersModel(module.to(getattr(torch, dtype)), tiny_tokenizer())
    before = {name: weight.clone() for name, weight in model.module.state_dict().items()}
    session = TransformersModel.session

    def lift(logits: Tensor, tokens: int) -> None:
        if tokens == 7:
            best = int(logits.argmax())
            other = {5: 7, 7: 5}.get(best)
            if tie and other is not None:
                logits[other] += 1e-4 * float(logits[best].abs())
            elif not tie:
                logits[int(logits.argmin())] += 1000.0

    pair = group(TransformersModel(tiny_model("llama"), tiny_tokenizer()), model)
    monkeypatch.setattr(
        TransformersModel,
        "session",
        lambda self, rows: Changed(session(self, rows), lift, many=True) if self is model else session(self, rows),
    )
    verdict = verify(pair, PROMPTS, max_tokens=8, draft_tokens=2)
    assert verdict.differences
    assert verdict.dtype == dtype
    assert verdict.measured_in == wider
    assert len(verdict.ties if tie else verdict.faults) == len(verdict.differences)
    for difference in verdict.differences:
        assert difference.position == 7 - 4
        assert 0.0 < difference.bound < (2.0 if dtype == "bfloat16" else 1e-3)
        assert (difference.measured_positions > 1) is not tie  # a fault is measured twice
    assert {name: weight.dtype for name, weight in model.module.state_dict().items()} == {
        name: weight.dtype for name, weight in before.items()
    }
    assert all(torch.equal(weight, before[name]) for name, weight in model.module.state_dict().items())


def test_a_second_measurement_takes_the_rounding_of_more_positions_and_of_plain_attention(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = tiny_model("llama").to(torch.bfloat16)
    model = TransformersModel(module, tiny_tokenizer())
    judge = _Judge(group(model, model), FUSIONS["target"]())
    place = _Place(_Text(0, [4, 5, 6], [7 + i for i in range(20)]), 18, 5, 6)
    (once,) = judge.explain([place])
    measured: list[tuple[int, int]] = []
    measure = _Judge._measure

    def watched(self: _Judge, places: Any, positions: int, readings: Any) -> Any:
        found = measure(self, places, positions, readings)
        measured.append((positions, len(readings)))
        # As if rounding did nearly nothing at the place itself: only the second time can it explain the difference.
        return found if positions > 1 else [replace(one, bound=0.0, gap=one.bound, expected_gap=0.0) for one in found]

    monkeypatch.setattr(_Judge, "_measure", watched)
    (again,) = judge.explain([place])
    assert measured == [(1, 1), (NEARBY_POSITIONS, 2)]
    assert again.measured_positions == min(NEARBY_POSITIONS, len(place.prefix))
    assert again.bound >= once.bound > 0.0
    other = UncachedModel(model).eager()
    assert other is not None
    assert other._module is not module
    assert other._module.config._attn_implementation == "eager"  # type: ignore[union-attr]
    assert module.config._attn_implementation != "eager"
    assert other.eager() is None  # there is no further kernel
    assert UncachedModel(trio(8).target).eager() is None  # type: ignore[arg-type]


def test_a_threshold_may_round_either_way() -> None:
    # Contrastive decoding keeps tokens down to log(alpha) below the best; token 3 lies there, and would win.
    target, draft = torch.full((8,), -9.0), torch.zeros(8)
    target[2], draft[2] = 3.0, 4.0
    target[3], draft[3] = 3.0 + math.log(0.1), -9.0

    def verdict(below: float) -> Verdict:
        def change(z: Tensor, tokens: int) -> None:
            z[3] -= 2 * below + 1e-6  # out, where it was in

        moved = target.clone()
        moved[3] += below
        wrong = Wrong(logits=moved)
        wrong.change = change
        return verify(group(Table(logits=draft), wrong), PROMPTS[:1], "contrastive", max_tokens=6, draft_tokens=2)

    (tie,) = verdict(2.0**-22).differences
    assert tie.tie
    assert (tie.token, tie.expected) == (2, 3)
    (fault,) = verdict(0.01).differences
    assert not fault.tie
    assert fault.gap > 1.0 > fault.expected_gap


@pytest.mark.parametrize("slack", [0.0, 0.5, 5.0, 1e9, -0.5, -1e9])
def test_a_shifted_threshold_lets_in_what_lies_that_much_lower(slack: float) -> None:
    target, draft = torch.tensor([0.0, -1.0, -2.0, -3.0, -8.0, -20.0]), torch.zeros(6)
    kept = Contrastive(alpha=math.exp(-2.5)).shifted(slack)(target, draft, None).isfinite()
    assert torch.equal(kept, target >= min(-2.5 - slack, 0.0))


def test_logits_that_are_no_numbers_stop_the_run() -> None:
    nothing = torch.full((8,), float("nan"))
    target = Table(logits=torch.zeros(8).index_fill(0, torch.tensor([4]), 9.0))
    bad = Wrong(seed=1)
    bad.change = at(6, token=3)
    bad.logits = lambda context: nothing if len(context) == 6 else target.logits(context)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="the logits of the target table-1 are not finite at token 3 of a text"):
        verify(group(target, bad), [[1, 2, 3]], max_tokens=6, draft_tokens=4, every_token=True)


def test_an_answer_that_is_no_number_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    score = UncachedModel.score

    def spoilt(self: UncachedModel, sequences: Any, last: Any) -> Any:
        return [logits * math.nan for logits in score(self, sequences, last)]

    monkeypatch.setattr(UncachedModel, "score", spoilt)
    verdict = verify(trio(), PROMPTS[:3], max_tokens=6, draft_tokens=4, every_token=True)
    assert verdict.faults
    assert all(math.isnan(fault.bound) for fault in verdict.faults)
    assert all(fault["gap"] is None for fault in verdict.as_dict()["faults"])


def test_a_text_that_ends_early_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def shorter(members: Members, prompts: Any, method: Any, **options: Any) -> Any:
        texts = generate(members, prompts, method, **options)
        if method.drafts:
            texts[1].token_ids.pop()
        return texts

    monkeypatch.setattr("fsgen.verify.generate", shorter)
    (fault,) = verify(trio(), PROMPTS[:3], max_tokens=5).faults
    assert (fault.prompt, fault.token, fault.gap) == (1, None, math.inf)
    assert fault.expected is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("route",), "trusts tokens"),
        (("plain",), "token by token already"),
        (("contrastive", None, 1), "token by token already"),
        (("guess",), "unknown method"),
    ],
)
def test_what_cannot_be_verified(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ways(*arguments)


def test_a_verdict_does_not_depend_on_the_clock() -> None:
    assert not ways("speculative")[0].adaptive
    assert ways("speculative", draft_tokens="auto")[0].adaptive
    assert ways("speculative")[1].name == "plain"
    reference = ways("proxy", "entropy:1", "auto")[1]
    assert (reference.draft_tokens, reference.adaptive, str(reference.router)) == (1, False, "always")


def test_impossible_arguments() -> None:
    for options in ({"batch_size": 0}, {"max_tokens": 0}, {"max_tokens": 600}):
        with pytest.raises(ValueError, match=next(iter(options))):
            verify(trio(), PROMPTS, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no prompt"):
        verify(trio(), [])


# --- without a cache


@pytest.mark.parametrize("architecture", ["llama", "gpt-neox", "gemma3"])
def test_a_pass_without_a_cache_pads_batches_and_gives_each_row_its_own(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fsgen.backends.transformers.uncached.MOST_TOKENS", 60)
    module = tiny_model(architecture)
    sequences = [[(5 * i + row) % 90 for i in range(length)] for row, length in enumerate((7, 30, 1, 12, 30, 5))]
    last = [2, 30, 1, 3, 1, 5]
    scored = UncachedModel(TransformersModel(module)).score(sequences, last)
    for sequence, n, got in zip(sequences, last, scored, strict=True):
        with torch.inference_mode():
            expected = module(torch.tensor([sequence]), use_cache=False).logits[0, -n:]
        assert got.shape == expected.shape
        assert torch.allclose(got, expected, atol=1e-4)


def test_no_copy_is_made_where_none_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = UncachedModel(TransformersModel(tiny_model("llama")))
    wider = model.wider()
    assert wider is not None
    assert (model.dtype, wider.dtype) == (torch.float32, torch.float64)
    assert wider.wider() is None
    monkeypatch.setattr("fsgen.backends.transformers.uncached.free_bytes", lambda device: 1000)
    assert model.wider() is None
    monkeypatch.setattr("fsgen.backends.transformers.uncached.free_bytes", lambda device: None)
    assert model.wider() is None


# --- the command


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    names = enumerate(("target", "draft"))
    return {name: str(save_tiny(root / name, seed=seed, max_position_embeddings=512)) for seed, name in names}


@pytest.fixture
def check(run: Any, folders: dict[str, str]) -> Any:
    return partial(run, "verify", "--draft", folders["draft"], "--target", folders["target"])


SMALL = ("--prompts", "6", "--max-tokens", "8", "--task", "pocket_math")


def test_a_pair_that_passes(check: Any) -> None:
    status, out, err = check(*SMALL)
    assert (status, err.replace("\n", "")) == (0, "")
    shown = {line[:20].strip(): line[20:].strip() for line in out.splitlines()}
    assert shown["equal"] == "6"
    assert shown["faults"] == "0"
    assert shown["prompts"] == "6 pocket_math"


def test_json(check: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text('one\n"two\\nlines"\n')
    status, out, _ = check(*SMALL[2:4], "--prompts-file", str(file), "--json", "--dtype", "bfloat16")
    record = json.loads(out)
    assert status == 0
    assert record["texts"] == 2
    assert record["prompts"] == {"mine.txt": 2}
    assert record["dtype"] == "bfloat16"
    assert record["faults"] == []
    assert set(record["members"]) == {"draft", "target"}


def test_a_fault_is_shown_and_sets_the_exit_status(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = CpuModel.session

    def lift(logits: Tensor, tokens: int) -> None:
        logits[40] += 1000.0 * (tokens % 5 == 0)

    monkeypatch.setattr(CpuModel, "session", lambda self, rows: Changed(session(self, rows), lift, many=True))
    status, out, _ = check(*SMALL)
    assert status == 1
    assert "expected gap" in out
    assert repr(tiny_tokenizer().decode([40])) in out
    status, out, _ = check(*SMALL, "--json")
    assert status == 1
    assert all(fault["token"] == 40 for fault in json.loads(out)["faults"])


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "guess"], "unknown method 'guess'"),
        (["--method", "route"], "trusts tokens"),
        (["--router", "guess"], "unknown router 'guess'"),
        (["--task", "guess"], "unknown task 'guess'"),
        (["--prompts", "0"], "prompts=0"),
        (["--prompts", "1000000"], "prompts=1000000"),
        (["--prompts-file", "nothing.txt"], "nothing.txt"),
        (["--max-tokens", "0"], "max_tokens=0"),
        (["--batch-size", "0"], "--batch-size"),
        (["--dtype", "int3"], "dtype='int3'"),
        (["--device", "abacus"], "device='abacus'"),
        (["--draft", "pocket-9t"], "no bundled model 'pocket-9t'"),
        (["--method", "proxy"], "--base"),
    ],
)
def test_errors_come_before_any_weights(check: Any, arguments: list[str], words: str) -> None:
    status, out, err = check(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err
