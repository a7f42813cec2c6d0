"""Trains routers: from the traces of runs that asked System 2 everywhere to the file of `learned:FILE`.

Examples are split by a hash of their ids, never within an example: on half of them the score is trained, on a quarter
its threshold is chosen, and on the rest it is judged. arXiv 2406.12295 trains a support vector machine on the largest
probabilities of the draft, for a picture; here it decides.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

import fsgen
from fsgen.analysis.frequency import SummaryRow, read_run, read_study, summarize
from fsgen.analysis.intervals import Estimate, Floats, grouped, resampled
from fsgen.analysis.labels import short_name
from fsgen.analysis.ranking import RESAMPLES, Ranking
from fsgen.analysis.routers import check_budgets
from fsgen.analysis.study import asked_everywhere, find
from fsgen.analysis.traces import collect, prepared, scan_traces
from fsgen.methods.learned.features import features, names
from fsgen.methods.learned.file import LearnedModel
from fsgen.methods.learned.scorers import SCORERS, Scorer

KINDS = tuple(SCORERS)
PARTS = {"train": 0.5, "calibration": 0.25, "test": 0.25}
CALLS = 0.2
_MOST = 50_000  # positions that are trained on
_LEAST = 10  # mismatches, and matches, without which nothing is learned
_CENTRES = 200


@dataclass(frozen=True, eq=False)
class Positions:
    """Positions of texts where both choices are known.

    Attributes:
        top: how many candidates are among the features.
        x: their features, [n, 4 + top].
        differs: System 2's greedy token is not the draft's, [n].
        names: the examples that they are of.
        example: of each position, its place in `names`, [n].
        prob, entropy, margin: of the draft, [n].
    """

    top: int
    x: Floats
    differs: NDArray[np.bool_]
    names: tuple[str, ...]
    example: NDArray[np.int64]
    prob: Floats
    margin: Floats
    entropy: Floats

    def __len__(self) -> int:
        return len(self.differs)

    def of(self, examples: Sequence[str] | set[str]) -> Positions:
        """Those of some examples."""
        kept = sorted(set(examples) & set(self.names))
        number = {name: i for i, name in enumerate(kept)}
        renamed = np.array([number.get(name, -1) for name in self.names], dtype=np.int64)[self.example]
        there = renamed >= 0
        parts = (getattr(self, name)[there] for name in ("prob", "margin", "entropy"))
        return Positions(self.top, self.x[there], self.differs[there], tuple(kept), renamed[there], *parts)

    @cached_property
    def scores(self) -> dict[str, Floats]:
        """What the routers without training go by, as scores: high where they ask."""
        return {"max-prob": -self.prob, "margin": -self.margin, "entropy": self.entropy}


def positions(traces: pl.DataFrame | pl.LazyFrame | Sequence[pl.DataFrame | pl.LazyFrame]) -> Positions:
    """The positions of one run or several, in each of which System 2 was asked everywhere.

    Raises:
        ValueError: the traces keep less than two candidates.
    """
    frames = [traces] if isinstance(traces, (pl.DataFrame, pl.LazyFrame)) else list(traces)
    wanted = ("example", "position", "differs", "draft_prob", "draft_margin", "draft_entropy", "draft_top_probs")
    order = ("example", "turn", "position")  # a query gives its rows in any; the same data shall train the same router
    table = pl.concat(
        [
            collect(prepared(frame).select(*wanted, "turn").filter(pl.col("differs").is_not_null())).sort(order)
            for frame in frames
        ]
    )
    kept = table["draft_top_probs"].list.len().min() if len(table) else 0
    top = int(kept) if isinstance(kept, int) else 0
    if top < 2:
        raise ValueError(f"the traces keep {top} candidates of the draft: run the study with candidates: 10")
    probs = table["draft_top_probs"].list.head(top).list.to_array(top).to_numpy()
    prob, margin, entropy = (table[f"draft_{name}"].to_numpy() for name in ("prob", "margin", "entropy"))
    known, example = np.unique(table["example"].to_numpy().astype(str), return_inverse=True)
    return Positions(
        top=top,
        x=features(probs, prob, margin, entropy, table["position"].to_numpy()),
        differs=table["differs"].to_numpy(),
        names=tuple(known.tolist()),
        example=example.astype(np.int64),
        prob=prob.astype(np.float64),
        margin=margin.astype(np.float64),
        entropy=entropy.astype(np.float64),
    )


def part_of(example: str) -> str:
    """Which part an example belongs to, by a hash of its id: the same in every study."""
    place = int.from_bytes(hashlib.sha256(example.encode()).digest()[:8], "big") / 2**64
    return "train" if place < PARTS["train"] else "calibration" if place < 1 - PARTS["test"] else "test"


# ---- scores


def learn(known: Positions, kind: str, seed: int = 0) -> Scorer:
    """A score of positions that is high where the two differ.

    Args:
        known: the positions to train on; of more than 50,000, so many are drawn.
        kind: `svm` (Gaussian kernel by 200 Nystroem centres, squared hinge loss), `logistic` (regression), or `trees`
            (gradient boosting).
        seed: of what is drawn.

    Raises:
        ValueError: an unknown kind, or too few mismatches or matches.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}: choose one of {', '.join(KINDS)}")
    differing = int(known.differs.sum())
    if min(differing, len(known) - differing) < _LEAST:
        raise ValueError(
            f"there are {differing} mismatches among {len(known)} positions to train on: at least {_LEAST} of "
            "each kind are needed; run more examples"
        )
    chosen = np.random.default_rng(seed).permutation(len(known))[:_MOST]
    x, y = known.x[chosen], known.differs[chosen]
    mean, scale = x.mean(0), x.std(0)
    scale[scale < 1e-9] = 1.0
    fitted: dict[str, Callable[[Floats, NDArray[np.bool_], int], dict[str, Any]]] = {
        "svm": _svm,
        "logistic": _logistic,
        "trees": _trees,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an optimiser that ends at its last step
        return SCORERS[kind](mean, scale, **fitted[kind]((x - mean) / scale, y, seed))


def _logistic(x: Floats, y: NDArray[np.bool_], seed: int) -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=500).fit(x, y)
    return {"weights": model.coef_[0].astype(np.float64), "bias": model.intercept_.astype(np.float64)}


def _svm(x: Floats, y: NDArray[np.bool_], seed: int) -> dict[str, Any]:
    from sklearn.kernel_approximation import Nystroem
    from sklearn.svm import LinearSVC

    gamma = 1.0 / x.shape[1]
    kernel = Nystroem(gamma=gamma, n_components=min(_CENTRES, len(x)), random_state=seed).fit(x)
    machine = LinearSVC(random_state=seed, max_iter=2000).fit(kernel.transform(x), y)
    return {
        "centres": np.ascontiguousarray(kernel.components_),
        "weights": kernel.normalization_.T @ machine.coef_[0],
        "gamma": np.array([gamma]),
        "bias": np.array([machine.intercept_[0]]),
    }


def _trees(x: Floats, y: NDArray[np.bool_], seed: int) -> dict[str, Any]:
    from sklearn.ensemble import GradientBoostingClassifier

    model = GradientBoostingClassifier(
        n_estimators=100, learning_rate=0.1, max_depth=3, min_samples_leaf=20, subsample=0.5, random_state=seed
    ).fit(x, y)
    trees = [stage[0].tree_ for stage in model.estimators_]
    roots = np.concatenate([[0], np.cumsum([tree.node_count for tree in trees])[:-1]])

    def joined(part: Callable[[Any], Any]) -> NDArray[Any]:
        return np.concatenate([part(tree) for tree in trees])

    def child(side: str) -> NDArray[np.int32]:
        each = []
        for root, tree in zip(roots, trees, strict=True):
            to = getattr(tree, f"children_{side}")
            each.append(root + np.where(to < 0, np.arange(tree.node_count), to))  # a leaf is its own child
        return np.concatenate(each).astype(np.int32)

    prior = float(y.mean())
    return {
        "roots": roots.astype(np.int32),
        "feature": np.maximum(joined(lambda tree: tree.feature), 0).astype(np.int32),
        "left": child("left"),
        "right": child("right"),
        "threshold": joined(lambda tree: tree.threshold).astype(np.float64),
        "value": model.learning_rate * joined(lambda tree: tree.value[:, 0, 0]).astype(np.float64),
        "bias": np.array([np.log(prior / (1 - prior))]),
        "depth": np.array([max(tree.max_depth for tree in trees)], dtype=np.int32),
    }


# ---- thresholds


def threshold(
    score: Floats, differs: NDArray[np.bool_], calls: float | None = None, misses: float | None = None
) -> float:
    """The threshold of a score that meets a budget; a position is asked about where its score is above it.

    Args:
        score, differs: of the positions to choose it on, [n].
        calls: it asks at no more than this share of the positions, as often as it can.
        misses: it misses mismatches at no more than this share of the positions, and asks as rarely as it can.

    Raises:
        ValueError: not one budget, or one that is no share.
    """
    if (calls is None) == (misses is None):
        raise ValueError("give one budget, of calls or of misses")
    check_budgets([] if calls is None else [calls], [] if misses is None else [misses])
    order = np.argsort(-score, kind="stable")
    falling, caught = score[order], differs[order].cumsum()
    ends = np.flatnonzero(np.diff(falling) < 0) + 1  # so many positions can be asked about, without ties in two parts
    asked = np.concatenate([[0], ends, [len(score)]])
    missed = caught[-1] - np.concatenate([[0], caught[asked[1:] - 1]])
    if calls is not None:
        best = int(np.searchsorted(asked, calls * len(score), side="right")) - 1
    else:
        assert misses is not None
        best = int(np.argmax(missed <= misses * len(score)))
    if asked[best] == 0:
        return float(falling[0]) + 1.0
    if asked[best] == len(score):
        return float(falling[-1]) - 1.0
    return float(falling[asked[best] - 1] + falling[asked[best]]) / 2


# ---- judged


@dataclass(frozen=True)
class Judged:
    """A router on the held-out examples, asking as often as the learned one does there.

    Attributes:
        router: its name.
        auroc: of its score, mismatches being the positive class; None for `random` and `perfect`.
        missed: the mismatches that it passes over / all positions.
        beside: how much more it misses than the learned router, drawn on the same examples; None for that itself.
    """

    router: str
    auroc: Estimate | None
    missed: Estimate
    beside: Estimate | None


@dataclass(frozen=True)
class Training:
    """What came of a training.

    Attributes:
        model: the router.
        calls: positions of the held-out examples at which it asks / all of them.
        frequency: the share of these positions where the two differ.
        judged: it and others at equal calls, the learned one first.
        counts: examples, positions and mismatches of each part.
    """

    model: LearnedModel
    calls: Estimate
    frequency: float
    judged: tuple[Judged, ...]
    counts: Mapping[str, Mapping[str, int]]


def judge(model: LearnedModel, held_out: Positions) -> tuple[Estimate, tuple[Judged, ...]]:
    """How often a learned router asks on examples that it has not seen, and what it and others then miss."""
    score = model.scorer.score(held_out.x)
    scores = {"learned": score, **held_out.scores}
    rankings = {name: Ranking.of(each, held_out.differs, held_out.example) for name, each in scores.items()}
    sums = np.zeros((len(held_out.names), 3))
    for column, values in enumerate((score > model.threshold, held_out.differs, np.ones(len(score)))):
        np.add.at(sums[:, column], held_out.example, values)
    sums = grouped(sums)

    def rates(drawn: Floats) -> Floats:
        """Calls and frequency, [2, resamples]."""
        total: Floats = drawn @ sums
        shares: Floats = (total[:, :2] / total[:, 2:]).T
        return shares

    def missed(name: str, drawn: Floats) -> Floats:
        calls, frequency = rates(drawn)
        found: Floats
        match name:
            case "random":
                found = (1 - calls) * frequency
            case "perfect":
                found = np.maximum(0.0, frequency - calls)
            case _:
                found = rankings[name].missed(calls, drawn)
        return found

    def estimated(measured: Callable[[Floats], Floats]) -> Estimate:
        return resampled(measured, len(sums), resamples=RESAMPLES)

    def judged(name: str) -> Judged:
        return Judged(
            router=name,
            auroc=rankings[name].auroc() if name in rankings else None,
            missed=estimated(lambda drawn: missed(name, drawn)),
            beside=None
            if name == "learned"
            else estimated(lambda drawn: missed(name, drawn) - missed("learned", drawn)),
        )

    every = tuple(judged(name) for name in (*scores, "random", "perfect"))
    return estimated(lambda drawn: rates(drawn)[0]), every


# ---- from a study


def train(
    folder: str | Path,
    kind: str = "logistic",
    runs: Sequence[str] | None = None,
    calls: float | None = None,
    misses: float | None = None,
    seed: int = 0,
) -> Training:
    """Train a router on the traces of a study. Nothing is written, and no model runs.

    Args:
        folder: of the study.
        kind: as in `learn`.
        runs: these alone: keys, or beginnings of keys; all that asked System 2 everywhere if None.
        calls, misses: the budget, as in `threshold`; a fifth of the positions if neither is given.
        seed: of what is drawn in training.

    Raises:
        ValueError: an unknown kind, two budgets or an impossible one, a folder without such runs, runs of several
            drafts or several System 2, too few positions, traces without candidates.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}: choose one of {', '.join(KINDS)}")
    if calls is not None and misses is not None:
        raise ValueError("give one budget, of calls or of misses")
    if calls is None and misses is None:
        calls = CALLS
    check_budgets([] if calls is None else [calls], [] if misses is None else [misses])
    folder = Path(folder)
    rows = _rows(folder, runs)
    records = [read_run(folder, row.run) for row in rows]
    draft = records[0]["members"]["draft"]
    if draft["digest"] in (None, "None"):
        raise ValueError(
            f"the study does not know which weights {draft['name']} has, so that no router can be for them"
        )
    planned = {row["run"]: row["vocabulary"] for row in read_study(folder)["rows"]}
    known = positions([scan_traces(folder, row.run) for row in rows])
    parts = {part: known.of({name for name in known.names if part_of(name) == part}) for part in PARTS}
    if empty := [part for part, some in parts.items() if not len(some)]:
        raise ValueError(f"{len(known.names)} examples leave none for {', '.join(empty)}: run more of them")
    scorer = learn(parts["train"], kind, seed)
    chosen = parts["calibration"]
    model = LearnedModel(
        scorer=scorer,
        top=known.top,
        threshold=threshold(scorer.score(chosen.x), chosen.differs, calls, misses),
        draft={"name": draft["name"], "digest": draft["digest"]},
        vocabulary=planned[rows[0].run],
    )
    asked, judged = judge(model, parts["test"])
    counts = {
        part: {"examples": len(some.names), "positions": len(some), "mismatches": int(some.differs.sum())}
        for part, some in parts.items()
    }
    record = {
        "runs": [row.run for row in rows],
        "tasks": sorted({row.task for row in rows}),
        "target": {key: records[0]["members"]["target"][key] for key in ("name", "digest")},
        "fusion": records[0]["method"]["fusion"],
        "kind": kind,
        "features": names(known.top),
        "budget": {"calls": calls} if calls is not None else {"misses": misses},
        "seed": seed,
        "counts": counts,
        "held out": {
            "calls": asdict(asked),
            **{one.router: {key: value for key, value in asdict(one).items() if key != "router"} for one in judged},
        },
        "versions": {
            "fsgen": fsgen.__version__,
            **{name: metadata.version(name) for name in ("numpy", "scikit-learn")},
        },
    }
    return Training(
        model=replace(model, record=record),
        calls=asked,
        frequency=float(parts["test"].differs.mean()),
        judged=judged,
        counts=counts,
    )


def _rows(folder: Path, runs: Sequence[str] | None) -> list[SummaryRow]:
    """The runs to train on: all asked System 2 everywhere, and have one draft and one System 2."""
    every = summarize(folder)
    rows = [row for row in every if asked_everywhere(row)]
    if runs is not None:
        chosen = [find(every, run) for run in runs]
        if odd := [row.run for row in chosen if row not in rows]:
            raise ValueError(f"these runs did not ask System 2 everywhere: {', '.join(odd)}")
        rows = [row for row in rows if row in chosen]
    if not rows:
        raise ValueError(
            f"{str(folder)!r} has no finished run that asked System 2 everywhere, such as those of `oracle`"
        )
    systems: dict[str, list[SummaryRow]] = {}
    for row in rows:
        record = read_run(folder, row.run)
        members = {role: member["digest"] for role, member in record["members"].items()}
        systems.setdefault(repr((members, record["method"]["fusion"])), []).append(row)
    if len(systems) > 1:
        listed = "; ".join(
            f"{short_name(some[0].draft)} -> {short_name(some[0].target)}, {some[0].method}: "
            + ", ".join(row.run for row in some)
            for some in systems.values()
        )
        raise ValueError(f"a router is for one draft and one System 2, and these runs have {len(systems)}: {listed}")
    return rows
