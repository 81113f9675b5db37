"""Metrics in the forms that other libraries have for them, in the dtype of what is given.

A cosine is the inner product of vectors that were brought to length 1. A distance is compared through the product that
it comes down to: |x - q| <= r is <q, x> - |x|^2 / 2 >= (|q|^2 - r^2) / 2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["halves", "least_products", "normalised", "unit"]


def unit(x: NDArray[Any]) -> NDArray[Any]:
    """Bring vectors (n, d) to length 1; zero ones stay."""
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    found: NDArray[Any] = x / np.where(lengths > 0, lengths, np.ones_like(lengths))
    return found


def normalised(x: NDArray[Any], metric: str) -> NDArray[Any]:
    """Return vectors (n, d) as they are multiplied: of length 1 for cosines."""
    return unit(x) if metric == "cosine" else x


def halves(x: NDArray[Any], metric: str) -> NDArray[Any] | None:
    """Return what is subtracted from the products of vectors (n, d): |x|^2 / 2 (n,) for distances, else nothing."""
    return np.einsum("ij,ij->i", x, x) / 2 if metric == "l2" else None


def least_products(directions: NDArray[Any], taus: NDArray[np.float64], metric: str) -> NDArray[np.float64]:
    """Return what products (m,), less `halves`, have to reach for thresholds (m,) to be reached."""
    if metric != "l2":
        return taus
    wide = directions.astype(np.float64)
    least: NDArray[np.float64] = (np.einsum("ij,ij->i", wide, wide) - taus * taus) / 2
    return np.where(taus < 0, np.inf, least)
