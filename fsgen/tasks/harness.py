"""Tasks of lm-evaluation-harness: `lm_eval:NAME`, with their documents, prompts, filters and metrics.

    tasks:
      - {name: "lm_eval:gsm8k", limit: 100, metric: "exact_match,flexible-extract"}
      - {name: "lm_eval:my_task", include_path: my_tasks/}

| its output type | in a study |
|---|---|
| `generate_until` | the text that is written is filtered and scored |
| `multiple_choice`, `loglikelihood` | q's likelihoods of the choices are scored; a text is written for its trace |
| `loglikelihood_rolling` | none: `fsgen lm-eval` has it |

A score is one metric after one filter, as the harness's tables name it (`exact_match,strict-match`): the first that
the task lists where none is named. The mean of the scores is the harness's number: a metric that is no mean over texts
is refused. So are groups of tasks, tasks with pictures or sounds, and tasks that run generated programs, since the
harness has no sandbox. A limit takes the first documents, as `lm_eval --limit` does, with the few-shot examples that
it draws with its usual seed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Any

from fsgen.tasks.base import Judge, Row, Score, Task
from fsgen.types import BY_LIKELIHOOD, Example

PREFIX = "lm_eval:"
FEWSHOT_SEED = 1234  # of `lm_eval`, where nobody says another
LIKELIHOODS = ("multiple_choice", "loglikelihood")
MAX_TOKENS, MAX_TOKENS_OF_CHOICES = 256, 16


@cache
def harness_task(name: str, include_path: str | None = None, metric: str | None = None) -> HarnessTask:
    """The task of this name behind `lm_eval:`; see `HarnessTask`."""
    return HarnessTask(_find(name.removeprefix(PREFIX), include_path), metric)


class HarnessTask(Task):
    """One task of lm-evaluation-harness.

    Args:
        task: as the harness loads it.
        metric: `metric` or `metric,filter`; None for the first of both.

    Raises:
        ValueError: a kind of task, or a metric, that a study cannot score.
    """

    fields = ()
    bundled = ""

    def __init__(self, task: Any, metric: str | None) -> None:
        self._task, self._docs, config = task, task.eval_docs, task.config
        self.name = "lm_eval-" + re.sub(r"[^a-zA-Z0-9_]+", "-", task.task_name)  # type: ignore[misc]
        if task.OUTPUT_TYPE not in ("generate_until", *LIKELIHOODS):
            raise ValueError(f"its output type is {task.OUTPUT_TYPE}, which `fsgen lm-eval` alone can run")
        if getattr(task, "UNSAFE_CODE", False):
            raise ValueError("it runs the programs that models write, and lm-evaluation-harness has no sandbox")
        if getattr(task, "MULTIMODAL", False):
            raise ValueError("it has pictures or sounds")
        self._metric, self._filter = _chosen(task, metric)
        options = dict(config.generation_kwargs or {}) if task.OUTPUT_TYPE == "generate_until" else {}
        if options.get("do_sample"):
            raise ValueError("it samples its texts; a study says itself how texts are sampled")
        budget = next(
            (options[key] for key in ("max_gen_toks", "max_new_tokens", "max_tokens") if key in options), None
        )
        usual = MAX_TOKENS if task.OUTPUT_TYPE == "generate_until" else MAX_TOKENS_OF_CHOICES
        self.max_tokens = int(budget or usual)  # type: ignore[misc]
        until = options.get("until") or ([] if task.OUTPUT_TYPE == "generate_until" else ["\n"])
        self.stop = tuple(text for text in ([until] if isinstance(until, str) else until) if text)  # type: ignore[misc]
        self.default_shots = config.num_fewshot or 0  # type: ignore[misc]
        self.max_shots = 2**16  # type: ignore[misc]  # the harness says how many there are

    def load(
        self, limit: int | None = None, *, shots: int | None = None, data: str | None = None, seed: int = 0
    ) -> list[Example]:
        """The first documents; with another `seed` than 0, of all documents in another order."""
        self.check(limit, shots)
        if data is not None:
            raise ValueError(f"{self.name} has its own data; another task names other data, by include_path")
        task, count = self._task, len(self._docs)
        if limit is not None and limit > count:
            raise ValueError(f"limit={limit}, but the data of {self.name} holds {count} examples")
        task.set_fewshot_seed(FEWSHOT_SEED)
        used = self.default_shots if shots is None else shots
        wanted = count if seed or limit is None else limit
        examples = [self._example(number, doc, used) for number, doc in enumerate(islice(self._docs, wanted))]
        if seed:
            examples.sort(key=lambda each: hashlib.sha256(f"{seed}/{each.id}".encode()).digest())
        return examples[:limit]

    def _example(self, number: int, doc: Any, shots: int) -> Example:
        task, sampler = self._task, getattr(self._task, "sampler", None)
        begun = task.doc_to_prefix(doc)
        before = sampler.rnd.getstate() if sampler is not None else None
        context = task.fewshot_context(doc, shots, gen_prefix=begun)
        if sampler is not None:
            sampler.rnd.setstate(before)  # the conversation has the same few-shot examples
        messages = self._messages(doc, shots)
        return Example(
            id=f"{self.name}/{number}",
            prompt=context if isinstance(context, str) else context[0],  # of several, one is continued
            messages=() if begun or self.compares else messages,
            reference=str(task.doc_to_target(doc)),
            metadata={
                "document": number,
                "metric": f"{self._metric},{self._filter.name}",
                "choices": self._pairs(doc, context) if self.compares else [],
            },
        )

    def _messages(self, doc: Any, shots: int) -> tuple[tuple[str, str], ...]:
        """The prompt as a conversation; the few-shot examples are turns of it."""
        found: list[tuple[str, str]] = []

        def keep(messages: list[dict[str, str]], **_: Any) -> str:
            found[:] = [(each["role"], each["content"]) for each in messages]
            return ""

        self._task.fewshot_context(doc, shots, apply_chat_template=True, fewshot_as_multiturn=True, chat_template=keep)
        return tuple(found)

    def _pairs(self, doc: Any, context: str | list[str]) -> list[list[str]]:
        made = self._task.construct_requests(doc=doc, ctx=context, metadata=(self.name, 0, 1))
        return [list(one.args[:2]) for one in (made if isinstance(made, list) else [made])]

    @property
    def compares(self) -> bool:
        """What is scored is how likely continuations are, not the text that is written."""
        return self._task.OUTPUT_TYPE in LIKELIHOODS

    def choices(self, example: Example) -> list[tuple[str, str]]:
        """The contexts and continuations whose likelihoods are scored."""
        return [(context, continuation) for context, continuation in example.metadata["choices"]]

    def example(self, row: Row, number: int, shots: int) -> Example:
        """Its rows are the harness's."""
        raise NotImplementedError

    def extract(self, text: str) -> str | None:
        """The text itself: the harness's filters are of its metrics."""
        return text.strip() or None

    def score(self, example: Example, text: str, *, judge: Judge | None = None) -> Score:
        """Score a text that was written."""
        return self._scored(example, [text])

    def score_choices(self, example: Example, found: Sequence[tuple[float, bool]]) -> Score:
        """Score the likelihoods of the choices; the answer is the one that the metric takes as chosen."""
        scored = self._scored(example, [tuple(each) for each in found])
        note = f"{BY_LIKELIHOOD}{scored.note and f'; {scored.note}'}"
        return Score(scored.value, self._choice(example, found), note)

    def _choice(self, example: Example, found: Sequence[tuple[float, bool]]) -> str | None:
        """The choice that the metric takes; of a single continuation itself, where greedy decoding writes it."""
        if self._task.OUTPUT_TYPE == "loglikelihood":
            return example.metadata["choices"][0][1].strip() if found[0][1] else None
        choices = [str(choice) for choice in self._task.doc_to_choice(self._docs[example.metadata["document"]])]
        lengths = {"acc_norm": [len(one) for one in choices], "acc_bytes": [len(one.encode()) for one in choices]}
        length = lengths.get(self._metric, [1] * len(choices))
        without = found[len(choices) :] if self._metric == "acc_mutual_info" else [(0.0, False)] * len(choices)
        likely = [
            (log_prob - alone) / max(1, each)
            for each, (log_prob, _), (alone, _) in zip(length, found, without, strict=False)
        ]
        return choices[likely.index(max(likely))].strip()

    def _scored(self, example: Example, responses: Sequence[Any]) -> Score:
        """What the harness's metric says of the responses, after its filter."""
        from lm_eval.api.instance import Instance

        doc, kind = self._docs[example.metadata["document"]], self._task.OUTPUT_TYPE
        made = [Instance(kind, doc, (), place, resps=[response]) for place, response in enumerate(responses)]
        self._filter.apply(made)
        filtered = [each.filtered_resps[self._filter.name] for each in made]
        found = self._task.process_results(doc, filtered)
        value = found.get(self._metric)
        if not isinstance(value, Real):
            raise ValueError(f"the metric {self._metric!r} of {self.name} gives {value!r:.60}, which is no number")
        numbers = {name: float(each) for name, each in found.items() if isinstance(each, Real) and name != self._metric}
        shown = None if self.compares else str(filtered[0]).strip()
        return Score(float(value), shown, ", ".join(f"{name}={each:g}" for name, each in numbers.items()))


def _find(name: str, include_path: str | None) -> Any:
    """The task that the harness knows under this name. Raises ValueError: there is none, or several."""
    manager = _manager(include_path, include_path is None)
    if include_path is not None and name not in manager.all_subtasks:
        manager = _manager(include_path, True)  # theirs are thousands of files, which take seconds
    if name not in manager.all_subtasks:
        several = name in manager.all_groups or name in manager.all_tags
        if several:
            raise ValueError(f"{PREFIX}{name} is a group of tasks: name one of them (`lm_eval ls subtasks`)")
        like = ", ".join(manager.match_tasks([f"*{name}*"])[:5])
        hint = f"; there are {like}" if like else "; `lm_eval ls tasks` lists them"
        raise ValueError(f"lm-evaluation-harness has no task {name!r}{hint}")
    try:
        (task,) = manager.load(name)["tasks"].values()
    except Exception as error:  # its data are elsewhere, or its configuration is wrong: it may raise anything
        raise ValueError(f"{PREFIX}{name} cannot be loaded: {type(error).__name__}: {error}") from error
    return task


@cache
def _manager(include_path: str | None, theirs: bool) -> Any:
    if include_path is not None and not Path(include_path).is_dir():
        raise ValueError(f"include_path={include_path!r} is no folder")
    try:
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "lm_eval":
            raise
        raise ValueError("this needs lm-evaluation-harness: pip install 'fsgen[lm-eval]'") from None
    return TaskManager(include_path=include_path, include_defaults=theirs)


def _chosen(task: Any, wanted: str | None) -> tuple[str, Any]:
    """The metric and the filter that make the score. Raises ValueError: there is none such, or it is no mean."""
    filters = {each.name: each for each in task._filters}  # the harness gives no other way to apply one alone
    metrics = [name for name in task.higher_is_better() if name != "bypass"]
    metric, _, chain = (wanted or "").partition(",")
    metric, chain = metric or next(iter(metrics), ""), chain or next(iter(filters))
    if metric not in metrics or chain not in filters:
        known = ", ".join(f"{one},{other}" for other in filters for one in metrics)
        raise ValueError(f"metric={wanted!r} is unknown; there are {known}")
    aggregation = task.aggregation().get(metric)
    if getattr(aggregation, "__name__", "") not in ("mean", "nanmean"):
        raise ValueError(f"its metric {metric!r} is no mean over texts; `fsgen lm-eval` has it, a study has none")
    return metric, filters[chain]
