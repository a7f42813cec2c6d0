"""Outputs of runs elsewhere, read from files: what `fsgen import` makes a `recorded:FOLDER` of."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsgen.backends.identity import vocabulary_digest
from fsgen.backends.opening import open_checkpoint
from fsgen.backends.remote.recorded import write_recorded
from fsgen.backends.remote.said import Said, Top, most_likely
from fsgen.backends.remote.tokenizer import TokenizerOf, tokenizer_of
from fsgen.backends.remote.wire import greedy_top, ids_by_text
from fsgen.prompts import chat_text

Output = tuple[list[int], Said, str]
"""A prompt, its text, and why it ended: stop or length."""


@dataclass(frozen=True)
class Imported:
    """What was read.

    Attributes:
        texts: how many; tokens: of them.
        retokenized: texts whose tokens the file does not tell, made again from their text.
        without_probabilities: texts whose log-probabilities it does not tell.
    """

    texts: int
    tokens: int
    retokenized: int
    without_probabilities: int


def import_outputs(
    kind: str, file: Path, out: Path, model: str, tokenizer: str, parameters: int = 0, requests: Path | None = None
) -> Imported:
    """Make a member of outputs: `recorded:` and the folder name it.

    Args:
        kind: `vllm-outputs` (one `RequestOutput` a line, as JSON) or `openai-logs` (one request with its response a
            line, or the output of OpenAI's batches).
        file: JSON Lines.
        out: the folder, which must not exist.
        model: its name in tables.
        tokenizer: a model, folder or hub name that has its tokenizer.
        parameters: of the model; 0 if not known.
        requests: the input of OpenAI's batches, whose output has no requests.

    Raises:
        ValueError: an unknown kind, a file that is something else, with the line, texts that were sampled, or a folder
            that exists.
    """
    if kind not in READERS:
        raise ValueError(f"unknown kind of outputs {kind!r}; there are {', '.join(READERS)}")
    if out.exists():
        raise ValueError(f"{str(out)!r} exists already")
    if requests is not None and kind != "openai-logs":
        raise ValueError("requests are for openai-logs")
    own = tokenizer_of(tokenizer, open_checkpoint)
    asked = {str(row.get("custom_id")): row for _, row in _rows(requests)} if requests else {}
    read = READERS[kind](own, asked)
    found: dict[tuple[int, ...], Output] = {}
    retokenized = 0
    for number, row in _rows(file):
        try:
            output, exact = read(row)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            what = str(error) if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
            raise ValueError(f"{str(file)!r}, line {number}: no output of {kind}: {what}") from error
        key = tuple(output[0])
        if key in found and found[key][1].tokens != output[1].tokens:
            raise ValueError(f"{str(file)!r}, line {number}: another text for a prompt that was there before")
        if key not in found:
            retokenized += not exact
        found[key] = output
    if not found:
        raise ValueError(f"{str(file)!r} has no outputs")
    digest = hashlib.sha256(json.dumps([(p, said.tokens) for p, said, _ in found.values()]).encode()).hexdigest()
    about = {"model": model, "tokenizer": tokenizer, "parameters": parameters, "digest": digest}
    write_recorded(out, about | {"vocabulary": vocabulary_digest(own.known)}, found.values())
    tops = [said.logprobs for _, said, _ in found.values()]
    unknown = sum(not top.size or math.isnan(float(top[0, 0])) for top in tops)
    return Imported(len(found), sum(len(said.tokens) for _, said, _ in found.values()), retokenized, unknown)


def _rows(file: Path) -> Iterator[tuple[int, Any]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise ValueError(f"{str(file)!r}, line {number}: no JSON: {error}") from error
                if not isinstance(row, dict):
                    raise ValueError(f"{str(file)!r}, line {number}: no object")
                yield number, row


Read = Callable[[Mapping[str, Any]], tuple[Output, bool]]
"""From a row, an output and whether the row tells its tokens."""


def _vllm(own: TokenizerOf, asked: Mapping[str, Any]) -> Read:
    def read(row: Mapping[str, Any]) -> tuple[Output, bool]:
        if len(row["outputs"]) != 1:
            raise ValueError(f"{len(row['outputs'])} texts of one prompt: only greedy texts can be imported")
        output = row["outputs"][0]
        tokens = [_id(token, own) for token in output["token_ids"]]
        tops: list[Top] = [[(token, math.nan)] for token in tokens]
        if output.get("logprobs"):
            tops = [_ranked(entries, token) for entries, token in zip(output["logprobs"], tokens, strict=True)]
        return _output([_id(i, own) for i in row["prompt_token_ids"]], tokens, tops, output["finish_reason"]), True

    return read


def _ranked(entries: Mapping[str, Any], token: int) -> Top:
    pairs = ((int(i), float(e["logprob"] if isinstance(e, dict) else e)) for i, e in entries.items())
    return greedy_top(token, most_likely(pairs, len(entries), token))


def _openai(own: TokenizerOf, asked: Mapping[str, Any]) -> Read:
    ids = ids_by_text(own.tokenizer)

    def read(row: Mapping[str, Any]) -> tuple[Output, bool]:
        request = row.get("request") or asked[str(row["custom_id"])]
        request, response = request.get("body", request), row["response"]
        response = response.get("body", response)
        if request.get("temperature") != 0:
            raise ValueError(f"temperature={request.get('temperature', 1)}: only greedy texts can be imported")
        (choice,) = response["choices"]
        prompt = _prompt(own, request)
        text = str(choice["text"] if "text" in choice else choice["message"]["content"])
        known = _told(choice.get("logprobs") or {}, ids)
        if choice.get("token_ids"):
            tokens = [_id(token, own) for token in choice["token_ids"]]
            tops: list[Top] = [[(token, math.nan)] for token in tokens]
            if known is not None and known[0] == tokens[: len(known[0])]:
                tops[: len(known[1])] = known[1]
            return _output(prompt, tokens, tops, choice["finish_reason"]), True
        if known is not None:
            return _output(prompt, *known, choice["finish_reason"]), True
        tokens = list(own.tokenizer.encode(text, add_special_tokens=False))
        return _output(prompt, tokens, [[(token, math.nan)] for token in tokens], choice["finish_reason"]), False

    return read


def _prompt(own: TokenizerOf, request: Mapping[str, Any]) -> list[int]:
    if "messages" in request:
        text = chat_text(own.tokenizer, request["messages"])
        return list(own.tokenizer.encode(text, add_special_tokens=False))
    prompt = request["prompt"]
    return list(own.tokenizer.encode(prompt)) if isinstance(prompt, str) else [_id(i, own) for i in prompt]


def _told(logprobs: Mapping[str, Any], ids: Mapping[str, int]) -> tuple[list[int], list[Top]] | None:
    """Tokens and the most likely ones by their texts; None where one of the tokens may be several ids."""
    if "content" in logprobs:  # of a chat
        names = [entry["token"] for entry in logprobs["content"] or ()]
        tops = [{e["token"]: e["logprob"] for e in entry["top_logprobs"]} for entry in logprobs["content"] or ()]
    else:
        names, tops = logprobs.get("tokens") or [], logprobs.get("top_logprobs") or []
    tokens = [ids.get(name) for name in names]
    if not names or None in tokens or len(tops) != len(names):
        return None
    found = [token for token in tokens if token is not None]
    return found, [_known_top(entries, token, ids) for entries, token in zip(tops, found, strict=True)]


def _known_top(entries: Mapping[str, float], token: int, ids: Mapping[str, int]) -> Top:
    top: list[tuple[int, float]] = []
    for name, logprob in sorted(entries.items(), key=lambda entry: -entry[1]):
        if (found := ids.get(name)) is None:
            break
        top.append((found, float(logprob)))
    return greedy_top(token, top) if top else [(token, math.nan)]


def _output(prompt: list[int], tokens: list[int], tops: Sequence[Top], reason: Any) -> Output:
    if reason not in ("stop", "length"):
        raise ValueError(f"a text that ended with {reason!r}")
    if not prompt or not tokens:
        raise ValueError("a prompt or a text without tokens")
    return prompt, Said.of(tokens, tops), reason


def _id(token: Any, own: TokenizerOf) -> int:
    if type(token) is not int or not 0 <= token < own.vocab_size:
        raise ValueError(f"the token {token!r} is beyond the {own.vocab_size} of the tokenizer")
    return token


READERS: dict[str, Callable[[TokenizerOf, Mapping[str, Any]], Read]] = {"vllm-outputs": _vllm, "openai-logs": _openai}
