"""The configuration of a study, as a YAML file has it. `docs/study.md` explains every key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from fsgen.types import SamplingParams

BUNDLED = "bundled.yaml"
LARGEST = 2**20  # bytes of a file


class Keys(BaseModel):
    """A mapping whose keys are all known: one that is not is an error, never dropped in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


AnyKeys = TypeVar("AnyKeys", bound=Keys)


class TaskConfig(Keys):
    """A task, and how much of it.

    Attributes:
        name: in the registry of `fsgen.tasks`.
        limit: how many examples; None for all.
        shots: few-shot examples in each prompt; None for the task's own number.
        max_tokens: the budget of a completion; None for the task's own.
        chat: prompts by the model's chat template rather than as plain text.
        data: instead of the bundled data, a file or a data set of the hub.
        order: another number shuffles the examples otherwise, and so selects others where there is a limit.
    """

    name: str
    limit: Annotated[int, Field(ge=1)] | None = None
    shots: Annotated[int, Field(ge=0)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    chat: bool = False
    data: str | None = None
    order: int = 0

    @property
    def own(self) -> dict[str, Any]:
        """What a task of your own data is made of."""
        return {}


class OwnTaskConfig(TaskConfig):
    """Your own data as a task (`fsgen.tasks.own_data`), with all that a task has.

    Attributes:
        name: `jsonl`.
        data: the file.
        prompt: of a row, with its fields in braces; or `messages`, the field with a conversation.
        answer: the field with the right answer.
        metric: number, choice, exact, contains or code.
        system: what a model that chats is told first.
        stop: strings that end a completion.
        examples: a file of rows for few-shot examples.
    """

    data: str
    prompt: str | None = None
    messages: str | None = None
    answer: str
    metric: Literal["number", "choice", "exact", "contains", "code"]
    system: str | None = None
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    examples: str | None = None

    @property
    def own(self) -> dict[str, Any]:
        """What a task of your own data is made of."""
        added = OwnTaskConfig.model_fields.keys() - TaskConfig.model_fields.keys()
        return {key: getattr(self, key) for key in ("data", *sorted(added))}

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if not self.chat and (self.messages is not None or self.system is not None):
            raise ValueError("messages and system are for a chat template: set chat: true")
        return self


class HarnessTaskConfig(TaskConfig):
    """A task of lm-evaluation-harness (`fsgen.tasks.harness`).

    Attributes:
        name: `lm_eval:` and its name there.
        include_path: a folder with tasks of your own, in their format.
        metric: `metric` or `metric,filter`, as their tables name it; None for the task's first.
    """

    include_path: str | None = None
    metric: str | None = None

    @property
    def own(self) -> dict[str, Any]:
        """What finds the task, and its score."""
        return {"include_path": self.include_path, "metric": self.metric}


class PairConfig(Keys):
    """The models of a collaboration: bundled models, local folders or names on the hub.

    Attributes:
        draft: None only for methods without a draft.
        target: the large model.
        base: the untuned draft, for proxy tuning.
    """

    draft: str | None = None
    target: str
    base: str | None = None

    @property
    def names(self) -> dict[str, str]:
        """By role, of the roles that are given."""
        named = {"draft": self.draft, "target": self.target, "base": self.base}
        return {role: name for role, name in named.items() if name is not None}


class LadderConfig(Keys):
    """Every pair of a ladder of models, the smaller drafting for the larger.

    Attributes:
        ladder: `pocket` for the bundled ladder (its sizes, not tuned, of one family), or a list of models, the smallest
            first.
        target: only the pairs with this target.
        trainings: of the bundled ladder, all trainings of each size, not the first alone.
        every: every model drafts for every other one: larger ones for smaller ones, and those of one size.
    """

    ladder: str | tuple[str, ...]
    target: str | None = None
    trainings: bool = False
    every: bool = False

    @field_validator("ladder", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "pocket":
            raise ValueError("must be pocket, or a list of models, the smallest first")
        if isinstance(value, (list, tuple)) and len(value) < 2:
            raise ValueError("a ladder has two models at least")
        return value


class MethodConfig(Keys):
    """A preset with its parameters, as in `contrastive:beta=0.5`, and the most tokens drafted in a round."""

    name: str
    draft_tokens: Annotated[int, Field(ge=0)] | None = None


class SamplingConfig(Keys):
    """How tokens are sampled; see `fsgen.SamplingParams`. Temperature 0 is greedy."""

    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    min_p: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="before")
    @classmethod
    def _measured(cls, given: Any) -> Any:
        """A study measures models as they are, in texts that end by their task: other settings would change both."""
        elsewhere = {*cls.model_fields, "max_tokens", "seed", "stop"}  # or settings of a task or of the study
        known = [field.name for field in fields(SamplingParams) if field.name not in elsewhere]
        if found := [key for key in _keys(given) if key in known]:
            raise ValueError(f"{found[0]} is no setting of a study: it is for fsgen.generate and `fsgen generate`")
        return given

    @model_validator(mode="after")
    def _possible(self) -> Self:
        SamplingParams(**self.model_dump())
        return self


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _greedy(value: Any) -> Any:
    return {} if value == "greedy" else value


def _keys(value: Any) -> Any:
    return value if isinstance(value, dict) else dict(value) if isinstance(value, Keys) else ()


def _kind_of_task(value: Any) -> str:
    name = str(dict(_keys(value)).get("name"))
    return "<own>" if name == "jsonl" else "<harness>" if name.startswith("lm_eval:") else "<task>"


_Task = Annotated[
    Annotated[TaskConfig, Tag("<task>")]
    | Annotated[OwnTaskConfig, Tag("<own>")]
    | Annotated[HarnessTaskConfig, Tag("<harness>")],
    Discriminator(_kind_of_task),
    BeforeValidator(_named),
]
Tasks = Annotated[tuple[_Task, ...], Field(min_length=1)]
_Pair = Annotated[
    Annotated[PairConfig, Tag("<pair>")] | Annotated[LadderConfig, Tag("<ladder>")],
    Discriminator(lambda value: "<ladder>" if "ladder" in _keys(value) else "<pair>"),
]
Pairs = Annotated[tuple[_Pair, ...], Field(min_length=1)]
Methods = Annotated[tuple[Annotated[MethodConfig, BeforeValidator(_named)], ...], Field(min_length=1)]
Routers = Annotated[tuple[str, ...], Field(min_length=1)]
Samplings = Annotated[tuple[Annotated[SamplingConfig, BeforeValidator(_greedy)], ...], Field(min_length=1)]


class GridConfig(Keys):
    """One grid: every task with every pair, method, router and sampling. What it leaves out is the study's own."""

    tasks: Tasks | None = None
    pairs: Pairs | None = None
    methods: Methods | None = None
    routers: Routers | None = None
    sampling: Samplings | None = None


class StudyConfig(Keys):
    """A study: one grid, or several.

    Attributes:
        name: as it is shown.
        tasks, pairs, methods, routers, sampling: of the one grid, or of the `grids` that leave them out.
            The router `default` is the method's own.
        grids: several grids.
        candidates: how many of the most likely tokens of p and q the trace has.
        batch_size: texts written at a time. It changes the speed, not the tables, so it is not part of a run.
        repeats: how often every run is written once more, for its time alone. Not part of a run either.
        seed: the random seed of the study.
        dtype, device: as in `fsgen.load`.
        replay: let drafts replay the target's texts where that gives the same trace as decoding.
        definitions: `published` also counts as arXiv 2406.12295 did, beside our own way. Not part of a run either.
    """

    name: str = "study"
    tasks: Tasks | None = None
    pairs: Pairs | None = None
    methods: Methods | None = None
    routers: Routers = ("default",)
    sampling: Samplings = (SamplingConfig(),)
    grids: Annotated[tuple[GridConfig, ...], Field(min_length=1)] | None = None
    candidates: Annotated[int, Field(ge=0, le=1000)] = 10
    batch_size: Annotated[int, Field(ge=1)] = 16
    repeats: Annotated[int, Field(ge=0, le=100)] = 0
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    dtype: str = "auto"
    device: str = "auto"
    replay: bool = True
    definitions: Literal["fsgen", "published"] = "fsgen"

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for number, grid in enumerate(self.grids or [None]):
            where = "the study" if grid is None else f"grids.{number}"
            for key in ("tasks", "pairs", "methods"):
                if getattr(self, key) is None and (grid is None or getattr(grid, key) is None):
                    raise ValueError(f"{where} has no {key}")
        return self

    def blocks(self) -> list[Grid]:
        """The grids, with nothing left out."""

        def block(grid: GridConfig | None) -> Grid:
            chosen = {f.name: (getattr(grid, f.name) if grid else None) or getattr(self, f.name) for f in fields(Grid)}
            return Grid(**chosen)

        return [block(grid) for grid in self.grids or [None]]


@dataclass(frozen=True)
class Grid:
    """One grid of a study with nothing left out."""

    tasks: tuple[TaskConfig, ...]
    pairs: tuple[PairConfig | LadderConfig, ...]
    methods: tuple[MethodConfig, ...]
    routers: tuple[str, ...]
    sampling: tuple[SamplingConfig, ...]


GRID_KEYS = tuple(f.name for f in fields(Grid))


def load_config(config: str | Path | Mapping[str, Any] | StudyConfig | None = None) -> StudyConfig:
    """The configuration of a study.

    Args:
        config: a YAML file, the mapping that such a file holds, a configuration, or None for the bundled study.

    Raises:
        ValueError: no such file, no YAML, or a configuration that is not one; every fault is named.
    """
    if isinstance(config, StudyConfig):
        return config
    if isinstance(config, Mapping):
        return validated(StudyConfig, dict(config), "the study", "a study")
    if config is None:
        return parse_config((resources.files("fsgen.study") / BUNDLED).read_text(encoding="utf-8"), BUNDLED)
    return parse_config(read_text(config, "study"), str(config))


def parse_config(text: str, source: str = "the study") -> StudyConfig:
    """The configuration that YAML text holds; `source` names it in errors. Raises ValueError as `load_config`."""
    content = read_mapping(text, source, "tasks, pairs and methods")
    return validated(StudyConfig, content, source, "a study")


def read_text(path: str | Path, what: str) -> str:
    """The text of a configuration's file. Raises ValueError: there is no such file, it is too large, or no UTF-8."""
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"the {what} {str(path)!r} is not a file")
    if file.stat().st_size > LARGEST:
        raise ValueError(f"the {what} {str(path)!r} has more than {LARGEST:,} bytes")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the {what} {str(path)!r} is not UTF-8: {error}") from error


class _Loader(yaml.SafeLoader):
    """YAML in which no key of a mapping is given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [value for (tag, value), count in Counter(keys).items() if count > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_mapping(text: str, source: str, keys: str) -> dict[str, Any]:
    """The mapping that YAML text holds. Raises ValueError: it is none; `keys` are named as what it should have."""
    try:
        content = yaml.load(text, _Loader)  # a safe loader
    except RecursionError:
        raise ValueError(f"{source} is not YAML that can be read: it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:  # the last ones for values of odd tags
        raise ValueError(f"{source} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{source} is not a mapping with keys such as {keys}")
    return content


def validated(kind: type[AnyKeys], content: Any, source: str, what: str) -> AnyKeys:
    """Some content as what it should be. Raises ValueError: `source` is not `what`, and every fault of it."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        found = error.errors()
        # A list whose items all have faults is also called too short; the faults of the items are enough.
        bad = [tuple(fault["loc"][:-1]) for fault in found]
        found = [f for f in found if f["type"] != "too_short" or not any(b[: len(f["loc"])] == f["loc"] for b in bad)]
        faults = "\n".join(f"- {line}" for line in dict.fromkeys(map(_fault, found)))
        raise ValueError(f"{source} is not {what}:\n{faults}") from error


def _fault(error: Any) -> str:
    """One fault in one line: where it is, and what is wrong there."""
    keys = [str(key) for key in error["loc"] if not str(key).startswith("<")]
    value = error.get("input")
    shown = f", not {value!r}" if isinstance(value, (str, int, float, bool)) else ""
    message = error["msg"].removeprefix("Value error, ")
    match error["type"]:
        case "extra_forbidden":
            return f"{'.'.join(keys)}: unknown key"
        case "missing":
            return f"{'.'.join(keys)}: missing"
        case "value_error":
            return f"{'.'.join(keys)}: {message}" if keys else message
        case "model_type" | "dict_type":
            return f"{'.'.join(keys)}: must be a name or a mapping{shown}"
        case _:
            return f"{'.'.join(keys)}: {message[:1].lower()}{message[1:]}{shown}"
