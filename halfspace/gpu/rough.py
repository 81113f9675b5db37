"""Rough scores: float32 products, for guesses alone."""

from typing import Any

from halfspace.model.formats import as_float32

__all__ = ["rough_scores"]


def rough_scores(vectors: Any, directions: Any, threads: int) -> Any:
    """Multiply stored bits (s, d) with directions (m, d) in float32, in any order of summation: (m, s)."""
    return directions @ as_float32(vectors).T
