"""Collaborative decoding behind `model.generate(..., custom_generate=FOLDER, trust_remote_code=True)` of transformers.

`fsgen export-transformers FOLDER --draft ...` makes the folder: a `custom_generate/generate.py` of a few lines with the
settings, which calls `generate` below, and the requirement that names fsgen. transformers runs that file, so it wants
`trust_remote_code=True`, for a folder of one's own too. A setting may be given in the call instead: `method=...`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fsgen
from fsgen.api import generate as write
from fsgen.api import stream
from fsgen.backends import Members, load, plan
from fsgen.backends.members import ngram_length
from fsgen.backends.places import weights_by_role
from fsgen.methods.method import parse
from fsgen.types import SamplingParams

USUAL_TOKENS = 20  # transformers' own budget where none is given
MARK = "Made by `fsgen export-transformers`"
SETTINGS = ("draft", "base", "method", "router", "draft_tokens", "weights")
_KNOWN = {
    *("attention_mask", "input_ids", "max_new_tokens", "max_length", "min_new_tokens", "min_length", "do_sample"),
    *("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "eos_token_id", "pad_token_id", "stop_strings"),
    *("num_return_sequences", "streamer", "tokenizer", "assistant_model", "return_dict_in_generate"),
}
_WITHOUT_EFFECT = {
    *("transformers_version", "_from_model_config", "bos_token_id", "decoder_start_token_id", "use_cache"),
    *("cache_implementation", "cache_config", "early_stopping", "length_penalty", "num_assistant_tokens"),
    *("num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind"),
    *("is_assistant", "max_matching_ngram_size"),
}
_ONE = {"num_beams", "num_beam_groups", "typical_p", "encoder_repetition_penalty"}  # where 1 changes nothing

TEMPLATE = '''"""Collaborative decoding of this model with a smaller one.

{mark}; call it so:

    model.generate(**inputs, custom_generate=FOLDER, trust_remote_code=True)
"""

from fsgen.integrations.transformers import generate as _generate

SETTINGS = {settings}


def generate(model, **arguments):
    """What `model.generate` calls, with all its arguments."""
    return _generate(model, **{{**SETTINGS, **arguments}})
'''


def export(folder: Path, settings: Mapping[str, Any]) -> Path:
    """Writes the folder that `custom_generate=` takes, and gives its `generate.py`.

    Args:
        folder: new, or that of a model, which then has its own `generate`.
        settings: draft, base, method, router, draft_tokens and weights; None for the usual.

    Raises:
        ValueError: settings that cannot work; a `generate.py` that was not made by this function.
    """
    given = {name: _absolute(settings.get(name)) for name in SETTINGS if settings.get(name) is not None}
    method = parse(given.get("method", "speculative"), given.get("router"), given.get("draft_tokens"))
    method.require({"target", *given})
    named = {role: given[role] for role in ("draft", "base") if role in given}
    if ngram := ngram_length(given.get("draft")):
        method = replace(method, ngram=ngram)  # which refuses what is too long
        del named["draft"]
    weights_by_role(_for_draft(given.get("weights", "auto")), named)
    if named:
        plan(**named)  # that they are there
    file = folder / "custom_generate" / "generate.py"
    if file.exists() and MARK not in file.read_text(encoding="utf-8"):
        raise ValueError(f"the file {str(file)!r} is there, and another program wrote it")
    file.parent.mkdir(parents=True, exist_ok=True)
    shown = "{\n" + "".join(f"    {json.dumps(name)}: {value!r},\n" for name, value in given.items()) + "}"
    file.write_text(TEMPLATE.format(mark=MARK, settings=shown), encoding="utf-8")
    (file.parent / "requirements.txt").write_text(f"fsgen>={fsgen.__version__}\n", encoding="utf-8")
    return file


def _absolute(value: Any) -> Any:
    """A path that is there from any folder: of a model, and of a learned router."""
    if isinstance(value, str):
        kind, colon, rest = value.rpartition(":")
        if kind in ("", "learned") and Path(rest).exists():
            return f"{kind}{colon}{Path(rest).absolute()}"
    return value


def generate(
    model: Any,
    inputs: Tensor | None = None,
    generation_config: Any = None,
    *,
    draft: Any = None,
    base: Any = None,
    method: str = "speculative",
    router: str | None = None,
    draft_tokens: int | str | None = None,
    weights: str = "auto",
    **arguments: Any,
) -> Any:
    """What `model.generate` gives, written by the model and a draft; greedy texts of a lossless method are the model's.

    Args:
        model: the target, a causal language model of transformers.
        inputs: token ids [rows, tokens], padded on the left; or `input_ids`.
        generation_config: as transformers takes it; the model's own settings where it and the arguments say nothing.
        draft, base, method, router, draft_tokens, weights: as in `fsgen.load` and `fsgen.generate`; an
            `assistant_model` is the draft where none is given.
        arguments: of `model.generate`. Random numbers come from torch's generator, as there.

    Returns:
        token ids [rows, tokens], prompts included; or `GenerateDecoderOnlyOutput` where that was asked for.

    Raises:
        ValueError: an argument that this cannot follow, named; as `fsgen.generate`.
    """
    asked = _asked(model, generation_config, arguments)
    ids = inputs if inputs is not None else asked.get("input_ids")
    if not isinstance(ids, Tensor) or ids.dim() != 2:
        raise ValueError("token ids are needed, as a tensor [rows, tokens]")
    members = _members(model, draft or asked.get("assistant_model"), base, weights, asked.get("tokenizer"))
    ends = _ends(asked, members)
    pad = asked.get("pad_token_id")
    prompts = _prompts(ids, asked.get("attention_mask"), pad, ends)
    sampling = _sampling(asked, ids.shape[1], ends)
    settings: dict[str, Any] = {"method": method, "router": router, "draft_tokens": draft_tokens, "sampling": sampling}
    if (streamer := asked.get("streamer")) is not None:
        written = [_streamed(members, ids, prompts, streamer, settings)]
    else:
        written = [each.token_ids for each in write(members, prompts, batch_size=len(prompts), **settings)]
    longest = max(map(len, written))
    filler = pad if pad is not None else ends[0] if ends else 0
    padded = [row + [filler] * (longest - len(row)) for row in written]
    begun = ids.repeat_interleave(sampling.n, dim=0)
    whole = torch.cat([begun, torch.tensor(padded, dtype=ids.dtype, device=ids.device)], dim=1)
    if not asked.get("return_dict_in_generate"):
        return whole
    from transformers.generation import GenerateDecoderOnlyOutput

    return GenerateDecoderOnlyOutput(sequences=whole)


def _asked(model: Any, generation_config: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for: by the arguments, else by the configuration given, else by the model's own."""
    asked: dict[str, Any] = {}
    for config in (model.generation_config, generation_config):
        asked |= {} if config is None else config.to_diff_dict()
    asked |= {name: value for name, value in arguments.items() if value is not None}
    for name, value in asked.items():
        if name in _KNOWN or name in _WITHOUT_EFFECT or (name in _ONE and value == 1):
            continue
        if isinstance(value, Tensor) or value:
            raise ValueError(f"{name}={value!r:.60} is nothing that collaborative decoding can follow")
    return asked


def _members(model: Any, draft: Any, base: Any, weights: str, tokenizer: Any) -> Members:
    """The models, loaded at the first call and kept with the target."""
    kept: dict[Any, Members] = model.__dict__.setdefault("_fsgen_members", {})
    key = (draft if isinstance(draft, str) else id(draft), base if isinstance(base, str) else id(base), weights)
    if key not in kept:
        place = "cpu" if model.device.type == "cpu" else str(model.device)
        kept[key] = load(draft, model, base, device=place, weights=_for_draft(weights), tokenizer=tokenizer)
    return kept[key]


def _for_draft(weights: str) -> str:
    """The types of weights by role: the draft's, where they do not say whose."""
    return weights if weights == "auto" or "=" in weights else f"draft={weights}"


def _ends(asked: Mapping[str, Any], members: Members) -> list[int]:
    """The tokens that end a text."""
    given = asked.get("eos_token_id")
    if isinstance(given, Tensor):
        given = given.tolist()
    if given is None:
        return sorted(members.eos_ids)
    return [given] if isinstance(given, int) else list(given)


def _prompts(ids: Tensor, mask: Tensor | None, pad: int | None, ends: list[int]) -> list[list[int]]:
    """The tokens of each row without its padding; which that is, is inferred as transformers does if no mask says."""
    if mask is None and pad is not None and pad not in ends:
        mask = ids.ne(pad)
    if mask is None:
        return [list(row) for row in ids.tolist()]
    if mask.shape != ids.shape:
        raise ValueError(f"attention_mask has the shape {tuple(mask.shape)}, and the token ids have {tuple(ids.shape)}")
    if not bool((mask.bool()[:, 1:] >= mask.bool()[:, :-1]).all()):
        raise ValueError("prompts must be padded on the left: padding_side='left'")
    return [row[keep].tolist() for row, keep in zip(ids, mask.bool(), strict=True)]


def _sampling(asked: Mapping[str, Any], width: int, ends: list[int]) -> SamplingParams:
    """How texts are written, by the arguments of transformers and with its defaults."""
    budget = asked.get("max_new_tokens")
    if budget is None:
        budget = asked["max_length"] - width if "max_length" in asked else USUAL_TOKENS
    least = asked.get("min_new_tokens", max(0, asked.get("min_length", 0) - width))
    settings: dict[str, Any] = {"max_tokens": int(budget), "min_tokens": int(least)}
    if asked.get("do_sample"):
        usual = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0}
        settings |= {name: asked.get(name, value) for name, value in usual.items()}
        settings["seed"] = int(torch.randint(2**62, ()))
    return SamplingParams(
        **settings,
        repetition_penalty=asked.get("repetition_penalty", 1.0),
        stop=asked.get("stop_strings", ()),
        stop_token_ids=ends,
        ignore_eos=True,  # the tokens that end a text are those that were asked for
        n=asked.get("num_return_sequences", 1),
    )


def _streamed(
    members: Members, ids: Tensor, prompts: list[list[int]], streamer: Any, settings: Mapping[str, Any]
) -> list[int]:
    """The tokens of one text, each handed on as it is written."""
    if len(prompts) != 1:
        raise ValueError(f"a streamer takes one row, and there are {len(prompts)}")
    streamer.put(ids.cpu())
    written = []
    for token in stream(members, prompts[0], **settings):
        written.append(token.id)
        streamer.put(torch.tensor([token.id]))
    streamer.end()
    return written
