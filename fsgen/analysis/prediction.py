"""Predicts the collaboration frequency of a pair from each model's own texts, without running the pair.

A logistic model says of each token of the target's own greedy text whether the draft would choose another one. It
reads what the target says of its own choice there (the gap between its two most likely tokens, its entropy), how
uncertain the draft is on its own texts, on average, and both sizes. Nothing of it needs both models on one machine.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fsgen.analysis.frequency import read_run, read_study, summarize
from fsgen.analysis.intervals import Floats
from fsgen.analysis.traces import collect, prepared, scan_traces
from fsgen.files import read_json, write_json

FEATURES = (
    "log (1 + gap of the target's two most likely tokens, in nats)",
    "the target's entropy, in nats",
    "log of the draft's mean entropy on its own texts, in nats",
    "log of the draft's parameters",
    "log of the target's parameters",
)
SIZES = (3, 4)
"""Of the features, the sizes: the law that a prediction is compared with reads nothing else."""
LARGEST_GAP = 20.0
_POSITIONS = 1000
"""Of each pair, at random, are fitted: pairs weigh alike, however long their texts are."""


@dataclass(frozen=True, eq=False)
class PairTexts:
    """What is known of a pair before it runs; and what happened, where it ran.

    Attributes:
        task, draft, target: their names.
        draft_parameters, target_parameters: all parameters of each.
        uncertainty: the draft's mean entropy on its own texts, in nats.
        gap, entropy: of the target at each token of its own texts, in nats, [n].
        text: which text each token belongs to, [n].
        differs: the draft's greedy token is another one, [n]; None where the pair has not run.
        digests: what identifies the weights of draft and target.
    """

    task: str
    draft: str
    target: str
    draft_parameters: int
    target_parameters: int
    uncertainty: float
    gap: Floats
    entropy: Floats
    text: NDArray[np.int64]
    differs: NDArray[np.bool_] | None = None
    digests: tuple[str, str] = ("", "")

    @property
    def models(self) -> set[str]:
        return {self.draft, self.target}

    @property
    def frequency(self) -> float:
        """The collaboration frequency of the run."""
        assert self.differs is not None, "the pair has not run"
        return float(self.differs.mean())

    def features(self, at: slice | NDArray[np.int64] = slice(None)) -> Floats:
        """`FEATURES` of each token, [n, 5]."""
        gap = np.log1p(np.clip(self.gap[at], 0, LARGEST_GAP))
        same = [np.log(max(self.uncertainty, 1e-9)), np.log(self.draft_parameters), np.log(self.target_parameters)]
        return np.column_stack([gap, self.entropy[at], *(np.full(len(gap), value) for value in same)])


Predict: TypeAlias = Callable[[Sequence["PairTexts"], "PairTexts"], float | None]


@dataclass(frozen=True)
class Predictor:
    """A fitted logistic model.

    Attributes:
        weights: of the features, 0 for those that it does not read.
        bias: the logit where all features are 0.
        record: what it was fitted on: `tasks`, `models` with their digests, the number of `pairs`; and its `error`
            where the task and both models were left out: the mean, and what `nine in ten` are within.
    """

    weights: tuple[float, ...]
    bias: float
    record: Mapping[str, Any] = field(default_factory=dict)

    def mismatch(self, pair: PairTexts) -> Floats:
        """The probability of a mismatch at each token of the target's texts, [n]."""
        logits = pair.features() @ np.asarray(self.weights) + self.bias
        return np.asarray(1 / (1 + np.exp(-logits)))

    def frequency(self, pair: PairTexts) -> float:
        """The collaboration frequency that is expected."""
        return float(self.mismatch(pair).mean())

    def knows(self, pair: PairTexts) -> bool:
        """Whether a model of the pair is one that it was fitted on, or that cannot be told."""
        known = set(self.record.get("models", {}).values())
        return not all(pair.digests) or bool(known & set(pair.digests))

    def write(self, path: Path) -> None:
        """Write it, as JSON. Raises WriteError."""
        write_json(path, {"features": list(FEATURES), **asdict(self), "record": dict(self.record)})


def accepted(mismatch: Floats, text: NDArray[np.int64], draft_tokens: int) -> list[float]:
    """The probability that the first 1, 2, ... drafted tokens all stand, from a place anywhere in a text.

    Mismatches are taken as independent once their probabilities are known.

    Args:
        mismatch: its probability at each token, [n].
        text: which text each token belongs to, [n]; drafts that would go beyond its end do not count.
        draft_tokens: of a round, at least 1.
    """
    found = []
    stand, at = 1 - mismatch, np.arange(len(mismatch))
    kept = np.ones(len(mismatch))
    for length in range(draft_tokens):
        last = at[: len(at) - length] + length
        kept = kept[: len(last)] * stand[last]
        inside = text[: len(last)] == text[last]
        found.append(float(kept[inside].mean()) if inside.any() else 0.0)
    return found


def fit(pairs: Iterable[PairTexts], reads: Sequence[int] = range(len(FEATURES)), seed: int = 0) -> Predictor:
    """Fit the model to pairs that ran.

    Args:
        pairs: of any tasks.
        reads: which of the features.
        seed: of the positions that are drawn.

    Raises:
        ValueError: fewer than two pairs, or no mismatches, or nothing else.
    """
    from sklearn.linear_model import LogisticRegression  # here: importing it takes a second
    from sklearn.preprocessing import StandardScaler

    pairs = list(pairs)
    rng = np.random.default_rng(seed)
    x, y = [], []
    for pair in pairs:
        assert pair.differs is not None, "the pair has not run"
        drawn = np.sort(rng.permutation(len(pair.gap))[:_POSITIONS])
        x.append(pair.features(drawn)[:, list(reads)])
        y.append(pair.differs[drawn])
    labels = np.concatenate(y) if y else np.empty(0, dtype=bool)
    if len(pairs) < 2 or labels.all() or not labels.any():
        raise ValueError(f"{len(pairs)} pairs with {int(labels.sum())} mismatches are too little to fit a prediction")
    scaler = StandardScaler().fit(np.concatenate(x))
    model = LogisticRegression(C=10.0, max_iter=1000).fit(scaler.transform(np.concatenate(x)), labels)
    scaled = model.coef_[0] / scaler.scale_
    weights = np.zeros(len(FEATURES))
    weights[list(reads)] = scaled
    return Predictor(tuple(map(float, weights)), float(model.intercept_[0] - scaled @ scaler.mean_))


def held_out(pairs: Sequence[PairTexts], by: str, predict: Predict) -> Floats:
    """The frequency of each pair as predicted from pairs that share nothing with it, [pairs].

    Args:
        pairs: that ran.
        by: `task`, `model` or `both`: pairs of the same task, with a model of it, or either, are left out.
        predict: from the pairs that are left and the one that is predicted.

    Returns:
        NaN where nothing is left, or `predict` gives None.
    """
    found = []
    for pair in pairs:
        left = [
            other
            for other in pairs
            if not (by in ("task", "both") and other.task == pair.task)
            and not (by in ("model", "both") and other.models & pair.models)
        ]
        value = predict(left, pair) if left else None
        found.append(float("nan") if value is None else value)
    return np.array(found)


def fit_for_use(pairs: Sequence[PairTexts]) -> Predictor:
    """A predictor fitted to all pairs, which records what they were, and its error where their likes are left out.

    Raises:
        ValueError: as in `fit`.
    """

    def predict(left: Sequence[PairTexts], pair: PairTexts) -> float | None:
        return fit(left).frequency(pair) if len(left) > 1 else None

    off = np.abs(held_out(pairs, "both", predict) - [pair.frequency for pair in pairs])
    off = off[~np.isnan(off)]
    digests = {
        name: digest for pair in pairs for name, digest in zip((pair.draft, pair.target), pair.digests, strict=True)
    }
    record = {
        "tasks": sorted({pair.task for pair in pairs}),
        "models": dict(sorted(digests.items())),
        "pairs": len(pairs),
        "error": {"mean": float(off.mean()), "nine in ten": float(np.quantile(off, 0.9))} if len(off) else None,
    }
    return replace(fit(pairs), record=record)


def read_pairs(folder: str | Path, runs: Iterable[str] | None = None) -> list[PairTexts]:
    """The pairs of a study that consulted the target everywhere, greedily, with what each model said alone.

    Args:
        folder: of the study.
        runs: only these.

    Raises:
        ValueError: there are none that can be used, or the traces keep fewer than two candidates.

    Warns:
        RuntimeWarning: names runs that are left out: entropies or sizes of their models are not known.
    """
    folder = Path(folder)
    rows = {row["run"]: row for row in read_study(folder)["rows"]}
    wanted = None if runs is None else set(runs)
    found, left_out = [], []
    for row in summarize(folder):
        drafted_alone = rows[row.run].get("draft_alone")
        usable = row.method == "oracle" and row.sampling == "greedy" and drafted_alone and row.draft
        if usable and (wanted is None or row.run in wanted):
            own = collect(scan_traces(folder, drafted_alone).select(pl.col("target_entropy").mean()))
            members = read_run(folder, row.run)["members"]
            trace = _target(folder, row.run)
            known = own.item() is not None and not trace["target_entropy"].null_count()
            if not (known and row.draft_parameters and row.target_parameters):
                left_out.append(f"{row.draft} -> {row.target} on {row.task} ({row.run})")
                continue
            found.append(
                PairTexts(
                    task=row.task,
                    draft=str(row.draft),
                    target=row.target,
                    draft_parameters=int(row.draft_parameters),
                    target_parameters=int(row.target_parameters),
                    uncertainty=float(own.item()),
                    gap=trace["gap"].to_numpy(),
                    entropy=trace["target_entropy"].cast(pl.Float64).to_numpy(),
                    text=trace["text"].to_numpy().astype(np.int64),
                    differs=trace["differs"].to_numpy(),
                    digests=(str(members["draft"]["digest"] or ""), str(members["target"]["digest"] or "")),
                )
            )
    unknown = f"entropies or sizes are not known of {', '.join(left_out)}"
    if left_out and not found:
        raise ValueError(f"{str(folder)!r} has no run that a prediction can be fitted to: {unknown}")
    if left_out:
        warnings.warn(f"left out: {unknown}", RuntimeWarning, stacklevel=2)
    if not found:
        raise ValueError(f"{str(folder)!r} has no greedy run of the method oracle beside one of its draft alone")
    return found


def _target(folder: Path, run: str) -> pl.DataFrame:
    """What the target said at each token of its texts, in their order."""
    known = prepared(scan_traces(folder, run)).filter(pl.col("differs").is_not_null())
    top = pl.col("target_top_probs")
    table = collect(known.select("example", "turn", "position", "differs", "target_entropy", top))
    if table.is_empty() or (table["target_top_probs"].list.len().min() or 0) < 2:  # type: ignore[operator]
        raise ValueError(f"the traces of {run} keep fewer than 2 candidates: run the study with candidates: 2")
    first, second = (top.list.get(at).cast(pl.Float64).clip(1e-30) for at in (0, 1))
    texts = pl.struct("example", "turn").rank("dense").alias("text")
    return table.sort("example", "turn", "position").with_columns(texts, gap=(first / second).log())


def open_predictor(path: str | Path) -> Predictor:
    """A predictor from its file. Raises ValueError for a file that is none."""
    content = read_json(Path(path))
    if content.get("features") != list(FEATURES) or len(content.get("weights", ())) != len(FEATURES):
        raise ValueError(f"{str(path)!r} is no predictor of this version: fit one by fsgen predict --fit DIR")
    return Predictor(tuple(map(float, content["weights"])), float(content["bias"]), content["record"])


@cache
def shipped() -> Predictor:
    """The predictor that comes with the package; docs/science.md tells how it was chosen and fitted."""
    with resources.as_file(resources.files("fsgen.analysis") / "data" / "predictor.json") as path:
        return open_predictor(path)
