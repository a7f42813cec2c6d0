"""What every experiment is: options that are checked, and a function that measures and answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Generic, TypeVar

from fsgen.analysis.answers import Answer
from fsgen.experiments.config import ExperimentConfig, default_text
from fsgen.experiments.lab import Lab
from fsgen.study.config import Keys, validated

Options = TypeVar("Options", bound=Keys)


class NoOptions(Keys):
    """Of an experiment that has none."""


@dataclass(frozen=True)
class Experiment(Generic[Options]):
    """One of `fsgen experiment --list`; a module of this package has one as `EXPERIMENT`.

    Attributes:
        options: what its configuration may say under `options`.
        run: measures with a lab, and answers; everything that can be refused is refused before anything is measured.
    """

    options: type[Options]
    run: Callable[[Lab, Options], Answer]

    def checked(self, config: ExperimentConfig) -> Options:
        """The options of a configuration. Raises ValueError."""
        return validated(self.options, config.options, f"options of {config.experiment}", "understood")


def experiment(name: str) -> Experiment[Keys]:
    """The experiment of a name. Raises ValueError for an unknown one."""
    default_text(name)
    found: Experiment[Keys] = import_module(f"fsgen.experiments.{name}").EXPERIMENT
    return found
