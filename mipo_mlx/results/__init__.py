"""Frozen records of measurements: rows, what studies find beyond them, and ``eval.json``.

Numbers and names alone; what people read is made of them by ``reporting``.
"""

from mipo_mlx.results.files import Comparison, Difference, EvalResult, Example, Section, Table
from mipo_mlx.results.rows import ALPHA, METRICS, SIDES, Ends, Json, Metric, MetricRow

__all__ = [
    "ALPHA",
    "METRICS",
    "SIDES",
    "Comparison",
    "Difference",
    "Ends",
    "EvalResult",
    "Example",
    "Json",
    "Metric",
    "MetricRow",
    "Section",
    "Table",
]
