"""Times of runs that were repeated, and what is compared of them, with intervals over the repetitions.

The seconds of one text are its share of those of its batch, and what else the machine did meanwhile is in all of them
alike. So nothing is compared by them, and texts are not resampled: runs are repeated as a whole, in turn.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.stats import t

from fsgen.analysis.intervals import Estimate, Floats
from fsgen.files import read_json


def read_times(folder: Path, run: str) -> Floats:
    """Seconds a token in each repetition of a run, in their order; empty where it was not repeated.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / "times" / f"{run}.json"
    if not path.is_file():
        return np.empty(0)
    content = read_json(path)
    times: Floats = np.array(content["seconds"]) / np.array(content["tokens"])
    return times


def slowdown(folder: Path, run: str, alone: str) -> Estimate | None:
    """How many times as long a token of one run takes as one of another; None where one of them was not repeated."""
    times, alone_times = read_times(folder, run), read_times(folder, alone)
    both = min(len(times), len(alone_times))
    return over_repetitions(times[:both] / alone_times[:both]) if both else None


def over_repetitions(values: Floats, positive: bool = True) -> Estimate:
    """The mean of what was measured several times, with the 95 % interval of Student's t; none of a single one.

    Args:
        values: by repetition.
        positive: of times and their ratios: the mean and its interval are of the logarithms, and so stay above 0.
    """
    measured = np.log(values) if positive else values
    mean, count = measured.mean(), len(values)
    width = t.ppf(0.975, count - 1) * measured.std(ddof=1) / np.sqrt(count) if count > 1 else np.nan
    found = np.array([mean, mean - width, mean + width])
    value, low, high = (np.exp(found) if positive else found).tolist()
    return Estimate(value, low, high) if count > 1 else Estimate(value)
