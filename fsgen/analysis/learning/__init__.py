"""Trains routers: from the traces of runs that consulted System 2 everywhere to the file of `learned:FILE`.

Examples are split by a hash of their ids, never within an example: on half of them the score is trained, on a quarter
its threshold is chosen, and on the rest the router is evaluated. arXiv 2406.12295 trains a support vector machine on
the largest probabilities of the draft, for a figure; here it decides.
"""

from fsgen.analysis.learning.evaluate import Evaluation, evaluate, threshold
from fsgen.analysis.learning.fit import KINDS, learn
from fsgen.analysis.learning.positions import PARTS, Positions, part_of, positions
from fsgen.analysis.learning.train import Training, train

__all__ = [
    "KINDS",
    "PARTS",
    "Evaluation",
    "Positions",
    "Training",
    "evaluate",
    "learn",
    "part_of",
    "positions",
    "threshold",
    "train",
]
