"""The API, as the official client of OpenAI uses it."""

from __future__ import annotations

import asyncio
import json
import math
import urllib.request
from typing import Any
from urllib.error import HTTPError

import openai
import pytest
from openai import AsyncOpenAI

from fsgen import generate
from fsgen.backends import Members, load
from fsgen.backends.protocol import Capabilities
from fsgen.serve.limits import Limits
from fsgen.types import SamplingParams
from tests.doubles import trio
from tests.serve.conftest import PATIENCE, Running, serving, until
from tests.servers import TestServer as RemoteServer
from tests.servers import answers

PROMPT = "Question: Tom has 3 apples and buys 4. How many has he?"
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0.8, "seed": 3},
    {"temperature": 1.1, "seed": 4, "top_p": 0.8, "presence_penalty": 0.5, "frequency_penalty": -0.25},
    {"temperature": 0, "stop": ["=", "\n\n"]},
    {"temperature": 0, "logit_bias": {"18": -100, "19": 2.5}},
]


def ask(url: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
    """Status, JSON and headers of an answer."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"content-type": "application/json"} | headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            text, status, found = answer.read(), answer.status, answer.headers
    except HTTPError as error:
        text, status, found = error.read(), error.code, error.headers
    return status, json.loads(text) if text.startswith((b"{", b"[")) else text, found


def expected(pair: Members, prompt: str, method: str = "speculative", tokens: int = 24, **given: Any) -> Any:
    return generate(pair, prompt, method, sampling=SamplingParams(max_tokens=tokens, **given))[0]


# ---- what is written


@pytest.mark.parametrize("given", SETTINGS, ids=str)
def test_a_completion_is_what_the_library_writes(running: Running, pair: Members, given: dict[str, Any]) -> None:
    found = running.client().completions.create(model=running.service.name, prompt=PROMPT, max_tokens=24, **given)
    text = expected(pair, PROMPT, **given)
    assert found.choices[0].text == text.text
    assert found.choices[0].finish_reason == ("length" if text.stop_reason == "length" else "stop")
    assert found.usage is not None
    assert found.usage.completion_tokens == len(text.token_ids)
    assert found.usage.prompt_tokens == text.prompt_tokens


@pytest.mark.parametrize("given", SETTINGS, ids=str)
def test_a_stream_is_the_same_text(running: Running, pair: Members, given: dict[str, Any]) -> None:
    stream = running.client().completions.create(
        model=running.service.name, prompt=PROMPT, max_tokens=24, stream=True, stream_options={"include_usage": True},
        **given,
    )  # fmt: skip
    *events, last = list(stream)
    text = expected(pair, PROMPT, **given)
    assert "".join(event.choices[0].text for event in events) == text.text
    assert [event.choices[0].finish_reason for event in events][-1] in ("stop", "length")
    assert all(event.choices[0].finish_reason is None for event in events[:-1])
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == len(text.token_ids)


def test_chats_by_both_clients(running: Running, pair: Members) -> None:
    messages: Any = [{"role": "system", "content": "Be short."}, {"role": "user", "content": PROMPT.partition(": ")[2]}]
    text = expected(pair, f"Be short.\n\n{PROMPT}\nAnswer:", tokens=30)
    common: Any = {"model": running.service.name, "messages": messages, "temperature": 0}
    client = running.client()
    whole = client.chat.completions.create(max_completion_tokens=30, **common)
    assert whole.choices[0].message.content == text.text
    assert whole.choices[0].message.role == "assistant"
    parts = [{"type": "text", "text": messages[1]["content"]}]
    again = client.chat.completions.create(
        max_tokens=30, **common | {"messages": [messages[0], {"role": "user", "content": parts}]}
    )
    assert again.choices[0].message.content == text.text

    async def both() -> None:
        client = AsyncOpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE)
        async with client:
            whole, stream = await asyncio.gather(
                client.chat.completions.create(max_tokens=30, **common),
                client.chat.completions.create(max_tokens=30, stream=True, **common),
            )
            assert whole.choices[0].message.content == text.text
            events = [event async for event in stream]
        assert events[0].choices[0].delta.role == "assistant"
        assert "".join(event.choices[0].delta.content or "" for event in events) == text.text

    asyncio.run(both())


def test_several_prompts_and_several_texts_of_each(running: Running, pair: Members) -> None:
    prompts = [PROMPT, "def add(a, b):"]
    common: Any = {
        "model": running.service.name,
        "prompt": prompts,
        "n": 2,
        "temperature": 0.9,
        "seed": 5,
        "max_tokens": 12,
    }
    client = running.client()
    found = client.completions.create(**common)
    sampling = SamplingParams(max_tokens=12, temperature=0.9, seed=5, n=2)
    texts = [each.text for each in generate(pair, prompts, sampling=sampling)]
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in found.choices] == texts
    assert len(set(texts)) == 4
    streamed = dict.fromkeys(range(4), "")
    for event in client.completions.create(stream=True, **common):
        streamed[event.choices[0].index] += event.choices[0].text
    assert list(streamed.values()) == texts
    ids = [pair.tokenizer.encode(prompt) for prompt in prompts]
    by_ids = client.completions.create(**common | {"prompt": ids})
    assert [choice.text for choice in by_ids.choices] == texts
    assert client.completions.create(**common | {"prompt": ids[1], "n": 1}).choices[0].text == texts[2]
    greedy = client.completions.create(**common | {"temperature": 0}).choices
    assert greedy[0].text == greedy[1].text != greedy[2].text


def test_an_unset_seed_is_another_one_each_time(running: Running) -> None:
    client = running.client()
    texts = {client.completions.create(model=running.service.name, prompt=PROMPT).choices[0].text for _ in range(4)}
    assert len(texts) > 1


# ---- who wrote it


def test_each_token_says_who_wrote_it(running: Running, pair: Members) -> None:
    method = "route"
    options = {"method": method, "router": "max-prob:0.7", "draft_tokens": 4, "candidates": 3}
    common: Any = {"model": running.service.name, "prompt": PROMPT, "temperature": 0, "max_tokens": 24}
    client = running.client()
    found = client.completions.create(**common, extra_body={"fsgen": options}).model_dump()
    sampling = SamplingParams(max_tokens=24)
    text = generate(pair, PROMPT, method, "max-prob:0.7", 4, sampling=sampling, candidates=3)[0]
    records = found["choices"][0]["fsgen"]["tokens"]
    names = ("id", "text", "source", "round", "draft_token", "target_token", "draft_prob", "draft_entropy")
    assert [tuple(each[name] for name in names) for each in records] == [
        tuple(getattr(token, name) for name in names) for token in text.tokens
    ]
    assert {each["source"] for each in records} >= {"trusted", "recovered"}
    for each, token in zip(records, text.tokens, strict=True):
        assert [(one["id"], one["prob"]) for one in each["draft_top"]] == list(token.draft_top)
        assert [(one["id"], one["prob"]) for one in each["target_top"]] == list(token.target_top)
    metrics = found["fsgen"]["metrics"]
    for name in ("tokens", "collaboration_frequency", "consulted_rate", "acceptance_rate", "target_calls_per_token"):
        assert metrics[name] == getattr(text.stats, name)
    assert found["usage"]["target_calls"] == text.stats.target_calls
    assert (found["fsgen"]["method"], found["fsgen"]["router"]) == ("route", "max-prob:0.7")
    streamed = list(client.completions.create(stream=True, **common, extra_body={"fsgen": options}))
    together = [one for event in streamed for one in event.choices[0].model_dump()["fsgen"]["tokens"]]
    assert together == records
    assert streamed[-1].model_dump()["fsgen"]["metrics"]["consulted"] == metrics["consulted"]
    plain = client.completions.create(**common).model_dump()
    assert "fsgen" not in plain["choices"][0]
    assert plain["fsgen"]["metrics"]["tokens"] == 24


def test_requests_choose_their_method_in_one_batch(running: Running, pair: Members) -> None:
    methods = ["plain", "contrastive:beta=0.3", "oracle", "route:rollback=0.2", "ensemble", "speculative"]
    common: Any = {"model": running.service.name, "prompt": PROMPT, "temperature": 0, "max_tokens": 20}

    async def all_at_once() -> list[str]:
        async with AsyncOpenAI(base_url=f"{running.url}/v1", api_key="none", timeout=PATIENCE) as client:
            asked = [client.completions.create(**common, extra_body={"fsgen": {"method": each}}) for each in methods]
            return [each.choices[0].text for each in await asyncio.gather(*asked)]

    assert asyncio.run(all_at_once()) == [expected(pair, PROMPT, method, tokens=20).text for method in methods]


def test_drafting_is_told_with_the_names_of_vllm(running: Running) -> None:
    body = {"prompt": PROMPT, "temperature": 0, "max_tokens": 30, "fsgen": {"draft_tokens": 3}}
    _, found, _ = ask(running.url, "/v1/completions", body)
    drafting, counts = found["metrics"]["speculative_decoding"], found["fsgen"]["metrics"]
    assert drafting["num_spec_tokens"] == 3
    assert drafting["num_accepted_draft_tokens"] == counts["accepted"] == sum(drafting["per_step_accepted"])
    assert drafting["num_draft_tokens"] == sum(drafting["per_step_drafted"]) >= counts["accepted"] + counts["recovered"]
    assert drafting["num_spec_steps"] == len(drafting["per_step_drafted"]) == sum(drafting["acceptance_histogram"])
    assert sum(n * times for n, times in enumerate(drafting["acceptance_histogram"])) == counts["accepted"]
    assert drafting["mean_acceptance_length"] == 1 + counts["accepted"] / drafting["num_spec_steps"]
    rejected = sum(a < d for a, d in zip(drafting["per_step_accepted"], drafting["per_step_drafted"], strict=True))
    assert rejected >= counts["recovered"] > 0
    times = found["metrics"]
    assert times["mean_itl_ms"] == pytest.approx(times["generation_time_ms"] / 29)
    assert times["time_to_first_token_ms"] > 0
    assert times["queue_time_ms"] >= 0
    _, several, _ = ask(running.url, "/v1/completions", body | {"n": 2})
    assert several["metrics"]["speculative_decoding"] is None
    _, plain, _ = ask(running.url, "/v1/completions", body | {"fsgen": {"method": "plain"}})
    assert plain["metrics"]["speculative_decoding"] is None


# ---- log-probabilities


def test_log_probabilities_of_both_kinds(running: Running, pair: Members) -> None:
    client, name = running.client(), running.service.name
    text = expected(pair, PROMPT, tokens=10, logprobs=3)
    found = client.completions.create(model=name, prompt=PROMPT, temperature=0, max_tokens=10, logprobs=3)
    given = found.choices[0].logprobs
    assert given is not None
    assert given.token_logprobs == [token.target_logprobs[0][1] for token in text.tokens]
    assert given.tokens is not None
    assert "".join(given.tokens) == text.text
    assert given.text_offset == [sum(map(len, given.tokens[:n])) for n in range(10)]
    assert given.top_logprobs is not None
    for value, top in zip(given.token_logprobs or [], given.top_logprobs, strict=True):
        assert len(top) == 3
        assert max(top.values()) == value, "greedy, and equal as floats"
    chat = client.chat.completions.create(
        model=name,
        messages=[{"role": "user", "content": "Hi"}],
        temperature=0,
        max_tokens=8,
        logprobs=True,
        top_logprobs=2,
    )
    assert chat.choices[0].logprobs is not None
    content = chat.choices[0].logprobs.content or []
    assert "".join(each.token for each in content) == chat.choices[0].message.content
    for each in content:
        assert bytes(each.bytes or []).decode() == each.token
        assert each.top_logprobs[0].logprob == each.logprob
        assert len(each.top_logprobs) == 2


@pytest.mark.filterwarnings("ignore:.*reads the whole context again")
@pytest.mark.parametrize("method", ["plain", "speculative"])
def test_this_server_is_a_member_elsewhere(method: str) -> None:
    """As `vllm:URL#MODEL` it is asked in vLLM's names, and writes what the model writes here."""
    prompts, sampling = [PROMPT, "The cat", "def f(x):"], SamplingParams(max_tokens=24)
    expected = generate(load("pocket-0.25m", "pocket-0.6m"), prompts, method, sampling=sampling)
    with serving(load(target="pocket-0.6m"), "plain") as here:
        members = load("pocket-0.25m", f"vllm:{here.url}#pocket-0.6m")
        found = generate(members, prompts, method, sampling=sampling)
    assert [text.token_ids for text in found] == [text.token_ids for text in expected]
    assert [text.stop_reason for text in found] == [text.stop_reason for text in expected]
    assert [[token.target_prob for token in text.tokens] for text in found] == [
        pytest.approx([token.target_prob for token in text.tokens], abs=1e-5) for text in expected
    ]


def test_tokens_by_their_ids(running: Running) -> None:
    body = {"max_tokens": 3, "temperature": 0, "return_token_ids": True, "return_tokens_as_token_ids": True}
    _, answer, _ = ask(running.url, "/v1/completions", body | {"prompt": PROMPT, "logprobs": 2})
    choice = answer["choices"][0]
    names = [f"token_id:{token}" for token in choice["token_ids"]]
    assert choice["logprobs"]["tokens"] == names
    assert all(name in top for name, top in zip(names, choice["logprobs"]["top_logprobs"], strict=True))
    messages = [{"role": "user", "content": "Hi"}]
    chat = body | {"messages": messages, "logprobs": True, "top_logprobs": 1}
    _, answer, _ = ask(running.url, "/v1/chat/completions", chat)
    choice = answer["choices"][0]
    assert [each["token"] for each in choice["logprobs"]["content"]] == [f"token_id:{i}" for i in choice["token_ids"]]


def test_a_model_that_tells_some_tokens_only_scores_no_prompts() -> None:
    with (
        RemoteServer(answers("vllm", "pocket-0.6m")) as remote,
        serving(load("pocket-0.25m", f"vllm:{remote.url}#big"), "plain") as here,
    ):
        for more in ({"echo": True, "logprobs": 1}, {"prompt_logprobs": 1}):
            body = {"prompt": PROMPT, "max_tokens": 1, "temperature": 0} | more
            status, answer, _ = ask(here.url, "/v1/completions", body)
            assert status == 400
            assert "the target vllm:big tells the probabilities of the most likely tokens only" in str(answer)
        body = {"prompt": PROMPT, "max_tokens": 2, "temperature": 0, "echo": True}
        assert ask(here.url, "/v1/completions", body)[0] == 200


def test_echo_scores_the_prompt(running: Running, pair: Members) -> None:
    ids = pair.tokenizer.encode(PROMPT)
    body = {"prompt": [ids, ids[:5]], "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}
    _, found, _ = ask(running.url, "/v1/completions", body)
    session = pair.target.session(1)  # type: ignore[union-attr]
    z = session.score([ids], len(ids))[0].log_softmax(-1)
    for choice, sequence in zip(found["choices"], (ids, ids[:5]), strict=True):
        given = choice["logprobs"]
        assert given["token_logprobs"][0] is given["top_logprobs"][0] is None
        scored = [float(z[place, token]) for place, token in enumerate(sequence[1:])]
        assert given["token_logprobs"][1:-1] == scored, "the very floats of the library"
        for place, (value, top) in enumerate(zip(given["token_logprobs"][1:], given["top_logprobs"][1:], strict=True)):
            assert max(top.values()) == float(z[place].max()) >= value
        assert choice["text"].startswith(pair.tokenizer.decode(sequence))
        assert len(given["tokens"]) == len(sequence) + 1
    _, scored_only, _ = ask(running.url, "/v1/completions", body | {"max_tokens": 0})
    assert scored_only["usage"]["completion_tokens"] == 0
    for long, short in zip(found["choices"], scored_only["choices"], strict=True):
        assert short["logprobs"]["token_logprobs"] == long["logprobs"]["token_logprobs"][:-1]
    streamed = running.client().completions.create(
        model=running.service.name, prompt=PROMPT, echo=True, logprobs=1, max_tokens=3, temperature=0, stream=True
    )
    assert "".join(event.choices[0].text for event in streamed).startswith(PROMPT)


def test_scores_for_another_server(running: Running, pair: Members) -> None:
    ids = pair.tokenizer.encode(PROMPT)
    body = {"prompt": ids, "prompt_logprobs": 4, "return_token_ids": True, "max_tokens": 2, "temperature": 0}
    _, found, _ = ask(running.url, "/v1/completions", body)
    [choice] = found["choices"]
    assert choice["prompt_token_ids"] == ids
    assert choice["token_ids"] == expected(pair, PROMPT, tokens=2).token_ids
    first, *others = choice["prompt_logprobs"]
    assert first is None
    for token, each in zip(ids[1:], others, strict=True):
        ranks = sorted(one["rank"] for one in each.values())
        assert ranks[:4] == [1, 2, 3, 4]
        assert each[str(token)]["decoded_token"] == pair.tokenizer.decode([token])
        assert math.fsum(math.exp(one["logprob"]) for one in each.values()) <= 1.0 + 1e-6
        by_rank = sorted(each.values(), key=lambda one: one["rank"])
        assert [one["logprob"] for one in by_rank] == sorted((one["logprob"] for one in each.values()), reverse=True)


def test_texts_to_tokens_and_back(running: Running, pair: Members) -> None:
    _, found, _ = ask(running.url, "/tokenize", {"prompt": PROMPT, "return_token_strs": True})
    assert found["tokens"] == pair.tokenizer.encode(PROMPT)
    assert (found["count"], "".join(found["token_strs"])) == (len(found["tokens"]), PROMPT)
    assert found["max_model_len"] == 1024
    assert ask(running.url, "/detokenize", {"tokens": found["tokens"]})[1] == {"prompt": PROMPT}
    _, chat, _ = ask(running.url, "/tokenize", {"messages": [{"role": "user", "content": "Hi"}]})
    assert chat["tokens"] == pair.tokenizer.encode("Question: Hi\nAnswer:")


# ---- what is refused


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"prompt": "a", "nonsense": 1}, "unrecognized request argument: nonsense"),
        ({"prompt": "a", "suffix": "b"}, "suffix is not supported"),
        ({"prompt": "a", "best_of": 3}, "best_of is not supported"),
        ({}, "missing required parameter: prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "no tokens"),
        ({"prompt": [1, 9999]}, "outside the vocabulary"),
        ({"prompt": [1, -1]}, "prompt"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens=0"),
        ({"prompt": "a", "max_tokens": 2000}, "maximum context length is 1024 tokens"),
        ({"prompt": "word " * 3000}, "maximum context length|exceeds"),
        ({"prompt": "a", "temperature": 3}, "temperature"),
        ({"prompt": "a", "temperature": "1"}, "temperature"),
        ({"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias"),
        ({"prompt": "a", "logit_bias": {"99999": 1}}, "outside the vocabulary"),
        ({"prompt": "a", "logprobs": 50}, "more than the 20"),
        ({"prompt": "a", "n": 100}, "more than the 64 texts"),
        ({"prompt": "a", "stream_options": {}}, "stream_options"),
        ({"prompt": "a", "stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
        ({"prompt": "a", "fsgen": {"method": "guess"}}, "unknown method 'guess'; there are oracle"),
        ({"prompt": "a", "fsgen": {"method": "os:system"}}, "unknown method 'os'"),
        ({"prompt": "a", "fsgen": {"method": "route:fusion=os:system"}}, "unknown fusion 'os'"),
        ({"prompt": "a", "fsgen": {"router": "learned:/etc/passwd"}}, "unknown router 'learned'"),
        ({"prompt": "a", "fsgen": {"method": "proxy"}}, "needs a base model"),
        ({"prompt": "a", "fsgen": {"draft_tokens": 99}}, "draft_tokens"),
        ({"prompt": "a", "fsgen": {"verifier": "exact"}}, "verifier 'exact' is for greedy decoding"),
        ({"prompt": "a", "fsgen": {"threshold": 1}}, "unrecognized request argument: fsgen.threshold"),
        ({"prompt": "a\ud800"}, "surrogates"),
        (b"{", "JSON"),
        (b"[1]", "valid dictionary"),
        (b'{"prompt": ' + b"[" * 100_000, "parsing"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_by_name(running: Running, body: Any, words: str) -> None:
    import re

    status, found, headers = ask(running.url, "/v1/completions", body)
    assert status == 400, found
    assert re.search(words, found["error"]["message"]), found
    assert found["error"]["type"] == "invalid_request_error"
    assert headers["x-request-id"]


@pytest.mark.parametrize("name", ["tools", "functions", "response_format", "audio", "tool_choice"])
def test_neutral_values_are_taken_and_others_refused(running: Running, name: str) -> None:
    neutral: dict[str, Any] = {
        "tools": [],
        "functions": [],
        "response_format": {"type": "text"},
        "audio": None,
        "tool_choice": "none",
    }
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    assert ask(running.url, "/v1/chat/completions", body | {name: neutral[name]})[0] == 200
    status, found, _ = ask(running.url, "/v1/chat/completions", body | {name: {"type": "json_object"}})
    assert (status, found["error"]["code"], found["error"]["param"]) == (400, "unsupported_parameter", name)


def test_the_client_knows_our_errors(running: Running) -> None:
    client = running.client()
    with pytest.raises(openai.NotFoundError, match="'gpt-4' does not exist"):
        client.completions.create(model="gpt-4", prompt="a")
    with pytest.raises(openai.BadRequestError, match="max_tokens") as refused:
        client.completions.create(model=running.service.name, prompt="a", max_tokens=5000)
    assert refused.value.code in ("invalid_value", "context_length_exceeded")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")
    assert client.models.retrieve(running.service.name).id == running.service.name
    assert [model.id for model in client.models.list()] == [running.service.name]
    assert ask(running.url, "/v1/embeddings", {})[0] == 404
    assert ask(running.url, "/v1/completions")[0] == 405


def test_models_without_a_template_refuse_messages(pair: Members) -> None:
    with serving(trio()) as other:
        body = {"messages": [{"role": "user", "content": "Hi"}]}
        status, found, _ = ask(other.url, "/v1/chat/completions", body)
        assert status == 400
        assert "chat template" in found["error"]["message"]


def test_a_method_can_be_fixed(pair: Members) -> None:
    from fsgen.serve.run import make_service

    service, _ = make_service(pair, running_method("speculative"), Limits(rows=2), choosing=False)
    from fsgen.serve.errors import ApiError
    from fsgen.serve.schema import FsgenOptions

    with pytest.raises(ApiError, match="fixed"):
        service.method_of(FsgenOptions(method="plain"))
    assert service.method_of(FsgenOptions(candidates=2)) == service.method


def running_method(name: str) -> Any:
    from fsgen.methods.method import parse

    return parse(name)


# ---- the server's state


def test_state_and_metrics(running: Running) -> None:
    ask(running.url, "/v1/completions", {"prompt": PROMPT, "max_tokens": 8, "fsgen": {"draft_tokens": 3}})
    until(running.idle)
    assert ask(running.url, "/health")[:2] == (200, {"status": "ok"})
    assert ask(running.url, "/ready")[:2] == (200, {"status": "ready"})
    text = ask(running.url, "/metrics")[1].decode()
    values = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line[0] != "#"}
    name = f'model_name="{running.service.name}"'
    assert values[f"vllm:generation_tokens_total{{{name}}}"] >= 8
    by_source = [value for key, value in values.items() if key.startswith("fsgen:tokens_total")]
    assert sum(by_source) == values[f"vllm:generation_tokens_total{{{name}}}"]
    accepted = values[f"vllm:spec_decode_num_accepted_tokens_total{{{name}}}"]
    places = [
        value for key, value in values.items() if key.startswith("vllm:spec_decode_num_accepted_tokens_per_pos_t")
    ]
    assert sum(places) == accepted <= values[f"vllm:spec_decode_num_draft_tokens_total{{{name}}}"]
    assert values[f"vllm:num_requests_running{{{name}}}"] == 0
    for each in ("time_to_first_token_seconds", "request_time_per_output_token_seconds", "e2e_request_latency_seconds"):
        assert values[f"vllm:{each}_count{{{name}}}"] >= 1
    _, state, _ = ask(running.url, "/fsgen/state")
    assert state["rows"] == 8
    assert (
        sum(entry["known"] for entry in state["history"]) >= sum(entry["differing"] for entry in state["history"]) > 0
    )


def test_look_up_drafts_as_well(pair: Members) -> None:
    from fsgen.api import method_for
    from fsgen.backends import load
    from fsgen.serve.page import settings

    members = load("ngram:3", pair.target)
    with serving(members, method_for(members, "speculative")) as found:
        _, text, _ = ask(
            found.url, "/v1/completions", {"prompt": PROMPT, "max_tokens": 20, "temperature": 0, "fsgen": {}}
        )
        assert text["choices"][0]["text"] == expected(pair, PROMPT, "plain", tokens=20).text
        methods = settings(found.service)["methods"]
        assert "speculative" in methods
        assert "contrastive" not in methods
        status, refused, _ = ask(found.url, "/v1/completions", {"prompt": PROMPT, "fsgen": {"method": "contrastive"}})
        assert (status, "draft" in refused["error"]["message"]) == (400, True)


@pytest.mark.parametrize(("role", "method"), [("target", "speculative"), ("draft", "route")])
def test_most_likely_tokens_that_a_member_does_not_tell_are_refused(role: str, method: str) -> None:
    members = trio()
    getattr(members, role).capabilities = Capabilities(full_logits=False)
    body = {"prompt": [1, 2], "max_tokens": 8, "temperature": 0, "fsgen": {"method": method}}
    with serving(members) as here:
        status, found, _ = ask(here.url, "/v1/completions", body | {"logprobs": 3})
        assert status == 400
        told = f"the {role} {members.names()[role]} tells the probabilities of the most likely tokens only"
        assert found["error"]["message"] == f"{told}, and so not of any 3: ask for each token's own alone"
        assert ask(here.url, "/v1/completions", body | {"logprobs": 0})[0] == 200
        assert ask(here.url, "/v1/completions", body)[0] == 200
