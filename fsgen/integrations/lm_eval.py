"""Members as a model of lm-evaluation-harness: `generate_until`, and likelihoods by q.

    fsgen lm-eval --model_args draft=pocket-0.6m,target=pocket-4m,method=contrastive:beta=0.3 --tasks arc_easy

It finds models in its own package alone, so importing this module registers `fsgen` with it; `fsgen lm-eval` does, and
then is its command line. In Python:

    import fsgen.integrations.lm_eval
    lm_eval.simple_evaluate(model="fsgen", model_args={"draft": ..., "target": ...}, tasks=[...])
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, NoReturn
from unittest.mock import patch

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from fsgen.api import generate, method_for
from fsgen.backends import load
from fsgen.likelihood import Likelihood, encode_pair, log_likelihoods, prefix_token, require_q, within
from fsgen.metrics import Counts
from fsgen.probs import choice_seed
from fsgen.types import SamplingParams

_log = logging.getLogger(__name__)

BATCHES = 8  # written at a time: what is finished is then in the harness's own cache, where it keeps one
NAME = "fsgen"
ARGUMENTS = (
    *("draft", "target", "base", "method", "router", "draft_tokens", "dtype", "device", "weights", "revision"),
    *("batch_size", "max_gen_toks", "seed"),
)


@register_model(NAME)
class CollaborativeLM(TemplateLM):  # type: ignore[misc]  # the harness is not typed
    """A draft and a target, a method and a router, as one model.

    Args:
        draft, target, base, dtype, weights, revision: as in `fsgen.load`.
        device: likewise; `cuda:0`, which the harness hands over unasked, is `auto`.
        method, router, draft_tokens: as in `fsgen.generate`.
        batch_size: texts at a time; `auto` is 16.
        max_gen_toks: the budget of a text where a task gives none.
        seed: of sampled texts.
        max_batch_size: of no use here; the harness hands it over.

    Raises:
        ValueError: as `fsgen.load` and `fsgen.generate`; a batch size that is none, an unknown argument.
    """

    def __init__(
        self,
        draft: str | None = None,
        target: str | None = None,
        base: str | None = None,
        method: str = "speculative",
        router: str | None = None,
        draft_tokens: int | str | None = None,
        dtype: str = "auto",
        device: str | None = None,
        weights: str = "auto",
        revision: str | None = None,
        batch_size: int | str | None = None,
        max_gen_toks: int = 256,
        seed: int = 0,
        max_batch_size: int | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise ValueError(f"the model argument {next(iter(unknown))!r} is unknown; there are {', '.join(ARGUMENTS)}")
        self.batch_size = _batch_size(batch_size)
        place = (
            "auto" if device in (None, "cuda", "cuda:0") else device
        )  # what the harness says if nobody says anything
        self.members = load(draft, target, base, dtype, place, weights, revision=revision)
        self.method = method_for(self.members, method, router, draft_tokens)
        self.method.require(role for role, _ in self.members)
        self.tokenizer, self.max_length = self.members.tokenizer, self.members.context
        self._max_gen_toks, self._seed = max_gen_toks, seed
        self._device = device
        self._counts: list[Counts] = []

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token."""
        return min(self.members.eos_ids)

    @property
    def prefix_token_id(self) -> int:
        """What comes before a text that has nothing before it."""
        return prefix_token(self.members)

    @property
    def tokenizer_name(self) -> str:
        """Tells the harness's caches from those of other tokenizers."""
        return str(getattr(self.tokenizer, "name_or_path", NAME)).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
        """Token ids of a text; no second beginning-of-text token where it has one."""
        if add_special_tokens is None:
            begin = getattr(self.tokenizer, "bos_token", None)
            add_special_tokens = not (begin and string.startswith(begin))
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the text of a prompt. Raises ValueError for models without a template."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Writes a text for each request, by the method."""
        texts: list[str] = []
        with _progress("texts", len(requests), disable_tqdm) as progress:
            for start in range(0, len(requests), self.batch_size * BATCHES):
                asked = [request.args for request in requests[start : start + self.batch_size * BATCHES]]
                sampling = [self._sampling(options, start + i) for i, (_, options) in enumerate(asked)]
                prompts = [
                    self._room(context, one.max_tokens) for (context, _), one in zip(asked, sampling, strict=True)
                ]
                written = generate(
                    self.members,
                    prompts,
                    self.method,
                    sampling=sampling,
                    batch_size=self.batch_size,
                    progress=progress,
                )
                self._counts += [each.stats for each in written]
                for (context, options), each in zip(asked, written, strict=True):
                    self.cache_hook.add_partial("generate_until", (context, options), each.text)
                    texts.append(each.text)
        return texts

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each whole text, in windows as long as the context."""
        windows: list[tuple[list[int], list[int]]] = []
        of: list[int] = []
        for place, request in enumerate(requests):
            (text,) = request.args
            rolling = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, 1)
            mine = [make_disjoint_window(window) for window in rolling]
            windows += mine
            of += [place] * len(mine)
        sums = [0.0] * len(requests)
        for place, one in zip(of, self._likelihoods(windows, disable_tqdm), strict=True):
            sums[place] += one.logprob
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def get_model_info(self) -> dict[str, Any]:
        """What the harness's results say of the model: its parts, and what was counted in the texts that it wrote."""
        greedy, drawn = ([c for c in self._counts if c.sampled == sampled] for sampled in (False, True))
        counts = {"greedy": Counts.total(greedy).as_dict()} if greedy else {}
        counts |= {"sampled": Counts.total(drawn).as_dict()} if drawn else {}
        return {
            "members": self.members.names(),
            "model_num_parameters": sum(model.info.parameters for _, model in self.members),
            "method": self.method.name,
            "router": str(self.method.router),
            "counts": counts,
        }

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        return encode_pair(self.members, context, continuation, self.tok_encode)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **options: Any
    ) -> list[tuple[float, bool]]:
        pairs = [within(self.members, (context, rest)) for _, context, rest in requests]
        if cut := sum(len(new) < len(old) for (new, _), (_, old, _) in zip(pairs, requests, strict=True)):
            _log.warning("%d contexts exceed %d tokens: their beginnings are left out", cut, self.max_length)
        found = [(one.logprob, one.greedy) for one in self._likelihoods(pairs, disable_tqdm)]
        for (asked, _, _), each in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", asked, each)
        return found

    def _likelihoods(self, pairs: Sequence[tuple[list[int], list[int]]], quiet: bool) -> list[Likelihood]:
        require_q(self.members, self.method)
        with _progress("texts read", len(pairs), quiet) as progress:
            return log_likelihoods(self.members, pairs, self.method, self.batch_size, progress)

    def _room(self, context: str, budget: int) -> list[int]:
        """The tokens of a context; where the budget leaves too little room, the last ones."""
        if budget >= self.max_length:
            raise ValueError(f"max_gen_toks={budget} leaves no room in the context window of {self.max_length}")
        ids = self.tok_encode(context) or [self.prefix_token_id]
        room = self.max_length - budget
        if len(ids) > room:
            _log.warning("a prompt of %d tokens exceeds %d: its beginning is left out", len(ids), room)
        return ids[-room:]

    def _sampling(self, options: dict[str, Any], place: int) -> SamplingParams:
        """The settings of a request, by the names that tasks use. Raises ValueError for one that is not known."""
        given = dict(normalize_gen_kwargs(options, self._max_gen_toks))
        settings: dict[str, Any] = {
            "max_tokens": given.pop("max_gen_toks"),
            "stop": tuple(text for text in given.pop("until") if text),
            "seed": choice_seed(self._seed, place),
        }
        if not given.pop("do_sample"):
            for name in ("temperature", "top_k", "top_p", "min_p"):
                given.pop(name, None)
        known = {field.name for field in fields(SamplingParams)} - {*settings, "n", "logprobs"}
        if unknown := sorted(given.keys() - known):
            raise ValueError(
                f"the task's generation setting {unknown[0]!r} is unknown; there are {', '.join(sorted(known))}"
            )
        return SamplingParams(**settings, **given)


def _batch_size(given: int | str | None) -> int:
    text = str(16 if given is None else given)
    if text.partition(":")[0] == "auto":
        return 16
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"batch_size={given!r} is impossible: a number, at least 1, or auto")
    return int(text)


@contextmanager
def _progress(what: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    shown = Console(stderr=True)
    with Progress(console=shown, disable=quiet or not shown.is_terminal) as progress:
        bar = progress.add_task(what, total=total)
        yield lambda count: progress.advance(bar, count)


def main(arguments: Sequence[str]) -> None:
    """The harness's command line with `fsgen` among its models, and the one that is meant where none is named."""
    from lm_eval.__main__ import cli_evaluate

    given = list(arguments)
    runs = bool(given) and given[0] not in ("ls", "validate", "--help", "-h")
    if runs and not any(word == "--model" or word.startswith("--model=") for word in given):
        given += ["--model", NAME]
    before, sys.argv = sys.argv, ["lm_eval", *given]
    try:
        with patch.object(argparse.ArgumentParser, "error", _refuse):
            cli_evaluate()
    finally:
        sys.argv = before


def _refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """Wrong words of the harness's options are one line, as those of every other command."""
    raise ValueError(message)
