"""Texts that a target wrote, from files: all that acceptance is counted from.

A line of a file is one of these, as JSON:

    {"prompt": ..., "completion": "..."}                     with "token_ids", "logprobs", "temperature" where known
    {"request": {...}, "response": {"choices": [...]}}       a logged request of an OpenAI-compatible API
    {"line": 1, "text": "...", "tokens": [...], ...}         a result of `fsgen generate`; its prompts in another file
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fsgen.methods.fusions import Target
from fsgen.methods.method import PRESETS
from fsgen.prompts import Tokenizing, encode

COMPLETIONS = ("completion", "response", "output", "text")
ROUNDING = 1e-3  # of a sum of log-probabilities; above 0 they are none


@dataclass(frozen=True)
class Written:
    """A text that a target wrote.

    Attributes:
        prompt, tokens: token ids of the prompt and of what was written, end-of-text token included where it is known.
        temperature: 0 where it is greedy.
        filtered: top-k, top-p, min-p or a penalty was set, so that log-probabilities are not those that drew it.
        logprobs: of each token by the target, at temperature 1; None where they are not known.
        cut: it ended at its length limit.
        retokenized: its token ids are not those that were written, but what its text encodes to.
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    temperature: float = 0.0
    filtered: bool = False
    logprobs: tuple[float, ...] | None = None
    cut: bool = False
    retokenized: bool = False

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def exact(self) -> bool:
        """Whether the chance that a drafted token is accepted can be computed, not only bounded."""
        plain = self.temperature == 1 and not self.filtered and self.logprobs is not None
        return self.greedy or plain


def read_texts(path: Path, members: Tokenizing, vocab_size: int, prompts: Path | None = None) -> list[Written]:
    """The texts of a file.

    Args:
        path: JSON lines, as above.
        members: whose tokenizer it is.
        vocab_size: token ids from there on are of another tokenizer.
        prompts: where the lines are results of `fsgen generate`, what was given to it by `--input`.

    Raises:
        ValueError: an empty file, a line that is none of these, by its number, token ids that another tokenizer made.
    """
    asked = None if prompts is None else _lines(prompts)
    found = []
    for number, line in _lines(path).items():
        try:
            one = _text(_record(line), members, asked)
            if one is not None:
                _check(one, members, vocab_size)
                found.append(one)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"line {number} of {str(path)!r}: {_why(error)}") from None
    if not found:
        raise ValueError(f"{str(path)!r} holds no text: a line for each is needed, with a prompt and a completion")
    return found


def _lines(path: Path) -> dict[int, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{str(path)!r} is not text in UTF-8, and so holds no JSON lines") from None
    return {number: line for number, line in enumerate(text.split("\n"), 1) if line.strip()}


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"it is no text of a known form ({error!r})"


def _record(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ValueError(f"it is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError("it is no object with a prompt and a completion")
    return value


def _text(record: dict[str, Any], members: Tokenizing, asked: dict[int, str] | None) -> Written | None:
    """The text of a line; None where nothing was written."""
    if {"line", "key", "stats"} <= record.keys():
        return _of_result(record, members, asked)
    if isinstance(response := record.get("response"), dict) or "choices" in record:
        response = response if isinstance(response, dict) else record
        return _of_response(record, response.get("body") or response, members)
    key = next((key for key in COMPLETIONS if isinstance(record.get(key), str)), None)
    if "prompt" not in record or (key is None and "token_ids" not in record):
        raise ValueError('it has no "prompt" with a "completion", and is no logged request with its response')
    prompt = encode(members, record["prompt"])
    ids, again = _ids(record.get("token_ids"), record[key] if key else None, members)
    sampling = record.get("sampling") or record
    made = _made(prompt, ids, sampling, 0.0, again)
    if made is None:
        return None
    made = replace(made, cut=record.get("finish_reason", record.get("stop_reason")) == "length")
    given = record.get("logprobs")
    return _with_logprobs(made, given) if isinstance(given, list) else made


def _made(
    prompt: Iterable[int], ids: Iterable[int], sampling: dict[str, Any], usual: float, again: bool
) -> Written | None:
    tokens = tuple(ids)
    if not tokens:
        return None
    temperature = sampling.get("temperature", usual)
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not 0 <= temperature < math.inf:
        raise ValueError(f"temperature={temperature!r} is impossible")
    off: dict[str, tuple[Any, ...]] = {
        "top_k": (0, -1, None),
        "top_p": (1, None),
        "min_p": (0, None),
        "presence_penalty": (0, None),
    }
    off |= {"frequency_penalty": (0, None), "repetition_penalty": (1, None), "logit_bias": (None, {}, [])}
    filtered = any(name in sampling and sampling[name] not in values for name, values in off.items())
    return Written(tuple(prompt), tokens, float(temperature), filtered, retokenized=again)


def _ids(given: Any, text: str | None, members: Tokenizing) -> tuple[list[int], bool]:
    """Token ids as they were logged, or else as the text encodes to; whether it is the latter."""
    if given is not None:
        if not isinstance(given, list) or not all(isinstance(token, int) for token in given):
            raise ValueError("its token ids are no list of whole numbers")
        if text is not None:
            back = members.tokenizer.decode(given, skip_special_tokens=True)
            if text.strip() and text.strip() not in back:
                raise ValueError("its token ids are of another tokenizer: they say something else than its text")
        return given, False
    return list(members.tokenizer.encode(text or "", add_special_tokens=False)), True


def _require_target(method: Any) -> None:
    """Raises ValueError for a method that writes other texts than the target does alone."""
    preset = PRESETS.get(str(method).partition(":")[0])  # never one's own: a file must not import code
    if preset is None or preset.skips_verification or not isinstance(preset.fusion, Target):
        raise ValueError(f"it was written by the method {method!r}, and so is not the target's own text")


def _of_result(record: dict[str, Any], members: Tokenizing, asked: dict[int, str] | None) -> Written | None:
    """A line that `fsgen generate --input FILE` wrote."""
    if asked is None:
        raise ValueError("a result of fsgen has no prompt: give the file that was its --input by --prompts")
    stats = record["stats"]
    if "method" in record:
        _require_target(record["method"])
    elif stats["tokens"] > stats["consulted"]:
        raise ValueError(
            f"of its {stats['tokens']} tokens the target has seen {stats['consulted']}: it is not its text"
        )
    if record["line"] not in asked:
        raise ValueError(f"its prompt was in line {record['line']} of the input, which --prompts does not have")
    wanted = json.loads(asked[record["line"]])
    prompt = encode(members, wanted["prompt"] if isinstance(wanted, dict) and "prompt" in wanted else wanted)
    if len(prompt) != record["prompt_tokens"]:
        raise ValueError(f"its prompt has {len(prompt)} tokens here, and had {record['prompt_tokens']}")
    given = [token["id"] for token in record["tokens"]] if "tokens" in record else None
    ids, again = _ids(given, record["text"], members)
    # What it was sampled with is not in a result; only that it was.
    sampled = bool(stats["sampled"])
    sampling = (wanted.get("sampling") or {}) if isinstance(wanted, dict) else {}
    made = _made(prompt, ids, sampling, 1.0 if sampled else 0.0, again)
    if made is None:
        return None
    filtered = made.filtered or (sampled and "temperature" not in sampling)
    made = replace(made, filtered=filtered, cut=record["stop_reason"] == "length")
    chosen = [pairs[0][1] for pairs in record.get("logprobs", [])]
    return _with_logprobs(made, chosen) if chosen else made


def _of_response(record: dict[str, Any], response: dict[str, Any], members: Tokenizing) -> Written | None:
    """A logged request of an OpenAI-compatible API."""
    request = record.get("request") or record
    request = request.get("body") or request
    given = request.get("messages", request.get("prompt"))
    if given is None:
        raise ValueError("the request has neither a prompt nor messages")
    if isinstance(ours := response.get("fsgen"), dict) and "method" in ours:  # of `fsgen serve`
        _require_target(ours["method"])
    choice = response["choices"][0]
    chat = "message" in choice
    text = (choice["message"].get("content") or "") if chat else choice["text"]
    prompt = encode(members, choice.get("prompt_token_ids") or response.get("prompt_token_ids") or given)
    ids, again = _ids(choice.get("token_ids"), text, members)
    made = _made(prompt, ids, request, 1.0, again)
    if made is None:
        return None
    made = replace(made, cut=choice.get("finish_reason") == "length")
    logged = choice.get("logprobs") or {}
    if chat:
        pairs = [(each["token"], each["logprob"]) for each in logged.get("content") or []]
    else:
        pairs = list(zip(logged.get("tokens") or [], logged.get("token_logprobs") or [], strict=True))
    if not pairs:
        return made
    named = [token.removeprefix("token_id:") for token, _ in pairs]
    if all(token.startswith("token_id:") for token, _ in pairs):
        made = replace(made, tokens=tuple(map(int, named)), retokenized=False)
    return _with_logprobs(made, [value for _, value in pairs])


def _with_logprobs(made: Written, values: Sequence[Any]) -> Written:
    """The text with its log-probabilities, where there is one for each token; else they say nothing token by token."""
    if len(values) != len(made.tokens) or any(value is None for value in values):
        return made
    numbers = tuple(float(value) for value in values)
    if any(math.isnan(value) or value > ROUNDING for value in numbers):
        raise ValueError("its log-probabilities are above 0 or no numbers")
    return replace(made, logprobs=numbers)


def _check(one: Written, members: Tokenizing, vocab_size: int) -> None:
    if (most := max((*one.prompt, *one.tokens))) >= vocab_size or min((*one.prompt, *one.tokens)) < 0:
        raise ValueError(
            f"the token id {most} is of another tokenizer: the models have a vocabulary of {vocab_size} ids"
        )
    if not one.prompt:
        raise ValueError("its prompt has no tokens")
    if len(one.prompt) + len(one.tokens) > members.context:
        raise ValueError(f"its {len(one.prompt) + len(one.tokens)} tokens exceed the context window {members.context}")
