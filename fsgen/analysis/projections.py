"""The draft's largest probabilities in two dimensions, as in arXiv 2406.12295.

A token is the vector of the probabilities of the draft's k most likely tokens, the most likely first. The measures say
how well matches and mismatches are separated in the projection.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import adjusted_rand_score, davies_bouldin_score, silhouette_score

from fsgen.analysis.intervals import Floats
from fsgen.analysis.traces import Frame, collect, prepared

SAMPLE = 400
"""Tokens of a run: enough to see whether the two overlap, and a second or two of t-SNE."""
_PERPLEXITY = 30.0
_FEWEST = 10


@dataclass(frozen=True)
class Projection:
    """Tokens in two dimensions.

    Attributes:
        method: `pca` or `t-sne`.
        x, y, mismatch: of each token of the sample; `mismatch`: System 2's greedy token is not the draft's.
        silhouette: of the two labels in the projection, from -1 to 1 (Rousseeuw 1987); about 0 where they are mixed.
        davies_bouldin: of the labels, from 0 on, lower for labels that are separated (Davies & Bouldin 1979).
        adjusted_rand_index: of the labels and the two clusters that k-means finds without them, 0 by chance, 1 at best.
    """

    method: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    mismatch: tuple[bool, ...]
    silhouette: float
    davies_bouldin: float
    adjusted_rand_index: float


@dataclass(frozen=True)
class ProjectionResult:
    """The projections of a run.

    Attributes:
        tokens: the size of the sample; `mismatches` of them.
        candidates: k, as many as the store keeps.
        projections: by PCA and by t-SNE; empty where there are too few tokens, or no two labels.
        finding: the same in a sentence.
    """

    tokens: int
    mismatches: int
    candidates: int
    projections: tuple[Projection, ...]
    finding: str


def project(traces: Frame, sample: int = SAMPLE, seed: int = 0) -> ProjectionResult:
    """Project a sample of a run's tokens.

    Args:
        traces: of one run that consulted System 2 everywhere; columns as in `docs/study.md`.
        sample: at most so many tokens, drawn uniformly; of these, those with known choices and candidates are taken.
        seed: the random seed of the sample, of t-SNE and of k-means.

    Raises:
        ValueError: a sample of fewer than ten tokens.
    """
    if sample < _FEWEST:
        raise ValueError(f"a sample of {sample} tokens is impossible: at least {_FEWEST}")
    points, mismatch = _sampled(prepared(traces), sample, seed)
    tokens, candidates = points.shape
    found: tuple[Projection, ...] = ()
    if tokens >= _FEWEST and candidates >= 2 and 2 <= mismatch.sum() <= tokens - 2:
        reducers = {
            "pca": PCA(2, random_state=seed),
            "t-sne": TSNE(2, perplexity=min(_PERPLEXITY, (tokens - 1) / 3), init="pca", random_state=seed, n_jobs=1),
        }
        found = tuple(_measured(name, it.fit_transform(points), mismatch, seed) for name, it in reducers.items())
    return ProjectionResult(tokens, int(mismatch.sum()), candidates, found, _finding(found, tokens, candidates))


def _sampled(frame: pl.LazyFrame, sample: int, seed: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Vectors [tokens, k] and labels [tokens] of tokens drawn uniformly, in the order of texts and positions."""
    if "draft_top_probs" not in frame.collect_schema().names():
        return np.zeros((0, 0)), np.zeros(0, dtype=np.bool_)
    place = ["number", "turn", "position"]
    texts = collect(frame.group_by(place[:2]).agg(tokens=pl.len())).sort(place[:2])
    if texts.is_empty():
        return np.zeros((0, 0)), np.zeros(0, dtype=np.bool_)
    ends = texts["tokens"].cum_sum().to_numpy()
    drawn = np.random.default_rng(seed).choice(int(ends[-1]), min(sample, int(ends[-1])), replace=False)
    text = np.searchsorted(ends, drawn, side="right")
    chosen = texts[text].with_columns(
        position=pl.Series(drawn - ends[text] + texts["tokens"].to_numpy()[text]).cast(pl.UInt32)
    )
    rows = collect(
        frame.filter(pl.col("differs").is_not_null() & (pl.col("draft_top_probs").list.len() > 0))
        .with_columns(pl.col("position").cast(pl.UInt32))
        .join(chosen.lazy(), on=place, how="semi")
        .select(*place, "differs", "draft_top_probs")
    ).sort(place)
    width = min(rows["draft_top_probs"].list.len().to_list(), default=0)
    points = np.array([probs[:width] for probs in rows["draft_top_probs"].to_list()], dtype=np.float64)
    return points.reshape(len(rows), width), rows["differs"].to_numpy()


def _measured(name: str, at: Floats, mismatch: NDArray[np.bool_], seed: int) -> Projection:
    clusters = KMeans(2, n_init=10, random_state=seed).fit_predict(at)
    return Projection(
        method=name,
        x=tuple(map(float, at[:, 0])),
        y=tuple(map(float, at[:, 1])),
        mismatch=tuple(map(bool, mismatch)),
        silhouette=float(silhouette_score(at, mismatch)),
        davies_bouldin=float(davies_bouldin_score(at, mismatch)),
        adjusted_rand_index=float(adjusted_rand_score(mismatch, clusters)),
    )


def _finding(found: tuple[Projection, ...], tokens: int, candidates: int) -> str:
    if not found:
        return "There are too few matches or mismatches with candidates for a projection."
    apart = min(projection.silhouette for projection in found)
    word = "are separated" if apart > 0.5 else "overlap in part" if apart > 0.1 else "are mixed"
    measures = "; ".join(
        f"{one.method}: silhouette {one.silhouette:.2f}, Davies-Bouldin {one.davies_bouldin:.2f}, adjusted Rand index "
        f"{one.adjusted_rand_index:.2f}"
        for one in found
    )
    return (
        f"Matches and mismatches {word} by the probabilities of the draft's {candidates} most likely tokens "
        f"({tokens:,} tokens; {measures})."
    )
