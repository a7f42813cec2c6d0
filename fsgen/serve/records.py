"""What an answer says of tokens: their log-probabilities as OpenAI and vLLM write them, and who wrote them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fsgen.engine.detokenizer import Detokenizer
from fsgen.methods.method import MAX_ADAPTIVE, Method
from fsgen.serve.job import Job
from fsgen.serve.scoring import Scores
from fsgen.serve.service import Service
from fsgen.types import Candidates, Token


def source(service: Service, token: Token, candidates: int) -> dict[str, Any]:
    """Who wrote a token, and what both systems would have written."""
    record: dict[str, Any] = {
        "id": token.id,
        "text": token.text,
        "source": token.source,
        "round": token.round,
        "draft_token": token.draft_token,
        "target_token": token.target_token,
        "draft_prob": token.draft_prob,
        "draft_entropy": token.draft_entropy,
    }
    if candidates:
        record["target_entropy"] = token.target_entropy
        for side, top in (("draft_top", token.draft_top), ("target_top", token.target_top)):
            record[side] = [{"id": each, "text": service.token(each), "prob": prob} for each, prob in top]
    return record


def by_name(name: Callable[[int], str], found: Candidates, most: int) -> dict[str, float]:
    """Log-probabilities by what tokens are called; of tokens that are called the same, the most likely one's."""
    own, *best = found
    ranked = sorted([own, *best[:most]], key=lambda each: -each[1])
    result: dict[str, float] = {}
    for token, value in ranked:
        result.setdefault(name(token), value)
    return result


def logprobs(token: Token) -> Candidates:
    """Of q, or of p where System 2 was not consulted."""
    return token.target_logprobs or token.draft_logprobs


def token_id(token: int) -> str:
    """A token's name where a request asks for ids."""
    return f"token_id:{token}"


class CompletionLogprobs:
    """The `logprobs` of a completion: parallel lists over tokens.

    Args:
        service: whose tokens they are.
        most: most likely tokens at each position.
        as_ids: tokens are named by their ids, not by what they write.
    """

    def __init__(self, service: Service, most: int, as_ids: bool = False) -> None:
        self._service, self._most = service, most
        self._name = token_id if as_ids else service.token
        self._columns: dict[str, list[Any]] = {
            name: [] for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        }

    def _add(self, token: int, offset: int, found: Candidates | None) -> None:
        values = (
            self._name(token),
            found[0][1] if found else None,
            by_name(self._name, found, self._most) if found else None,
            offset,
        )
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)

    def prompt(self, scores: Scores) -> None:
        """The prompt's tokens; of the first one nothing is known."""
        text, offset = Detokenizer(self._service.tokenizer, ()), 0
        for token, found in zip(scores.ids, [None, *scores.found], strict=True):
            self._add(token, offset, found)
            offset = text.push(token)

    def written(self, tokens: Sequence[Token], offset: int) -> int:
        """Written tokens, of which the first begins after so many characters; where the next one does."""
        for token in tokens:
            self._add(token.id, offset, logprobs(token))
            offset += len(token.text)
        return offset

    def as_dict(self) -> dict[str, list[Any]]:
        return self._columns


def chat_logprobs(service: Service, tokens: Sequence[Token], most: int, as_ids: bool = False) -> dict[str, Any]:
    """The `logprobs` of a chat: an object a token; arguments as in `CompletionLogprobs`."""
    name = token_id if as_ids else service.token

    def one(token: int, value: float) -> dict[str, Any]:
        return {"token": name(token), "logprob": value, "bytes": service.token_bytes(token)}

    content = []
    for token in tokens:
        (own, value), *best = logprobs(token)
        content.append(one(own, value) | {"top_logprobs": [one(*each) for each in best[:most]]})
    return {"content": content, "refusal": None}


def prompt_logprobs(service: Service, scores: Scores, most: int) -> list[dict[str, Any] | None]:
    """As vLLM writes them: for each token of the prompt a few by id, None for the first one."""
    result: list[dict[str, Any] | None] = [None]
    for found, rank in zip(scores.found, scores.ranks, strict=True):
        (own, value), *best = found
        ranked = {token: (each, place) for place, (token, each) in enumerate(best[:most], 1)}
        ranked.setdefault(own, (value, rank))
        result.append(
            {
                str(token): {"logprob": each, "rank": place, "decoded_token": service.token(token)}
                for token, (each, place) in ranked.items()
            }
        )
    return result


def speculative(method: Method, job: Job) -> dict[str, Any] | None:
    """How far drafting went in a text, with vLLM's names; None where nothing was drafted and verified."""
    drafted = job.sequence.verified if job.sequence is not None else {}
    steps = accepted_by_round(job)
    if not drafted:
        return None
    accepted = [steps.get(number, 0) for number in drafted]
    most = MAX_ADAPTIVE if method.adaptive else method.draft_tokens
    return {
        "mean_acceptance_length": 1.0 + sum(accepted) / len(accepted),
        "draft_acceptance_rate": sum(accepted) / sum(drafted.values()),
        "acceptance_histogram": [accepted.count(count) for count in range(most + 1)],
        "num_spec_steps": len(accepted),
        "num_accepted_draft_tokens": sum(accepted),
        "num_draft_tokens": sum(drafted.values()),
        "num_spec_tokens": most,
        "per_step_accepted": accepted,
        "per_step_drafted": list(drafted.values()),
    }


def timing(job: Job) -> dict[str, float]:
    """How long a text took, with vLLM's names: milliseconds, and tokens a second after the first one."""
    first, ended = job.first, job.ended
    if first is None or ended is None or job.started is None:
        return {}
    between = len(job.tokens) - 1
    times = {
        "time_to_first_token_ms": 1000 * (first - job.started),
        "generation_time_ms": 1000 * (ended - first),
        "queue_time_ms": 1000 * (job.started - job.arrived),
    }
    if between > 0 and ended > first:
        times |= {"mean_itl_ms": 1000 * (ended - first) / between, "tokens_per_second": between / (ended - first)}
    return times


def accepted_by_round(job: Job) -> dict[int, int]:
    """How many drafted tokens of each round System 2 accepted."""
    steps: dict[int, int] = {}
    for token in job.tokens:
        if token.source == "accepted":
            steps[token.round] = steps.get(token.round, 0) + 1
    return steps
