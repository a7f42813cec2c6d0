"""What a prompt may be: texts, token ids, conversations, one or several, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import fsgen
from fsgen.backends.tokenizer import Tokenizer, plain_tokenizer
from fsgen.prompts import chat_text, encode, separate
from fsgen.replay import replay
from fsgen.verify import verify
from tests.doubles import Letters, trio
from tests.tiny import save_tiny, tiny_tokenizer

HI = [{"role": "user", "content": "hi"}]
TALK = [{"role": "system", "content": "be brief"}, *HI, {"role": "assistant", "content": "ho"}, *HI]
CHATML = (
    "{% for message in messages %}\n"
    "    {%- if message.role == 'system' and not loop.first %}{{ raise_exception('system comes first') }}{% endif %}\n"
    "<{{ message.role }}>{{ message['content'] | trim }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TEMPLATES = (
    CHATML,
    "{{ bos_token }}{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m | tojson }}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}{{ strftime_now('%Y') }}",
    "{% if tools is not none %}tools{% endif %}{{ documents }}{{ nothing }}{{ messages[0].content[:2] }}",
)


class Chatting(Letters):
    """Letters with a chat template: the contents, one after the other, and an `a` that begins the answer."""

    chat_template = "there is one"

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return super().encode(text)

    def apply_chat_template(self, messages: Any, tokenize: bool, add_generation_prompt: bool) -> str:
        if any(message["role"] == "tool" for message in messages):
            raise KeyError("tool")
        return "".join(message["content"] for message in messages) + "a" * add_generation_prompt


def members(tokenizer: Any = None) -> fsgen.Members:
    return trio(vocab=27, tokenizer=tokenizer or Chatting())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("hello", ["hello"]),
        ("", [""]),
        ([], []),
        ((), []),
        ([5, 9], [[5, 9]]),
        ((5, 9), [(5, 9)]),
        (np.array([5, 9]), [[5, 9]]),
        (torch.tensor([[5, 9], [1, 2]]), [[5, 9], [1, 2]]),
        ([torch.tensor(5), np.int64(9)], [[torch.tensor(5), np.int64(9)]]),
        (["a", "b"], ["a", "b"]),
        ([[5], [9]], [[5], [9]]),
        ([[]], [[]]),
        (HI, [HI]),
        ([HI, TALK], [HI, TALK]),
        (["a", [5, 9], HI, torch.tensor([1])], ["a", [5, 9], HI, torch.tensor([1])]),
    ],
    ids=str,
)
def test_what_is_one_prompt_and_what_are_several(given: Any, expected: list[Any]) -> None:
    assert separate(given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a", 5], "holds a text and a token id"),
        ([5, HI[0]], "holds a message and a token id"),
        (["a", *HI], "holds a message and a text"),
        (HI[0], "a message stands in a list"),
        (5, "5 is no prompt"),
        (None, "None is no prompt"),
        (b"hello", "is no prompt"),
        ([1.5], "item 0 of the prompt, 1.5"),
        ([True], "item 0 of the prompt, True"),
        ([None], "item 0 of the prompt, None"),
        ([{"role": "user"}], "message 0 is not one"),
        ([*HI, {"content": "x"}], "message 1 is not one"),
        ([{"role": 3, "content": "x"}], "message 0 is not one"),
        ([["a"]], "one prompt is wanted"),
        ([[[5]]], "one prompt is wanted"),
        ([("user", "hi")], "one prompt is wanted"),
    ],
    ids=str,
)
def test_what_is_no_prompt_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        fsgen.generate(members(), given)


def test_a_text_is_a_text_and_no_prompts_are_none() -> None:
    group = members()
    written = fsgen.generate(group, "hello")
    assert [one.token_ids for one in written] == [fsgen.generate(group, ["hello"])[0].token_ids]
    ids = group.tokenizer.encode("hello")
    given: list[Any] = [ids, tuple(ids), np.array(ids), torch.tensor(ids), [torch.tensor(ids)]]
    for same in given:
        assert fsgen.generate(group, same)[0].token_ids == written[0].token_ids
    assert fsgen.generate(group, []) == []
    with pytest.raises(ValueError, match="unknown method"):
        fsgen.generate(group, [], method="guess")
    with pytest.raises(ValueError, match="needs a base"):
        fsgen.generate(trio_without_base(), [], method="proxy")


def trio_without_base() -> fsgen.Members:
    group = members()
    return fsgen.Members.of(draft=group.draft, target=group.target)


def test_messages_go_wherever_a_prompt_goes() -> None:
    group = members()
    (expected,) = fsgen.generate(group, "hia", "plain")
    assert fsgen.generate(group, HI, "plain")[0].token_ids == expected.token_ids
    both = fsgen.generate(group, [HI, TALK[1:]], "plain")
    assert [one.prompt_tokens for one in both] == [3, 7]
    assert both[0].token_ids == expected.token_ids
    assert next(fsgen.stream(group, HI, draft_tokens=3)).id == expected.token_ids[0]
    assert verify(group, HI, max_tokens=8).texts == 1
    (again,) = replay([group], HI, [expected])
    assert again[0].token_ids == expected.token_ids
    with pytest.raises(ValueError, match="one prompt is wanted"):
        next(fsgen.stream(group, ["a", "b"]))  # type: ignore[arg-type]


def test_messages_need_a_template_that_takes_them() -> None:
    with pytest.raises(ValueError, match=r"has none \(base models such as the bundled ones have not\)"):
        fsgen.generate(members(Letters()), HI)
    with pytest.raises(ValueError, match=r"refuses these messages: 'tool'"):
        fsgen.generate(members(), [{"role": "tool", "content": "x"}])
    group = members()
    silent = fsgen.Members(None, group.target, None, None, 27, 512, frozenset())
    with pytest.raises(ValueError, match="no tokenizer: give token ids"):
        encode(silent, "a")
    assert encode(silent, [3]) == [3]


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_are_rendered_as_transformers_does(template: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path)
    ours, theirs = plain_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(ours, Tokenizer)
    assert ours.chat_template == theirs.chat_template == template
    for talk in (HI, TALK, [{"role": "user", "content": "<b> ü \"x\" & 'y' \n\n z "}]):
        for begun in (False, True):
            expected = theirs.apply_chat_template(talk, tokenize=False, add_generation_prompt=begun)
            assert ours.apply_chat_template(talk, tokenize=False, add_generation_prompt=begun) == expected
    group = members(ours)
    assert encode(group, TALK) == theirs.apply_chat_template(TALK, add_generation_prompt=True)["input_ids"]


def test_templates_refuse_and_are_kept_in_a_sandbox(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    for template, message in (
        (CHATML, "system comes first"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% for", "refuses these messages"),
    ):
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=message):
            chat_text(plain_tokenizer(tmp_path), [*HI, {"role": "system", "content": "x"}])


def test_where_templates_are_kept(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = {"default": "one", "tool_use": "two"}
    tokenizer.save_pretrained(tmp_path)
    assert plain_tokenizer(tmp_path) is None  # several files: left to transformers
    assert chat_text(AutoTokenizer.from_pretrained(tmp_path), HI) == "one"
    plain = save_tiny(tmp_path / "plain")
    file = plain / "tokenizer_config.json"
    file.write_text(file.read_text().replace("{", '{"chat_template": [{"name": "default", "template": "three"}],', 1))
    found = plain_tokenizer(plain)
    assert found is not None
    assert chat_text(found, HI) == "three" == chat_text(AutoTokenizer.from_pretrained(plain), HI)
