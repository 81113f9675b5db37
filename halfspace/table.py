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
        tabulated = [backend.tabulate(segment) for segment in segments]
        return cls(np.stack([part[0] for part in tabulated], axis=1), tuple(segments), tuple(tabulated))
