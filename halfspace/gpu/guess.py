"""Guesses of thresholds, from float32 scores of a sample."""

from typing import Any

import cupy as cp
import numpy as np

from halfspace.gpu.runtime.launch import Kernel
from halfspace.gpu.runtime.records import ROW_THREADS
from halfspace.model.formats import as_float32
from halfspace.model.metrics import Metric
from halfspace.model.question import Question

__all__ = ["SPARE", "guess"]

SPARE = 4.0
"""How many standard deviations deeper in the sample than the k-th best is expected a threshold is looked for: a second
search costs more than hits that are found in vain."""

_score_at_rank = Kernel(
    "select.cu",
    "score_at_rank",
    ("scores", np.float32),
    ("size", int),
    ("rank", int),
    ("floors", np.float64, None),
    ("floor", float),
    ("found", np.float64),
)


def guess(question: Question, sample: Any, rank: int) -> Any:
    """Return thresholds (m,) that about so many of a sample of stored bits (s, d) reach, none below the question's."""
    scores = _rough_scores(as_float32(sample), question.directions, question.metric)
    found = cp.empty(len(scores), np.float64)
    floors, floor = (None, question.tau) if isinstance(question.tau, float) else (question.tau, 0.0)
    _score_at_rank((len(scores),), ROW_THREADS, scores, scores.shape[1], rank, floors, floor, found)
    return found


def _rough_scores(rows: Any, directions: Any, metric: Metric) -> Any:
    """Score rows (s, d) for directions (m, d) in float32, about, as kernels do: (m, s)."""
    products = directions @ rows.T
    if metric == Metric.IP:
        return products
    own, theirs = (directions * directions).sum(axis=1)[:, None], (rows * rows).sum(axis=1)
    if metric == Metric.COSINE:
        return products / (own * theirs) ** 0.5
    return -(cp.maximum(own + theirs - 2.0 * products, 0.0) ** 0.5)
