"""What a filter is: all that an index, its files and its tools need to know of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from halfspace.model.counters import Stage
from halfspace.model.layout import Arrays, Sections
from halfspace.model.metrics import Metric
from halfspace.model.rounding import MAX_CELL_DIM
from halfspace.model.segment import Segment
from halfspace.runtime.interrupts import undisturbed
from halfspace.runtime.progress import Advance, Meter

__all__ = ["Building", "FilterData", "FilterSpec", "Rows"]


class Rows(NamedTuple):
    """What a filter may derive its data from."""

    vectors: np.ndarray  # (spaces, n, d), the bits of the stored format
    norms: np.ndarray  # float32 (spaces, n), upper bounds of |x|


class Building(NamedTuple):
    """How a segment is built."""

    backend: Any  # `halfspace.backend.Backend`
    threads: int
    subspaces: int | None = None
    group_size: int | None = None
    metric: Metric = Metric.IP


class FilterData(Arrays):
    """What a filter derives from the vectors of a segment: a frozen dataclass of arrays."""

    ABOUT: ClassVar[tuple[str, ...]] = ()
    """Attributes that are numbers, which a file keeps in its metadata by these names."""
    PASSES: ClassVar[int] = 1
    """How often `again` counts each component."""

    @classmethod
    def read(cls, sections: Sections, rows: int, dim: int, about: Mapping[str, Any]) -> Self:
        """Take the arrays of one space out of a file; ValueError, TypeError or LookupError if they do not fit."""
        raise NotImplementedError

    def again(self, rows: Rows, how: Building, advance: Advance) -> Self:
        """Derive the same again from the vectors, in the same frame, for a comparison; ValueError if that cannot be."""
        raise NotImplementedError


@dataclass(frozen=True)
class FilterSpec:
    """One filter.

    Attributes
    ----------
    name : str
        As users name it.
    summary : str
        What it tests, in one line: for help texts, and for the engines of the benchmark.
    stages : tuple of Stage
        What it counts under, in order; verification comes after.
    build : callable
        Returns a segment in order of ids with what the filter needs: ``build(how, segment, meter)``.
    code : mapping of str to str
        Of each device that it runs on, the module with its stages: see `halfspace.cpu.filters` and
        `halfspace.gpu.filters`.
    data : type, optional
        The `FilterData` that `build` derives; None if it needs vectors and norms alone.
    options : tuple of str
        Arguments of an index that are for this filter.
    least_dim, most_dim : int
        The dimensions that it takes.
    metrics : tuple of str
        The metrics that it serves.
    most_rows : int
        Vectors in a segment that it can number.
    tried : bool
        Whether ``"auto"`` tries it.
    """

    name: str
    summary: str
    stages: tuple[Stage, ...]
    build: Callable[[Building, Segment, Meter], Segment]
    code: Mapping[str, str] = field(default_factory=dict)
    data: type[FilterData] | None = None
    options: tuple[str, ...] = ()
    least_dim: int = 1
    most_dim: int = MAX_CELL_DIM
    metrics: tuple[str, ...] = (Metric.IP.label,)
    most_rows: int = 2**63 - 1
    tried: bool = False

    def on(self, device: str) -> ModuleType:
        """Import the module with its stages for ``"cpu"`` or ``"gpu"``."""
        if device not in self.code:
            raise ValueError(f"filter {self.name!r} does not run on the device {device!r}")
        module: ModuleType = undisturbed(import_module, self.code[device])
        return module

    def why_not(self, dim: int, metric: str = Metric.IP.label) -> str | None:
        """Say why it does not take so many dimensions, or a metric, or nothing."""
        if metric not in self.metrics:
            suited = " and ".join(map(repr, self.metrics))
            return f"filter {self.name!r} serves the metric {suited}, got {metric!r}"
        if dim > self.most_dim:
            return f"filter {self.name!r} takes at most {self.most_dim} dimensions, got {dim}"
        if dim < self.least_dim:
            return f"filter {self.name!r} takes at least {self.least_dim} dimensions, got {dim}"
        return None
