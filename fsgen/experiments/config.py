"""What an experiment does, as a YAML file says it: one ships for each, with the words of its answer."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from fsgen.study.config import Keys, StudyConfig, read_mapping, read_text, validated

_KEYS = "experiment, study and options"


class ExperimentConfig(Keys):
    """An experiment: a file beside the module that measures and answers.

    Attributes:
        experiment: its name.
        title: a heading.
        question: what it answers; both are those of the shipped file where a file of the user's leaves them out.
        study: runs that are made like any study's; None where the experiment needs none.
        options: the experiment's own.
    """

    experiment: str
    title: str = ""
    question: str = ""
    study: StudyConfig | None = None
    options: dict[str, Any] = Field(default_factory=dict)


def names() -> list[str]:
    """The experiments, in the order of their names."""
    files = resources.files("fsgen.experiments").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def default_text(name: str) -> str:
    """The shipped configuration of an experiment. Raises ValueError for an unknown one."""
    return _shipped(name)[0]


def words(name: str) -> dict[str, Any]:
    """The words of the answer of an experiment, for `Answer.of`."""
    found: dict[str, Any] = yaml.safe_load(_shipped(name)[1])
    return found


def _shipped(name: str) -> tuple[str, str]:
    """The two parts of an experiment's file: the configuration, and the words of its answer."""
    if name not in names():
        raise ValueError(f"unknown experiment {name!r}: choose one of {', '.join(names())}")
    text = (resources.files("fsgen.experiments") / f"{name}.yaml").read_text(encoding="utf-8")
    config, _, words = text.partition("---\n")
    return config, words


def configured(name: str, config: str | Path | None = None) -> ExperimentConfig:
    """The configuration of an experiment.

    Args:
        name: of the experiment.
        config: a YAML file; None for the shipped one.

    Raises:
        ValueError: an unknown experiment, no such file, no YAML, a file for another experiment, or one that is none.
    """
    shipped = _parsed(default_text(name), f"{name}.yaml")
    if config is None:
        return shipped
    own = _parsed(read_text(config, "configuration"), str(config))
    if own.experiment != name:
        raise ValueError(f"{str(config)!r} is for the experiment {own.experiment!r}, not {name!r}")
    return own.model_copy(update={"title": own.title or shipped.title, "question": own.question or shipped.question})


def _parsed(text: str, source: str) -> ExperimentConfig:
    return validated(ExperimentConfig, read_mapping(text, source, _KEYS), source, "an experiment")
