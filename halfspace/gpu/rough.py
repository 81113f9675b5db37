"""Rough scores in float32, for guesses alone."""

from typing import Any

import cupy as cp

from halfspace.model.formats import as_float32
from halfspace.model.metrics import Metric

__all__ = ["rough_scores"]


def rough_scores(vectors: Any, directions: Any, threads: int, metric: Metric = Metric.IP) -> Any:
    """Score stored bits (s, d) for directions (m, d) in float32, about, as kernels do: (m, s)."""
    rows = as_float32(vectors)
    products = directions @ rows.T
    if metric == Metric.IP:
        return products
    own, theirs = (directions * directions).sum(axis=1)[:, None], (rows * rows).sum(axis=1)
    if metric == Metric.COSINE:
        return products / (own * theirs) ** 0.5
    return -(cp.maximum(own + theirs - 2.0 * products, 0.0) ** 0.5)
