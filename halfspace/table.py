"""Segments as the kernels see them."""

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np

from halfspace.segment import Segment

__all__ = ["Table"]


class Table(NamedTuple):
    """Records of addresses, and what keeps the memory at those addresses alive."""

    records: np.ndarray  # SEGMENT (spaces, segments)
    segments: tuple[Segment, ...]
    others: tuple[object, ...] = ()

    @classmethod
    def of(cls, segments: Sequence[Segment], backend: ModuleType) -> "Table":
        """Tabulate at least one segment."""
        rows = [list(space) for space in zip(*(segment.addresses for segment in segments), strict=True)]
        return cls(np.array(rows, backend.SEGMENT), tuple(segments))
