"""Guesses of thresholds, from float32 scores of a sample."""

import numpy as np
import numpy.typing as npt

from halfspace.cpu.formats import widen
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.jit import compiled, multiply_add
from halfspace.model.formats import as_float32
from halfspace.model.metrics import Metric
from halfspace.model.question import Question

__all__ = ["SPARE", "guess"]

SPARE = 2.0
"""How many standard deviations deeper in the sample than the k-th best is expected a threshold is looked for."""

PRODUCTS = 1 << 26
"""Multiplications that are done as one task."""


def guess(question: Question, sample: np.ndarray, rank: int) -> npt.NDArray[np.float64]:
    """Return thresholds (m,) that about so many of a sample of stored bits (s, d) reach, none below the question's."""
    scores = _rough_scores(sample, question.directions, question.threads, question.metric)
    scores.partition(scores.shape[1] - rank, axis=1)
    reached = scores[:, -rank].astype(np.float64)
    thresholds: npt.NDArray[np.float64] = np.fmax(reached, question.tau)  # what is not a number is no guess
    return thresholds


def _rough_scores(
    vectors: np.ndarray, directions: npt.NDArray[np.float32], threads: int, metric: Metric
) -> npt.NDArray[np.float32]:
    """Score stored bits (s, d) for directions (m, d) in float32, about, as kernels do: (m, s)."""
    scores = np.empty((len(directions), len(vectors)), np.float32)
    spans = _threads.spans(len(directions), -(-len(directions) * vectors.size // PRODUCTS))
    fill = _measure if metric == Metric.L2 else _multiply
    _threads.run(lambda span: fill(vectors, directions, scores, span), spans, threads)
    if metric == Metric.COSINE:
        with np.errstate(all="ignore"):
            scores /= np.linalg.norm(as_float32(vectors), axis=1)
            scores /= np.linalg.norm(directions, axis=1)[:, None]
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


@compiled
def _measure(vectors, directions, scores, span):
    for k in range(span[0], span[1]):
        direction = directions[k]
        for i in range(vectors.shape[0]):
            total = np.float32(0.0)
            for j in range(direction.size):
                rest = widen(vectors[i, j]) - direction[j]
                total = multiply_add(total, rest, rest)
            scores[k, i] = -np.sqrt(total)
