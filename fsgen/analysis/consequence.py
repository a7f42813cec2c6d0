"""Which mismatches matter: those after which the scored answer is another one if the draft's token is kept.

A mismatch is a position where the draft's greedy token is not the target's. Keeping the draft's token there and letting
the target go on greedily, tells whether it was needed (as R2R labels tokens, arXiv 2505.21600). What is left is told
apart by the target's own text: a loop or a text cut at the length limit, a near-tie of the target, or neither.
"""

from __future__ import annotations

import polars as pl

NEAR_TIE = 1.0
"""The target's two most likely tokens are within so many nats."""
HARMFUL, HELPFUL = "harmful", "helpful"
LOOP_OR_CUT, TIE, OTHER = "neutral, loop or cut", "neutral, near-tie", "neutral, other"
CLASSES = (HARMFUL, HELPFUL, TIE, LOOP_OR_CUT, OTHER)


def classified(kept: pl.DataFrame) -> pl.DataFrame:
    """The class of each mismatch, as a column `class`: one of `CLASSES`.

    Args:
        kept: a row for each mismatch, with the `score` of the target's text, the `kept_score` of the text with the
            draft's token, the `gap` between the target's two most likely tokens in nats, and whether it lies in a
            `loop` or in a text that was `cut` at the length limit.
    """
    return kept.with_columns(
        pl.when(pl.col("kept_score") < pl.col("score")).then(pl.lit(HARMFUL))
        .when(pl.col("kept_score") > pl.col("score")).then(pl.lit(HELPFUL))
        .when(pl.col("loop") | pl.col("cut")).then(pl.lit(LOOP_OR_CUT))
        .when(pl.col("gap") < NEAR_TIE).then(pl.lit(TIE))
        .otherwise(pl.lit(OTHER)).alias("class")
    )  # fmt: skip
