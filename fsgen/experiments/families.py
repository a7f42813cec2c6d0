"""`families`: one law of the sizes for all families of models, or one for each; tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import field_validator

from fsgen.analysis.answers import Answer, Chart, Point, Table
from fsgen.analysis.intervals import Estimate, Floats, percentiles
from fsgen.analysis.labels import millions, set_label, short_name
from fsgen.analysis.scaling import LAWS, read_points
from fsgen.analysis.scaling.bootstrap import Texts, determined_frequencies
from fsgen.analysis.scaling.fit import Fits, fit, slopes
from fsgen.analysis.scaling.laws import CONSTANT, RATIO_ZERO, Law, Sizes
from fsgen.analysis.scaling.results import as_sizes
from fsgen.experiments.base import Experiment
from fsgen.experiments.lab import Lab
from fsgen.models.bundled import ladder as bundled_ladder
from fsgen.study.config import Keys, LadderConfig

SIMULATED = 999  # under one law for all
_RESAMPLES = 200  # of the examples; each fits the law without every model
_MODEL_SHARES = (0.0, 0.5)  # of the errors' variance that is of models, not of pairs
_SEVERAL = 3  # residual degrees of freedom from which a family's errors have a size of their own
_LEVEL = 0.05


class Options(Keys):
    """Which families there are.

    Attributes:
        names: of the ladders of the study, in their order.
        tables: CSV files of families that were measured before, as `fsgen scaling` reads them.
        law: which; None for the one that foretells left-out models best where each family has its own.
    """

    names: tuple[str, ...]
    tables: tuple[str, ...] = ()
    law: str | None = None

    @field_validator("law")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in LAWS:
            raise ValueError(f"must be one of {', '.join(LAWS)}")
        return value


def run(lab: Lab, options: Options) -> Answer:
    """Measure all pairs of each family, and compare the laws."""
    tables = [_read_table(source) for source in options.tables]
    families = _families(lab, options, [name for table in tables for name in table["family"].unique()])
    study = lab.study()
    points = read_points(lab.folder, runs=[row.run for row in study.rows]).frame
    measured = points.with_columns(
        family=pl.struct("draft", "target").map_elements(
            lambda pair: families[pair["draft"], pair["target"]], pl.String
        )
    )
    methods = measured["method"].unique().to_list()
    return conclude(
        pl.concat([measured, *(table.filter(pl.col("method").is_in(methods)) for table in tables)]), options.law
    )


def _read_table(source: str) -> pl.DataFrame:
    name = pl.lit(Path(source).stem)
    return read_points(source).frame.with_columns(family=pl.when(pl.col("family") == "").then(name).otherwise("family"))


def _families(lab: Lab, options: Options, others: list[str]) -> dict[tuple[str, str], str]:
    """The family of each pair (draft, target) of the study."""
    config = lab.config
    ladders = [entry for entry in (config.pairs if config else None) or () if isinstance(entry, LadderConfig)]
    if config is None or config.grids or len(ladders) != len(config.pairs or ()) or len(ladders) != len(options.names):
        raise ValueError(f"the pairs of the study must be a ladder for each of the families {', '.join(options.names)}")
    names = [*options.names, *others]
    if len(set(names)) < len(names):
        raise ValueError(f"two families have one name: {', '.join(names)}")
    if len(names) < 2:
        raise ValueError(f"there is only one family, {', '.join(names)}: nothing to compare it with")
    for row in lab.plan().rows:
        if row.cell.method.name != "oracle" or row.cell.sampling.temperature > 0:
            raise ValueError(f"{row.cell.label}: this experiment has the method oracle, and greedy texts")
    found: dict[tuple[str, str], str] = {}
    for name, entry in zip(options.names, ladders, strict=True):
        models = bundled_ladder() if isinstance(entry.ladder, str) else entry.ladder
        for pair in combinations(models, 2):
            if found.setdefault(pair, name) != name:
                raise ValueError(f"the pair {' -> '.join(pair)} is in two families, {found[pair]} and {name}")
    return found


@dataclass(frozen=True)
class Pairs:
    """The pairs of all families with one method on one task.

    Attributes:
        method, task: which.
        sizes: of n pairs.
        frequencies: [n].
        families: of each pair, [n].
        models: draft and target of each pair, with their family, so that none is in two.
        deviations: what drawing examples anew changes, [resamples, n]; 0 for pairs whose texts are not at hand.
    """

    method: str
    task: str
    sizes: Sizes
    frequencies: Floats
    families: NDArray[np.str_]
    models: list[tuple[tuple[str, str], tuple[str, str]]]
    deviations: Floats

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(self.families.tolist()))

    def of(self, family: str) -> NDArray[np.bool_]:
        mine: NDArray[np.bool_] = self.families == family
        return mine

    def only(self, names: Sequence[str]) -> Pairs:
        """Those of some families."""
        kept = np.isin(self.families, list(names))
        models = [pair for pair, keep in zip(self.models, kept, strict=True) if keep]
        return replace(
            self,
            sizes=self.sizes[kept],
            frequencies=self.frequencies[kept],
            families=self.families[kept],
            models=models,
            deviations=self.deviations[:, kept],
        )

    def has(self, model: tuple[str, str]) -> NDArray[np.bool_]:
        return np.array([model in pair for pair in self.models])


@dataclass(frozen=True)
class Comparison:
    """One law for all against one for each, on one task.

    Attributes:
        f: how much less the squared residuals are with a law for each, by parameter, over what is left by degree of
            freedom; None where nothing is left.
        p: how often it is as large under one law; the largest over what part of the errors is of models. None where
            it was not simulated.
        aicc_one, aicc_each: None with too few pairs.
        one, each: the errors for left-out models, of what was measured and of each resample; empty where too few.
    """

    law: str
    f: float | None
    p: float | None
    aicc_one: float | None
    aicc_each: float | None
    one: Floats
    each: Floats


def compare(pairs: Pairs, law: Law, simulated: bool = True, seed: int = 0) -> Comparison:
    """Test one law for all families against one for each; both are fitted by least squares.

    Without `simulated` there is no p, and nothing of resampled examples, which takes most of the time.
    """
    measured = pairs.frequencies[None]
    one = fit(law, pairs.sizes, measured)
    each = [fit(law, pairs.sizes[pairs.of(name)], measured[:, pairs.of(name)]) for name in pairs.names]
    n, k = len(pairs.sizes), len(law.parameters)
    f = _f(pairs, law, measured)
    p = None
    if f is not None and simulated:
        p = max(_simulated(pairs, law, one, each, float(f[0]), share, seed) for share in _MODEL_SHARES)
    squares = float((one.residuals**2).sum())
    own_squares = float(sum((own.residuals**2).sum() for own in each))
    errors = _held_out(pairs, law, pairs.deviations[: _RESAMPLES if simulated else 0])
    return Comparison(
        law=law.name,
        f=None if f is None else float(f[0]),
        p=p,
        aicc_one=_aicc(squares, n, k),
        aicc_each=_aicc(own_squares, n, k * len(each)),
        one=errors[0],
        each=errors[1],
    )


def _f(pairs: Pairs, law: Law, frequencies: Floats) -> Floats | None:
    """The statistic for sets of frequencies [m, n], [m]; None without residual degrees of freedom."""
    k, count = len(law.parameters), len(pairs.names)
    left = len(pairs.sizes) - k * count
    if left < 1:
        return None
    one = (fit(law, pairs.sizes, frequencies).residuals ** 2).sum(axis=1)
    own = [fit(law, pairs.sizes[mine], frequencies[:, mine]).residuals for mine in map(pairs.of, pairs.names)]
    each = np.sum([(residuals**2).sum(axis=1) for residuals in own], axis=0)
    ratio: Floats = (one - each) / (k * (count - 1)) / np.maximum(each / left, np.finfo(float).tiny)
    return ratio


def _simulated(pairs: Pairs, law: Law, one: Fits, each: list[Fits], f: float, share: float, seed: int) -> float:
    """How often frequencies made by one law for all, with errors as large as those of each family, give such an F."""
    rng = np.random.default_rng([seed, int(100 * share)])
    models = list(dict.fromkeys(model for pair in pairs.models for model in pair))
    parts = np.array([[model in pair for model in models] for pair in pairs.models]) / np.sqrt(2)
    errors = np.sqrt(1 - share) * rng.standard_normal((SIMULATED, len(pairs.sizes)))
    errors += np.sqrt(share) * rng.standard_normal((SIMULATED, len(models))) @ parts.T
    spread = (1 - share) * np.eye(len(pairs.sizes)) + share * parts @ parts.T
    squares, expected, several = [], [], []
    for name, own in zip(pairs.names, each, strict=True):
        mine = pairs.of(name)
        turns = slopes(law, pairs.sizes[mine], own.weights[0], own.shape[0])
        left = np.eye(mine.sum()) - turns @ np.linalg.pinv(turns)
        squares.append(float((own.residuals**2).sum()))
        expected.append(float(np.trace(left @ spread[np.ix_(mine, mine)])))
        several.append(mine.sum() - len(law.parameters) >= _SEVERAL)
    for name, total, unit, alone in zip(pairs.names, squares, expected, several, strict=True):
        # The squared residuals, over what errors of unit size would leave of them; of small families all together.
        variance = total / unit if alone else sum(squares) / sum(expected)
        errors[:, pairs.of(name)] *= np.sqrt(variance)
    if len(pairs.deviations):
        errors += pairs.deviations[rng.integers(len(pairs.deviations), size=SIMULATED)]
    found = _f(pairs, law, one.predict(pairs.sizes) + errors)
    assert found is not None
    return float(1 + (found >= f).sum()) / (1 + SIMULATED)


def _aicc(squares: float, n: int, parameters: int) -> float | None:
    k = parameters + 1  # and the variance
    if n <= k + 1 or squares <= 0:
        return None
    return float(n * np.log(squares / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1))


def _held_out(pairs: Pairs, law: Law, deviations: Floats) -> tuple[Floats, Floats]:
    """The errors for the pairs of each model, foretold from all others, and from the others of its family.

    Both of what was measured and of each resample, and of the same models: those without which their family still
    determines the law. Empty where there are none.
    """
    measured = pairs.frequencies + np.concatenate([np.zeros((1, len(pairs.sizes))), deviations])
    errors: tuple[list[Floats], list[Floats]] = [], []
    for name in pairs.names:
        mine = pairs.of(name)
        for model in dict.fromkeys(
            model for pair, own in zip(pairs.models, mine, strict=True) if own for model in pair
        ):
            held = pairs.has(model)
            known = [~held, mine & ~held]
            if known[1].sum() < len(law.parameters):
                continue
            fits = [fit(law, pairs.sizes[rest], measured[:, rest]) for rest in known]
            if determined_frequencies(
                fit(law, pairs.sizes[known[1]], measured[:1, known[1]]), pairs.sizes[known[1]], pairs.sizes[held]
            ).all():
                for found, made in zip(errors, fits, strict=True):
                    found.append(measured[:, held] - made.predict(pairs.sizes[held]))
    if not errors[0]:
        return np.empty(0), np.empty(0)
    one, each = (np.sqrt(np.mean(np.concatenate(found, axis=1) ** 2, axis=1)) for found in errors)
    return one, each


def conclude(points: pl.DataFrame, law: str | None = None) -> Answer:
    """The answer from the pairs of all families.

    Args:
        points: as `read_points` gives them, with `family`.
        law: which is tested; None for the one that foretells left-out models best where each family has its own.

    Raises:
        ValueError: no method and task has two families whose pairs determine the law.
    """
    sets = _sets(points)
    laws = [LAWS[law]] if law is not None else [each for each in LAWS.values() if each is not CONSTANT]
    compared = {each.name: [compare(pairs, each, simulated=False) for pairs in _large(sets, each)] for each in laws}
    compared = {name: found for name, found in compared.items() if found}
    if not compared:
        raise ValueError("no method and task has two families with as many pairs as a law has parameters")
    chosen = law or _choice(compared)
    pairs = _large(sets, LAWS[chosen])
    tests = compared[chosen] = [compare(each, LAWS[chosen]) for each in pairs]
    names = list(dict.fromkeys(name for each in pairs for name in each.names))
    errors = [(test.one, test.each) for test in tests if len(test.one)]
    ratio = _estimate(np.sum([one for one, _ in errors], 0) / np.sum([own for _, own in errors], 0)) if errors else None
    numbers = {"one law over a law for each, held-out error": ratio} if ratio is not None else {}
    worse = None if ratio is None else ratio.value > 1 if ratio.low is None else ratio.above(1.0)
    known = [(test.p, each) for test, each in zip(tests, pairs, strict=True) if test.p is not None]
    refuted = _refused(known)
    two = _two_and_two(pairs, LAWS[chosen])
    holds = False if refuted and worse is not False else True if not refuted and worse is False else None
    said = {
        True: "One law for all families does as well as one for each",
        False: "One law does not hold for all families",
        None: "Whether one law holds for all families stays open",
    }[holds]
    p_values = ", ".join(f"{each.task} {p:.3f}" for p, each in known) or "too few pairs to test"
    foretold = (
        f"fitted to all together, {chosen} errs {ratio} times as much for models left out of the fit as when it is "
        "fitted to each alone"
        if ratio is not None
        else f"{chosen} is tested; no family is large enough to leave a model out"
    )
    return Answer(
        statement=f"{said} ({', '.join(names)}): {foretold}. Under one law the differences between the families "
        f"would be as large with probability p: {p_values}.{_alike(two)}",
        holds=holds,
        overturn="Families of like sizes: those here may differ in size as much as in kind, and a law that bends "
        "otherwise might take both in; the same texts for all, where a family's values were measured elsewhere; more "
        "models of a family, as each one's oddities are in all of its pairs.",
        numbers=numbers,
        charts=(_chart(pairs),),
        tables=(_tests(sets, compared), _two_table(two, chosen), _others(pairs, LAWS[chosen])),
        remarks=(
            f"p is simulated {SIMULATED} times under one law, with errors as large as those that a law for each "
            "leaves in its family, and with other examples where the texts are at hand; it is the larger of two: with "
            "errors of pairs alone, and with half of their variance that of models, shared by their pairs. One law "
            f"is refused at p below {_LEVEL:g} over the number of tasks.",
            "Sizes count all parameters. Intervals draw the examples of the families measured here; values from tables "
            "stand as they are.",
        ),
    )


def _sets(points: pl.DataFrame) -> list[Pairs]:
    """The pairs of each method and task that two families have at least."""
    found = []
    for (method, task), rows in points.group_by("method", "task", maintain_order=True):
        if rows["family"].n_unique() < 2:
            continue
        deviations = np.zeros((0, len(rows)))
        there = rows["part"].is_not_null().to_numpy()
        if there.any():
            mine = rows.filter(pl.col("part").is_not_null())
            texts = Texts(np.array(mine["part"].to_list()), np.array(mine["whole"].to_list()))
            deviations = np.zeros((SIMULATED, len(rows)))
            deviations[:, there] = texts.deviations(SIMULATED, seed=0)
        models = [((f, draft), (f, target)) for f, draft, target in rows.select("family", "draft", "target").rows()]
        found.append(
            Pairs(
                method=str(method),
                task=str(task),
                sizes=as_sizes(rows["draft_parameters"].to_list(), rows["target_parameters"].to_list()),
                frequencies=rows["collaboration_frequency"].to_numpy().astype(float),
                families=rows["family"].to_numpy().astype(np.str_),
                models=models,
                deviations=deviations,
            )
        )
    return found


def _large(sets: list[Pairs], law: Law) -> list[Pairs]:
    """The sets, with the families that have as many pairs as the law has parameters; those that keep two of them."""
    found = []
    for pairs in sets:
        names = [name for name in pairs.names if pairs.of(name).sum() >= len(law.parameters)]
        if len(names) > 1:
            found.append(pairs.only(names))
    return found


def _two_and_two(sets: list[Pairs], law: Law) -> dict[tuple[str, str], list[tuple[Pairs, Comparison]]]:
    """Each two families by themselves, on every task that has both."""
    found: dict[tuple[str, str], list[tuple[Pairs, Comparison]]] = {}
    for pairs in sets:
        for two in combinations(pairs.names, 2):
            both = pairs.only(two)
            found.setdefault(two, []).append((both, compare(both, law)))
    return found


def _refused(known: Sequence[tuple[float, Pairs]]) -> list[str]:
    """The tasks on which one law is refused."""
    return [pairs.task for p, pairs in known if p < _LEVEL / len(known)]


def _choice(compared: dict[str, list[Comparison]]) -> str:
    """The law with the least error for left-out models where each family has its own, over all tasks."""
    errors = {
        law: float(np.mean([test.each[0] for test in tests if len(test.each)]))
        for law, tests in compared.items()
        if all(len(test.each) for test in tests)
    }
    if errors:
        return min(errors, key=lambda law: errors[law])
    return RATIO_ZERO.name if RATIO_ZERO.name in compared else next(iter(compared))


def _estimate(drawn: Floats) -> Estimate:
    """The first value is what was measured, the others are resamples."""
    return Estimate(float(drawn[0]), *(percentiles(drawn[1:]) if len(drawn) > 1 else (None, None)))


def _alike(two: Mapping[tuple[str, str], list[tuple[Pairs, Comparison]]]) -> str:
    """Which two families one law is not refused for, where there are more than two."""
    if len(two) < 2:
        return ""
    tested = {names: [(test.p, pairs) for pairs, test in found if test.p is not None] for names, found in two.items()}
    alike = [" and ".join(names) for names, known in tested.items() if known and not _refused(known)]
    return (
        f" Taken two and two, one law is not refused for {'; '.join(alike) or 'any'}"
        f"{', which may be for want of pairs' if alike else ''}."
    )


def _two_table(two: Mapping[tuple[str, str], list[tuple[Pairs, Comparison]]], law: str) -> Table:
    return Table(
        name="two",
        title=f"Two families at a time, by {law}",
        note="p as above, of these two alone; empty where they are too small to test. That one law is not refused may "
        "be for want of pairs.",
        columns=("families", "task", "method", "pairs", "F", "p", "error, one", "error, each"),
        rows=tuple(
            (
                " and ".join(names),
                pairs.task,
                pairs.method,
                len(pairs.sizes),
                test.f,
                test.p,
                float(test.one[0]) if len(test.one) else None,
                float(test.each[0]) if len(test.each) else None,
            )
            for names, found in two.items()
            for pairs, test in found
        ),
    )


def _chart(sets: list[Pairs]) -> Chart:
    several = len({pairs.method for pairs in sets}) > 1
    return Chart(
        name="families",
        title="Frequency by the ratio of the sizes",
        finding="If one law of the ratio held for all, the families would lie on one curve.",
        note="A point is a pair.",
        x="parameters of the target / of the draft",
        y="collaboration frequency",
        kind="point",
        log_x=True,
        series="family",
        points=tuple(
            Point(
                float(np.exp(pairs.sizes.log_ratio[i])),
                float(pairs.frequencies[i]),
                series=str(pairs.families[i]),
                panel=set_label(pairs.task, pairs.method, several),
            )
            for pairs in sets
            for i in range(len(pairs.sizes))
        ),
    )


def _tests(sets: list[Pairs], compared: dict[str, list[Comparison]]) -> Table:
    rows = [
        (
            pairs.task,
            pairs.method,
            law,
            test.f,
            test.p,
            test.aicc_one,
            test.aicc_each,
            float(test.one[0]) if len(test.one) else None,
            float(test.each[0]) if len(test.each) else None,
        )
        for law, tests in compared.items()
        for pairs, test in zip(_large(sets, LAWS[law]), tests, strict=True)
    ]
    return Table(
        name="tests",
        title="One law for all against one for each",
        note="Errors are for models that were left out of the fit, with one law for all and with one for each. "
        "p is simulated for the law of the answer.",
        columns=("task", "method", "law", "F", "p", "AICc, one", "AICc, each", "error, one", "error, each"),
        rows=tuple(sorted(rows, key=lambda row: (str(row[0]), str(row[1])))),
    )


def _others(sets: list[Pairs], law: Law) -> Table:
    """How well each family is foretold from the others alone."""
    rows = []
    for pairs in sets:
        for name in pairs.names:
            mine = pairs.of(name)
            own = fit(law, pairs.sizes[mine], pairs.frequencies[None, mine]).residuals[0]
            rest = fit(law, pairs.sizes[~mine], pairs.frequencies[None, ~mine])
            missed = pairs.frequencies[mine] - rest.predict(pairs.sizes[mine])[0]
            drafts, targets = pairs.sizes.draft[mine], pairs.sizes.target[mine]
            rows.append(
                (
                    pairs.task,
                    pairs.method,
                    short_name(name),
                    int(mine.sum()),
                    f"{_size(drafts.min())} to {_size(targets.max())}",
                    float(np.mean(pairs.frequencies[mine])),
                    float(np.sqrt(np.mean(own**2))),
                    float(np.sqrt(np.mean(missed**2))),
                    float(np.mean(missed)),
                )
            )
    columns = ("task", "method", "family", "pairs", "sizes", "mean", "error, own", "error, others'")
    return Table(
        name="others",
        title=f"Each family by {law.name}: its own, and that of the others",
        note="The mean frequency, and root mean squared errors over its pairs; how much more is measured, on average, "
        "than the others' law foretells.",
        columns=(*columns, "measured - foretold"),
        rows=tuple(rows),
    )


def _size(billions: float) -> str:
    return millions(round(billions * 1e9))


EXPERIMENT = Experiment(Options, run)
