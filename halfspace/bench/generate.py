"""Vectors made from a seed: the same numbers each time, float32.

Directions are vectors from another seed: those of `clustered` lie around the same centres.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["clustered", "gaussian", "heavy_tailed"]

_CENTRES = 2000
_NOISE = 0.7
_SPREAD = 2500.0
_TAIL = 1.5


def gaussian(n: int, d: int, seed: int) -> NDArray[np.float32]:
    """Make vectors (n, d) of independent standard normal numbers.

    Examples
    --------
    >>> gaussian(1000, 8, seed=1).shape
    (1000, 8)
    """
    return np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)


def clustered(n: int, d: int, seed: int) -> NDArray[np.float32]:
    """Make unit vectors (n, d) around 2,000 Gaussian centres that all seeds share, with 0.7 times Gaussian noise.

    Examples
    --------
    >>> x = clustered(1000, 8, seed=1)
    >>> bool(abs(np.linalg.norm(x, axis=1) - 1).max() < 1e-6)
    True
    """
    centres = np.random.default_rng(0).standard_normal((_CENTRES, d), dtype=np.float32)
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d), dtype=np.float32)
    x *= _NOISE
    x += centres[rng.integers(0, _CENTRES, n)]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


def heavy_tailed(n: int, d: int, seed: int) -> NDArray[np.float32]:
    """Make vectors (n, d) of any direction whose norms go from 1 to 2,500, few of them long.

    Norms are evenly spaced quantiles, in random order, of the power law P(norm > r) ~ r^-1.5 cut off at 2,500.

    Examples
    --------
    >>> norms = np.linalg.norm(heavy_tailed(1000, 8, seed=1), axis=1)
    >>> round(float(norms.min())), round(float(norms.max()))
    (1, 2500)
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d), dtype=np.float32)
    places = rng.permutation(np.linspace(0, 1, n))
    norms = (1 - places * (1 - _SPREAD**-_TAIL)) ** (-1 / _TAIL)
    x *= (norms / np.linalg.norm(x, axis=1)).astype(np.float32)[:, None]
    return x
