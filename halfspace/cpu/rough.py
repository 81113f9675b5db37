"""Rough scores: float32 products, for guesses alone."""

import numpy as np
import numpy.typing as npt

from halfspace.cpu.formats import widen
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.jit import compiled, multiply_add
from halfspace.model.metrics import Metric

__all__ = ["rough_scores"]

PRODUCTS = 1 << 26
"""Multiplications that are done as one task."""


def rough_scores(
    vectors: np.ndarray, directions: npt.NDArray[np.float32], threads: int, metric: Metric = Metric.IP
) -> npt.NDArray[np.float32]:
    """Multiply stored bits (s, d) with directions (m, d) in float32, in any order of summation: (m, s)."""
    scores = np.empty((len(directions), len(vectors)), np.float32)
    spans = _threads.spans(len(directions), -(-len(directions) * vectors.size // PRODUCTS))
    _threads.run(lambda span: _multiply(vectors, directions, scores, span), spans, threads)
    return scores


@compiled
def _multiply(vectors, directions, scores, span):
    for k in range(span[0], span[1]):
        direction = directions[k]
        for i in range(vectors.shape[0]):
            total = np.float32(0.0)
            for j in range(direction.size):
                total = multiply_add(total, direction[j], widen(vectors[i, j]))
            scores[k, i] = total
