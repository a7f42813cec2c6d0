"""How the collaboration frequency depends on the sizes of draft and target: the laws, fitted and compared.

points = read_points("published")
for scaling in compare_laws(points.frame):
    print(scaling.method, scaling.task, scaling.best, scaling["ratio-power-law"].r2)
"""

from fsgen.analysis.scaling.compare import compare_laws, held_out, too_small
from fsgen.analysis.scaling.laws import LAWS
from fsgen.analysis.scaling.pairs import parse_pair
from fsgen.analysis.scaling.points import PUBLISHED, SIZINGS, Points, read_points
from fsgen.analysis.scaling.results import LawFit, Model, Parameter, Prediction, Scaling, findings
from fsgen.analysis.scaling.show import show

__all__ = [
    "LAWS",
    "PUBLISHED",
    "SIZINGS",
    "LawFit",
    "Model",
    "Parameter",
    "Points",
    "Prediction",
    "Scaling",
    "compare_laws",
    "findings",
    "held_out",
    "parse_pair",
    "read_points",
    "show",
    "too_small",
]
