"""lm-evaluation-harness through the server gives the scores that the models have in process."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import torch

from fsgen import generate
from fsgen.backends import Members
from fsgen.types import SamplingParams
from tests.serve.conftest import Running

pytest.importorskip("lm_eval")
pytest.importorskip("tenacity", reason="lm-eval asks servers with its extra: pip install 'lm-eval[api]'")

QUESTIONS = [
    ("Question: What is 3 + 4?\nAnswer:", [" 7", " 12", " blue"]),
    ("def add(a, b):", ["\n    return a + b", "\n    return 0", "\nimport os"]),
    ("The water is", [" cold", " xylophone"]),
    ("Question: 1 + 1?", ["\nAnswer:", "No"]),
    ("Start with 17, add 4.\n17+4=", ["21", "No"]),
]


@pytest.fixture(scope="module")
def model(running: Running, pair: Members) -> Any:
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return LocalCompletionsAPI(
        base_url=f"{running.url}/v1/completions",
        model=running.service.name,
        tokenizer_backend="huggingface",
        tokenizer=str(pair.target.info.path),  # type: ignore[union-attr]
        batch_size=4,
        max_retries=1,
        num_concurrent=1,
    )


def instances(kind: str, arguments: list[Any]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, each, number) for number, each in enumerate(arguments)]


def test_log_likelihoods_are_those_in_process(model: Any, pair: Members) -> None:
    pairs = [(context, ending) for context, endings in QUESTIONS for ending in endings]
    found = model.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
    session = pair.target.session(1)  # type: ignore[union-attr]
    greedy = 0
    for (context, ending), (value, is_greedy) in zip(pairs, found, strict=True):
        start, whole = pair.tokenizer.encode(context), pair.tokenizer.encode(context + ending)
        z = session.score([whole[:-1]], len(whole) - 1)[0].log_softmax(-1)
        places = range(len(start) - 1, len(whole) - 1)
        assert value == sum(float(z[place, whole[place + 1]]) for place in places), "as floats"
        assert is_greedy == all(int(z[place].argmax()) == whole[place + 1] for place in places)
        greedy += is_greedy
    assert 0 < greedy < len(pairs)
    assert torch.isfinite(torch.tensor([value for value, _ in found])).all()


def test_texts_are_those_of_the_library(model: Any, pair: Members) -> None:
    contexts = [context for context, _ in QUESTIONS]
    options = {"until": ["\n\n", "Question:"], "max_gen_toks": 24, "temperature": 0}
    found = model.generate_until(
        instances("generate_until", [(each, dict(options)) for each in contexts]), disable_tqdm=True
    )
    sampling = SamplingParams(max_tokens=24, stop=("\n\n", "Question:"))
    assert found == [generate(pair, each, sampling=sampling)[0].text for each in contexts]


def test_chats_are_those_of_the_library(running: Running, pair: Members) -> None:
    from lm_eval.models.api_models import JsonChatStr
    from lm_eval.models.openai_completions import LocalChatCompletion

    model = LocalChatCompletion(
        base_url=f"{running.url}/v1/chat/completions", model=running.service.name, max_retries=1, num_concurrent=1
    )
    question = "Tom has 3 apples and buys 4. How many has he?"
    said = JsonChatStr(json.dumps([{"role": "user", "content": question}]))
    options = {"until": ["\n\n"], "max_gen_toks": 24, "temperature": 0}
    found = model.generate_until(instances("generate_until", [(said, options)]), disable_tqdm=True)
    sampling = SamplingParams(max_tokens=24, stop=("\n\n",))
    [text] = generate(pair, f"Question: {question}\nAnswer:", sampling=sampling)
    assert [each.strip() for each in found] == [text.text.strip()]
