"""Models behind servers: what is asked of these, what is made of their answers, and what is refused."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from fsgen.api import generate
from fsgen.backends import Members, load, plan
from fsgen.backends.protocol import UnavailableError
from fsgen.backends.remote.address import Address, parse, with_tokenizer
from fsgen.backends.remote.http import BadAnswerError, Client, RefusedError, have_answered
from fsgen.backends.remote.said import Memory, Said
from fsgen.backends.remote.server import Server
from fsgen.backends.remote.wire import VLLM, SGLang, Wanted
from fsgen.cli import main
from fsgen.types import SamplingParams
from tests.servers import Answers, TestServer, answers
from tests.study.ladder import save_model

DRAFT, TARGET = "pocket-0.25m", "pocket-0.6m"
PROMPTS = ["Question: Tom has 2 apples and buys 3 more.\nAnswer:", "The cat", "def f(x):"]
SHORT = SamplingParams(max_tokens=12)


@pytest.fixture(scope="module")
def local() -> Members:
    return load(DRAFT, TARGET, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def said() -> dict[str, Answers]:
    return {kind: answers(kind, TARGET, most=2048) for kind in ("vllm", "sglang", "openai")}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsgen.backends.remote.http.FIRST_WAIT", 0.01)


def server_of(members: Members) -> Server:
    source = members.target.source  # type: ignore[union-attr]
    assert isinstance(source, Server)
    return source


@pytest.mark.parametrize("kind", ["vllm", "sglang", "openai"])
@pytest.mark.parametrize("sampling", [SHORT, SamplingParams(max_tokens=30, stop=("\n", "."))], ids=["length", "stop"])
def test_texts_are_those_of_the_local_model(
    kind: str, sampling: SamplingParams, said: dict[str, Answers], local: Members
) -> None:
    with TestServer(said[kind]) as server:
        remote = load(DRAFT, f"{kind}:{server.url}#big", device="cpu")
        asked = server.asked
        there = generate(remote, PROMPTS, "plain", sampling=sampling)
        here = generate(local, PROMPTS, "plain", sampling=sampling)
        assert server.asked == asked + len(PROMPTS)
    for a, b in zip(here, there, strict=True):
        assert (a.text, a.token_ids, a.stop_reason) == (b.text, b.token_ids, b.stop_reason)
        assert a.stats.target_tokens == b.stats.target_tokens
        for x, y in zip(a.tokens, b.tokens, strict=True):
            assert x.target_prob == pytest.approx(y.target_prob, abs=1e-5)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_every_probability_where_the_server_tells_them(kind: str, said: dict[str, Answers], local: Members) -> None:
    with TestServer(said[kind]) as server:
        remote = load(DRAFT, f"{kind}:{server.url}#big?top=100000", device="cpu")
        assert remote.target is not None
        assert remote.target.capabilities.full_logits
        sampling = SamplingParams(max_tokens=8, temperature=1.0, seed=3)
        method = "speculative:verifier=rejection"
        there, here = (generate(m, PROMPTS[:2], method, sampling=sampling) for m in (remote, local))
    assert [a.token_ids for a in here] == [b.token_ids for b in there]
    for x, y in zip(here[0].tokens, there[0].tokens, strict=True):
        assert x.target_entropy == pytest.approx(y.target_entropy, abs=1e-4)


def test_requests_have_vllms_names(said: dict[str, Answers]) -> None:
    with TestServer(said["vllm"]) as server:
        remote = load(DRAFT, f"vllm:{server.url}#big?top=7", device="cpu")
        generate(remote, [[5, 6, 7]], "plain", sampling=SamplingParams(max_tokens=3, stop=("!",), stop_token_ids=(9,)))
        path, body = server.bodies[-1]
    assert path == "/v1/completions"
    ends = sorted({9, *remote.eos_ids})
    assert body == {
        "model": "big", "prompt": [5, 6, 7], "max_tokens": 3, "temperature": 0, "top_p": 1, "n": 1, "logprobs": 7,
        "return_token_ids": True, "return_tokens_as_token_ids": True, "repetition_penalty": 1.0,
        "presence_penalty": 0.0, "frequency_penalty": 0.0, "ignore_eos": True, "stop_token_ids": ends, "stop": ["!"],
    }  # fmt: skip


def test_recorded_answers_of_vllm_and_sglang(local: Members) -> None:
    """In the shapes of their documentation, with what they add: the prompt's own token beyond the top, None first."""
    vllm = VLLM("m", 2, local.tokenizer)
    prompt = [None, {"7": {"logprob": -5.0, "rank": 31, "decoded_token": "x"}, "3": {"logprob": -0.1, "rank": 1},
                     "4": {"logprob": -3.0, "rank": 2}}]  # fmt: skip
    top = {"token_id:8": -0.5, "token_id:9": -1.5}
    choice = {
        "prompt_logprobs": prompt,
        "logprobs": {"top_logprobs": [top]},
        "prompt_token_ids": [5, 7],
        "token_ids": [8],
    }
    found = vllm.scored([5, 7], 2, {"model": "m", "choices": [choice | {"finish_reason": "length"}]})
    assert found.tokens == [7]
    assert found.ids.tolist() == [[3, 4], [8, 9]]
    sglang = SGLang("m", 2, local.tokenizer)
    about = {
        "finish_reason": {"type": "length", "length": 1}, "prompt_tokens": 3, "completion_tokens": 1,
        "input_token_logprobs": [[None, 6, None], [-0.2, 7, None]],
        "input_top_logprobs": [None, [[-0.2, 7, None], [-2.0, 1, None]]],
        "output_token_logprobs": [[-0.3, 2, None]], "output_top_logprobs": [[[-0.3, 2, None], [-4.0, 8, None]]],
    }  # fmt: skip
    found = sglang.scored([5, 6, 7], 2, {"text": "", "meta_info": about})
    assert found.ids.tolist() == [[7, 1], [2, 8]]
    assert sglang.score([5, 6, 7], 2)["logprob_start_len"] == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"token_ids": [1], "tops": [{"token_id:1": -0.1}], "finish_reason": "length"}, "cut at 1 of 3"),
        ({"token_ids": [1] * 4, "tops": [{"token_id:1": -0.1}] * 4, "finish_reason": "length"}, "4 tokens where 3"),
        ({"token_ids": [1] * 3, "tops": [{"token_id:1": -0.1}] * 2, "finish_reason": "length"}, "2 distributions"),
        ({"token_ids": [1] * 3, "tops": [{"token_id:1": -0.1}] * 3, "finish_reason": "abort"}, "abort"),
        ({"token_ids": [1] * 3, "tops": [{"token_id:1": -0.1}] * 3, "finish_reason": "length", "model": "y"}, "'y'"),
        ({"token_ids": [1] * 3, "tops": [{"token_id:1": -0.1}] * 3, "finish_reason": "length", "read": [5]}, "other"),
        ({"token_ids": [1] * 3, "tops": [{"token_id:2": -0.1, "token_id:1": -0.4}] * 3, "finish_reason": "length"},
         "penalties"),
    ],
)  # fmt: skip
def test_answers_that_make_no_sense(answer: dict[str, Any], reason: str, local: Members) -> None:
    choice = {
        "token_ids": answer["token_ids"],
        "logprobs": {"top_logprobs": answer["tops"]},
        "finish_reason": answer["finish_reason"],
        "prompt_token_ids": answer.get("read", [5, 6]),
    }
    whole = {"model": answer.get("model", "m"), "choices": [choice]}
    with pytest.raises((BadAnswerError, RefusedError), match=reason):
        VLLM("m", 2, local.tokenizer).written(Wanted([5, 6], 3), whole)


# ---- round by round


@pytest.mark.parametrize("kind", ["vllm", "sglang", "openai"])
@pytest.mark.parametrize("method", ["oracle", "speculative", "route", "speculative:ngram=2"])
def test_verifying_round_by_round_is_exact(kind: str, method: str, said: dict[str, Answers], local: Members) -> None:
    """With the target behind a server: the same tokens, sources and counts."""
    settings: dict[str, Any] = {"draft_tokens": 3} if method != "oracle" else {}
    router = "max-prob:0.9" if method == "route" else None
    with TestServer(said[kind]) as server, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        remote = load(DRAFT, f"{kind}:{server.url}#big?top=4", device="cpu")
        asked, before = server.asked, len(server.bodies)
        there = generate(remote, PROMPTS, method, router, sampling=SHORT, **settings)
        assert server.asked > asked
        assert all(body.get("max_tokens", 1) == 1 for _, body in server.bodies[before:])
    here = generate(local, PROMPTS, method, router, sampling=SHORT, **settings)
    for a, b in zip(here, there, strict=True):
        assert a.token_ids == b.token_ids
        assert [token.source for token in a.tokens] == [token.source for token in b.tokens]
        assert [token.draft_token for token in a.tokens] == [token.draft_token for token in b.tokens]
        assert [token.target_token for token in a.tokens] == [token.target_token for token in b.tokens]
        assert (a.stats.target_calls, a.stats.target_tokens) == (b.stats.target_calls, b.stats.target_tokens)
    about = [warning for warning in caught if "reads the whole context again" in str(warning.message)]
    assert len(about) == (kind == "vllm")


def test_sglang_is_asked_for_the_last_positions_alone(said: dict[str, Answers]) -> None:
    """Anything earlier would cost it its cache."""
    with TestServer(said["sglang"]) as server:
        remote = load(DRAFT, f"sglang:{server.url}#big", device="cpu")
        before = len(server.bodies)
        generate(remote, PROMPTS[:1], "speculative", draft_tokens=3, sampling=SHORT)
        for _, body in server.bodies[before:]:
            assert len(body["input_ids"]) - body["logprob_start_len"] <= 4


def test_a_draft_behind_a_server_drafts(said: dict[str, Answers], local: Members) -> None:
    with TestServer(said["sglang"]) as server:
        swapped = load(f"sglang:{server.url}#big?top=4", DRAFT, device="cpu")
        there = generate(swapped, PROMPTS[:2], "speculative", draft_tokens=2, sampling=SHORT)
    plain = generate(load(target=DRAFT, device="cpu"), PROMPTS[:2], "plain", sampling=SHORT)
    assert [text.token_ids for text in there] == [text.token_ids for text in plain]
    assert there[0].tokens[0].draft_entropy is None
    assert there[0].tokens[0].draft_entropy_bounds is not None


# ---- what is refused


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vllm:somewhere#m", "names no model behind a server"),
        ("vllm:http://127.0.0.1:1", "names no model behind a server"),
        ("vllm:http://127.0.0.1:1#m", "needs the tokenizer of its model"),
        ("vllm:http://127.0.0.1:1#m?tokenizer=a&tops=5", "unknown setting 'tops'"),
        ("vllm:http://127.0.0.1:1#m?tokenizer=a&top=many", "no number"),
        ("vllm:http://127.0.0.1:1#m?tokenizer=a&top=0", "at least 1"),
        ("vllm:http://127.0.0.1:1#m?top=3&top=4", "twice"),
    ],
)
def test_names_that_say_nothing(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        plan(target=name)


def test_a_name_in_parts() -> None:
    name = "sglang:http://h:30000/v1#org/model?top=5&tokenizer=org/small"
    assert parse(name) == Address("sglang", "http://h:30000", "org/model", "org/small", top=5)
    assert with_tokenizer("vllm:http://h:1#m", "org/small") == "vllm:http://h:1#m?tokenizer=org/small"
    assert with_tokenizer("vllm:http://h:1#m?top=5", "a b") == "vllm:http://h:1#m?top=5&tokenizer=a%20b"
    assert parse(with_tokenizer("vllm:http://h:1#m?top=5", "a b")).tokenizer == "a b"
    for kept in (name, "pocket-4m", "org/model@main"):
        assert with_tokenizer(kept, "org/other") == kept
    assert with_tokenizer("vllm:http://h:1#m", "ngram:3") == "vllm:http://h:1#m"


def test_servers_that_cannot_be_members(said: dict[str, Answers], local: Members, tmp_path: Path) -> None:
    assert local.target is not None
    with TestServer(Answers(local.target, "chat")) as server:
        with pytest.raises(ValueError, match=r"cannot be a member.*404"):
            plan(DRAFT, f"openai:{server.url}#big")
        with pytest.raises(ValueError, match=r"has no model 'small'; it has: big"):
            plan(DRAFT, f"vllm:{server.url}#small")
    other = str(save_model(tmp_path / "other"))
    with TestServer(said["vllm"]) as server, pytest.raises(ValueError, match=r"tokenizer of 'big' .* is another one"):
        plan(other, f"vllm:{server.url}#big")


def test_methods_that_need_more_than_the_most_likely_tokens(said: dict[str, Answers]) -> None:
    with TestServer(said["vllm"]) as server:
        remote = load(DRAFT, f"vllm:{server.url}#big?top=3", device="cpu")
        for method, sampling, reason in (
            ("plain", SamplingParams(temperature=0.5), "draw tokens: set temperature=0"),
            ("oracle", SamplingParams(repetition_penalty=1.1), "penalties"),
            ("mixture", SHORT, "fuse"),
            ("route:rollback=0.2", SHORT, "rollback"),
        ):
            with pytest.raises(ValueError, match=f"the target vllm:big tells .* only, .*{reason}"):
                generate(remote, "The cat", method, sampling=sampling)
        as_draft = load(f"vllm:{server.url}#big?top=3", DRAFT, device="cpu")
        with pytest.raises(ValueError, match="route by entropy"):
            generate(as_draft, "The cat", "route", router="entropy:1", sampling=SHORT)


def test_fewer_log_probabilities_where_the_server_bounds_them(local: Members) -> None:
    assert local.target is not None
    with TestServer(Answers(local.target, "vllm", most=5)) as server:
        remote = load(DRAFT, f"vllm:{server.url}#big", device="cpu")
    assert server_of(remote).abilities.top == 5


# ---- faults


def test_requests_are_many_and_bounded(said: dict[str, Answers]) -> None:
    with TestServer(said["vllm"], lambda number, path: ("slow", 0.02)) as server:
        remote = load(DRAFT, f"vllm:{server.url}#big?concurrency=4", device="cpu")
        generate(remote, [[i, 5] for i in range(2, 26)], "plain", sampling=SamplingParams(max_tokens=2), batch_size=2)
        assert 2 <= server.most_under_way <= 4


def test_one_text_that_fails_costs_no_other(said: dict[str, Answers]) -> None:
    class Poisoned(Answers):
        def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
            if body["prompt"] == [13, 13]:
                return 500, {"error": {"message": "illegal memory access"}}
            return super().post(path, body)

    with TestServer(Poisoned(said["vllm"].model, "vllm")) as server:
        remote = load(DRAFT, f"vllm:{server.url}#big", device="cpu")
        with pytest.raises(RefusedError, match=r"failed 5 times: status 500: illegal memory access"):
            generate(remote, [[5, 6], [13, 13], [7, 8]], "plain", sampling=SHORT)
        asked = server.asked
        assert [len(text.tokens) for text in generate(remote, [[5, 6], [7, 8]], "plain", sampling=SHORT)] == [12, 12]
        assert server.asked == asked  # these were kept


def test_it_waits_as_long_as_it_is_told(said: dict[str, Answers]) -> None:
    limited = [True]

    def fault(number: int, path: str) -> tuple[str, Any] | None:
        return ("status", (429, {"Retry-After": "0.3"})) if limited and limited.pop() else None

    with TestServer(said["vllm"], fault) as server:
        started = time.monotonic()
        Client(server.url).post("/v1/completions", {"model": "big", "prompt": "a", "max_tokens": 1})
        assert time.monotonic() - started >= 0.3


def closed_server() -> str:
    """The address of a server that is no longer there."""
    with TestServer(answers("vllm", DRAFT)) as server:
        return server.url


def test_nobody_answers() -> None:
    url = closed_server()
    with pytest.raises(UnavailableError, match=r"has not answered for 0\.1 s"):
        plan(DRAFT, f"vllm:{url}#big?patience=0.1")


def test_a_server_that_has_never_answered_is_not_waited_for_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsgen.backends.remote.http.UNKNOWN", 0.2)
    url = closed_server()
    with pytest.raises(UnavailableError, match=r"has not answered for 0\.2 s"):
        plan(DRAFT, f"vllm:{url}#big")


def test_a_worker_waits_for_a_server_that_has_answered_where_it_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsgen.backends.remote.http.UNKNOWN", 0.1)
    url = closed_server()
    monkeypatch.setattr("fsgen.backends.remote.http._answered", set())
    have_answered([url])
    with pytest.raises(UnavailableError, match=r"has not answered for 0\.4 s"):
        plan(DRAFT, f"vllm:{url}#big?patience=0.4")


def test_another_model_after_a_restart(said: dict[str, Answers]) -> None:
    """What it says then is not taken for the old one's."""
    with TestServer(said["vllm"]) as server:
        remote = load(DRAFT, f"vllm:{server.url}#big", device="cpu")
        server.answers, first = answers("vllm", "pocket-1.5m", most=2048), server.asked
        server.fault = lambda number, path: ("reset", None) if number == first else None
        with pytest.raises(UnavailableError, match="is another model since"):
            generate(remote, PROMPTS, "plain", sampling=SHORT)


def test_what_was_said_is_forgotten_in_turn() -> None:
    memory = Memory(entries=20)
    for i in range(10):
        memory.add([i], Said.of([1, 2], [[(1, -0.1)], [(2, -0.1)]]))
    assert memory.find([9]) is not None
    assert memory.find([0]) is None


# ---- the command


def test_the_command_says_what_is_possible(said: dict[str, Answers], capsys: pytest.CaptureFixture[str]) -> None:
    with TestServer(said["vllm"]) as server:
        for more in ([], ["--json"]):
            with pytest.raises(SystemExit) as end:
                main(["probe", f"vllm:{server.url}#big", "--draft", DRAFT, *more])
            assert end.value.code == 0
            out = capsys.readouterr().out
            assert "the 20 most likely of 2,048 tokens" in out
            assert "each round reads the whole context" in out
        assert json.loads(out)["tokens"] == "by their ids"
        with pytest.raises(SystemExit) as end:
            main(["probe", f"vllm:{server.url}#big"])
        assert end.value.code == 2
        assert "needs the tokenizer" in capsys.readouterr().err
