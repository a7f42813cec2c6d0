"""A plan for other programs: vLLM, SGLang and llama.cpp, and NVIDIA's speculation_profile.json 1.0, which is read too.

They draft a fixed number of tokens and verify all: so of each batch size it is the best such configuration.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import fsgen
from fsgen.planner.choose import PLAIN, Judged
from fsgen.planner.result import Answer
from fsgen.planner.work import Question

KINDS = ("vllm", "sglang", "llama.cpp", "profile")
LARGEST_BATCH = 2**16  # beyond any server's
SCHEMA = "1.0"


def check_kind(kind: str) -> None:
    """Raises ValueError for a program that there is no export for."""
    if kind not in KINDS:
        raise ValueError(f"unknown export {kind!r}: choose {', '.join(KINDS)}")


def exported(kind: str, found: Answer, question: Question) -> str:
    """The plan as a program takes it.

    Raises:
        ValueError: an unknown program, or no draft that pays, so that there is nothing to set.
    """
    check_kind(kind)
    settings = {batch: _fixed(found, batch) for batch in found.by_batch}
    paying = {batch: one for batch, one in settings.items() if one is not None}
    if not paying:
        raise ValueError("no draft of a fixed length is surely worth it: run the server without one")
    first = paying[found.choice.batch] if found.choice.batch in paying else next(iter(paying.values()))
    if kind == "vllm":
        return _vllm(first, settings)
    if kind == "sglang":
        return _sglang(first, question)
    if kind == "llama.cpp":
        return _llama_cpp(first, question)
    return json.dumps(speculation_profile(first, question), indent=2)


def _fixed(found: Answer, batch: int) -> Judged | None:
    """The best that drafts a fixed number of tokens and verifies all; None where it is not surely worth it."""
    if found.by_batch[batch].candidate == PLAIN:
        return None
    able = [
        one
        for one in found.ranked
        if one.batch == batch
        and one.lossless
        and one.candidate.method.drafts
        and not one.candidate.method.adaptive
        and one.candidate.router == "always"
        and one.low > 1
    ]
    return max(able, key=lambda one: one.speedup.value) if able else None


def _vllm(first: Judged, settings: dict[int, Judged | None]) -> str:
    same = first.candidate.draft
    lengths = {
        batch: one.candidate.method.draft_tokens if one is not None and one.candidate.draft == same else 0
        for batch, one in settings.items()
    }
    sizes = sorted(lengths)
    ranges = []
    for low, high in zip(sizes, [*(size - 1 for size in sizes[1:]), LARGEST_BATCH], strict=True):
        ranges.append([1 if low == sizes[0] else low, high, lengths[low]])
    config: dict[str, Any] = {"num_speculative_tokens": max(lengths.values())}
    if same is None:
        config |= {"method": "ngram", "prompt_lookup_max": first.candidate.method.ngram, "prompt_lookup_min": 1}
    else:
        config |= {"model": same}
    if len(set(lengths.values())) > 1:
        config["num_speculative_tokens_per_batch_size"] = ranges
    return f"--speculative-config {shlex.quote(json.dumps(config))}"


def _sglang(first: Judged, question: Question) -> str:
    length = first.candidate.method.draft_tokens
    if first.candidate.draft is None:
        flags = ["--speculative-algorithm", "NGRAM", "--speculative-num-draft-tokens", str(length)]
    else:
        flags = [
            *("--speculative-algorithm", "STANDALONE", "--speculative-draft-model-path", first.candidate.draft),
            *("--speculative-num-steps", str(length), "--speculative-eagle-topk", "1"),
            *("--speculative-num-draft-tokens", str(length + 1)),
        ]
    return shlex.join(["--model-path", question.target, *flags])


def _llama_cpp(first: Judged, question: Question) -> str:
    if first.candidate.draft is None:
        raise ValueError("llama-server takes no n-grams by flags that are the same in its versions: name a draft model")
    length = str(first.candidate.method.draft_tokens)
    return shlex.join(["-m", question.target, "-md", first.candidate.draft, "--draft-max", length, "--draft-min", "0"])


def speculation_profile(one: Judged, question: Question) -> dict[str, Any]:
    """NVIDIA's speculation profile of a configuration: how many drafted tokens are accepted, by place."""
    conditional = [a / v if v else 0.0 for a, v in zip(one.accepted_at, one.verified_at, strict=True)]
    marginal, product = [], 1.0
    for rate in conditional:
        product *= rate
        marginal.append(product)
    length = 1.0 + sum(marginal)
    return {
        "schema_version": SCHEMA,
        "measured": True,
        "method": "draft_model" if one.candidate.draft else "ngram",
        "model": question.target,
        "draft_model": one.candidate.draft,
        "num_speculative_tokens": one.candidate.method.draft_tokens,
        "conditional_accept_rates": conditional,
        "marginal_accept_rates": marginal,
        "mean_accept_length": length,
        "producer": f"fsgen {fsgen.__version__}",
    }


def read_acceptance(text: str) -> float:
    """A chance that a drafted token is accepted: a number, or of a file with a speculation profile.

    Raises:
        ValueError: neither, or a profile of another version or without rates.
    """
    try:
        return float(text)
    except ValueError:
        pass
    try:
        content = json.loads(Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"acceptance {text!r} is neither a number nor a speculation profile ({error})") from None
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA or not content.get("measured", True):
        raise ValueError(f"{text!r} is no measured speculation profile of version {SCHEMA}")
    rates = content.get("conditional_accept_rates")
    good = isinstance(rates, list) and all(isinstance(rate, (int, float)) and 0 <= rate <= 1 for rate in rates)
    if not good or not rates:
        raise ValueError(f"{text!r} has no conditional_accept_rates from 0 to 1")
    reached, accepted, verified = 1.0, 0.0, 0.0
    for rate in rates:
        verified += reached
        reached *= rate
        accepted += reached
    return accepted / verified
