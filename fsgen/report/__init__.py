"""The report of a study: one HTML file that needs nothing else."""

from fsgen.report.page import write

__all__ = ["write"]
