"""One run of a study as a plain value: a task, the models that write it and how, and the key that names the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fsgen import tasks
from fsgen.analysis.labels import short_name
from fsgen.methods.method import Method
from fsgen.methods.routers import Random
from fsgen.prompts import chat_text
from fsgen.study.config import SamplingConfig, StudyConfig, TaskConfig
from fsgen.study.models import UnloadedModel
from fsgen.study.store import SCHEMA
from fsgen.tasks import Task
from fsgen.types import Example, SamplingParams


def canonical_hash(content: Any) -> str:
    """SHA-256 of the canonical JSON of some content, in hex."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Prompt:
    """What the models read of one example: a text and its token ids."""

    text: str
    ids: tuple[int, ...]

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class LoadedTask:
    """A task with its examples and all settings resolved.

    Attributes:
        config: as the study has it.
        examples: what the models complete.
        shots, max_tokens: the task's own where the configuration has none.
        digest: of all examples of a run, also where only some of them are here.
    """

    config: TaskConfig
    examples: tuple[Example, ...]
    shots: int
    max_tokens: int
    digest: str

    @property
    def task(self) -> Task:
        return tasks.get(self.config.name, **self.config.own)

    @property
    def stop(self) -> tuple[str, ...]:
        # The plain prompts' stop strings would cut the answers of a model that chats; those of your own data are meant.
        return () if self.config.chat and not self.config.own else self.task.stop

    def prompt(self, example: Example, tokenizer: Any) -> Prompt:
        """The prompt of an example, as plain text or by the tokenizer's chat template."""
        if not self.config.chat:
            return Prompt(example.prompt, tuple(tokenizer.encode(example.prompt)))
        messages = [{"role": role, "content": content} for role, content in example.messages]
        text = chat_text(tokenizer, messages)
        return Prompt(text, tuple(tokenizer.encode(text, add_special_tokens=False)))


@dataclass(frozen=True)
class Cell:
    """One run: a task, the members that write it, a method, a sampling.

    Attributes:
        members: names by role, by which they are loaded, of the roles that the method uses (the target always).
        key: names the run; a hash of all that changes what is written, and of nothing else.
        identity: what is hashed.
    """

    task: LoadedTask
    members: dict[str, str]
    method: Method
    sampling: SamplingConfig
    seed: int
    key: str
    identity: dict[str, Any]

    @property
    def router(self) -> str:
        return str(self.method.router)

    @property
    def label(self) -> str:
        members = self.identity["members"]
        names = [short_name(members[role]["name"]) for role in ("draft", "target") if role in members]
        router = f" {self.router}" if self.method.drafts and self.router != "always" else ""
        shown = self.params(0)
        sampling = "" if shown.greedy else f" {shown}"
        return f"{self.task.task.name} {self.method.name}{router}{sampling} {' -> '.join(names)}"

    def params(self, seed: int) -> SamplingParams:
        """The sampling parameters of one text."""
        return SamplingParams(
            max_tokens=self.task.max_tokens, stop=self.task.stop, seed=seed, **self.sampling.model_dump()
        )

    def text_seed(self, example: str, turn: int) -> int:
        """The random seed of one text: the same in every run of the study and in every batch."""
        digest = hashlib.sha256(f"{self.seed}/{turn}/{example}".encode()).digest()
        return int.from_bytes(digest[:8], "big")


def make_cell(
    task: LoadedTask,
    members: Mapping[str, UnloadedModel],
    method: Method,
    sampling: SamplingConfig,
    config: StudyConfig,
    dtype: str,
) -> Cell:
    """The run of these members, named by its key.

    Args:
        members: by role.
        config: its seed and its candidates are part of the key.
        dtype: of the weights, as `resolve_dtype` gives it.
    """
    random = sampling.temperature > 0 or isinstance(method.router, Random)
    identity = {
        "schema": SCHEMA,
        "task": {
            "name": task.task.name,
            "chat": task.config.chat,
            "max_tokens": task.max_tokens,
            "stop": list(task.stop),
            "examples": task.digest,
        },
        "members": {role: {"name": model.info.name, "digest": model.digest} for role, model in members.items()},
        "method": canonical_method(method),
        "sampling": sampling.model_dump() if sampling.temperature > 0 else "greedy",
        "seed": config.seed if random else None,
        "candidates": config.candidates,
        "dtype": dtype,
    }
    key = f"{task.task.name}-{method.name.partition(':')[0]}-{canonical_hash(identity)[:16]}"
    names = {role: model.given for role, model in members.items()}
    return Cell(task, names, method, sampling, config.seed, key, identity)


def canonical_method(method: Method) -> dict[str, Any]:
    """All that a method does, whatever it is called: `contrastive` and `contrastive:beta=0.5` are one."""
    fusion: Any = method.fusion
    return {
        "fusion": {"name": method.fusion.name, **asdict(fusion)},
        "router": method.router.identity if method.drafts else None,
        "trusting": method.skips_verification,
        **{key: getattr(method, key) for key in ("draft_tokens", "bonus", "rollback", "verifier")},
        **({"ngram": method.ngram} if method.ngram else {}),
    }
