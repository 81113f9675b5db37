"""Scores as thresholds: float32 numbers that real ones were rounded to."""

from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.arguments import checks
from halfspace.model.arrays import host, is_array, namespace
from halfspace.model.formats import widen32
from halfspace.model.metrics import METRICS, Metric, as_threshold

__all__ = ["threshold_of"]

_BEYOND = 2.0**128 - 2.0**103
"""The least real number that rounds to an infinite float32."""


def threshold_of(score: Any, metric: str = "ip") -> Any:
    """Return the largest threshold that no vector with this score fails.

    A score is a real number, rounded to the nearest float32: half of those that round to it lie below. So a score that
    is used as tau loses about half of the vectors that have it, its own among them. This threshold loses none, and no
    larger one does so. Of a distance it is the smallest radius that none exceeds.

    Parameters
    ----------
    score : float or array_like of float, any shape
        Numbers of float32, as `halfspace.Hits` has them.
    metric : {"ip", "cosine", "l2"}
        That of the index: with ``"l2"``, scores are distances.

    Returns
    -------
    float, or ndarray of float64 of the same shape
        On the device of the scores.

    Raises
    ------
    TypeError
        If they are not floating-point numbers.
    ValueError
        If a score is NaN, or no float32 number, or negative and said to be a distance.

    Examples
    --------
    >>> import numpy as np
    >>> from halfspace import HalfspaceIndex, threshold_of
    >>> index = HalfspaceIndex(3)
    >>> x = np.array([0.1, 0.7, 0.3], np.float32)
    >>> _ = index.insert(x / np.linalg.norm(x))
    >>> hits = index.query(x, -np.inf)
    >>> index.count(x, threshold_of(hits.scores[0]))
    1
    >>> threshold_of(1.0), threshold_of(1.0, "l2")
    (0.9999999701976776, 1.0000000596046448)
    """
    own = Metric.named(checks.one_of(metric, "metric", METRICS))
    on_device = is_array(score) and not isinstance(score, np.ndarray)
    array = host(score) if on_device else checks.asarray(score, "score")
    checks.real(array, "score")
    if array.dtype.kind in "biu":
        raise TypeError(f"score must be floating-point numbers, as hits have them, got dtype {array.dtype}")
    wide = widen32(array) if array.dtype == np.float32 else array.astype(np.float64)
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32) if array.dtype != np.float32 else array
    other = np.flatnonzero(~((widen32(narrow) == wide) | np.isnan(wide)))
    if other.size:
        raise ValueError(f"score must be a float32 number, as hits have them, got {float(wide.reshape(-1)[other[0]])}")
    if own == Metric.L2 and (narrow < 0).any():
        raise ValueError(f"score must be a distance, got {float(narrow.min())}")
    middles = as_threshold(_below(as_threshold(narrow, own)), own)
    if not middles.ndim:
        return float(middles)
    return namespace(score).asarray(middles) if on_device else middles


def _below(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the middle between each float32 and the next one below, which is exact in float64."""
    if np.isnan(scores).any():
        raise ValueError("score is nan")
    bits = np.ascontiguousarray(scores).view(np.int32).astype(np.int64).reshape(scores.shape)
    places = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)  # float32 numbers, counted from zero
    below = places - 1
    patterns = np.where(below < 0, -below - 0x80000000, below).astype(np.int32)
    finite = np.abs(places) < 0x7F800000
    wide, under = (widen32(np.where(finite, part, np.float32(0))) for part in (scores, patterns.view(np.float32)))
    middle = 0.5 * (wide + under)
    middle = np.where(places == 0x7F800000, _BEYOND, middle)
    middle = np.where(places == -0x7F7FFFFF, -_BEYOND, middle)
    lowest: npt.NDArray[np.float64] = np.where(places == -0x7F800000, -np.inf, middle)
    return lowest
