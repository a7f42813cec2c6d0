"""Outputs of runs elsewhere as a member: it has written these texts, and can write no others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fsgen.backends.identity import vocabulary_digest
from fsgen.backends.protocol import LONGEST
from fsgen.backends.remote.address import RECORDED
from fsgen.backends.remote.http import RefusedError
from fsgen.backends.remote.model import Asked, Keep, RemoteModel
from fsgen.backends.remote.said import Said
from fsgen.backends.remote.wire import Wanted
from fsgen.types import ModelInfo

if TYPE_CHECKING:
    from fsgen.backends.remote.tokenizer import TokenizerOf

MODEL, OUTPUTS = "model.json", "outputs.parquet"
_SCHEMA = pa.schema(
    [
        ("prompt", pa.list_(pa.int32())),
        ("tokens", pa.list_(pa.int32())),
        ("finish", pa.string()),
        ("width", pa.int32()),
        ("ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
    ]
)


class Recorded:
    """Texts by their prompts (see `fsgen.backends.remote.model.Source`)."""

    rereads = False

    def __init__(self, name: str, texts: Mapping[tuple[int, ...], tuple[Said, str]]) -> None:
        self._name, self._texts = name, texts

    def write(self, wanted: Sequence[Wanted], keep: Keep) -> None:
        """The texts, as they were written; see `Source.write`."""
        faults = []
        for i, one in enumerate(wanted):
            if (found := self._texts.get(tuple(one.context))) is None:
                faults.append(f"{self._name} has no text for a prompt of {len(one.context)} tokens")
                continue
            said, finish = found
            if finish == "length" and len(said.tokens) < one.max_tokens:
                faults.append(
                    f"a text of {self._name} was cut at {len(said.tokens)} tokens, and {one.max_tokens} are asked for"
                )
                continue
            keep(i, _ended(said, one, finish))
        if faults:
            raise RefusedError(faults[0])

    def score(self, asked: Sequence[Asked], keep: Keep) -> None:
        """What was said of these texts, and of no others; see `Source.score`."""
        for i, (tokens, last) in enumerate(asked):
            context = tokens[: len(tokens) - last + 1]
            said = self._texts.get(tuple(context), (None, ""))[0]
            if said is None or said.tokens[: last - 1] != tokens[len(context) :] or len(said) < last:
                raise RefusedError(f"{self._name} can only write the texts that it has")
            keep(i, said)


def _ended(said: Said, wanted: Wanted, finish: str) -> Said:
    """With the token that ended it, where that was not recorded: then it is not known how likely it was."""
    if finish != "stop" or wanted.stop or len(wanted.ends) != 1 or said.tokens[-1:] == [*wanted.ends]:
        return said
    (end,) = wanted.ends
    width = max(1, said.ids.shape[1])
    ids, logprobs = np.full((1, width), -1, np.int32), np.full((1, width), -np.inf, np.float32)
    ids[0, 0], logprobs[0, 0] = end, np.nan
    return Said(
        [*said.tokens, end],
        np.concatenate([said.ids.reshape(-1, width), ids]),
        np.concatenate([said.logprobs.reshape(-1, width), logprobs]),
    )


def write_recorded(folder: Path, about: Mapping[str, Any], texts: Iterable[tuple[Sequence[int], Said, str]]) -> None:
    """Write outputs as a folder that `recorded:FOLDER` names.

    Args:
        folder: made where it does not exist.
        about: the model's name, tokenizer and parameters.
        texts: prompt, text and why it ended: `stop` or `length`.
    """
    rows = [
        {
            "prompt": list(prompt),
            "tokens": said.tokens,
            "finish": finish,
            "width": said.ids.shape[1],
            "ids": said.ids.ravel(),
            "logprobs": said.logprobs.ravel(),
        }
        for prompt, said, finish in texts
    ]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), folder / OUTPUTS)
    (folder / MODEL).write_text(json.dumps(dict(about), indent=1) + "\n", encoding="utf-8")


def open_recorded(folder: Path, tokenizer_of: Callable[[str], TokenizerOf]) -> RemoteModel:
    """The model of a folder. Raises ValueError: it holds no recorded outputs, or broken ones."""
    try:
        about = json.loads((folder / MODEL).read_text(encoding="utf-8"))
        rows = pq.read_table(folder / OUTPUTS, schema=_SCHEMA).to_pylist()
        name, tokenizer, digest = str(about["model"]), str(about["tokenizer"]), str(about["digest"])
        parameters = int(about.get("parameters", 0))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"{str(folder)!r} holds no outputs that 'fsgen import' wrote: {error}") from error
    own = tokenizer_of(tokenizer)
    if about.get("vocabulary") != vocabulary_digest(own.known):
        raise ValueError(f"the tokenizer of {tokenizer!r} is another one than that of the outputs in {str(folder)!r}")
    texts = {}
    for row in rows:
        shape = (-1, max(1, row["width"]))
        ids = np.array(row["ids"], np.int32).reshape(shape)
        logprobs = np.array(row["logprobs"], np.float32).reshape(shape)
        texts[tuple(row["prompt"])] = Said(row["tokens"], ids, logprobs), row["finish"]
    info = ModelInfo(f"{RECORDED}:{name}", str(folder), "recorded", parameters, parameters)
    longest = max((len(prompt) + len(said.tokens) for prompt, (said, _) in texts.items()), default=1)
    source = Recorded(info.name, texts)
    return RemoteModel(source, False, info, own.tokenizer, own.vocab_size, max(longest, LONGEST), own.eos_ids, digest)
