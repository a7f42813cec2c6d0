"""What every experiment is: a check before any work, a measurement that resumes, and an estimate from its tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar, TypeVarTuple

from fsgen.analysis.answers import Answer
from fsgen.experiments.config import ExperimentConfig, default_text
from fsgen.experiments.lab import Lab
from fsgen.study.config import Keys, validated

Options = TypeVar("Options", bound=Keys)
Tables = TypeVarTuple("Tables")


class NoOptions(Keys):
    """Of an experiment that has none."""


@dataclass(frozen=True)
class Experiment(Generic[Options, *Tables]):
    """One of `fsgen experiment --list`; a module of this package has one as `EXPERIMENT`.

    Attributes:
        options: what its configuration may say under `options`.
        measure: runs studies and measures tables with a lab, which stores both and finds them again.
        estimate: the answer, from what `measure` returned and nothing else.
        check: refuses what cannot run, before anything is measured. Raises ValueError.
    """

    options: type[Options]
    measure: Callable[[Lab, Options], tuple[*Tables]]
    estimate: Callable[[*Tables], Answer]
    check: Callable[[Lab, Options], object] = lambda lab, options: None

    def checked(self, config: ExperimentConfig) -> Options:
        """The options of a configuration. Raises ValueError."""
        return validated(self.options, config.options, f"options of {config.experiment}", "understood")

    def answer(self, lab: Lab, options: Options) -> Answer:
        """Check, measure and estimate."""
        self.check(lab, options)
        return self.estimate(*self.measure(lab, options))


def experiment(name: str) -> Experiment[Keys, *tuple[Any, ...]]:
    """The experiment of a name. Raises ValueError for an unknown one."""
    default_text(name)
    found: Experiment[Keys, *tuple[Any, ...]] = import_module(f"fsgen.experiments.{name}").EXPERIMENT
    return found
