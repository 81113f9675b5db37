"""Metrics: what a vector scores for a direction, and how thresholds of users become those of kernels.

Kernels know one order: a larger score is nearer, and a hit's score reaches tau. The score of ``"l2"`` is therefore the
negative distance there, and its threshold the negative radius; both turn round once more on their way out.

A distance and a cosine are halfspaces with a threshold for each vector. Of a vector x, a number e(x) is stored, its
*length* for that metric, and

    cosine    <q, x> >= (tau |q|) e(x),                          e(x) = |x|
    l2        <q - m, x - m> >= (|q - m|^2 - r^2) / 2 + e(x),    e(x) = |x - m|^2 / 2

for any centre m. So a test that compares an upper bound of a dot product with a threshold needs no more than that the
threshold is raised by a multiple of e(x).
"""

from enum import IntEnum
from typing import Any

import numpy as np

__all__ = ["FARTHEST", "METRICS", "NEAREST", "Metric", "as_scores", "as_threshold"]


class Metric(IntEnum):
    """Metrics, as kernels number them."""

    IP = 0
    COSINE = 1
    L2 = 2

    @classmethod
    def named(cls, name: str) -> "Metric":
        """Return the metric that users call by this name."""
        return cls[name.upper()]

    @property
    def label(self) -> str:
        """As users name it."""
        return self.name.lower()


METRICS = tuple(metric.label for metric in Metric)
"""Names of the metrics, as users give them."""

FARTHEST = 2.0**200
"""No two vectors of float32 are as far apart: a radius of at least this holds everything."""
NEAREST = 2.0**-149
"""Vectors of float32 that differ are at least so far apart: a smaller radius is as good as 0."""


def as_threshold(tau: Any, metric: Metric) -> Any:
    """Turn what users give as tau, a float or an array, into what kernels compare scores with."""
    return -tau if metric == Metric.L2 else tau


def as_scores(scores: Any, metric: Metric) -> Any:
    """Turn an array of scores of kernels, or None, into those of users, in place.

    Distances lose their sign by their bits: CuPy's functions of float32 flush subnormals.
    """
    if metric == Metric.L2 and scores is not None:
        bits = scores.view(np.int32)
        bits &= 0x7FFFFFFF
    return scores
