"""A plan on disk: YAML that `fsgen generate`, `study`, `bench` and `serve` take by `--plan`; `read_plan` reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from fsgen.backends.places import weights_of
from fsgen.files import write_text
from fsgen.methods.method import parse
from fsgen.planner.choose import Judged
from fsgen.planner.result import Answer
from fsgen.planner.work import Question
from fsgen.study.config import LARGEST, Keys, load_config, read_mapping, read_text

_HEAD = "# What `fsgen plan` chose. `fsgen generate`, `study`, `bench` and `serve` take it by --plan FILE.\n"


class Setting(Keys):
    """What to use at one batch size.

    Attributes:
        draft: the small model's name; None for plain decoding and for n-grams.
        method, router, draft_tokens: as in `fsgen.generate`.
        speedup, low, high: over plain decoding, as predicted, with its interval.
        tokens_per_second: of all texts together, as predicted.
    """

    draft: str | None = None
    method: str
    router: str = "always"
    draft_tokens: int | Literal["auto"]
    speedup: float
    low: float
    high: float
    tokens_per_second: float


class PlanFile(Keys):
    """A plan as its file has it.

    Attributes:
        plan: the version of the form.
        verdict: draft, route or plain.
        target, weights, dtype: the large model, and the types of weights, as they were planned with.
        batch_size: that suits the objective best.
        by_batch_size: what to use at each batch size that was planned.
        assumptions: what it rests on.
    """

    plan: Literal[1] = 1
    verdict: Literal["draft", "route", "plain"]
    target: str
    dtype: str = "auto"
    weights: str = "auto"
    hardware: str = "measured"
    batch_size: int
    by_batch_size: Annotated[dict[int, Setting], Field(min_length=1)]
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chosen:
    """What a plan says for one batch size: the arguments of `fsgen.load` and `fsgen.generate`.

    Attributes:
        draft, target, base: names for `fsgen.load`; a draft `ngram:N` is prompt look-up, None is none.
        method, router, draft_tokens: for `fsgen.generate`; the last one is a number as text, or auto.
        batch_size: that they were chosen for.
        dtype, weights: for `fsgen.load`.
        expected: the predicted speed-up over plain decoding with the ends of its interval.
    """

    draft: str | None
    target: str
    base: str | None
    method: str
    router: str | None
    draft_tokens: str | None
    batch_size: int
    dtype: str
    weights: str
    expected: tuple[float, float, float]


def write_plan(path: Path, found: Answer, question: Question) -> None:
    """Writes an answer. Raises OSError where the file cannot be written."""
    content = PlanFile(
        verdict=found.verdict,  # type: ignore[arg-type]  # one of them
        target=question.target,
        dtype=question.dtype,
        weights=question.weights,
        hardware=question.hardware,
        batch_size=found.choice.batch,
        by_batch_size={batch: _setting(one) for batch, one in found.by_batch.items()},
        assumptions=tuple(found.assumptions),
    )
    write_text(path, _HEAD + yaml.safe_dump(content.model_dump(mode="json"), sort_keys=False, width=110))


def _setting(one: Judged) -> Setting:
    method = one.candidate.method
    return Setting(
        draft=one.candidate.draft,
        method=method.name,
        router=one.candidate.router,
        draft_tokens=one.candidate.draft_tokens,  # type: ignore[arg-type]  # a number or auto
        speedup=round(one.speedup.value, 4),
        low=round(one.low, 4),
        high=round(one.high, 4),
        tokens_per_second=round(one.tokens_per_second, 3),
    )


def load_plan(path: Path) -> PlanFile:
    """A plan file as it is. Raises ValueError for a file that is none, naming what is wrong."""
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("it is too large")
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = PlanFile.model_validate(content)
        for one in found.by_batch_size.values():
            parse(one.method, None if one.method.startswith("plain") else one.router, one.draft_tokens)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise ValueError(f"{str(path)!r} is no plan of fsgen: {where}: {first['msg']}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is no plan of fsgen: {error}") from None
    return found


def planned_study(path: Path | None, chosen: Chosen) -> dict[str, Any]:
    """The configuration of a study of what a plan chose: its tasks and settings are the file's.

    Args:
        path: YAML without pairs, methods and routers; the tasks of the bundled study where None.

    Raises:
        ValueError: a file that has them or another dtype, or is no configuration; a plan with types of weights, which
            studies do not have.
    """
    if chosen.weights != "auto":
        raise ValueError(f"the plan has weights={chosen.weights!r}, which a study cannot have: make one with --dtype")
    if path is None:
        tasks = (load_config().tasks or ())[:1] or ({"name": "gsm8k"},)
        named = [one if isinstance(one, dict) else one.model_dump() for one in tasks]
        content: dict[str, Any] = {"name": "plan", "tasks": named}
    else:
        content = dict(read_mapping(read_text(path, "study"), str(path), "tasks"))
        if own := sorted({"pairs", "methods", "routers", "grids"} & content.keys()):
            raise ValueError(f"{str(path)!r} has {own[0]}, which --plan says too: leave one of them out")
    if chosen.dtype != "auto" and content.setdefault("dtype", chosen.dtype) != chosen.dtype:
        raise ValueError(f"{str(path)!r} has dtype {content['dtype']!r}, and the plan {chosen.dtype!r}")
    method = chosen.method if not (chosen.draft or "").startswith("ngram") else f"{chosen.method}:{_ngram(chosen)}"
    length = int(tokens) if (tokens := chosen.draft_tokens or "").isdecimal() else None
    pair = {"target": chosen.target}
    if chosen.draft is not None and not chosen.draft.startswith("ngram"):
        pair["draft"] = chosen.draft
    content |= {"pairs": [pair], "methods": [{"name": method, "draft_tokens": length}]}
    return content | ({"routers": [chosen.router]} if chosen.router is not None else {})


def _ngram(chosen: Chosen) -> str:
    return "ngram=" + (chosen.draft or "").partition(":")[2]


def read_plan(path: Path, batch_size: int | None = None) -> Chosen:
    """What a plan says for a batch size: of the largest planned one that is not above it, or else of the smallest.

    Args:
        path: a file that `fsgen plan --write` wrote.
        batch_size: how many texts are written at a time; that of the plan's objective where None.

    Raises:
        ValueError: a file that is no plan.
        OSError: it cannot be read.
    """
    found = load_plan(path)
    wanted = found.batch_size if batch_size is None else batch_size
    below = [size for size in found.by_batch_size if size <= wanted]
    size = max(below) if below else min(found.by_batch_size)
    one = found.by_batch_size[size]
    method = parse(one.method)
    plain = not method.drafts
    return Chosen(
        draft=f"ngram:{method.ngram}" if method.ngram else one.draft,
        target=found.target,
        base=None,
        method=one.method.partition(":")[0] if method.ngram else one.method,
        router=None if plain else one.router,
        draft_tokens=None if plain else str(one.draft_tokens),
        batch_size=size,
        dtype=found.dtype,
        weights=weights_of(found.weights, {"target"} if method.ngram or one.draft is None else {"draft", "target"}),
        expected=(one.speedup, one.low, one.high),
    )
