"""`families`: one law of the sizes for all families of models, or one for each; tested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import field_validator

from fsgen.analysis.answers import Answer, Row
from fsgen.analysis.intervals import of_draws
from fsgen.analysis.labels import millions, short_name
from fsgen.analysis.scaling import LAWS, read_points
from fsgen.analysis.scaling.families import SIMULATED, Comparison, Pairs, compare, sets_of
from fsgen.analysis.scaling.fit import fit
from fsgen.analysis.scaling.laws import CONSTANT, RATIO_ZERO, Law
from fsgen.experiments.base import Experiment
from fsgen.experiments.cells import oracle_cells
from fsgen.experiments.config import words
from fsgen.experiments.lab import Lab
from fsgen.experiments.scaling import by_ratio
from fsgen.models.bundled import ladder as bundled_ladder
from fsgen.study.config import Keys, LadderConfig

_LEVEL = 0.05
_FEWEST = 3  # models of a ladder: two have one pair, which no law of the sizes can be fitted to
_ALIKE = 3.0  # families whose smallest and largest models differ by less than this factor span the same sizes


class Options(Keys):
    """Which families there are, and the law that is tested; see `families.yaml`."""

    names: tuple[str, ...]
    tables: tuple[str, ...] = ()
    law: str | None = None

    @field_validator("law")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in LAWS:
            raise ValueError(f"must be one of {', '.join(LAWS)}")
        return value


def check(lab: Lab, options: Options) -> dict[tuple[str, str], str]:
    """Refuse what is not one ladder a family, two families at least; the family of each pair (draft, target)."""
    config = lab.config
    others = [name for source in options.tables for name in _read_table(source)["family"].unique()]
    ladders = [entry for entry in (config.pairs if config else None) or () if isinstance(entry, LadderConfig)]
    if config is None or config.grids or len(ladders) != len(config.pairs or ()) or len(ladders) != len(options.names):
        raise ValueError(f"the pairs of the study must be a ladder for each of the families {', '.join(options.names)}")
    if any(entry.every or entry.trainings for entry in ladders):
        raise ValueError("each family is a ladder of one training of each size, the smaller drafting for the larger")
    names = [*options.names, *others]
    if len(set(names)) < len(names):
        raise ValueError(f"two families have one name: {', '.join(names)}")
    if len(names) < 2:
        raise ValueError(f"there is only one family, {', '.join(names)}: nothing to compare it with")
    found: dict[tuple[str, str], str] = {}
    for name, entry in zip(options.names, ladders, strict=True):
        models = bundled_ladder() if isinstance(entry.ladder, str) else entry.ladder
        if len(models) < _FEWEST:
            raise ValueError(f"the ladder of {name} has {len(models)} models: a law of the sizes needs {_FEWEST}")
        for pair in combinations(models, 2):
            if found.setdefault(pair, name) != name:
                raise ValueError(f"the pair {' -> '.join(pair)} is in two families, {found[pair]} and {name}")
    oracle_cells(lab.plan())
    return found


def measure(lab: Lab, options: Options) -> tuple[pl.DataFrame, str | None]:
    """All pairs of each family, those of the tables too, and the law that is tested."""
    families = check(lab, options)
    study = lab.study()
    points = read_points(lab.folder, runs=[row.run for row in study.rows]).frame
    names = [families[pair] for pair in points.select("draft", "target").rows()]
    methods = points["method"].unique().to_list()
    tables = (_read_table(source).filter(pl.col("method").is_in(methods)) for source in options.tables)
    return pl.concat([points.with_columns(family=pl.Series(names, dtype=pl.String)), *tables]), options.law


def _read_table(source: str) -> pl.DataFrame:
    name = pl.lit(Path(source).stem)
    return read_points(source).frame.with_columns(family=pl.when(pl.col("family") == "").then(name).otherwise("family"))


def estimate(points: pl.DataFrame, law: str | None = None) -> Answer:
    """The answer from the pairs of all families.

    Args:
        points: as `read_points` gives them, with `family`.
        law: which is tested; None for the one that predicts left-out models best where each family has its own.

    Raises:
        ValueError: no method and task has two families whose pairs determine the law.
    """
    sets = sets_of(points)
    laws = [LAWS[law]] if law is not None else [each for each in LAWS.values() if each is not CONSTANT]
    compared = {each.name: [compare(pairs, each, simulated=False) for pairs in _large(sets, each)] for each in laws}
    compared = {name: found for name, found in compared.items() if found}
    if not compared:
        raise ValueError("no method and task has two families with as many pairs as a law has parameters")
    chosen = LAWS[law or _choice(compared)]
    tests = compared[chosen.name] = [compare(test.pairs, chosen) for test in compared[chosen.name]]
    pairs = [test.pairs for test in tests]
    two = _two_and_two(pairs, chosen)
    known = [test for test in tests if len(test.one)]
    ratio = of_draws(np.sum([one.one for one in known], 0) / np.sum([one.each for one in known], 0)) if known else None
    worse = None if ratio is None else ratio.value > 1 if ratio.low is None else ratio.above(1.0)
    refused = _refused(tests)
    alike = [one for one, by in two.items() if any(test.p is not None for test in by) and not _refused(by)]
    differ = confounded(points)
    alone = not differ  # the family is all that differs
    names = list(dict.fromkeys(name for each in pairs for name in each.names))
    missed = [name for name in points["family"].unique(maintain_order=True) if name not in names]
    p_values = [f"{test.pairs.place['task']} {test.p:.3f}" for test in tests if test.p is not None]
    return Answer.of(
        words("families"),
        holds=not refused if alone and refused is (worse is not False) else None,  # where both tests say the same
        numbers={} if ratio is None else {"one law over a law for each, held-out error": ratio},
        charts={"families": by_ratio(pl.concat(each.points for each in pairs), "family")},
        tables={
            "tests": _test_rows(compared),
            "two": _two_rows(two),
            "others": (_from_others(each, name, chosen) for each in pairs for name in each.names),
        },
        law=chosen.name,
        names=", ".join(names),
        missing=bool(missed),
        missed=", ".join(missed),
        left_out=ratio is not None,
        ratio=ratio,
        p_values=", ".join(p_values) or "too few pairs to test",
        alike="; ".join(alike),
        any_alike=bool(alike),
        several=len(two) > 1,
        simulated=SIMULATED,
        level=_LEVEL,
        alone=alone,
        differ=" and ".join(differ),
    )


def confounded(points: pl.DataFrame) -> list[str]:
    """What differs between the families beside their kind, so that a difference of laws may be of that.

    Args:
        points: as `read_points` gives them, with `family`; texts are at hand where `part` and `whole` are known.
    """
    families = [of for _, of in points.group_by("family", maintain_order=True)]
    found = []
    sizes = [(of["draft_parameters"].to_numpy().min(), of["target_parameters"].to_numpy().max()) for of in families]
    if max(low for low, _ in sizes) > _ALIKE * min(low for low, _ in sizes) or (
        max(high for _, high in sizes) > _ALIKE * min(high for _, high in sizes)
    ):
        found.append("sizes")
    texts = [of["part"].null_count() == 0 for of in families]
    if len(set(texts)) > 1:
        found.append("prompts and data (values of some were measured elsewhere)")
    return found


def _large(sets: list[Pairs], law: Law) -> list[Pairs]:
    """The sets, with the families that have as many pairs as the law has parameters; those that keep two of them."""
    names = [[name for name in pairs.names if pairs.of(name).sum() >= len(law.parameters)] for pairs in sets]
    return [pairs.only(large) for pairs, large in zip(sets, names, strict=True) if len(large) > 1]


def _two_and_two(sets: list[Pairs], law: Law) -> dict[str, list[Comparison]]:
    """Each two families by themselves, on every task that has both."""
    found: dict[str, list[Comparison]] = {}
    for pairs in sets:
        for two in combinations(pairs.names, 2):
            found.setdefault(" and ".join(two), []).append(compare(pairs.only(two), law))
    return found


def _refused(tests: Sequence[Comparison]) -> bool:
    """Whether one law is refused on one of the tasks."""
    known = [test.p for test in tests if test.p is not None]
    return any(p < _LEVEL / len(known) for p in known)


def _choice(compared: dict[str, list[Comparison]]) -> str:
    """The law with the least error for left-out models where each family has its own, over all tasks."""
    errors = {
        law: float(np.mean([test.each[0] for test in tests]))
        for law, tests in compared.items()
        if all(len(test.each) for test in tests)
    }
    if errors:
        return min(errors, key=lambda law: errors[law])
    return RATIO_ZERO.name if RATIO_ZERO.name in compared else next(iter(compared))


def _test_rows(compared: Mapping[str, list[Comparison]]) -> Iterator[Row]:
    every = [test for tests in compared.values() for test in tests]
    for test in sorted(every, key=lambda test: tuple(test.pairs.place.values())):
        criteria = {"AICc, one": test.aicc_one, "AICc, each": test.aicc_each}
        yield {**test.pairs.place, "law": test.law, "F": test.f, "p": test.p, **criteria, **test.errors}


def _two_rows(two: Mapping[str, list[Comparison]]) -> Iterator[Row]:
    for names, tests in two.items():
        for test in tests:
            about = {"families": names, **test.pairs.place, "pairs": len(test.pairs.sizes)}
            yield {**about, "F": test.f, "p": test.p, **test.errors}


def _from_others(pairs: Pairs, family: str, law: Law) -> Row:
    """How well a family is predicted from the others alone."""
    mine = pairs.of(family)
    own = fit(law, pairs.sizes[mine], pairs.frequencies[None, mine]).residuals[0]
    rest = fit(law, pairs.sizes[~mine], pairs.frequencies[None, ~mine])
    missed = pairs.frequencies[mine] - rest.predict(pairs.sizes[mine])[0]
    ends = (millions(round(size * 1e9)) for size in (pairs.sizes.draft[mine].min(), pairs.sizes.target[mine].max()))
    return {
        **pairs.place,
        "family": short_name(family),
        "pairs": int(mine.sum()),
        "sizes": " to ".join(ends),
        "mean": float(np.mean(pairs.frequencies[mine])),
        "error, own": float(np.sqrt(np.mean(own**2))),
        "error, others'": float(np.sqrt(np.mean(missed**2))),
        "measured - predicted": float(np.mean(missed)),
    }


EXPERIMENT = Experiment(Options, measure, estimate, check)
